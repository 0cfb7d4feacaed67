"""One process that answers Envoy: its parts, wired, run and drained."""
