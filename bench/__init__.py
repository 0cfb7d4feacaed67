"""What it costs: `python -m bench.run` starts everything itself and writes RESULTS.md; start reading at `run.py`."""
