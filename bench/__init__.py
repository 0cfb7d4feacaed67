"""The bench: `python -m bench` starts everything itself and writes RESULTS.md.

`sections` has a module for each section, `load` drives load, `measure` has servers, rows and figures. The other modules
are commands of their own, such as `python -m bench.soak`.
"""
