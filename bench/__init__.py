"""Benchmarks: `python -m bench`. What is timed, against what, and how, is in common.py."""
