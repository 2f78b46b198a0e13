"""`pointsman bench`: latency and throughput of any OpenAI-compatible server, as a client sees them."""
