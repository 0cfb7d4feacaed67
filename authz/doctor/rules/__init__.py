"""The traps that the doctor looks for."""
