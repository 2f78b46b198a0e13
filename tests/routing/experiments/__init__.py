"""Tests of routing/experiments."""
