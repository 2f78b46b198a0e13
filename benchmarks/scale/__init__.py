"""What a stream costs a gateway while it says nothing: memory, descriptors. Black box over HTTP."""
