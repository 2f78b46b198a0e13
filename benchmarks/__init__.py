"""Measurements that any user can repeat. Black box over HTTP; only the standard library."""
