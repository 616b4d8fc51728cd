"""Transformers: their families, blocks and changes of them. Importing it registers the families that come with it."""

from fastflux.models import chroma, flux, flux2, longcat_image, ovis_image, qwen_image, sd3, z_image

__all__ = ["chroma", "flux", "flux2", "longcat_image", "ovis_image", "qwen_image", "sd3", "z_image"]
