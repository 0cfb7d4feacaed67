"""What `bench.compare` knows of other servers: Envoy's filters, the files they read, and questions to their limits."""
