"""The description of the machine and the hashes of weights."""

import json
import subprocess
from pathlib import Path

import pytest
import torch

from bench.records import environment
from bench.records.environment import cpu_model, describe_environment, device_name, git_commit, sha256_of
from fastflux.errors import FastFluxError


def test_the_description_is_plain_json_with_what_a_record_needs() -> None:
    found = describe_environment()
    assert json.loads(json.dumps(found)) == found
    assert found.keys() == {
        "device", "device_type", "cores", "threads", "memory_gib", "os", "python", "libraries", "commit", "cpu",
        "governor", "cpu_capability",
    }  # fmt: skip
    assert isinstance(found["libraries"], dict)
    assert found["libraries"]["torch"]
    assert found["device"]


def test_a_cpu_is_the_device_by_its_model() -> None:
    assert device_name("cpu") == cpu_model() == describe_environment()["cpu"]


def test_a_gpu_is_described_beside_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Some GPU")
    monkeypatch.setattr(environment, "describe_gpu", lambda device: {"driver": "1", "power_limit_w": None})
    found = describe_environment("cuda:0")
    assert (found["device"], found["device_type"], found["cpu"]) == ("Some GPU", "cuda", cpu_model())
    assert found["gpu"] == {"driver": "1", "power_limit_w": None}


def test_a_commit_is_dirty_once_a_tracked_file_changes(tmp_path: Path) -> None:
    def git(*arguments: str) -> None:
        identity = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
        subprocess.run(["git", "-C", str(tmp_path), *identity, *arguments], check=True, capture_output=True)

    assert git_commit(tmp_path) is None
    git("init")
    (tmp_path / "a").write_text("1")
    git("add", "a")
    git("commit", "--no-verify", "-m", "one")
    (tmp_path / "untracked").write_text("1")
    clean = git_commit(tmp_path)
    assert clean["dirty"] is False
    (tmp_path / "a").write_text("2")
    assert git_commit(tmp_path) == {"hash": clean["hash"], "dirty": True}


@pytest.mark.parametrize(("node", "known"), [("0123456789" * 4, True), ("$Format:%H$", False)])
def test_an_archive_that_git_made_names_its_commit(tmp_path: Path, node: str, known: bool) -> None:
    (tmp_path / "bench").mkdir()
    (tmp_path / ".git_archival.txt").write_text(f"node: {node}\n")
    assert git_commit(tmp_path / "bench") == ({"hash": node, "dirty": False} if known else None)


def test_hashes_follow_content_and_names_only(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    for folder in (one, two):
        (folder / "sub").mkdir(parents=True)
        (folder / "config.json").write_text("{}")
        (folder / "sub" / "w.bin").write_bytes(b"weights")
    (two / ".cache").write_text("not weights")
    assert sha256_of(one) == sha256_of(two)
    (two / "sub" / "w.bin").rename(two / "sub" / "v.bin")
    assert sha256_of(one) != sha256_of(two)
    assert sha256_of(one / "config.json") == "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
    with pytest.raises(FastFluxError, match="absent is neither"):
        sha256_of(tmp_path / "absent")
