"""The one training loop of the pruning methods: AdamW on samples drawn by a seed, warm-up, cosine decay."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from fastflux.errors import FastFluxError


def warmup_cosine(step: int, steps: int) -> float:
    """The learning rates' factor at a step: up over the first 5 % of ``steps``, then down to 0 by a cosine."""
    warmup = max(1, steps // 20)
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def descend(
    groups: Sequence[tuple[Sequence[nn.Parameter], float]],
    error: Callable[[Tensor], Tensor],
    samples: int,
    *,
    steps: int,
    batch: int,
    seed: int,
    diverged: str,
    clip: float | None = None,
) -> None:
    """Minimise ``error(rows)`` over parameters in ``groups`` of (parameters, learning rate); empty ones are left out.

    Each step draws ``batch`` of the ``samples`` rows. ``clip`` bounds the norm of all gradients together. Raises
    ``FastFluxError`` with ``diverged``, in which ``{step}`` is filled, when the error is not finite.
    """
    groups = [(list(parameters), rate) for parameters, rate in groups if parameters]
    optimizer = torch.optim.AdamW(
        [{"params": parameters, "lr": rate, "base": rate} for parameters, rate in groups], weight_decay=0.0
    )
    generator = torch.Generator().manual_seed(seed)
    for step in range(steps):
        loss = error(torch.randint(samples, (batch,), generator=generator))
        if not torch.isfinite(loss):
            raise FastFluxError(diverged.format(step=step))
        loss.backward()
        if clip is not None:
            torch.nn.utils.clip_grad_norm_([p for parameters, _ in groups for p in parameters], clip)
        for group in optimizer.param_groups:
            group["lr"] = group["base"] * warmup_cosine(step, steps)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
