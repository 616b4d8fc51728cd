"""The one training loop of FLUX-Shapes: resumable after a kill, averaged weights, curves on disk, remaining time shown.

A step's data depend on its number alone, so a run that was killed continues with the batches it would have seen.
"""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from bench.progress import track
from fastflux.files import whole_file


@dataclass(frozen=True)
class Schedule:
    """How long and how fast: AdamW (Muon for hidden matrices where `muon`), linear warm-up, cosine decay to 0."""

    steps: int
    lr: float
    warmup: int = 100
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.99)
    ema: float = 0.0
    clip: float = 1.0
    muon: float = 0.0
    save_every_s: float = 60.0

    def factor(self, step: int) -> float:
        """The learning rate's factor at a step: up over `warmup`, flat for a third, then down to 0 by a cosine."""
        if step < self.warmup:
            return (step + 1) / self.warmup
        part = step / max(1, self.steps)
        return 1.0 if part < 1 / 3 else 0.5 * (1 + math.cos(math.pi * (part - 1 / 3) * 1.5))


class _Optimizers:
    """AdamW for all parameters, or Muon for the hidden matrices and AdamW for the rest."""

    def __init__(self, model: nn.Module, schedule: Schedule) -> None:
        named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        hidden = [p for name, p in named if schedule.muon and p.ndim == 2 and "blocks." in name and "norm" not in name]
        chosen = {id(p) for p in hidden}
        rest = [p for _, p in named if id(p) not in chosen]
        self.members: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(
                rest, lr=schedule.lr, betas=schedule.betas, weight_decay=schedule.weight_decay, foreach=True
            )
        ]
        self.rates = [schedule.lr]
        if hidden:
            self.members.append(
                torch.optim.Muon(
                    hidden,
                    lr=schedule.muon,
                    weight_decay=schedule.weight_decay,
                    ns_steps=4,
                    adjust_lr_fn="match_rms_adamw",
                )
            )
            self.rates.append(schedule.muon)

    def step(self, factor: float) -> None:
        for optimizer, rate in zip(self.members, self.rates, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = rate * factor
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)


def _write(state: dict[str, object], path: Path) -> None:
    """Atomically: a kill in the middle leaves the old file."""
    with whole_file(path) as partial:
        torch.save(state, partial)


def train(
    name: str,
    model: nn.Module,
    loss_of_step: Callable[[int], tuple[Tensor, dict[str, float]]],
    schedule: Schedule,
    folder: Path,
) -> nn.Module:
    """Train `model` in place and return it with its averaged weights where `schedule.ema` asks for that.

    `loss_of_step(step)` draws the step's batch and returns the loss and figures to log. State lies in
    `folder/<name>.pt`, the curve in `folder/<name>.jsonl`; a finished training is loaded, not repeated.
    """
    folder.mkdir(parents=True, exist_ok=True)
    state_path, curve_path = folder / f"{name}.pt", folder / f"{name}.jsonl"
    optimizers = _Optimizers(model, schedule)
    average = copy.deepcopy(model).eval().requires_grad_(requires_grad=False) if schedule.ema else None
    start = 0
    if state_path.exists():
        state = torch.load(state_path, weights_only=True)
        model.load_state_dict(state["model"])
        start = state["step"]
        if average is not None:
            average.load_state_dict(state["average"])
        if start < schedule.steps and "optimizers" in state:  # a finished training that is given more steps has none
            for optimizer, saved in zip(optimizers.members, state["optimizers"], strict=True):
                optimizer.load_state_dict(saved)

    def save(step: int) -> None:
        state: dict[str, object] = {"step": step, "model": model.state_dict()}
        if average is not None:
            state["average"] = average.state_dict()
        if step < schedule.steps:
            state["optimizers"] = [optimizer.state_dict() for optimizer in optimizers.members]
        _write(state, state_path)

    model.train()
    began = saved_at = time.monotonic()
    figures: dict[str, float] = {}
    window = 0
    parameters = [p for p in model.parameters() if p.requires_grad]
    for step in track(range(start, schedule.steps), f"train {name}", total=schedule.steps, completed=start):
        loss, logged = loss_of_step(step)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, schedule.clip, error_if_nonfinite=True)
        optimizers.step(schedule.factor(step))
        if average is not None:
            decay = min(schedule.ema, (step + 1) / (step + 10))
            torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1 - decay)
        for key, value in {"loss": float(loss.detach()), **logged}.items():
            figures[key] = figures.get(key, 0.0) + value
        window += 1
        if window == 50 or step + 1 == schedule.steps:
            line = {"step": step + 1, "seconds": round(time.monotonic() - began, 1)}
            line |= {key: round(value / window, 6) for key, value in figures.items()}
            with curve_path.open("a") as curve:
                curve.write(json.dumps(line) + "\n")
            figures, window = {}, 0
        if time.monotonic() - saved_at > schedule.save_every_s:
            save(step + 1)
            saved_at = time.monotonic()
    if start < schedule.steps:
        save(schedule.steps)
    if average is not None:
        # Running statistics of normalisation layers are averages already.
        for averaged, current in zip(average.buffers(), model.buffers(), strict=True):
            averaged.copy_(current)
        model.load_state_dict(average.state_dict())
    return model.eval()
