"""Blocks that stay on the host and come to the device for their forward only, while a model is calibrated and pruned.

Diffusers' own group offload keeps copies of the weights by parameter, which pruning would leave behind when it
exchanges, trains and merges blocks. Here the block's own weights are what moves, whatever they have become.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from fastflux.models.architecture import architecture_of
from fastflux.models.surgery import RUNS_ON, get_block

_STAYS, _ORIGINALS = "fastflux_stays", "fastflux_originals"


def offload_pipeline_(pipeline: Any, device: torch.device | str) -> None:
    """Move a pipeline to ``device`` but for the transformer's blocks and text encoders, which come when they run."""
    for name, component in pipeline.components.items():
        if name == "transformer":
            offload_blocks_(component, device)
        elif name.startswith("text_encoder") and component is not None:
            offload_(component, device)
        elif isinstance(component, nn.Module):
            component.to(device)


def offload_blocks_(transformer: nn.Module, device: torch.device | str) -> None:
    """Move a transformer to ``device`` but for its blocks, which from now on are there for their forward alone.

    Numbers do not change. A block that `fastflux.models.surgery.replace_block_` puts in an offloaded one's place is
    small and lies on the device for good.
    """
    blocks = [get_block(transformer, block) for block in architecture_of(transformer).chain(transformer)]
    inside = {id(module) for block in blocks for module in block.modules()}
    for module in transformer.modules():
        if id(module) not in inside:  # Z-Image has parameters of its own beside its modules
            module._apply(lambda tensor: tensor.to(device), recurse=False)  # noqa: SLF001  # as module.to does
    for block in blocks:
        offload_(block, device)


def offload_(module: nn.Module, device: torch.device | str) -> None:
    """Keep a module on the host and bring it to ``device`` for its forward alone."""
    module.to("cpu")
    setattr(module, RUNS_ON, torch.device(device))
    module.register_forward_pre_hook(_before_forward)
    module.register_forward_hook(_after_forward, always_call=True)  # also where a hook ends the forward early


def is_offloaded(module: nn.Module) -> bool:
    """Whether a module is on its device for its forward alone."""
    return getattr(module, RUNS_ON, None) is not None


@contextmanager
def on_its_device(module: nn.Module) -> Iterator[None]:
    """Load an offloaded module once for many forwards, which must not change its weights; others stay as they are."""
    if not is_offloaded(module) or getattr(module, _STAYS, False):
        yield
        return
    _load(module)
    setattr(module, _STAYS, True)
    try:
        yield
    finally:
        setattr(module, _STAYS, False)
        _unload(module)


@contextmanager
def resident(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Keep offloaded modules on their device meanwhile, where training changes them; others stay as they are."""
    offloaded = [module for module in modules if is_offloaded(module)]
    try:
        for module in offloaded:
            setattr(module, _STAYS, True)
            module.to(getattr(module, RUNS_ON))
        yield
    finally:  # also where there was no memory for all of them
        for module in offloaded:
            module.to("cpu")
            setattr(module, _STAYS, False)


def _before_forward(module: nn.Module, *_arguments: Any) -> None:
    if not getattr(module, _STAYS, False):
        _load(module)


def _after_forward(module: nn.Module, *_results: Any) -> None:
    if not getattr(module, _STAYS, False):
        _unload(module)


def _load(module: nn.Module) -> None:
    """Put copies of the weights on the module's device in their places."""
    device: torch.device = getattr(module, RUNS_ON)
    # Copies take the weights' places: a forward changes nothing that would have to be written back.
    originals: list[tuple[dict[str, Any], str, Tensor]] = []
    setattr(module, _ORIGINALS, originals)  # before it is filled: without memory halfway, all must be put back
    try:
        for part in module.modules():
            places: tuple[dict[str, Any], ...] = (part._parameters, part._buffers)  # noqa: SLF001  # as module.to does
            for place in places:
                for name, tensor in place.items():
                    if tensor is not None:
                        copy = tensor.detach().to(device)
                        originals.append((place, name, tensor))
                        # torch.matmul chooses its kernel by whether gradients are wanted: numbers shall not change.
                        wanted = tensor.requires_grad
                        is_parameter = isinstance(tensor, nn.Parameter)
                        place[name] = nn.Parameter(copy, requires_grad=wanted) if is_parameter else copy
    except BaseException:
        _unload(module)
        raise


def _unload(module: nn.Module) -> None:
    """Put the weights themselves back; where none has moved, nothing."""
    for place, name, tensor in getattr(module, _ORIGINALS, []):
        place[name] = tensor
    setattr(module, _ORIGINALS, [])
