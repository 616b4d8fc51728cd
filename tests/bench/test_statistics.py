"""Bootstrap intervals, paired tests and median intervals: properties and hand-made cases."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.records.statistics import (
    StatisticsError,
    mean_interval,
    median_change,
    median_interval,
    paired_difference,
    strata_of,
    stratified_means,
)

SCORE = st.floats(-100, 100)
CLUSTERS = st.dictionaries(st.text(max_size=3), st.lists(SCORE, min_size=1, max_size=4), min_size=2, max_size=6)
STRATA = st.dictionaries(st.sampled_from("abc"), CLUSTERS, min_size=1)


def noisy(prompts: int, seed: int, shift: float = 0.0, samples: int = 2) -> dict[str, list[float]]:
    generator = np.random.default_rng(seed)
    return {
        f"p{i}": (generator.normal(0, 1) + shift + generator.normal(0, 0.1, samples)).tolist() for i in range(prompts)
    }


@given(strata=STRATA, seed=st.integers(0, 2**31))
def test_means_lie_in_their_intervals_range_and_do_not_depend_on_order(
    strata: dict[str, dict[str, list[float]]], seed: int
) -> None:
    found = stratified_means(strata, weighting="strata", seed=seed, resamples=50)
    turned = {name: dict(reversed(clusters.items())) for name, clusters in reversed(strata.items())}
    assert found == stratified_means(turned, weighting="strata", seed=seed, resamples=50)
    for name, clusters in strata.items():
        scores = [score for prompt in clusters.values() for score in prompt]
        estimate = found.strata[name]
        assert estimate.value == pytest.approx(np.mean(scores), abs=1e-9)
        assert estimate.interval is not None
        assert min(scores) - 1e-9 <= estimate.interval[0] <= estimate.interval[1] <= max(scores) + 1e-9
    assert found.overall.value == pytest.approx(
        np.mean([estimate.value for estimate in found.strata.values()]), abs=1e-9
    )


def test_images_or_strata_count_once() -> None:
    strata = {"a": {"p": [1.0], "q": [1.0], "r": [1.0]}, "b": {"s": [0.0], "t": [0.0]}}
    assert stratified_means(strata, weighting="images", seed=0).overall.value == 0.6
    assert stratified_means(strata, weighting="strata", seed=0).overall.value == 0.5


def test_the_interval_covers_the_true_mean_about_95_times_of_100() -> None:
    covered = 0
    for seed in range(200):
        interval = mean_interval(noisy(40, seed), seed=seed, resamples=400).interval
        covered += interval[0] <= 0 <= interval[1]
    assert 180 <= covered <= 198


def test_prompts_not_images_are_resampled() -> None:
    few = {f"p{i}": [float(i % 2)] for i in range(10)}
    copied = {prompt: scores * 50 for prompt, scores in few.items()}
    assert mean_interval(copied, seed=3) == mean_interval(few, seed=3)


def test_one_prompt_gives_no_interval() -> None:
    found = stratified_means({"a": {"p": [1.0, 2.0]}, "b": {"q": [1.0], "r": [2.0]}}, weighting="strata", seed=0)
    assert found.strata["a"].interval is None
    assert found.strata["b"].interval is not None
    assert found.overall.interval is None


@pytest.mark.parametrize("strata", [{}, {"a": {}}, {"a": {"p": []}}, {"a": {"p": [float("nan")]}}])
def test_what_cannot_be_averaged_is_refused(strata: dict[str, dict[str, list[float]]]) -> None:
    with pytest.raises(StatisticsError):
        stratified_means(strata, weighting="images", seed=0)


def test_keys_of_samples_are_stratum_and_prompt() -> None:
    assert strata_of({"anime/p-0": [1.0], "photo/p-1": [2.0], "p-2": [3.0]}) == {
        "anime": {"p-0": [1.0]},
        "photo": {"p-1": [2.0]},
        "": {"p-2": [3.0]},
    }


@settings(max_examples=20, deadline=None)
@given(clusters=CLUSTERS, seed=st.integers(0, 2**31))
def test_a_variant_does_not_differ_from_itself(clusters: dict[str, list[float]], seed: int) -> None:
    found = paired_difference([{"": clusters}], [{"": clusters}], weighting="images", seed=seed)
    assert found.difference.value == 0
    assert found.p_value == 1


def test_pairing_finds_a_shift_far_below_the_spread_of_prompts() -> None:
    dense = noisy(60, 1)
    worse = {prompt: [score - 0.05 for score in scores] for prompt, scores in dense.items()}
    found = paired_difference([{"": worse}], [{"": dense}], weighting="images", seed=0)
    assert found.difference.value == pytest.approx(-0.05)
    assert found.p_value == pytest.approx(1 / 100_001)
    assert found.prompts == 60
    turned = paired_difference([{"": dense}], [{"": worse}], weighting="images", seed=0)
    assert turned.p_value == found.p_value


def test_p_values_of_no_difference_are_small_no_more_often_than_they_may() -> None:
    small = 0
    for seed in range(200):
        pair = paired_difference(
            [{"": noisy(20, 2 * seed)}], [{"": noisy(20, 2 * seed + 1)}], weighting="images", seed=seed, flips=2000
        )
        small += pair.p_value <= 0.05
    assert small <= 20


@pytest.mark.parametrize(("prompts", "p_value"), [(1, 1.0), (3, 0.25), (5, 0.0625), (6, 0.03125), (17, 2**-16)])
def test_few_prompts_take_all_their_sign_flips(prompts: int, p_value: float) -> None:
    """Up to 5 prompts no difference is significant: the interval has no end then."""
    sides = [[{"": {f"p{index}": [level] for index in range(prompts)}}] for level in (1.0, 0.0)]
    found = paired_difference(*sides, weighting="images", seed=0)
    assert (found.p_value, found.p_error) == (p_value, 0.0)
    assert (found.difference.interval is None) == (p_value > 0.05)


def test_four_of_four_prompts_in_favour_are_no_proof_among_many_that_are_equal() -> None:
    worse = {"": {f"p{index}": [0.0 if index < 4 else 1.0] for index in range(40)}}
    better = {"": {f"p{index}": [1.0] for index in range(40)}}
    found = paired_difference([better], [worse], weighting="images", seed=0)
    assert found.p_value == pytest.approx(0.125, abs=4 * found.p_error)
    assert found.sign == 0


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 2**31), null=st.sampled_from([0.0, 0.25, -0.4, 1.0]))
def test_interval_and_p_value_never_contradict_each_other(seed: int, null: float) -> None:
    """Scores of few different values, one pruning or several, few prompts or many, any difference asked for."""
    generator = np.random.default_rng(seed)
    prompts, flips = int(generator.integers(1, 30)), 3000
    sides = [
        [
            {name: {f"p{i}": [float(generator.integers(-2, 4))] for i in range(prompts)} for name in ("a", "b")}
            for _ in range(generator.choice([1, 3]))
        ]
        for _ in range(2)
    ]
    found = paired_difference(sides[0], sides[1], weighting="strata", seed=0, null=null, flips=flips)
    below = 0.05 if found.p_error == 0 else 0.05 - 3 * (0.05 * 0.95 / flips) ** 0.5
    if found.difference.interval is None:
        assert 2 * prompts < 6
    else:
        low, high = found.difference.interval
        assert low <= found.difference.value <= high
        assert (found.sign != 0) == (not low <= null <= high) == (found.p_value < below)


def test_several_prunings_count_by_their_spread() -> None:
    """One lucky pruning is no difference: intervals hold the truth though each pruning has an effect of its own."""
    generator = np.random.default_rng(5)
    held = {1: 0, 3: 0}
    for seed in range(150):
        dense = noisy(30, seed, samples=1)
        made = [
            {
                prompt: [score + effect + generator.normal(0, 0.3) for score in scores]
                for prompt, scores in dense.items()
            }
            for effect in generator.normal(0, 0.1, 3)
        ]
        for prunings in held:
            found = paired_difference(
                [{"": one} for one in made[:prunings]], [{"": dense}], weighting="images", seed=0, flips=1000
            )
            held[prunings] += found.sign == 0
    assert held[3] >= 132 > held[1]


def test_strata_weighting_reaches_the_p_value() -> None:
    # One prompt carries a whole stratum; as images it is one of 41.
    dense = {"a": {"p": [0.0]}, "b": {f"q{i}": [0.0] for i in range(40)}}
    changed = {"a": {"p": [1.0]}, "b": {f"q{i}": [0.01 * (-1) ** i] for i in range(40)}}
    by_strata = paired_difference([changed], [dense], weighting="strata", seed=0)
    assert by_strata.difference.value == pytest.approx(0.5)
    by_images = paired_difference([changed], [dense], weighting="images", seed=0)
    assert by_images.difference.value == pytest.approx(1 / 41)


@pytest.mark.parametrize(
    ("other", "match"),
    [
        ({"b": {"p": [1.0]}}, "Strata"),
        ({"a": {"p": [1.0], "q": [1.0]}}, "one variant only, e.g. 'q'"),
        ({"a": {"p": [1.0, 2.0]}}, "1 samples against 2"),
    ],
)
def test_only_what_was_scored_alike_is_paired(other: dict[str, dict[str, list[float]]], match: str) -> None:
    with pytest.raises(StatisticsError, match=match):
        paired_difference([{"a": {"p": [1.0]}}], [other], weighting="images", seed=0)


@pytest.mark.parametrize(
    ("n", "ranks"),
    # Ranks of the order statistics as in tables of the sign test at 5%.
    [(5, None), (6, (1, 6)), (10, (2, 9)), (15, (4, 12)), (20, (6, 15)), (25, (8, 18)), (100, (40, 61))],
)
def test_median_interval_takes_the_tabled_ranks(n: int, ranks: tuple[int, int] | None) -> None:
    values = np.random.default_rng(0).permutation(np.arange(1, n + 1)).tolist()
    found = median_interval(values)
    assert found.value == (n + 1) / 2
    assert found.interval == ranks


def test_no_median_of_nothing_or_of_infinity() -> None:
    for values in ([], [1.0, float("inf")]):
        with pytest.raises(StatisticsError, match="No median"):
            median_interval(values)


def test_a_change_of_medians_is_found_and_bounded() -> None:
    generator = np.random.default_rng(0)
    before, after = generator.normal(100, 2, 60), generator.normal(110, 2, 60)
    found = median_change(after.tolist(), before.tolist(), seed=0)
    assert found.value == pytest.approx(np.median(after) / np.median(before))
    assert found.interval is not None
    low, high = found.interval
    assert 1.08 < low < found.value < high < 1.12
    assert found == median_change(after.tolist(), before.tolist(), seed=0)


def test_intervals_of_changes_hold_the_truth_as_often_as_they_say() -> None:
    generator = np.random.default_rng(1)
    held = 0
    for _ in range(100):
        interval = median_change(
            generator.lognormal(0, 0.1, 40).tolist(), generator.lognormal(0, 0.1, 40).tolist(), seed=0, resamples=300
        ).interval
        held += interval[0] <= 1 <= interval[1]
    assert held >= 88


def test_few_or_faulty_values_have_no_interval() -> None:
    assert median_change([1.0] * 5, [1.0] * 50, seed=0).interval is None
    for values in ([], [1.0, 0.0], [float("nan")]):
        with pytest.raises(StatisticsError, match="No change between"):
            median_change(values, [1.0] * 6, seed=0)
