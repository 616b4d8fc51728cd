"""The one training loop of FLUX-Shapes: resumable after a kill, averaged weights, curves on disk, remaining time shown.

A step's data depend on its number alone, so a run that was killed continues with the batches it would have seen.
"""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from bench.progress import track
from fastflux.files import whole_file

CURVE_EVERY = 50
"""Steps that each line of a curve is the mean of."""

_Module = TypeVar("_Module", bound=nn.Module)


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

    def optimizers(self, model: nn.Module) -> Iterator[torch.optim.Optimizer]:
        """AdamW for all parameters, or Muon for the hidden matrices and AdamW for the rest; "rate" is the full one."""
        named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        hidden = [p for name, p in named if self.muon and p.ndim == 2 and "blocks." in name and "norm" not in name]
        chosen = {id(p) for p in hidden}
        rest = [{"params": [p for _, p in named if id(p) not in chosen], "rate": self.lr}]
        yield torch.optim.AdamW(rest, lr=self.lr, betas=self.betas, weight_decay=self.weight_decay, foreach=True)
        if hidden:
            matrices = [{"params": hidden, "rate": self.muon}]
            yield torch.optim.Muon(
                matrices, lr=self.muon, weight_decay=self.weight_decay, ns_steps=4, adjust_lr_fn="match_rms_adamw"
            )


def frozen(model: _Module, device: str) -> _Module:
    """The module itself on a device, for inference only: a teacher."""
    return model.to(device).eval().requires_grad_(requires_grad=False)


def halved(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights to store, in float16: that costs the scorers nothing measurable; counts stay as they are."""
    kept = {key: value.detach().cpu().contiguous() for key, value in state.items()}
    return {key: value.half() if value.is_floating_point() else value for key, value in kept.items()}


class _State:
    """The model, its average and the optimizers, kept in a file from which a training that was killed continues."""

    def __init__(self, model: nn.Module, schedule: Schedule, path: Path) -> None:
        self.model, self.schedule, self.path = model, schedule, path
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.optimizers = list(schedule.optimizers(model))
        self.average = copy.deepcopy(model).eval().requires_grad_(requires_grad=False) if schedule.ema else None
        self.done = 0
        if path.exists():
            self._load(torch.load(path, weights_only=True))

    def _load(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.done = state["step"]
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        if self.done < self.schedule.steps:  # a finished training that is given more steps has no optimizers
            for optimizer, saved in zip(self.optimizers, state.get("optimizers", ()), strict=False):
                optimizer.load_state_dict(saved)

    def save(self) -> None:
        state: dict[str, object] = {"step": self.done, "model": self.model.state_dict()}
        if self.average is not None:
            state["average"] = self.average.state_dict()
        if self.done < self.schedule.steps:
            state["optimizers"] = [optimizer.state_dict() for optimizer in self.optimizers]
        with whole_file(self.path) as partial:
            torch.save(state, partial)

    def step(self, loss: Tensor) -> None:
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, self.schedule.clip, error_if_nonfinite=True)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["rate"] * self.schedule.factor(self.done)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.done += 1
        if self.average is not None:
            decay = min(self.schedule.ema, self.done / (self.done + 9))
            torch._foreach_lerp_(list(self.average.parameters()), list(self.model.parameters()), 1 - decay)

    def finish(self) -> nn.Module:
        """The model with its averaged weights."""
        if self.average is not None:
            # Running statistics of normalisation layers are averages already.
            for averaged, current in zip(self.average.buffers(), self.model.buffers(), strict=True):
                averaged.copy_(current)
            self.model.load_state_dict(self.average.state_dict())
        return self.model.eval()


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
    state = _State(model, schedule, folder / f"{name}.pt")
    steps = range(state.done, schedule.steps)
    model.train()
    began = saved_at = time.monotonic()
    window: list[dict[str, float]] = []
    for step in track(steps, f"train {name}", total=schedule.steps, completed=steps.start):
        loss, logged = loss_of_step(step)
        state.step(loss)
        window.append({"loss": float(loss.detach()), **logged})
        if len(window) == CURVE_EVERY or state.done == schedule.steps:
            means = {key: round(sum(figures[key] for figures in window) / len(window), 6) for key in window[0]}
            line = {"step": state.done, "seconds": round(time.monotonic() - began, 1), **means}
            with (folder / f"{name}.jsonl").open("a") as curve:
                curve.write(json.dumps(line) + "\n")
            window.clear()
        if time.monotonic() - saved_at > schedule.save_every_s or state.done == schedule.steps:
            state.save()
            saved_at = time.monotonic()
    return state.finish()
