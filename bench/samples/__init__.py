"""Prompts, images and the layouts they lie in on disk."""
