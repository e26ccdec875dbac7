"""Pooling against its definition as a loop, its limits, and what it refuses."""

import numpy as np
import pytest

from face.evaluation import templates as module
from face.evaluation.templates import pool_templates, template_rows


def pooled_by_loop(embeddings, templates, medias=None, weights=None):
    values = []
    for template in np.unique(templates):
        rows = np.nonzero(templates == template)[0]
        frames = embeddings[rows].astype(np.float64)
        if weights is not None:
            frames = frames / np.linalg.norm(frames, axis=1, keepdims=True) * weights[rows, None]
        if medias is None:
            total = frames.sum(axis=0)
        else:
            total = sum(frames[medias[rows] == medium].mean(axis=0) for medium in np.unique(medias[rows]))
        values.append(total / np.linalg.norm(total))
    return np.array(values)


@pytest.fixture
def example():
    """Rows in no order, media that several templates have, a template of one image."""
    random = np.random.default_rng(0)
    templates = np.append(random.integers(3, 20, 90) * 11, 5)
    return random.standard_normal((91, 7)), templates, random.integers(0, 5, 91)


@pytest.mark.parametrize("with_media", [False, True])
@pytest.mark.parametrize("with_weights", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("cells", [1, 70, 2**22])
def test_matches_definition(example, with_media, with_weights, dtype, cells, monkeypatch):
    monkeypatch.setattr(module, "_CELLS", cells)
    embeddings, templates, medias = example
    medias = medias if with_media else None
    weights = np.random.default_rng(1).uniform(0, 1, 91) if with_weights else None
    values, ids = pool_templates(embeddings.astype(dtype), templates, medias, weights)
    assert values.dtype == np.float64
    np.testing.assert_array_equal(ids, np.unique(templates))
    tolerance = 1e-14 if dtype == np.float64 else 2e-6
    np.testing.assert_allclose(values, pooled_by_loop(embeddings, templates, medias, weights), rtol=0, atol=tolerance)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_blocks_change_no_bit(example, dtype, monkeypatch):
    embeddings, templates, medias = example
    whole, _ = pool_templates(embeddings.astype(dtype), templates, medias)
    monkeypatch.setattr(module, "_CELLS", 100)
    np.testing.assert_array_equal(pool_templates(embeddings.astype(dtype), templates, medias)[0], whole)


def test_a_video_counts_as_much_as_a_photograph():
    embeddings = np.array([[1.0, 0], [1, 0], [1, 0], [0, 1]])
    values, _ = pool_templates(embeddings, np.zeros(4, int), np.array([7, 7, 7, 8]))
    np.testing.assert_allclose(values, [[0.5**0.5] * 2])
    values, _ = pool_templates(embeddings, np.zeros(4, int))
    np.testing.assert_allclose(values, [[0.9**0.5, 0.1**0.5]])


def test_a_medium_of_two_templates_is_averaged_in_each():
    embeddings = np.array([[1.0, 0], [3, 0], [0, 1], [0, 2], [4, 4]])
    values, ids = pool_templates(embeddings, np.array([1, 1, 2, 2, 2]), np.array([7, 7, 7, 7, 8]))
    assert ids.tolist() == [1, 2]
    np.testing.assert_allclose(values, [[1, 0], np.array([4, 5.5]) / np.hypot(4, 5.5)])


def test_directions_without_weights(example):
    embeddings, templates, medias = example
    found, _ = pool_templates(embeddings, templates, medias, directions=True)
    np.testing.assert_allclose(found, pooled_by_loop(embeddings, templates, medias, np.ones(91)), atol=1e-14)


def test_what_cancels_is_zero():
    values, ids = pool_templates(np.array([[1.0, 2], [-1, -2], [3, 4]]), np.array([1, 1, 0]))
    assert (ids.tolist(), values.tolist()) == ([0, 1], [[0.6, 0.8], [0, 0]])


def test_memory_map(example, tmp_path):
    embeddings, templates, medias = example
    np.save(tmp_path / "features.npy", embeddings)
    expected, _ = pool_templates(embeddings, templates, medias)
    for mode in ("r", "c", "r+"):
        mapped = np.load(tmp_path / "features.npy", mmap_mode=mode)
        if mode == "c":
            mapped[0] += 1  # in memory alone, and not to be lost
            changed = np.array(mapped)
        for table in (mapped, mapped[:]):
            found, _ = pool_templates(table, templates, medias)
            if mode == "c":
                np.testing.assert_array_equal(found, pool_templates(changed, templates, medias)[0])
                np.testing.assert_array_equal(mapped, changed)
            else:
                np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(np.load(tmp_path / "features.npy"), embeddings)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_template_and_image_are_named(example, value):
    embeddings, templates, medias = example
    templates = templates.copy()
    templates[[4, 60]] = 999
    embeddings[[4, 60], 2] = value
    expected = r"2 embeddings hold NaN or infinity, first: e\.png \(template 999\), z\.png \(template 999\)"
    with pytest.raises(ValueError, match=expected):
        pool_templates(embeddings, templates, medias, name_of={4: "e.png", 60: "z.png"}.get)


def test_overflow():
    with (
        np.errstate(over="ignore"),
        pytest.raises(ValueError, match="sums of embeddings overflow float32"),
    ):
        pool_templates(np.full((4, 2), 3e38, np.float32), np.zeros(4, int))


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"embeddings": np.ones(3)}, r"float32 or float64 \[n, E\], got float64 \[3\]"),
        ({"embeddings": np.ones((3, 2), np.float16)}, r"got float16 \[3, 2\]"),
        ({"templates": np.zeros(2, int)}, r"templates must be 3 integers, got int64 \[2\]"),
        ({"templates": np.zeros(3)}, "templates must be 3 integers, got float64"),
        ({"medias": np.zeros((3, 1), int)}, r"medias must be 3 integers, got int64 \[3, 1\]"),
        ({"weights": np.ones(3, int)}, "weights must be 3 floats, got int64"),
        ({"weights": np.array([1, -1.0, 1])}, r"weights must be finite and >= 0, got -1\.0 in row 1"),
        ({"weights": np.array([1, 1, np.nan])}, "weights must be finite and >= 0, got nan in row 2"),
        ({"weights": np.array([0.0, 0, 1])}, "1 of 2 templates have weights of 0 alone, first: 4"),
    ],
)
def test_refuses(change, match):
    arguments = {"embeddings": np.ones((3, 2)), "templates": np.array([4, 4, 6])} | change
    with pytest.raises(ValueError, match=match):
        pool_templates(**arguments)


@pytest.mark.parametrize("last", [9, 10**9])
def test_rows_of_ids(last, monkeypatch):
    monkeypatch.setattr(module, "_IDS", 2)
    ids = np.array([2, 5, last])
    assert template_rows(ids, np.array([last, 2, 2, 5, last])).tolist() == [2, 0, 0, 1, 2]
    assert template_rows(ids, np.empty(0, int)).tolist() == []
    for strangers in ([3, last + 1], [-1, 6], [1, 8]):
        with pytest.raises(
            ValueError, match=f"some of 5 ids are of no template, first: {strangers[0]}, {strangers[1]}$"
        ):
            template_rows(ids, np.array([2, 5, *strangers, last])[[0, 1, 3, 2, 4]])
