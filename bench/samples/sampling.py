"""What determines the images besides model and prompts."""

from collections.abc import Mapping
from typing import Annotated

import msgspec

from bench.records.results import Data
from bench.samples.prompts import SETS
from bench.settings import Batch, Guidance, Pixels, Seed, Steps
from fastflux.errors import unknown_name


class Sampling(Data, frozen=True):
    """Settings of drawing; `samples` images of each prompt, by prompt set."""

    height: Pixels
    width: Pixels
    steps: Steps
    guidance: Guidance
    seed: Seed
    batch: Batch
    samples: Mapping[str, Annotated[int, msgspec.Meta(ge=1, le=1000)]]

    def __post_init__(self) -> None:
        for name in self.samples:
            if name not in SETS:
                raise ValueError(str(unknown_name("prompt set of samples", name, SETS)))
