"""The training of the pruning methods: LoRA, one loop, and global fine-tuning of a pruned model against the dense one.

The loop is AdamW on samples drawn by a seed, with warm-up and cosine decay. Adapters are merged into the weights
afterwards. Global fine-tuning is L1-norm pruning's second half and sublayers' last step.
"""

import math
from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

import torch
from peft import LoraConfig
from peft.tuners.lora import LoraModel
from torch import Tensor, nn

from fastflux.calibration.activations import kept_sealed, save_sealed
from fastflux.calibration.block_runs import forward
from fastflux.calibration.fingerprints import VERSIONS, fingerprint
from fastflux.calibration.recording import RecordedInputs, in_float32
from fastflux.cost import PruningCost
from fastflux.errors import FastFluxError
from fastflux.models.architecture import architecture_of
from fastflux.models.offload import resident
from fastflux.models.surgery import get_block, hidden_size

ADAPTER = "repair"


def require_rank(rank: int, transformer: nn.Module) -> None:
    """Raise ``FastFluxError`` unless LoRA of that rank fits the transformer."""
    width = hidden_size(transformer)
    if not 1 <= rank <= width:
        raise FastFluxError(f"The LoRA rank is {rank}, but it must lie between 1 and the width, {width}.")


def adapt(blocks: Sequence[nn.Module], rank: int, *, seed: int, spared: Collection[nn.Module] = ()) -> list[Any]:
    """LoRA of scale 1 on all linear layers of the blocks but the ``spared``; peft's tuners, which can merge it."""
    tuners = []
    with torch.random.fork_rng():
        torch.manual_seed(seed)  # peft draws the matrices from the global generator
        for block in blocks:
            left = [(name, module) for name, module in block.named_modules() if isinstance(module, nn.Linear)]
            if names := [name for name, module in left if not any(module is one for one in spared)]:
                config = LoraConfig(r=rank, lora_alpha=rank, target_modules=names)
                tuners.append(LoraModel(block, config, ADAPTER))
    return tuners


def adapter_parameters(module: nn.Module) -> list[nn.Parameter]:
    """The matrices that `adapt` has put below a module."""
    return [parameter for name, parameter in module.named_parameters() if f".{ADAPTER}." in name]


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
