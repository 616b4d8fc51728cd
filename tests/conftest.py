"""What holds for every test: no network, no GPU unless marked, the same hypothesis settings everywhere."""

import gc
import os
import socket
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from fastflux.threads import usable_cores, use_threads

# Before any test imports a library that reads them.
os.environ.update(HF_HUB_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1", TOKENIZERS_PARALLELISM="false", MPLBACKEND="Agg")
use_threads(1)  # a test a core, and no waiting for another thread where other work takes the cores

# No deadline and no complaint of slow inputs: other work on the machine must not fail a test. CI draws the same
# examples on every run, so that a red run is about the change; elsewhere they differ from run to run.
settings.register_profile(
    "fastflux", deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow],
    derandomize="CI" in os.environ,
)  # fmt: skip
settings.load_profile("fastflux")


def pytest_xdist_auto_num_workers() -> int:
    """What `-n auto` means."""
    return usable_cores()


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a test that reaches for the network fail at once and by name, instead of passing where there is one."""
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: Any) -> None:
        if self.family in {socket.AF_INET, socket.AF_INET6} and address[0] not in {"127.0.0.1", "::1", "localhost"}:
            raise AssertionError(f"a test reached for the network: {address}")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", guarded)


@pytest.fixture(autouse=True, scope="module")
def no_old_garbage() -> None:
    """Take what imports and earlier tests left out of later collections, which look through it for a second each."""
    gc.collect()
    gc.freeze()


def pytest_sessionfinish() -> None:
    """Let everything be taken down as usual: nanobind counts what is left at the end and complains of it."""
    gc.unfreeze()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip the tests marked `gpu` where there is none."""
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if not marked:
        return
    import torch

    if not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA GPU"))
