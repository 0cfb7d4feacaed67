"""What drives load: a gRPC client, closed and open loops, and the requests they send."""
