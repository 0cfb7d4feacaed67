"""Alerts by webhook: turns alerts into deliveries, and sends each to its target until it has arrived."""
