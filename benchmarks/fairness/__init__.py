"""What one tenant's flood costs another: time to first token beside alone, on upstreams whose times are known. Black box over HTTP."""
