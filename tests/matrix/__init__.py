"""Every client surface in front of every provider: the six-turn conversation of `tests.fakes.providers.brain`, driven by official SDKs
through a running gateway, streamed and not. `python -m tests.matrix` runs all pairs and prints the table of the README."""
