"""Another package adds an architecture or a method in one file of its own, found by its entry point."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fastflux.calibration.fingerprints import key_of_run
from fastflux.calibration.trajectories import Trajectories
from fastflux.errors import FastFluxError
from fastflux.io.pipelines import export_pipeline, load_pipeline
from fastflux.methods.block_removal import BlockRemovalConfig, remove_blocks_
from fastflux.methods.registry import register_pruning_method
from fastflux.models.architecture import load_plugins, register_architecture
from fastflux.models.flux import FLUX
from tests.fastflux.conftest import make_replaced_flux

ARCHITECTURE = """
from dataclasses import replace

from diffusers import BriaTransformer2DModel
from diffusers.models.transformers.transformer_bria import BriaSingleTransformerBlock, BriaTransformerBlock

from fastflux import register_architecture
from fastflux.models.flux import LONGCAT_IMAGE

double, single = LONGCAT_IMAGE.stacks
register_architecture(
    replace(
        LONGCAT_IMAGE,
        name="Bria",
        model_class=BriaTransformer2DModel,
        pruned_class="FastFluxBriaTransformer2DModel",
        pipeline_classes=("BriaPipeline",),
        stacks=(
            replace(double, block_class=BriaTransformerBlock),
            replace(single, block_class=BriaSingleTransformerBlock),
        ),
    )
)
"""

METHOD = """
from dataclasses import dataclass
from typing import ClassVar

from fastflux.methods.registry import Pruned, register_pruning_method
from fastflux.models.architecture import architecture_of
from fastflux.models.surgery import replace_block_
from fastflux.plan import Replacement


@dataclass(frozen=True)
class FirstBlockConfig:
    method: ClassVar[str] = "first_block"
    needs_statistics: ClassVar[bool] = False


@register_pruning_method(FirstBlockConfig)
def remove_first_block_(transformer, config, calibration):
    replacement = Replacement(architecture_of(transformer).blocks(transformer)[0], "removed")
    replace_block_(transformer, replacement)
    return Pruned((replacement,))
"""

USE = """
import fastflux, sys
from diffusers import FluxPipeline

pruned = FluxPipeline.from_pretrained(sys.argv[1]).transformer
print(type(pruned).__name__, len(fastflux.plan_of(pruned).replacements))
elsewhere = fastflux.load_pipeline(sys.argv[2])
from fastflux.calibration.fingerprints import key_of_run
print(key_of_run(elsewhere.transformer, fastflux.Trajectories(elsewhere, ["a ring"])))

import torch
from diffusers import AutoencoderKL, BriaPipeline, BriaTransformer2DModel, FlowMatchEulerDiscreteScheduler
from fastflux.methods.registry import make_config
from fastflux.models.architecture import example_inputs

methods = {"linear_replacement": {"blocks": 1}, "l1_norm": {"ratio": 0.2}, "first_block": {}}
expected = {}
for method, settings in methods.items():
    torch.manual_seed(0)
    transformer = BriaTransformer2DModel(
        in_channels=8, num_layers=1, num_single_layers=3, attention_head_dim=8, num_attention_heads=2,
        joint_attention_dim=12, axes_dims_rope=[4, 2, 2],
    ).eval()
    inputs = example_inputs(transformer, 8, 32, 32, 3, torch.Generator().manual_seed(0))
    if not expected:
        vae = AutoencoderKL(block_out_channels=(4,), norm_num_groups=2, latent_channels=2, sample_size=32)
        base = BriaPipeline(transformer, FlowMatchEulerDiscreteScheduler(), vae, None, None)
        base.save_pretrained("base")
        expected["dense"] = transformer(**inputs).sample
    plan = fastflux.prune_(transformer, make_config(method, settings), lambda: transformer(**inputs))
    fastflux.export_pipeline("base", transformer, method)
    expected[method] = transformer(**inputs).sample, plan.hash
dense = expected.pop("dense")
for method, (output, plan) in expected.items():
    none = dict.fromkeys(("text_encoder", "tokenizer"))
    loaded = BriaPipeline.from_pretrained(method, **none).transformer
    assert type(loaded).__name__ == "FastFluxBriaTransformer2DModel"
    assert fastflux.plan_of(loaded).hash == plan
    assert torch.equal(loaded(**inputs).sample, output), method
    assert not torch.equal(dense, output), method
"""


def install(site: Path, module: str, source: str, group: str) -> None:
    """Put a package of one module into a folder, with the entry point that its installation would leave there."""
    (site / f"{module}.py").write_text(source)
    metadata = site / f"{module}-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(f"[{group}]\n{module} = {module}\n")


def test_a_fresh_process_loads_an_export_knows_a_run_elsewhere_and_takes_a_family_and_a_method_of_one_file_each(
    base: Path, tmp_path: Path
) -> None:
    (tmp_path / "site").mkdir()
    export_pipeline(base, make_replaced_flux({1, 3}), tmp_path / "pruned")
    shutil.copytree(base, tmp_path / "elsewhere/tiny")
    install(tmp_path / "site", "bria", ARCHITECTURE, "fastflux.architectures")
    install(tmp_path / "site", "firstblock", METHOD, "fastflux.methods")
    path = f"{tmp_path / 'site'}:{Path(__file__).resolve().parents[2]}"
    environment = {"PYTHONPATH": path, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "1"}
    command = [sys.executable, "-c", USE, "pruned", "elsewhere/tiny"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    pipeline: Any = load_pipeline(base)
    key = key_of_run(pipeline.transformer, Trajectories(pipeline, ["a ring"]))
    assert done.stdout.split() == ["FastFluxTransformer2DModel", "2", key]


def test_a_plugin_that_cannot_be_imported_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, "torn", "import nothing_of_this_name", "fastflux.torn")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(FastFluxError, match=r"Cannot load torn of the package torn \(fastflux.torn\): No module named"):
        load_plugins("fastflux.torn")


def test_names_are_registered_once() -> None:
    with pytest.raises(ValueError, match="registered already"):
        register_architecture(FLUX)
    with pytest.raises(ValueError, match="registered already"):
        register_pruning_method(BlockRemovalConfig)(remove_blocks_)
