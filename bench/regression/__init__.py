"""Regression checks: a small suite held against a committed baseline, docs/regression.md."""
