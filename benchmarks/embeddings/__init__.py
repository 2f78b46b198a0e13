"""What joining calls for embeddings saves: calls to the engine, and requests a second, beside a gateway that joins none. Over HTTP."""
