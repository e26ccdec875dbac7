"""Kinds of fusion against equations 16 to 18 written out, and templates without any weight."""

import numpy as np
import pytest

from face.evaluation.fusion import (
    INSIGHTFACE_FUSIONS,
    FusionSettings,
    frame_weights,
    fuse_templates,
    landmark_closeness,
)
from face.reference import reference_landmarks

REFERENCE = reference_landmarks(pixels=False)
KINDS = {
    "average": FusionSettings(kind="average"),
    "norm": FusionSettings(kind="norm"),
    "landmark": FusionSettings(kind="landmark"),
    **{name: settings for name, settings in INSIGHTFACE_FUSIONS.items() if settings.detector_score},
}


@pytest.fixture
def frames():
    random = np.random.default_rng(0)
    landmarks = REFERENCE + random.uniform(0, 0.12, (40, 1, 1)) * random.standard_normal((40, 5, 2))
    return {
        "embeddings": random.standard_normal((40, 6)) * random.uniform(0.5, 20, (40, 1)),
        "landmarks": landmarks.astype(np.float32),
        "scores": random.uniform(0, 1, 40),
        "templates": random.integers(0, 6, 40),
    }


def weight_of(frame, frames, settings):
    score = frames["scores"][frame]
    if settings.kind == "landmark":
        apart = [np.hypot(*offset) for offset in frames["landmarks"][frame].astype(float) - REFERENCE]
        return (0.2 - min(sum(apart) / 5, 0.2)) / 0.2 * score
    length = np.linalg.norm(frames["embeddings"][frame]) if settings.kind == "norm" else 1
    return length * score if settings.detector_score else length


@pytest.mark.parametrize("kind", KINDS)
def test_matches_equations(kind, frames):
    settings, templates = KINDS[kind], frames.pop("templates")
    expected = np.array([weight_of(frame, frames, settings) for frame in range(40)])
    weights = frame_weights(**frames, settings=settings)
    np.testing.assert_allclose(weights, expected, rtol=1e-12)
    fused = fuse_templates(**frames, templates=templates, settings=settings)
    assert fused.ids.tolist() == list(range(6))
    assert len(fused.equally_weighted) == 0
    directions = frames["embeddings"] / np.linalg.norm(frames["embeddings"], axis=1, keepdims=True)
    for template, value in zip(fused.ids, fused.values, strict=True):
        own = templates == template
        mean = (expected[own, None] * directions[own]).sum(axis=0) / own.sum()
        np.testing.assert_allclose(value, mean / np.linalg.norm(mean), rtol=0, atol=1e-14)


def test_media_are_averaged_before_they_are_summed(frames):
    fused = fuse_templates(
        frames["embeddings"],
        np.zeros(40, int),
        np.arange(40) // 30,
        settings=INSIGHTFACE_FUSIONS["N1D1"],
        scores=frames["scores"],
    )
    weighted = frames["embeddings"] * frames["scores"][:, None]
    total = weighted[:30].mean(axis=0) + weighted[30:].mean(axis=0)
    np.testing.assert_allclose(fused.values, [total / np.linalg.norm(total)], atol=1e-14)


def test_closeness():
    assert landmark_closeness(REFERENCE[None]).tolist() == [1.0]
    moved = REFERENCE + np.array([[[0.06, 0.08]], [[0.16, 0.12]], [[-0.3, 0.4]]])  # by 0.1, 0.2 and 0.5
    np.testing.assert_allclose(landmark_closeness(moved), [0.5, 0, 0], atol=1e-12)
    np.testing.assert_allclose(landmark_closeness(moved, h=1), [0.9, 0.8, 0.5])
    one_point = REFERENCE.copy()
    one_point[2, 0] += 0.1  # a fifth of it on average
    assert landmark_closeness(one_point[None])[0] == pytest.approx(0.9)


@pytest.mark.parametrize("kind", ["landmark", "N1D1", "N0D1"])
def test_template_without_weight_gets_equal_ones(kind, frames):
    own = frames["templates"] == 2
    if kind == "landmark":
        frames["landmarks"][own] += 1
    else:
        frames["scores"][own] = 0
    fused = fuse_templates(**frames, settings=KINDS[kind])
    assert fused.equally_weighted.tolist() == [2]
    plain = fuse_templates(
        frames["embeddings"],
        frames["templates"],
        settings=KINDS["norm" if kind == "N1D1" else "average"],
    )
    np.testing.assert_array_equal(fused.values[2], plain.values[2])
    assert np.abs(fused.values[3] - plain.values[3]).max() > 1e-3


def test_frame_without_landmarks_has_no_weight(frames):
    frames["landmarks"][5] = np.nan
    frames["scores"][5] = 0
    templates = frames.pop("templates")
    assert frame_weights(**frames, settings=KINDS["landmark"])[5] == 0
    fused = fuse_templates(**frames, templates=templates, settings=KINDS["landmark"])
    assert np.isfinite(fused.values).all()
    frames["scores"][5] = 0.5
    with pytest.raises(ValueError, match=r"1 of 40 images have a score but no landmarks, first: five\.png"):
        frame_weights(**frames, settings=KINDS["landmark"], name_of={5: "five.png"}.get)


def test_embeddings_keep_their_dtype_and_blocks(frames, monkeypatch):
    embeddings = frames["embeddings"].astype(np.float32)
    whole = frame_weights(embeddings, None, None, KINDS["norm"])
    assert whole.dtype == np.float32
    monkeypatch.setattr("face.evaluation.fusion._BLOCK", 7)
    np.testing.assert_array_equal(frame_weights(embeddings, None, None, KINDS["norm"]), whole)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"scores": None}, "kind landmark needs a score for each of 40 images, got None"),
        ({"scores": np.ones(3)}, r"a score for each of 40 images, got \[3\]"),
        ({"scores": np.full(40, np.nan)}, r"40 of 40 scores are not in \[0, 1\], first: nan of row 0"),
        ({"scores": np.linspace(0, 2, 40)}, r"20 of 40 scores are not in \[0, 1\]"),
        ({"landmarks": None}, r"kind landmark needs landmarks \[40, 5, 2\], got None"),
        ({"landmarks": np.zeros((40, 10))}, r"landmarks \[40, 5, 2\], got \[40, 10\]"),
    ],
)
def test_refuses(change, match, frames):
    for function in (frame_weights, fuse_templates):
        arguments = frames | change
        if function is frame_weights:
            del arguments["templates"]
        with pytest.raises(ValueError, match=match):
            function(**arguments, settings=KINDS["landmark"])


def test_detector_score_needs_scores(frames):
    with pytest.raises(ValueError, match="detector_score needs a score for each of 40 images, got None"):
        fuse_templates(frames["embeddings"], frames["templates"], settings=KINDS["N1D1"])


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"kind": "median"}, "kind must be average, norm or landmark, got 'median'"),
        ({"h": 0}, "h must be > 0, got 0"),
        ({"kind": "landmark", "detector_score": True}, "has the face score as a factor already"),
    ],
)
def test_settings_refuse(settings, match):
    with pytest.raises(ValueError, match=match):
        FusionSettings(**settings)
