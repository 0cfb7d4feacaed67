"""Usage plans for any Envoy."""
