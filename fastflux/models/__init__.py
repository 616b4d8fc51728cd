"""Transformers: their families, blocks and changes of them. Importing it registers the families that come with it."""

from fastflux.models import flux, flux2, qwen_image, sd3, z_image

__all__ = ["flux", "flux2", "qwen_image", "sd3", "z_image"]
