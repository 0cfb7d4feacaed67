"""Servers, cores, rows, figures, tables and plots."""
