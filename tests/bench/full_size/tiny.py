"""The profile of random weights, reduced to what a CPU runs in seconds."""

import json
from pathlib import Path

import open_clip

CLIP = "tiny-full-size"
TINY = {
    "random.heads": "2", "random.head_dim": "16", "random.axes": "[4, 6, 6]", "random.double_blocks": "2",
    "random.single_blocks": "8", "random.in_channels": "16", "random.text_tokens": "16", "random.t5_width": "16",
    "random.t5_heads": "2", "random.t5_head_dim": "8", "random.t5_mlp": "16", "random.t5_layers": "1",
    "random.clip_width": "16", "random.clip_heads": "2", "random.clip_mlp": "16", "random.clip_layers": "1",
    "random.vae_channels": "[4, 4, 4, 4]", "random.vae_layers": "1", "random.vae_groups": "2",
    "random.hps_architecture": CLIP, "random.clip_architecture": CLIP, "random.detector_width": "8",
    "random.detector_depths": "[1, 1, 1, 1]", "random.detector_heads": "[1, 1, 1, 1]", "random.detector_hidden": "32",
    "random.scorer_images": "1", "random.scorer_batches": "[1]", "random.resolutions": "[32]", "random.ratios": "[0.2]",
    "random.equal_ratios": "[0.2]", "random.pruning_pixels": "32", "random.samples": "6",
    "random.compile_backend": "eager", "random.replacement_rounds": "2", "sampling.height": "32",
    "sampling.width": "32", "sampling.steps": "1", "calibration.batch": "2", "latency.warmup": "1",
    "latency.rounds": "2", "latency.end_to_end": "1", "methods.sandwich_training.rank": "2",
    "methods.sandwich_training.steps": "2", "methods.sandwich_training.batch": "2", "disk_mib": "100",
}  # fmt: skip


def add_tiny_clip(folder: Path) -> None:
    """Let open_clip know the architecture that stands for those of HPS and CLIP."""
    config = {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 16, "head_width": 8, "patch_size": 16},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
    }
    (folder / f"{CLIP}.json").write_text(json.dumps(config))
    open_clip.add_model_config(folder / f"{CLIP}.json")
