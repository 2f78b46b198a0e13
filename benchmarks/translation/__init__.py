"""What it costs to translate a stream: Anthropic's and Gemini's against a relay's, in one running gateway. See benchmarks/README.md."""
