"""The servers that carry gRPC: grpcio and pyvoy."""
