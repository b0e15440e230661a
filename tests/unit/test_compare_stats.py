import numpy as np
import pytest

from dualpath.compare import stats
from dualpath.compare.stats import Ratio


def drifting_pair(seed, n_turns, factor=2.0):
    """Speeds of two contenders in turns, on a machine whose own speed walks at random by a fifth from turn to turn."""
    rng = np.random.default_rng(seed)
    drift = np.exp(np.cumsum(rng.normal(0, 0.2, n_turns)))
    noise = np.exp(rng.normal(0, 0.1, (2, n_turns)))
    return factor * drift * noise[0], drift * noise[1]


@pytest.mark.parametrize("n_turns", [6, 10, 20])
def test_the_interval_holds_a_known_ratio_as_often_as_it_says(n_turns):
    # In bands around 95 %: of 200 samples, three standard deviations are 4.6 %.
    ratios = [stats.ratio(*drifting_pair(seed, n_turns)) for seed in range(200)]
    held = np.mean([ratio.low <= 2 <= ratio.high for ratio in ratios])
    assert 0.90 <= held <= 0.99
    assert np.median([ratio.value for ratio in ratios]) == pytest.approx(2, rel=0.02)


def test_without_pairing_the_drift_would_drown_the_ratio():
    a, b = drifting_pair(0, 10)
    paired, shuffled = stats.ratio(a, b), stats.ratio(a, np.random.default_rng(0).permutation(b))
    assert paired.high / paired.low < 1.3 < shuffled.high / shuffled.low


def test_few_pairs_give_no_interval():
    for n_turns in range(1, stats.MIN_PAIRS):
        ratio = stats.ratio([2.0] * n_turns, [1.0] * n_turns)
        assert (ratio.value, ratio.low, ratio.high) == (2, 0, np.inf)


def test_pairs_without_noise_give_the_ratio_itself():
    assert stats.ratio([2.0] * 6, [1.0] * 6) == Ratio(2, 2, 2)
    assert str(Ratio(2, 1.5, 2.5)) == "2 x [1.5, 2.5]"


def test_the_ratio_of_a_tail_is_that_of_all_turns_together():
    rng = np.random.default_rng(0)
    a, b = [[list(rng.exponential(scale, 300)) for _ in range(10)] for scale in (3, 1)]
    ratio = stats.percentile_ratio(a, b, 99)
    p99 = [np.percentile(np.concatenate(turns), 99, method="inverted_cdf") for turns in (a, b)]
    assert ratio.value == pytest.approx(p99[0] / p99[1])
    assert ratio.low < 3 < ratio.high
    assert ratio.high / ratio.low < 2


def test_a_stall_in_one_turn_of_ten_widens_the_tail_not_the_median():
    rng = np.random.default_rng(0)
    a, b = [[list(rng.normal(10, 1, 100)) for _ in range(10)] for _ in range(2)]
    a[3][:50] = [1000.0] * 50
    assert stats.percentile_ratio(a, b, 99).high > 50
    assert stats.percentile_ratio(a, b, 50).high < 1.2


def test_turns_of_different_length_count_by_what_they_hold():
    ratio = stats.percentile_ratio([[1.0] * 99, [100.0]], [[1.0], [1.0] * 99], 50)
    assert ratio.value == 1


def test_a_distribution_is_made_of_what_was_measured():
    values = [3.0, 1.0, 2.0, 10.0]
    assert stats.distribution(values, (0, 50, 75, 99.9, 100)) == {0: 1, 50: 2, 75: 3, 99.9: 10, 100: 10}
    assert stats.distribution([], (50,)) == {}
