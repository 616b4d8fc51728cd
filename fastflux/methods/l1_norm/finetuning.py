"""Global fine-tuning of a pruned model against the dense one: what L1-norm pruning needs, Sandwich Training saves."""

import torch
from torch import Tensor, nn

from fastflux.calibration.block_runs import on_device
from fastflux.calibration.recording import RecordedInputs
from fastflux.errors import FastFluxError
from fastflux.methods.descent import descend
from fastflux.methods.l1_norm.config import FinetuningSettings


@torch.no_grad()
def outputs_of(transformer: nn.Module, inputs: RecordedInputs, batch_size: int) -> Tensor:
    """The transformer's outputs for all samples, on the CPU: what a pruned model is trained to give.

    Raises ``FastFluxError`` for outputs that are not finite.
    """
    parts = [
        transformer(**on_device(arguments, transformer), return_dict=False)[0].cpu()
        for arguments in inputs.batches(batch_size)
    ]
    outputs = torch.cat(parts)
    if not torch.isfinite(outputs).all():
        raise FastFluxError("The dense model's outputs are not finite: check its weights and dtype.")
    return outputs


def finetune_(
    transformer: nn.Module, inputs: RecordedInputs, targets: Tensor, settings: FinetuningSettings, *, seed: int = 0
) -> None:
    """Train all parameters in place so that the samples' outputs meet ``targets`` in the mean square.

    Samples are drawn by ``seed``; training runs in float32 whatever the weights' dtype. Raises ``FastFluxError`` when
    the loss is not finite.
    """
    if settings.steps == 0:
        return
    dtype = next(transformer.parameters()).dtype
    wanted = [parameter.requires_grad for parameter in transformer.parameters()]
    if dtype != torch.float32:
        transformer.float()
    transformer.requires_grad_()

    def error(rows: Tensor) -> Tensor:
        arguments = {
            **{n: v[rows].float() if v.is_floating_point() else v[rows] for n, v in inputs.rows.items()},
            **inputs.shared,
        }
        output: Tensor = transformer(**on_device(arguments, transformer), return_dict=False)[0]
        return (output - targets[rows].to(output)).square().mean()

    descend(
        [(list(transformer.parameters()), settings.lr)],
        error,
        len(inputs),
        steps=settings.steps,
        batch=settings.batch,
        seed=seed,
        diverged="Fine-tuning's loss is not finite at step {step}: lower its learning rate.",
        clip=1.0,
    )
    if dtype != torch.float32:
        transformer.to(dtype)
    for parameter, wish in zip(transformer.parameters(), wanted, strict=True):
        parameter.requires_grad_(wish)
