"""FastFLUX: prune diffusion transformers, FLUX and SD3, by replacing residual branches with linear layers.

``import fastflux`` is cheap: torch and diffusers load with the first name that needs them; ``__init__.pyi`` lists all.
It also lets diffusers load exported pipelines, which name this package in their model_index.json.
"""

from importlib import import_module
from typing import Any

import lazy_loader

__version__ = "0.1.0"

_named, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)


def __getattr__(name: str) -> Any:
    try:
        return _named(name)
    except AttributeError:
        if not name.startswith("FastFlux"):
            raise
        return getattr(import_module("fastflux.models.pruned"), name)  # the class of a family of another package
