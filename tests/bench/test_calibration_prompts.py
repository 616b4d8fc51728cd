"""Our own calibration prompts: the committed file is what the word lists give."""

from bench.profiles.profile import ROOT
from bench.samples.calibration_prompts import COUNT, PATH, calibration_prompts
from bench.samples.prompts import read_prompts


def test_the_committed_prompts_are_these() -> None:
    prompts = calibration_prompts()
    assert read_prompts(ROOT / PATH) == prompts
    assert len({prompt.prompt for prompt in prompts}) == COUNT == 512
    assert {prompt.set for prompt in prompts} == {"calibration"}
