"""The description of the machine and the hashes of weights."""

import json
import subprocess
from pathlib import Path

import pytest

from bench.environment import describe_environment, device_name, git_commit, sha256_of
from fastflux.errors import FastFluxError


def test_the_description_is_plain_json_with_what_a_record_needs() -> None:
    found = describe_environment()
    assert json.loads(json.dumps(found)) == found
    assert found.keys() == {
        "device",
        "device_type",
        "cores",
        "threads",
        "memory_gib",
        "os",
        "python",
        "libraries",
        "commit",
    }
    assert isinstance(found["libraries"], dict)
    assert found["libraries"]["torch"]
    assert found["device"]


def test_the_cpu_is_named_by_its_model(tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor\t: 0\nmodel name\t: Some CPU @ 2 GHz\nmodel name\t: Other\n")
    assert device_name("cpu", cpuinfo) == "Some CPU @ 2 GHz"
    assert device_name("cpu", tmp_path / "absent")


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
    assert clean is not None
    assert clean["dirty"] is False
    (tmp_path / "a").write_text("2")
    assert git_commit(tmp_path) == {"hash": clean["hash"], "dirty": True}


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
