"""Metrics of transformers: FLOPs, parameters, time and memory."""
