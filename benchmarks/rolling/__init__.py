"""Gateways behind an ordinary balancer, restarted one after the other under load: what their clients see. Black box over HTTP."""
