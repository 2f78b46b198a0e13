"""A burst of requests that share a long prefix, on a cold engine: with KV that moves, and without."""
