"""Whether a gateway's counters are at zero once all is over, whatever happened meanwhile. Black box over HTTP."""
