"""A/B tests between models: who is in which arm (`assign`), and statistics that hold however often one looks (`analyse`). Pure: no clock,
no event loop, no global randomness."""
