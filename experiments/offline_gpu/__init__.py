"""Measuring FLUX.1-dev's size on a GPU machine without network: docs/full_size.md."""
