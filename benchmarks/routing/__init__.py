"""What a routing decision costs, measured through the interface of the routing simulator. See benchmarks/kv-routing.md."""
