"""How long a gateway takes over what goes wrong: a client that leaves, an engine that is killed. Black box over HTTP."""
