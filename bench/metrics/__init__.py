"""Metrics: each scores image sets or a transformer and gives `bench.results.Measurement`s; `base` lists them."""
