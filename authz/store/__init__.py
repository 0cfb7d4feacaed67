"""Keeps resources, usage and secrets in Redis."""
