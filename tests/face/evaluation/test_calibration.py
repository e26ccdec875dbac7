"""Thresholds at a FAR: by counting, with ties, what a set is too small for; scores that are kept and made anew."""

import numpy as np
import pytest

from face.evaluation.calibration import Calibration, calibrate, score_set
from face.evaluation.embed import embed_images
from face.evaluation.pairs import open_pairs
from face.pipelines import RecognitionPipeline


def calibration(different, same=(0.9,), tmp_path="x"):
    return Calibration(
        name="toy", same=np.sort(np.float32(same)), different=np.sort(np.float32(different)), cache=tmp_path
    )


@pytest.mark.parametrize("far", [0.02, 0.05, 0.1, 0.3, 0.98])
def test_is_the_smallest_threshold_that_accepts_no_more(far):
    """By trying all numbers that a threshold could be: each score, and the next above each; scores with ties."""
    scores = np.round(np.random.default_rng(0).normal(0, 0.2, 50), 1).astype(np.float32)
    found = calibration(scores).threshold(far)
    candidates = np.sort(np.concatenate([scores, np.nextafter(scores, np.float32(np.inf))]))
    allowed = [value for value in candidates if (scores >= value).mean() <= far + 1e-12]
    assert found.threshold == min(allowed)
    assert found.accepted == (scores >= found.threshold).sum()
    assert found.accepted <= far * 50


def test_distinct_scores_are_accepted_to_the_last_that_is_allowed():
    scores = np.arange(30) / 30
    assert [calibration(scores).threshold(far).accepted for far in (1 / 30, 0.1, 0.5)] == [1, 3, 15]
    found = calibration(scores, same=[0.1, 0.95, 0.99, 0.5]).threshold(0.1)
    assert (found.tar, found.different) == (0.5, 30)


def test_intervals():
    """Of no, some and all accepted pairs; 1 - 0.025^(1/n) and the like follow from the binomial distribution."""
    from math import comb

    found = calibration(np.arange(20) / 20).threshold(0.25)
    assert found.accepted == 5
    low, high = found.interval
    tail = sum(comb(20, k) * low**k * (1 - low) ** (20 - k) for k in range(5, 21))
    assert tail == pytest.approx(0.025)
    tail = sum(comb(20, k) * high**k * (1 - high) ** (20 - k) for k in range(6))
    assert tail == pytest.approx(0.025)
    none = calibration(np.full(20, 0.5)).threshold(0.25)  # ties: all or none
    assert (none.accepted, none.interval) == (0, (0.0, pytest.approx(1 - 0.025 ** (1 / 20))))
    assert none.threshold > 0.5


def test_what_a_set_cannot_tell():
    few = calibration(np.arange(30) / 30)
    with pytest.raises(
        ValueError, match=r"toy: a FAR of 0\.0001 takes at least 10000 pairs of different persons, .* 30; .* is 0\.033"
    ):
        few.threshold(1e-4)
    for far in (0, 1, -0.1, float("nan")):
        with pytest.raises(ValueError, match="FAR must be between 0 and 1, got"):
            few.threshold(far)
    assert calibration(np.arange(1000)).threshold(1e-3).accepted == 1


def test_scores_of_a_set(pair_bin, toy, monkeypatch):
    path = pair_bin()
    pipeline = RecognitionPipeline(toy()).eval()
    found, threshold = calibrate(path, pipeline, {}, 0.25)
    content = open_pairs(path)
    values = embed_images(pipeline, content.images).values.astype(np.float64)
    values /= np.linalg.norm(values, axis=1, keepdims=True)
    similarities = (values[content.pairs[:, 0]] * values[content.pairs[:, 1]]).sum(1)
    np.testing.assert_allclose(found.same, np.sort(similarities[content.same]), atol=1e-6)
    np.testing.assert_allclose(found.different, np.sort(similarities[~content.same]), atol=1e-6)
    assert (similarities[~content.same] >= threshold.threshold).sum() == threshold.accepted == 3
    assert not found.reused
    assert found.cache.parent == path.parent

    def refuse(*_, **__):
        raise AssertionError("embedded again")

    with monkeypatch.context() as patch:
        patch.setattr("face.evaluation.calibration.embed_images", refuse)
        again = score_set(path, pipeline, {}, 0.1)
        assert again.reused
        np.testing.assert_array_equal(again.same, found.same)
        np.testing.assert_array_equal(again.different, found.different)
        for changed in (lambda: score_set(path, pipeline, {"padding": 0.1}, 0.1),
                        lambda: score_set(path, pipeline, {}, 0.1, flip_test=False)):  # fmt: skip
            with pytest.raises(AssertionError, match="embedded again"):
                changed()
        pipeline.model.pixels.data += 0.1
        with pytest.raises(AssertionError, match="embedded again"):
            score_set(path, pipeline, {}, 0.1)
        pipeline.model.pixels.data -= 0.1
        with pytest.raises(ValueError, match="takes at least 1000 pairs"):  # before anything is embedded
            score_set(path, pipeline, {}, 1e-3)
    found.cache.write_bytes(b"damaged")
    assert not score_set(path, pipeline, {}, 0.1).reused


def test_a_cache_that_cannot_be_written(pair_bin, toy, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("face.evaluation.calibration.np.savez", full)
    path = pair_bin()
    found = score_set(path, RecognitionPipeline(toy()).eval(), {}, 0.1)
    assert found.unwritten.endswith("No space left on device")
    assert len(found.different) == 12
    assert sorted(each.name for each in path.parent.iterdir()) == [path.name]
