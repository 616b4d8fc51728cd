"""Metrics: each scores image sets or a transformer and gives a `bench.records.results.Measurement`."""
