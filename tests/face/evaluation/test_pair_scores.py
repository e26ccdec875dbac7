"""Cosines of pairs and their rates against scikit-learn, definitions as loops, and limits."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score
from sklearn.metrics import roc_curve as sklearn_roc

from face.evaluation import pair_scores as module
from face.evaluation.pair_scores import FARS, measure_scores, nearest_point, score_pairs, score_roc
from face.evaluation.roc import equal_error_rate, roc_curve


def example(seed, pairs=600, decimals=None, share=0.3):
    random = np.random.default_rng(seed)
    same = random.random(pairs) < share
    scores = random.standard_normal(pairs) + same
    return (scores if decimals is None else np.round(scores, decimals)), same


def equal_scores():
    return np.full(50, 0.5), np.arange(50) % 3 == 0


def apart():
    same = np.arange(50) % 3 == 0
    return np.where(same, 1.0, -1.0) + np.arange(50) / 1000, same


CASES = {
    "continuous": example(0),
    "ties": example(1, decimals=1),
    "many-ties": example(2, decimals=0),
    "few-genuine": example(3, share=0.01),
    "few-impostors": example(4, share=0.98),
    "equal": equal_scores(),
    "apart": apart(),
    "apart-the-wrong-way": (-apart()[0], apart()[1]),
    "two-pairs": (np.array([0.25, 0.5]), np.array([True, False])),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("block", [1, 5, 2**20])
def test_points_are_those_of_scikit_learn(name, block, monkeypatch):
    monkeypatch.setattr(module, "_STEPS", block)
    scores, same = CASES[name]
    curve = score_roc(scores, same)
    far, tar, thresholds = sklearn_roc(same, scores)
    np.testing.assert_array_equal(curve.far, far)
    np.testing.assert_array_equal(curve.tar, tar)
    np.testing.assert_array_equal(-curve.thresholds, thresholds)
    assert curve.different == np.count_nonzero(~same)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("far", [1e-3, 0.01, 0.105, 0.5, 1])
def test_nearest_point(name, far):
    """The smallest difference, then the largest TAR, as a list of both is sorted."""
    curve = score_roc(*CASES[name])
    flipped = list(zip(abs(curve.far[::-1] - far), range(len(curve.far)), strict=True))
    assert nearest_point(curve, far) == len(curve.far) - 1 - min(flipped)[1]


def test_equally_near():
    scores, same = np.array([0.9, 0.8, 0.7, 0.6]), np.array([False, True, False, True])
    curve = score_roc(scores, same)
    assert list(zip(curve.far, curve.tar, strict=True)) == [(0, 0), (0.5, 0), (0.5, 0.5), (1, 0.5), (1, 1)]
    assert nearest_point(curve, 0.25) == 2


@pytest.mark.parametrize("name", CASES)
def test_rates_match_definitions(name):
    scores, same = CASES[name]
    found = measure_scores(scores, same, fars=(0.02, 0.1, 0.3, 1.0))
    assert (found.genuine, found.impostors) == (same.sum(), (~same).sum())
    assert found.auc == pytest.approx(100 * roc_auc_score(same, scores))
    for far, tar in found.tar_at_far.items():
        cuts = [np.inf, *scores]
        allowed = [cut for cut in cuts if np.mean(scores[~same] >= cut) <= far + 1e-12]
        assert tar == pytest.approx(100 * max(np.mean(scores[same] >= cut) for cut in allowed))
        accepted = scores > found.thresholds[far]
        assert np.mean(accepted[~same]) <= far + 1e-12
        assert tar == pytest.approx(100 * np.mean(accepted[same]))
    for far, tar in found.tar_at_nearest_far.items():
        accepted = scores >= found.nearest_thresholds[far]
        assert tar == pytest.approx(100 * np.mean(accepted[same]))


def test_a_share_that_rounds_down():
    """0.29 * 100 is a little less than 29, and still allows 29 impostors."""
    scores, same = np.arange(102) / 102, np.arange(102) > 99
    scores[-1] = scores[70] + 0.001  # with 29 impostors above
    assert measure_scores(scores, same, fars=(0.29,)).tar_at_far == {0.29: 100}


def test_equal_error_rate_is_that_of_all_points():
    for scores, same in CASES.values():
        expected = 100 * equal_error_rate(roc_curve(-scores, same))
        assert measure_scores(scores, same).eer == pytest.approx(expected, abs=1e-10)


def test_rates_that_impostors_cannot_tell_are_absent():
    scores, same = example(5, 1300)
    found = measure_scores(scores, same)
    assert found.impostors < 1000
    for rates in (found.tar_at_far, found.tar_at_nearest_far, found.thresholds, found.nearest_thresholds):
        assert list(rates) == [0.01, 0.1]
    few = measure_scores(np.linspace(0, 1, 20), np.arange(20) != 3)  # one impostor
    assert few.tar_at_far == few.tar_at_nearest_far == {}
    assert FARS == (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)


def test_equal_scores_are_no_decision():
    found = measure_scores(*equal_scores())
    assert found.tar_at_far == {0.1: 0.0}
    assert (found.auc, found.eer) == (50, 50)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("cells", [1, 40, 2**17])
def test_cosines(dtype, cells, monkeypatch):
    monkeypatch.setattr(module, "_CELLS", cells)
    monkeypatch.setattr(module, "_TILE", cells)
    monkeypatch.setattr(module, "_PAIRS", 17)
    random = np.random.default_rng(0)
    templates = random.standard_normal((9, 8)).astype(dtype)
    a, b = random.integers(0, 9, 50, dtype=np.int32), random.integers(0, 9, 50)
    found = score_pairs(templates, a, b)
    assert found.dtype == np.float64
    expected = [float(templates[i].astype(float) @ templates[j].astype(float)) for i, j in zip(a, b, strict=True)]
    np.testing.assert_allclose(found, expected, rtol=1e-13, atol=1e-13)
    np.testing.assert_array_equal(found, score_pairs(templates, b.astype(np.uint16), a))


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"templates": np.array([[1.0], [np.nan]])}, "1 of 2 embeddings hold NaN or infinity, first: template row 1"),
        ({"a": np.array([0.0, 1])}, r"a and b must be integers \[P\], got float64 \[2\] and int64 \[2\]"),
        ({"b": np.array([0])}, r"got int64 \[2\] and int64 \[1\]"),
        ({"a": np.array([0, 2])}, r"rows must be 0\.\.1, got 0\.\.2"),
        ({"b": np.array([-1, 1])}, r"rows must be 0\.\.1, got -1\.\.1"),
    ],
)
def test_pairs_are_checked(change, match):
    arguments = {"templates": np.ones((2, 1)), "a": np.array([0, 1]), "b": np.array([1, 1])} | change
    with pytest.raises(ValueError, match=match):
        score_pairs(**arguments)


@pytest.mark.parametrize(
    ("scores", "same", "match"),
    [
        (np.zeros(3), np.zeros(3, int), r"floats \[P\] and same, bool \[P\], got float64 \[3\] and int64 \[3\]"),
        (np.zeros(3), np.zeros(2, bool), r"got float64 \[3\] and bool \[2\]"),
        (np.zeros(3, int), np.zeros(3, bool), r"got int64 \[3\]"),
        (np.zeros(3), np.zeros(3, bool), "pairs of both kinds are needed, got 0 genuine and 3 impostors"),
        (np.zeros(3), np.ones(3, bool), "got 3 genuine and 0 impostors"),
        (np.array([0, np.nan, 1]), np.array([True, True, False]), "1 of 3 scores are NaN"),
    ],
    ids=["labels", "lengths", "integers", "no-genuine", "no-impostors", "nan"],
)
def test_scores_are_checked(scores, same, match):
    with pytest.raises(ValueError, match=match):
        measure_scores(scores, same)
