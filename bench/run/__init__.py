"""A run's stages, each skipping what is done: prune, draw, score, measure."""
