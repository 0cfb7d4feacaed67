"""Moves resources between files and the store."""
