"""Two variants prompt by prompt: the difference, its sign, and why two cannot be compared."""

import pytest

from bench.records.results import Measurement
from reports.grouping import Comparison, chance, compare
from reports.rows import rows_of
from tests.reports.conftest import MakeRecord, Measured, Sampled

HPS = "hps.averaged"


@pytest.mark.parametrize(("level", "sign"), [(61.0, 1), (59.0, -1), (60.01, 0)])
def test_the_sign_is_that_of_a_significant_difference(
    make_record: MakeRecord, sampled: Sampled, level: float, sign: int
) -> None:
    dense, pruned = rows_of(
        [make_record("dense", "D", sampled(HPS, 60.0)), make_record("fastflux-10", "F", sampled(HPS, level, "f"))]
    )
    found = compare([pruned], [dense], HPS)
    assert isinstance(found, Comparison)
    assert found.paired.difference.value == pytest.approx(level - 60)
    assert found.paired.sign == sign
    assert found.figures.startswith(f"F {level:.2f} against D 60.00: {level - 60:+.2f} [")


def test_geneval_counts_each_task_once(make_record: MakeRecord, measured: Measured) -> None:
    """One task of three prompts worse, one of a single prompt better: the mean of task means is not that of prompts."""

    def geneval(many: float, one: float) -> Measurement:
        samples = {f"many/{index}": [many] for index in range(3)} | {"one/3": [one]}
        return measured("geneval", {"overall": (many + one) / 2}, samples=samples)

    rows = rows_of([make_record("dense", "D", geneval(0.5, 0.5)), make_record("l1-12", "L", geneval(0.4, 0.9))])
    found = compare([rows[1]], [rows[0]], "geneval.overall")
    assert isinstance(found, Comparison)
    assert found.paired.difference.value == pytest.approx(0.15)


def test_what_cannot_be_compared_has_a_reason(make_record: MakeRecord, sampled: Sampled, measured: Measured) -> None:
    dense = make_record("dense", "D", sampled(HPS, 60.0))
    reasons = {
        "failed": make_record("a-1", "A", measured("hps", "no weights")),
        "no scores": make_record("b-1", "B", measured("hps", {"averaged": 1.0}, scored=12)),
        "sampled differently": make_record("c-1", "C", sampled(HPS, 60.0), steps=8),
        "other prompts": make_record("d-1", "E", measured("hps", {"averaged": 1.0}, samples={"a/x": [1.0]}, scored=12)),
    }
    rows = {row.variant: row for row in rows_of([dense, *reasons.values()])}
    found = [compare([rows[variant]], [rows["dense"]], HPS) for variant in ("a-1", "b-1", "c-1", "d-1")]
    assert found[:3] == [
        "A: hps: failed, no weights",
        "B: hps has no scores of single images",
        "C and D were sampled differently",
    ]
    assert "E and D cannot be paired" in str(found[3])


def test_small_p_values_are_bounds() -> None:
    assert [chance(p) for p in (0.0005, 0.0391, 1.0)] == ["p < 0.001", "p = 0.039", "p = 1.000"]
