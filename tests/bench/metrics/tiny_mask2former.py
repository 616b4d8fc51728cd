"""Random Mask2Formers of the public architecture, small enough to make anew for a test."""

from pathlib import Path
from typing import Any

import torch
from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation, SwinConfig

DOG, NOTHING = 16, 80
"""Numbers of a class and, behind the last one, of no object."""


def tiny_mask2former(sees: int | None = None, labels: int = 80) -> Any:
    """One whose queries see the class `sees`, or each something else."""
    stages = ["stage1", "stage2", "stage3", "stage4"]
    backbone = SwinConfig(embed_dim=8, depths=[1, 1, 2, 1], num_heads=[1, 1, 2, 2], window_size=4, out_features=stages)
    config = Mask2FormerConfig(
        backbone_config=backbone, feature_size=32, mask_feature_size=32, hidden_dim=32, encoder_feedforward_dim=32,
        dim_feedforward=32, encoder_layers=1, decoder_layers=3, num_attention_heads=2, num_queries=12,
        num_labels=labels,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Mask2FormerForUniversalSegmentation(config)
        torch.nn.init.normal_(model.class_predictor.weight, std=1.0)
    if sees is not None:
        torch.nn.init.zeros_(model.class_predictor.weight)
        torch.nn.init.zeros_(model.class_predictor.bias)
        with torch.no_grad():
            model.class_predictor.bias[sees] = 12.0
    return model.eval()


def saved(folder: Path, sees: int | None = None) -> Path:
    """A folder with one, as transformers saves it."""
    tiny_mask2former(sees).save_pretrained(folder)
    return folder
