"""Tests of gateway/experiments/report."""
