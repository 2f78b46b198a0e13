"""Whether `pointsman bench` and other clients see the same of one server."""
