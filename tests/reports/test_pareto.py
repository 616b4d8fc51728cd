"""Score against cost: the front of hand-made points, and what the plot is given."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reports.render.html.document import front, pareto_data
from reports.rows import rows_of
from tests.reports.conftest import MakeRecord, Measured


@pytest.mark.parametrize(
    ("points", "expected"),
    [
        ([], []),
        ([None, (1.0, 1.0)], [1]),
        ([(0.9, 5.0), (0.8, 5.0), (0.8, 4.0), (1.0, 6.0), (0.7, 1.0)], [4, 1, 3]),
        ([(0.5, 2.0), (0.5, 2.0)], [0, 1]),  # neither is better than its equal
    ],
)
def test_the_front_of_hand_made_points(points: list[tuple[float, float] | None], expected: list[int]) -> None:
    assert front(points) == expected


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)) | st.none(), max_size=12))
def test_the_front_is_what_no_point_beats(points: list[tuple[int, int] | None]) -> None:
    def beaten(point: tuple[int, int]) -> bool:
        others = [other for other in points if other is not None and other != point]
        return any(other[0] <= point[0] and other[1] >= point[1] for other in others)

    unbeaten = {index for index, point in enumerate(points) if point is not None and not beaten(point)}
    assert set(front(points)) == unbeaten


def test_points_hold_values_and_intervals_and_leave_out_what_has_another_dense_model(
    make_record: MakeRecord, measured: Measured
) -> None:
    def hps(level: float) -> object:
        return measured("hps", {"averaged": level}, intervals={"averaged": (level - 1, level + 1)})

    def latency(ratio: float) -> object:
        return measured("latency", {"ratio_to_dense": ratio})

    rows = rows_of(
        [
            make_record("dense", "D", hps(60.0), latency(1.0)),
            make_record("fastflux-10", "F", hps(59.0), latency(0.9)),
            make_record("fastflux-20", "G", measured("hps", "no weights"), latency(0.8)),
            make_record("seed1-10", "S", hps(59.0), latency(0.9)),
            make_record("l1-12", "L", hps(50.0), latency(0.95)),
            make_record("brll-10", "B", hps(58.0), latency(0.9)),
            make_record("sd3", "SD", hps(70.0), latency(1.0), base="other"),
            make_record("fastsd3-10", "FSD", hps(70.0), latency(0.1), base="other"),
        ]
    )
    data = pareto_data(rows, {row.variant: row.variant for row in rows})
    assert [point["record"] for point in data["points"]] == ["dense", "fastflux-10", "fastflux-20", "l1-12", "brll-10"]
    assert data["points"][1]["values"] == {
        "latency.ratio_to_dense": [0.9, None, None],
        "hps.averaged": [59.0, 58.0, 60.0],
    }
    assert "hps.averaged" not in data["points"][2]["values"]
    assert [series["name"] for series in data["series"]] == ["dense", "fastflux", "l1", "other"]
    assert [axis["key"] for axis in data["scores"]] == ["hps.averaged"]
    assert data["fronts"] == {"latency.ratio_to_dense hps.averaged": [1, 0]}
