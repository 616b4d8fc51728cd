"""The evaluation suite: image generation, metrics, records and the embedded FLUX-Shapes model."""
