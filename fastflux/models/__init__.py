"""Transformers: their families, blocks and changes of them. Importing it registers the families that come with it."""

from fastflux.models import flux, sd3

__all__ = ["flux", "sd3"]
