"""FLUX-Shapes, the embedded default: a rendered world with known ground truth and the models trained on it."""

from pathlib import Path

#: The committed weights: pipeline/ (diffusers' layout), clip/ and hps/ (open_clip's), detector/.
WEIGHTS = Path(__file__).parent / "weights"
