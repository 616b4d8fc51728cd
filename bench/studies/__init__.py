"""Measurements beside the tables: rankings, speed, the full size."""
