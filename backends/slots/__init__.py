"""llama.cpp's slots, owned: which request goes into which, a shared prefix computed once, saved, and restored into the others."""
