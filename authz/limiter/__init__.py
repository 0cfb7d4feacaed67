"""Takes units from limits: batches of callers, one script in Redis, and a local share during an outage."""
