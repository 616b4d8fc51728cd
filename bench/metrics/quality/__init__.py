"""Metrics of images: how good, how faithful, how alike."""
