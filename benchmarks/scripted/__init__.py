"""A scripted upstream: an OpenAI server whose times are known, and which fails when it is told to. Standard library only."""
