"""Writers of files and folders: whole or not at all, and what was there before is lost to nothing but its successor."""

import errno
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from fastflux import files
from fastflux.errors import FastFluxError
from fastflux.files import new_folder, replace_files, require_new_folder, require_room, whole_file, write_text

OLD = {"index": "old", "part/weights": "old weights", "gone": "old"}
NEW = {"index": "new", "part/weights": "new weights", "more/weights": "new"}
ROOT = Path(__file__).resolve().parents[2]


def nothing(_folder: Path) -> Sequence[str]:
    return ()


def fill(folder: Path, contents: dict[str, str]) -> None:
    for name, text in contents.items():
        write_text(folder / name, text)


def held(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def replace(folder: Path) -> None:
    with new_folder(folder, overwrite=True, foreign=nothing) as partial:
        fill(partial, NEW)


@pytest.fixture
def old(tmp_path: Path) -> Path:
    fill(tmp_path / "out", OLD)
    return tmp_path / "out"


def no_exchange(_first: Path, _second: Path) -> bool:
    return False


def immovable(monkeypatch: pytest.MonkeyPatch, folder: Path, code: int) -> None:
    """Renaming the folder fails as it does where something is mounted on it."""
    rename = os.rename

    def refuse(source: Any, target: Any, **options: Any) -> None:
        if folder in (Path(source), Path(target)):
            raise OSError(code, os.strerror(code))
        rename(source, target, **options)

    monkeypatch.setattr(os, "rename", refuse)
    monkeypatch.setattr(files, "_exchange", no_exchange)


@pytest.mark.parametrize("way", ["exchange", "two renames", "busy", "other device", "mount point"])
def test_a_folder_is_replaced_and_nothing_stays_beside_it(way: str, old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if way == "two renames":
        monkeypatch.setattr(files, "_exchange", no_exchange)
    elif way in ("busy", "other device"):
        immovable(monkeypatch, old, errno.EBUSY if way == "busy" else errno.EXDEV)
    elif way == "mount point":
        monkeypatch.setattr(os.path, "ismount", lambda path: Path(path) == old)
        immovable(monkeypatch, old, errno.EBUSY)
    replace(old)
    assert held(old) == NEW
    assert [path.name for path in old.parent.iterdir()] == ["out"]


def test_a_mount_point_gets_new_contents(tmp_path: Path, old: Path) -> None:
    """In a mount namespace of its own: of another file system, and of the same, which looks like no mount point."""
    code = (
        "import sys; from pathlib import Path; from tests.fastflux.test_files import *\n"
        "out = Path(sys.argv[1]); fill(out, OLD); replace(out); print(held(out) == NEW, os.listdir(out.parent))"
    )
    for mount in ("mount -t tmpfs none $1", "mkdir -p $1.real && mount --bind $1.real $1"):
        script = f"{mount} && exec {sys.executable} -c '{code}' $1"
        done = subprocess.run(
            ["unshare", "-m", "sh", "-c", script, "sh", old], capture_output=True, text=True, cwd=ROOT, check=False
        )
        if "unshare" in done.stderr or "mount:" in done.stderr:
            pytest.skip("cannot mount here")
        assert done.stdout.startswith("True"), done.stderr
        assert ".out." not in done.stdout


def test_a_link_is_written_through(tmp_path: Path, old: Path) -> None:
    (tmp_path / "link").symlink_to(old)
    replace(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert held(old) == NEW
    (tmp_path / "dangling").symlink_to(tmp_path / "elsewhere/deep")
    replace(tmp_path / "dangling")
    assert held(tmp_path / "elsewhere/deep") == NEW


def replace_until(out: Path, way: str, left: int) -> None:
    """Replace the folder in this process, which ends before the rename or deletion behind so many others."""

    def killing(function: Callable[..., None]) -> Callable[..., None]:
        def counted(*arguments: Any, **options: Any) -> None:
            nonlocal left
            left -= 1
            if left < 0:
                os._exit(9)
            function(*arguments, **options)

        return counted

    rename = os.rename

    def refuse(source: Any, target: Any, **options: Any) -> None:
        if way == "busy" and out in (Path(source), Path(target)):
            raise OSError(errno.EBUSY, "busy")
        rename(source, target, **options)

    if way != "exchange":
        files._exchange = no_exchange
    os.rename, os.unlink, os.rmdir = killing(refuse), killing(os.unlink), killing(os.rmdir)
    try:
        replace(out)
    except BaseException:  # noqa: BLE001
        os._exit(1)
    os._exit(0)


def test_what_killed_processes_left_half_written_is_deleted_and_what_living_ones_write_stays(old: Path) -> None:
    dead, other = old.with_name(".out.partial-00000000"), old.with_name(".more.partial-00000000")
    for folder in (dead, other):
        fill(folder, NEW)
    with files.new_folder(old.with_name("out"), overwrite=True, foreign=lambda _: []) as living:
        replace(old)
        assert not dead.exists()
        assert living.exists()
    assert sorted(path.name for path in old.parent.iterdir()) == [other.name, "out"]
    (old / ".out.partial-00000000").mkdir()
    require_room(old)
    assert not (old / ".out.partial-00000000").exists()
    with files.whole_file(old.parent / "a") as partial:
        partial.write_text("half")
        files.delete_partials(old.parent.rglob(files.PARTIALS))
        assert not other.exists()
    assert (old.parent / "a").read_text() == "half"


@pytest.mark.parametrize("way", ["exchange", "two renames", "busy"])
@pytest.mark.filterwarnings("ignore:.*multi-threaded")  # the child touches files alone
def test_a_kill_at_any_file_operation_loses_neither(way: str, tmp_path: Path) -> None:
    """A process of its own is ended before each rename and deletion in turn."""
    for moment in range(40):
        home = tmp_path / f"{moment}"
        fill(home / "out", OLD)
        if (child := os.fork()) == 0:
            replace_until(home / "out", way, moment)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        # Files by their names below the old or the new folder, wherever that lies: hidden folders hold what was moved.
        found = [(path.relative_to(home).parts, path.read_text()) for path in home.rglob("*") if path.is_file()]
        kept = [
            all(
                any("/".join(parts).endswith(name) and text == one for parts, one in found)
                for name, text in want.items()
            )
            for want in (OLD, NEW)
        ]
        assert any(kept), (moment, found)
        if way == "exchange":
            assert held(home / "out") in (OLD, NEW)
        if status == 0:
            assert held(home / "out") == NEW
            break
        assert status == 9
    else:
        pytest.fail("it never came to an end")
    assert moment > 3


@pytest.mark.parametrize("way", ["two renames", "busy"])
def test_what_cannot_be_put_in_place_is_kept_and_the_old_restored(
    way: str, old: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "_exchange", no_exchange)
    rename = os.rename

    def refuse(source: Any, target: Any, **options: Any) -> None:
        if way == "busy" and old in (Path(source), Path(target)):
            raise OSError(errno.EBUSY, "busy")
        if Path(target).name in ("out", "more") and "partial" in str(source):
            raise OSError(errno.ENOSPC, "No space left on device")
        rename(source, target, **options)

    monkeypatch.setattr(os, "rename", refuse)
    if way == "busy":
        monkeypatch.setattr("shutil.copytree", lambda *_, **__: refuse("partial", "out"))
    with pytest.raises(FastFluxError, match="No space left on device; it lies complete in") as caught:
        replace(old)
    assert held(old) == OLD
    assert held(Path(str(caught.value).rpartition(" ")[2].rstrip("."))) == NEW


def test_an_error_in_the_middle_leaves_the_old_one(old: Path) -> None:
    def fail() -> None:
        with new_folder(old, overwrite=True, foreign=nothing) as partial:
            fill(partial, NEW)
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(FastFluxError, match=r"Cannot write .*: No space left"):
        fail()
    assert held(old) == OLD
    assert [path.name for path in old.parent.iterdir()] == ["out"]


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("out", "exists already"),
        (".", "or one around it"),
        ("..", "or one around it"),
        ("/", "or one around it"),
        ("out/index", "is no folder"),
        ("out/index/below", "Not a directory"),
        ("out/index/far/below", "Not a directory"),
        ("n" * 256, "name too long"),
        ("new/" + "n" * 256 + "/out", "name too long"),
        ("/proc/out", "Cannot write /proc/out"),
    ],
)
def test_folders_that_cannot_be_written_are_told_before(
    name: str, told: str, old: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(old.parent)
    before = held(old.parent)
    with pytest.raises(FastFluxError, match=f"(?i){told}") as caught:
        require_new_folder(Path(name), overwrite=name == "out/index", foreign=nothing)
    assert "\n" not in str(caught.value)
    assert held(old.parent) == before


def test_names_as_long_as_they_may_be(tmp_path: Path) -> None:
    replace(tmp_path / ("ü" * 127))
    replace(tmp_path / ("ü" * 127))
    write_text(tmp_path / ("n" * 255), "text")
    assert len(list(tmp_path.iterdir())) == 2


def test_what_does_not_belong_there_and_inputs_are_not_deleted(old: Path) -> None:
    with pytest.raises(FastFluxError, match="would delete a, b, c and 1 more, which is no part"):
        require_new_folder(old, overwrite=True, foreign=lambda _: ["a", "b", "c", "d"])
    (old.parent / "pictures").mkdir()
    (old.parent / "pictures/one.png").symlink_to(old / "index")
    for path in (old, old / "part", old / "gone", old.parent, old.parent / "pictures"):
        with pytest.raises(FastFluxError, match="the input lies in it"):
            require_new_folder(old, overwrite=True, foreign=nothing, inputs={"the input": path})
    require_new_folder(old, overwrite=True, foreign=nothing, inputs={"the input": ROOT / "tests", "none": None})


def test_room_is_looked_for_and_nothing_made(tmp_path: Path) -> None:
    require_room(tmp_path / "deep/below")
    require_room(tmp_path)
    write_text(tmp_path / "file", "text")
    for name in ("file", "file/below", "n" * 256):
        with pytest.raises(FastFluxError, match="Cannot write"):
            require_room(tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def write_bytes_of(path: Path) -> None:
    files.write_bytes(path, b"new")


def write_by_hand(path: Path) -> None:
    with whole_file(path) as partial:
        partial.write_text("new")


@pytest.mark.parametrize("write", [write_bytes_of, write_by_hand, lambda path: write_text(path, "new")])
def test_files_appear_whole(write: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "deep/file")
    (tmp_path / "link").symlink_to(tmp_path / "deep/file")
    (tmp_path / "deep/file").write_text("old")
    write(tmp_path / "link")
    assert held(tmp_path) == {"deep/file": "new", "link": "new"}
    assert (tmp_path / "link").is_symlink()
    write(Path(os.devnull))
    assert Path(os.devnull).is_char_device()
    for name in ("", "deep", "deep/file/below", "n" * 256):
        with pytest.raises(FastFluxError, match="Cannot write"):
            write(tmp_path / name)

    def busy(_source: Path, target: Path) -> None:
        raise OSError(errno.EBUSY, "busy", str(target))

    (tmp_path / "deep/file").write_text("older")
    monkeypatch.setattr(Path, "replace", busy)
    write(tmp_path / "deep/file")  # as where a file is mounted
    assert held(tmp_path) == {"deep/file": "new", "link": "new"}


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    def fail() -> None:
        with whole_file(tmp_path / "file") as partial:
            partial.write_text("ne")
            raise OSError(errno.ENOSPC, "No space left on device")

    write_text(tmp_path / "file", "old")
    with pytest.raises(FastFluxError, match="No space left on device; free"):
        fail()
    assert held(tmp_path) == {"file": "old"}


def test_files_are_replaced_by_those_of_another_folder(tmp_path: Path) -> None:
    fill(tmp_path / "kept", {"a.json": "old", "gone/b.json": "old", "README.md": "old"})
    fill(tmp_path / "fresh", {"a.json": "new", "deep/c.json": "new", "notes.txt": "new"})
    replace_files(tmp_path / "kept", tmp_path / "fresh", "*.json")
    assert held(tmp_path / "kept") == {"a.json": "new", "deep/c.json": "new", "README.md": "old"}
    replace_files(tmp_path / "kept", tmp_path / "fresh")
    assert held(tmp_path / "kept") == held(tmp_path / "fresh")


@pytest.mark.parametrize("fault", ["full disk", "nothing", "no folder"])
def test_a_failure_on_the_way_loses_none(fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path / "kept", {"a.json": "old", "gone.json": "old"})
    fill(tmp_path / "fresh", {} if fault == "no folder" else {"a.txt": "new"})
    if fault == "full disk":
        fill(tmp_path / "fresh", {"a.json": "new"})

        def full(_source: object, target: Path) -> None:
            target.write_text("n")
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr("shutil.copyfile", full)
    with pytest.raises(FastFluxError, match="No space left" if fault == "full disk" else r"holds no \*\.json"):
        replace_files(tmp_path / "kept", tmp_path / "fresh", "*.json")
    assert held(tmp_path / "kept") == {"a.json": "old", "gone.json": "old"}
