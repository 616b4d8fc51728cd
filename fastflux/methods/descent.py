"""The one training loop of the pruning methods: AdamW on samples drawn by a seed, warm-up, cosine decay."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from time import monotonic

import torch
from torch import Tensor, nn

from fastflux.calibration.sealed_tensors import kept_sealed, save_sealed
from fastflux.errors import FastFluxError

PAUSE = 60.0
"""Seconds of training between two writings of its state, at the least."""
SHARE = 20
"""So many times as long as a writing takes, too."""


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
    state: Path | None = None,
) -> float:
    """Minimise ``error(rows)`` over parameters in ``groups`` of (parameters, learning rate); empty ones are left out.

    Each step draws ``batch`` of the ``samples`` rows. ``clip`` bounds the norm of all gradients together. What a killed
    training left in the file ``state`` is gone on from, to the same bits: its name must tell all that decides them. The
    file is deleted in the end. Returns the seconds that were trained before. Raises ``FastFluxError`` with
    ``diverged``, in which ``{step}`` is filled, when the error is not finite.
    """
    groups = [(list(parameters), rate) for parameters, rate in groups if parameters]
    # By itself only a GPU's parameters go together: on the CPU that is quicker, too, and the same to the bit.
    optimizer = torch.optim.AdamW(
        [{"params": parameters, "lr": rate, "base": rate} for parameters, rate in groups],
        weight_decay=0.0,
        foreach=True,
    )
    generator = torch.Generator().manual_seed(seed)
    first, before = (0, 0.0) if state is None else _take_up_(state, optimizer, generator)
    began = written = monotonic()
    pause = PAUSE
    for step in range(first, steps):
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
        if state is not None and (now := monotonic()) - written >= pause and step + 1 < steps:
            _keep(state, optimizer, generator, step + 1, before + now - began)
            written = monotonic()
            pause = max(PAUSE, SHARE * (written - now))
    if state is not None:
        state.unlink(missing_ok=True)
    return before


def _trained(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _keep(path: Path, optimizer: torch.optim.Optimizer, generator: torch.Generator, step: int, seconds: float) -> None:
    """Write all that the steps from ``step`` on follow from."""
    tensors = {f"{number}": parameter for number, parameter in enumerate(_trained(optimizer))}
    for number, moments in optimizer.state_dict()["state"].items():
        tensors |= {f"{number}/{name}": moment for name, moment in moments.items()}
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    noted = {"step": repr(step), "seconds": repr(seconds)}
    remedy = "free some space, then run the same again"
    save_sealed({**tensors, "generator": generator.get_state()}, path, remedy=remedy, metadata=noted)


def _take_up_(path: Path, optimizer: torch.optim.Optimizer, generator: torch.Generator) -> tuple[int, float]:
    """Go back to where `_keep` was called: the next step, and the seconds until then; 0 without a whole file."""
    if (kept := kept_sealed(path)) is None:
        return 0, 0.0
    tensors, noted = kept
    generator.set_state(tensors.pop("generator"))
    moments: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        number, _, moment = name.partition("/")
        if moment:
            moments.setdefault(int(number), {})[moment] = tensor
    with torch.no_grad():
        for place, parameter in enumerate(_trained(optimizer)):
            parameter.copy_(tensors[f"{place}"])
    optimizer.load_state_dict({**optimizer.state_dict(), "state": moments})
    return int(noted["step"]), float(noted["seconds"])
