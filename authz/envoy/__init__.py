"""The only room that knows Envoy: CheckRequests in, CheckResponses out, its configuration and access log."""
