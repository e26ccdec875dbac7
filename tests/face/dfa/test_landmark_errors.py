"""Errors against their definition as a loop, curves and areas against the stairs that they are, hand-made figures."""

import math

import numpy as np
import pytest

from common.keypoints import FIVE_POINT_FACE
from face.dfa.landmark_errors import (
    LandmarkMetricSettings,
    LandmarkResult,
    area_under,
    cumulative_errors,
    failure_rate,
    point_errors,
)


@pytest.fixture
def faces():
    """Predicted and true landmarks in pixels, and oblong boxes."""
    rng = np.random.default_rng(0)
    corner, sides = rng.uniform(0, 500, (6, 2)), rng.uniform([20, 40], [60, 90], (6, 2))
    truth = corner[:, None] + rng.uniform(0.1, 0.9, (6, 5, 2)) * sides[:, None]
    return truth + rng.normal(0, 3, truth.shape), truth, np.concatenate([corner, corner + sides], axis=1)


def result(errors, settings=None):
    errors = np.broadcast_to(np.array(errors, np.float64)[:, None], (len(errors), 5))
    points = np.zeros((len(errors), 5, 2), np.float32)
    return LandmarkResult(
        indices=np.arange(len(errors)),
        truth=points,
        predicted=points,
        scores=np.ones(len(errors), np.float32),
        errors=errors,
        settings=settings or LandmarkMetricSettings(),
    )


@pytest.mark.parametrize("normaliser", ["box", "eyes", "landmarks"])
def test_errors_by_definition(faces, normaliser):
    predicted, truth, boxes = faces
    found = point_errors(*faces, normaliser)
    for face in range(len(truth)):
        xs, ys = truth[face, :, 0].tolist(), truth[face, :, 1].tolist()
        left, top, right, bottom = boxes[face].tolist()
        size = {
            "box": math.sqrt((right - left) * (bottom - top)),
            "eyes": math.dist(truth[face, 0], truth[face, 1]),
            "landmarks": math.sqrt((max(xs) - min(xs)) * (max(ys) - min(ys))),
        }[normaliser]
        for point in range(5):
            assert found[face, point] == pytest.approx(
                100 * math.dist(predicted[face, point], truth[face, point]) / size
            )


@pytest.mark.parametrize("normaliser", ["box", "eyes", "landmarks"])
def test_errors_do_not_depend_on_the_unit(faces, normaliser):
    predicted, truth, boxes = faces
    moved = (predicted * 0.01 + 3, truth * 0.01 + 3, boxes * 0.01 + 3)
    np.testing.assert_allclose(point_errors(*moved, normaliser), point_errors(*faces, normaliser), rtol=1e-9)


def test_a_shift_by_a_tenth_of_the_box_is_ten_percent():
    truth = np.random.default_rng(0).uniform(0, 1, (1, 5, 2))
    shifted = truth + np.array([0.03, 0.04])
    found = point_errors(shifted, truth, np.array([[0.0, 0.0, 1.0, 0.25]]))
    np.testing.assert_allclose(found, 10)


def test_a_face_without_prediction_fails_and_is_in_no_mean(faces):
    predicted, truth, boxes = faces
    predicted[2, 4, 1] = np.nan
    errors = point_errors(predicted, truth, boxes)
    assert np.isinf(errors[2]).all()
    assert np.isfinite(np.delete(errors, 2, axis=0)).all()
    found = LandmarkResult(indices=np.arange(6), truth=truth, predicted=predicted, scores=np.ones(6), errors=errors)
    assert found.found == 5
    assert found.nme == pytest.approx(np.delete(errors, 2, axis=0).mean())
    assert found.per_point["nose"] == pytest.approx(np.delete(errors, 2, axis=0)[:, 2].mean())
    assert failure_rate(found.per_face, 1e9) == pytest.approx(100 / 6)


def test_figures_of_a_hand():
    found = result([2, 4, 12, 10, np.inf])
    assert found.metrics == {
        "nme": pytest.approx(7),
        "failure_rate@10": pytest.approx(40),
        "auc@10": pytest.approx((80 + 60 + 0 + 0 + 0) / 5),
        **{f"nme_{name}": pytest.approx(7) for name in FIVE_POINT_FACE.names},
    }
    other = result([2, 4, 12, 10], LandmarkMetricSettings(failure_percent=3.5, auc_percent=20)).metrics
    assert other["failure_rate@3.5"] == 75
    assert other["auc@20"] == pytest.approx((90 + 80 + 40 + 50) / 4)


def test_nothing_found():
    found = result([np.inf, np.inf])
    assert found.found == 0
    assert math.isnan(found.nme)
    assert (found.failure_rate, found.auc) == (100, 0)
    assert [len(part) for part in cumulative_errors(found.per_face)] == [0, 0]


def test_curves_are_stairs_and_areas_those_below():
    rng = np.random.default_rng(1)
    errors = np.append(rng.integers(0, 60, 40) / 4, [np.inf, np.inf])  # some come twice, 0 among them
    errors[0] = 0
    x, shares = cumulative_errors(errors)
    assert (np.diff(x) > 0).all()
    assert shares[-1] == pytest.approx(100 * 40 / 42)
    for limit in np.linspace(0, 16, 129):
        at = np.searchsorted(x, limit, side="right") - 1
        assert (shares[at] if at >= 0 else 0) == pytest.approx(100 * np.mean(errors <= limit))
    for limit in (3.0, 7.3, 40.0):
        edges = [*x[x < limit], limit]
        area = sum(share * (end - begin) for share, begin, end in zip(shares, edges[:-1], edges[1:], strict=False))
        assert area_under(errors, limit) == pytest.approx(area / limit)


@pytest.mark.parametrize(
    ("change", "normaliser", "message"),
    [
        ({1: np.nan}, "box", "face 3: its true landmarks are not finite"),
        ({2: 7.0}, "box", "face 3: the normaliser 'box' is 0, must be positive"),
        ({1: 7.0}, "eyes", "face 3: the normaliser 'eyes' is 0"),
        ({1: 7.0}, "landmarks", "face 3: the normaliser 'landmarks' is 0"),
    ],
)
def test_a_face_that_cannot_be_measured_is_named(faces, change, normaliser, message):
    for place, value in change.items():
        faces[place][3] = value
    with pytest.raises(ValueError, match=message):
        point_errors(*faces, normaliser)


def test_refusals(faces):
    with pytest.raises(ValueError, match=r"boxes \[n, 4\], got \[\[6, 5, 2\], \[6, 5, 2\], \[5, 4\]\]"):
        point_errors(*faces[:2], faces[2][:5])
    with pytest.raises(ValueError, match="normaliser must be one of box, eyes, landmarks, got 'head'"):
        LandmarkMetricSettings(normaliser="head")
    with pytest.raises(ValueError, match="auc_percent must be positive, got 0"):
        LandmarkMetricSettings(auc_percent=0)
