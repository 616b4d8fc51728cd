"""Global fine-tuning of a pruned model against the dense one: L1-norm pruning's second half, sublayers' last step."""

import math
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from fastflux.calibration.block_runs import forward
from fastflux.calibration.fingerprints import VERSIONS, fingerprint
from fastflux.calibration.recording import RecordedInputs, in_float32
from fastflux.cost import PruningCost
from fastflux.errors import FastFluxError
from fastflux.methods.adapters import adapt, adapter_parameters
from fastflux.methods.descent import descend
from fastflux.models.architecture import architecture_of
from fastflux.models.offload import resident
from fastflux.models.surgery import get_block


@dataclass(frozen=True)
class FinetuningSettings:
    """AdamW over all parameters, linear warm-up over 5 % of the steps, cosine decay to 0; no step leaves all as it is.

    The paper says that L1-norm pruning is followed by global fine-tuning (section 4.2) and names no values.
    """

    steps: int = 0
    batch: int = 8
    lr: float = 1e-4

    def __post_init__(self) -> None:
        for name, value, least in (("steps", self.steps, 0), ("batch", self.batch, 1)):
            if value < least:
                raise FastFluxError(f"Fine-tuning's {name} is {value}, but it must be at least {least}.")
        if not (math.isfinite(self.lr) and self.lr > 0):
            raise FastFluxError(f"Fine-tuning's lr is {self.lr}, but it must be a positive number.")


@torch.no_grad()
def outputs_of(transformer: nn.Module, inputs: RecordedInputs, batch_size: int) -> Tensor:
    """The transformer's outputs for all samples, on the CPU: what a pruned model is trained to give.

    Raises ``FastFluxError`` for outputs that are not finite.
    """
    outputs = torch.cat([forward(transformer, arguments).cpu() for arguments in inputs.batches(batch_size)])
    if not torch.isfinite(outputs).all():
        raise FastFluxError("The dense model's outputs are not finite: check its weights and dtype.")
    return outputs


def finetune_(
    transformer: nn.Module,
    inputs: RecordedInputs,
    targets: Tensor,
    settings: FinetuningSettings,
    *,
    seed: int = 0,
    rank: int | None = None,
    replaced: Sequence[nn.Linear] = (),
    lora_lr: float = 0.0,
    folder: Path | None = None,
) -> PruningCost:
    """Train in place so that the samples' outputs meet ``targets`` in the mean square.

    All of them, or with a ``rank`` the ``replaced`` layers in full and LoRA, at ``lora_lr``, in the blocks' other
    linear layers, which ends merged. Samples are drawn by ``seed``; training runs in float32 whatever the dtype,
    with offloaded blocks on their device meanwhile. A training of the same that was killed is gone on with from its
    state in the ``folder``. Returns the cost, with the seconds of that one alone. Raises ``FastFluxError`` when the
    loss is not finite.
    """
    if settings.steps == 0:
        return PruningCost()
    state = None
    if folder is not None:
        recorded = (dict(inputs.rows), dict(inputs.shared), targets)
        device = next(transformer.parameters()).device.type
        key = fingerprint(settings, seed, rank, lora_lr, *recorded, transformer, device, VERSIONS)
        state = folder / f"finetuning-{key}.safetensors"
    dtype = next(transformer.parameters()).dtype
    wanted = {name: parameter.requires_grad for name, parameter in transformer.named_parameters()}
    if dtype != torch.float32:
        transformer.float()
    transformer.requires_grad_(rank is None)
    tuners = []
    chain = architecture_of(transformer).chain(transformer)
    if rank is not None:
        tuners = adapt([get_block(transformer, block) for block in chain], rank, seed=seed, spared=replaced)
    lora = adapter_parameters(transformer)
    full = list(transformer.parameters()) if rank is None else [p for layer in replaced for p in layer.parameters()]
    for parameter in full:
        parameter.requires_grad_()

    def error(rows: Tensor) -> Tensor:
        output = forward(transformer, {**in_float32(inputs.of(rows).rows), **inputs.shared})
        return (output - targets[rows].to(output)).square().mean()

    with resident([get_block(transformer, block) for block in chain]), ExitStack() as undo:
        for tuner in tuners:
            undo.callback(tuner.merge_and_unload)
        seconds = descend(
            [(full, settings.lr), (lora, lora_lr)],
            error,
            len(inputs),
            steps=settings.steps,
            batch=settings.batch,
            seed=seed,
            diverged="Fine-tuning's loss is not finite at step {step}: lower its learning rate.",
            clip=1.0,
            state=state,
        )
    if dtype != torch.float32:
        transformer.to(dtype)
    for name, parameter in transformer.named_parameters():
        parameter.requires_grad_(wanted[name])
    return PruningCost(
        block_trainings=settings.steps * settings.batch * len(chain),
        training_steps=settings.steps,
        trainable_parameters=sum(parameter.numel() for parameter in (*full, *lora)),
        seconds=seconds,
    )
