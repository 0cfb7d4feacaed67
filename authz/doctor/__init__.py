"""Finds the traps in a running system and tells the fix for each."""
