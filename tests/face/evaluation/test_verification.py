"""Verification metrics against the code whose numbers they are, and against their definitions as loops."""

import importlib.util
import os
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import normalize

from face.evaluation.roc import roc_curve, tar_at_far
from face.evaluation.verification import check_folds, pair_distances, verify, verify_distances


def _harness():
    path = Path(__file__).parents[2] / "parity" / "face_verification.py"
    spec = importlib.util.spec_from_file_location("parity_face_verification", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


theirs = _harness()
CASES = theirs.cases()
live = {
    name: pytest.mark.skipif(variable not in os.environ, reason=f"{variable} names no checkout of {name}")
    for name, (variable, _) in theirs.PLACES.items()
}


def two_by_two(embeddings):
    return np.arange(len(embeddings)).reshape(-1, 2)


def ours(embeddings, same):
    """Under their names."""
    result = verify(embeddings, two_by_two(embeddings), same)
    return {
        "tpr": result.fold_tar,
        "fpr": result.fold_far,
        "accuracy": result.fold_accuracies / 100,
        "val": result.val / 100,
        "val_std": result.val_std / 100,
        "far": result.val_far / 100,
    }


def assert_equal(found, expected):
    """To the last digit that is printed anywhere, and one rounding of a division more."""
    for key in theirs.RESULTS:
        np.testing.assert_allclose(found[key], expected[key], rtol=0, atol=1e-15, err_msg=key)


@pytest.mark.parametrize("name", CASES)
def test_stored_results(name):
    with np.load(theirs.STORED) as stored:
        expected = {key: stored[f"{name}|{key}"] for key in theirs.RESULTS}
    assert_equal(ours(*CASES[name]), expected)


@pytest.mark.parametrize("peer", [pytest.param(name, marks=mark) for name, mark in live.items()])
@pytest.mark.parametrize("seed", range(3))
def test_results_beside_their_code(peer, seed):
    example = theirs.case(10 + seed, 211 + seed, 12, 0.5 * seed, [np.float32, np.float64][seed % 2], [None, 1, 2][seed])
    assert_equal(ours(*example), theirs.results_of(theirs.load(peer), *example))


@pytest.mark.parametrize("name", ["structured", "structured in float64", "many channels", "axes"])
def test_distances_are_theirs_to_the_bit(name):
    embeddings, _ = CASES[name]
    normalised = normalize(embeddings)
    expected = np.sum(np.square(np.subtract(normalised[0::2], normalised[1::2])), 1)
    found = pair_distances(embeddings, two_by_two(embeddings))
    assert found.dtype == embeddings.dtype
    np.testing.assert_array_equal(found, expected)


def test_an_image_may_be_in_several_pairs():
    embeddings = np.random.default_rng(0).standard_normal((7, 5))
    pairs = np.random.default_rng(1).integers(0, 7, (50, 2))
    found = pair_distances(embeddings, pairs)
    for (first, second), distance in zip(pairs, found, strict=True):
        a, b = (embeddings[i] / np.linalg.norm(embeddings[i]) for i in (first, second))
        assert distance == pytest.approx(((a - b) ** 2).sum(), abs=1e-14)


def test_many_pairs_are_taken_in_pieces(monkeypatch):
    embeddings, _ = CASES["structured"]
    whole = pair_distances(embeddings, two_by_two(embeddings))
    monkeypatch.setattr("face.evaluation.verification._CHUNK", 7)
    np.testing.assert_array_equal(pair_distances(embeddings, two_by_two(embeddings)), whole)


@pytest.mark.parametrize("levels", [3, 10, 10**6])  # few levels: most distances are equal
def test_roc_matches_definition(levels):
    random = np.random.default_rng(levels)
    distances, same = random.integers(0, levels, 200) / levels, random.random(200) < 0.4
    curve = roc_curve(distances, same)
    assert curve.thresholds[0] == -np.inf
    np.testing.assert_array_equal(curve.thresholds[1:], np.unique(distances))
    for threshold, far, tar in zip(curve.thresholds, curve.far, curve.tar, strict=True):
        accepted = distances <= threshold
        assert (far, tar) == (accepted[~same].mean(), accepted[same].mean())
    result = verify_distances(distances, same)
    assert result.auc == pytest.approx(100 * roc_auc_score(same, -distances))
    for far in (0, 0.01, 0.3, 1):
        allowed = [t for f, t in zip(curve.far, curve.tar, strict=True) if f <= far]
        assert tar_at_far(curve, far) == max(allowed)


def test_equal_error_rate_by_hand():
    same = np.arange(20) % 2 == 0
    apart = np.where(same, 0.1, 1.0)
    assert verify_distances(apart, same).eer == 0
    assert verify_distances(1.1 - apart, same).eer == 100
    swapped = apart.copy()
    swapped[[0, 1]] = swapped[[1, 0]]  # one in ten of each kind on the wrong side
    assert verify_distances(swapped, same).eer == pytest.approx(10)


def test_tar_is_given_where_the_set_can_tell():
    same = np.arange(2000) % 2 == 0
    result = verify_distances(np.where(same, 0.5, 1.5), same)
    assert result.tar_at_far == {1e-1: 100.0, 1e-2: 100.0, 1e-3: 100.0}


def test_all_equal_scores_are_chance():
    same = np.arange(200) % 2 == 0
    for distance in (0.0, 1.0):
        result = verify_distances(np.full(200, distance), same)
        assert (result.accuracy, result.accuracy_std, result.auc, result.eer) == (50, 0, 50, 50)
        assert result.tar_at_far == {1e-1: 0.0, 1e-2: 0.0}


def test_zero_embeddings_are_at_the_origin():
    embeddings = np.zeros((40, 3), np.float32)
    embeddings[::2, 0] = 1
    assert pair_distances(embeddings, two_by_two(embeddings)).tolist() == [1.0] * 20


def test_nan_is_named():
    embeddings = np.ones((40, 3), np.float32)
    embeddings[[3, 17], 1] = np.nan, np.inf
    with pytest.raises(ValueError, match=r"2 of 40 embeddings hold NaN or infinity, first: c\.png, q\.png"):
        verify(embeddings, two_by_two(embeddings), np.arange(20) % 2 == 0, name_of={3: "c.png", 17: "q.png"}.get)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"embeddings": np.ones((40, 3), np.float16)}, r"float32 or float64 \[n, E\], got float16 \[40, 3\]"),
        ({"embeddings": np.ones(40)}, r"got float64 \[40\]"),
        ({"pairs": np.zeros((20, 3), int)}, r"pairs must be integers \[n, 2\], got int64 \[20, 3\]"),
        ({"pairs": np.zeros((20, 2))}, r"pairs must be integers \[n, 2\], got float64"),
        ({"pairs": np.full((20, 2), 40)}, r"pairs must be of rows 0\.\.39, got 40\.\.40"),
        ({"pairs": np.zeros((19, 2), int)}, "as many pairs as answers, got 19 and 20"),
        ({"same": np.zeros(20)}, r"same must be bool \[n\], got float64 \[20\]"),
        ({"same": np.zeros(20, bool)}, "fold 1 of 10, pairs 0 to 1, has pairs of different persons alone"),
        ({"same": np.arange(20) < 10}, "fold 1 of 10, pairs 0 to 1, has pairs of the same person alone"),
        ({"folds": 21}, "at least 2 folds and a pair in each, got 21 folds and 20 pairs"),
        ({"folds": 1}, "at least 2 folds"),
    ],
)
def test_refuses(change, match):
    arguments = {
        "embeddings": np.ones((40, 3)), "pairs": np.arange(40).reshape(20, 2), "same": np.arange(20) % 2 == 0
    } | change  # fmt: skip
    with pytest.raises(ValueError, match=match):
        verify(**arguments)


def test_distances_are_checked():
    same = np.arange(20) % 2 == 0
    with pytest.raises(ValueError, match="1 of 20 distances are NaN"):
        verify_distances(np.array([np.nan] + [0.5] * 19), same)
    with pytest.raises(ValueError, match=r"expected distances \[n\] and same, bool \[n\], got \[19\] and bool \[20\]"):
        verify_distances(np.zeros(19), same)
    with pytest.raises(ValueError, match="needs pairs of both kinds, got 2 same and 0 different"):
        roc_curve(np.zeros(2), np.ones(2, bool))


def test_folds_of_unequal_length():
    check_folds(np.array([True, False, True, False, True]), 2)  # three, then two
    with pytest.raises(ValueError, match="fold 2 of 2, pairs 3 to 4"):
        check_folds(np.array([True, False, True, False, False]), 2)
