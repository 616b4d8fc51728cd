"""mmdet's detections in its own format, from a stand-in for mmdet, which needs a build of its own."""

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from bench.metrics.detection import DetectorError
from bench.metrics.models.mmdet_detector import MMDetDetector, read_result
from bench.samples.geneval_vocabulary import COCO_CLASSES
from fastflux.errors import FastFluxError


def boxes(**rows: list[list[float]]) -> list[np.ndarray]:
    """mmdet's arrays by class: (objects, 5) each."""
    return [np.array(rows.get(name.replace(" ", "_"), []), dtype=np.float32).reshape(-1, 5) for name in COCO_CLASSES]


def masks(**outlines: list[np.ndarray]) -> list[list[np.ndarray]]:
    return [outlines.get(name.replace(" ", "_"), []) for name in COCO_CLASSES]


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    paths = tmp_path / "mask2former.py", tmp_path / "weights.pth"
    for path in paths:
        path.write_text(path.name)
    return paths


@pytest.fixture
def mmdet(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """A stand-in for mmdet.apis; the list is of what it was called with, its answer the last entry."""
    calls: list[Any] = []
    apis = ModuleType("mmdet.apis")

    def init_detector(config: str, checkpoint: str, device: str) -> str:
        calls.append((Path(config).name, Path(checkpoint).name, device))
        return "model"

    def inference_detector(model: str, image: np.ndarray) -> Any:
        calls.append((model, image))
        return boxes(dog=[[1, 2, 3, 4, 0.5]])

    apis.init_detector = init_detector  # type: ignore[attr-defined]
    apis.inference_detector = inference_detector  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "mmdet", ModuleType("mmdet"))
    monkeypatch.setitem(sys.modules, "mmdet.apis", apis)
    return calls


def test_images_are_given_in_bgr_and_classes_are_taken_by_number(mmdet: list[Any], files: tuple[Path, Path]) -> None:
    detector = MMDetDetector(*files, device="cuda:1")
    image = np.arange(4 * 5 * 3, dtype=np.uint8).reshape(4, 5, 3)
    ((found,), _) = detector([image, image])
    assert mmdet[0] == ("mask2former.py", "weights.pth", "cuda:1")
    model, given = mmdet[1]
    assert model == "model"
    assert (given[..., 0] == image[..., 2]).all()
    assert (given[..., 2] == image[..., 0]).all()
    assert given.flags["C_CONTIGUOUS"]
    assert (found.label, found.score, found.box, found.mask) == ("dog", 0.5, (1, 2, 3, 4), None)


def test_masks_belong_to_their_boxes() -> None:
    outlines = [np.eye(3, dtype=np.bool_), np.ones((3, 3), dtype=np.bool_)]
    result = (
        boxes(traffic_light=[[0, 0, 1, 1, 0.5], [0, 0, 2, 2, 0.75]], toothbrush=[[0, 0, 3, 3, 0.25]]),
        masks(traffic_light=outlines, toothbrush=[outlines[0]]),
    )
    found = read_result(result)
    assert [(one.label, one.score, one.box[2]) for one in found] == [
        ("traffic light", 0.5, 1),
        ("traffic light", 0.75, 2),
        ("toothbrush", 0.25, 3),
    ]
    assert [one.mask is not None and int(one.mask.sum()) for one in found] == [3, 9, 3]


@pytest.mark.parametrize("result", [object(), [], (boxes()[:79], masks()), None])
def test_other_formats_are_refused(result: Any) -> None:
    with pytest.raises(DetectorError, match="expected lists over 80 classes"):
        read_result(result)


def test_scores_that_are_not_finite_are_refused() -> None:
    with pytest.raises(DetectorError, match="of 'dog' that are not finite"):
        read_result(boxes(dog=[[0, 0, 1, 1, np.nan]]))


def test_weights_are_known_by_their_hash(mmdet: list[Any], files: tuple[Path, Path]) -> None:
    detector = MMDetDetector(*files)
    assert not detector.is_reference
    assert detector.settings["weights"] == "weights.pth"
    detector.checkpoint_sha256 = "743b7d99" + "0" * 56
    assert detector.is_reference


def test_without_mmdet_one_is_told_what_to_install(files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mmdet", None)  # as where it is not installed
    monkeypatch.setitem(sys.modules, "mmdet.apis", None)
    with pytest.raises(FastFluxError, match=r"install mmdet 2\.x with mmcv-full 1\.x .* or take the detector"):
        MMDetDetector(*files)


def test_files_that_are_not_there_or_not_mmdets_are_errors(
    mmdet: list[Any], files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(FastFluxError, match=r"absent\.pth is no file"):
        MMDetDetector(files[0], files[1].with_name("absent.pth"))

    def refuses(*_: object, **__: object) -> None:
        raise KeyError("Mask2Former is not in the models registry")

    monkeypatch.setattr(sys.modules["mmdet.apis"], "init_detector", refuses)
    with pytest.raises(FastFluxError, match=r"mmdet cannot load .* not in the models registry"):
        MMDetDetector(*files)
