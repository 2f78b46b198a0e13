"""Translators between API dialects: pure functions and stream state machines, named by both their sides."""
