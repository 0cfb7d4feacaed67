"""Random input at our doors, seeded so that a finding can be repeated: `python -m tests.fuzz --help`."""
