"""Tests of gateway/experiments."""
