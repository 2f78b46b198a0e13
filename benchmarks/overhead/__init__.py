"""What a gateway costs: requests per second, CPU per request, added latency and streams, side by side on one machine.

`python -m benchmarks.overhead`; see `benchmarks/README.md` for what is measured and how to read it.
"""
