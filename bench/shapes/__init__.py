"""FLUX-Shapes, the embedded default: a rendered world with known ground truth and the models trained on it."""
