"""Identification metrics against their definition as a loop, and limits."""

import numpy as np
import pytest

from face.evaluation import template_search
from face.evaluation.identification import identify


def metrics_by_loop(probe, gallery, probe_labels, gallery_labels):
    """Rank of the first match and average precision, with the gallery ordered by similarity, strangers first."""
    first, precisions = [], []
    for x, label in zip(probe, probe_labels, strict=True):
        similar = [float(np.float32(x @ y / np.linalg.norm(x) / np.linalg.norm(y))) for y in gallery]
        order = sorted((-s, other == label) for s, other in zip(similar, gallery_labels, strict=True))
        places = [place for place, (_, match) in enumerate(order, start=1) if match]
        first.append(places[0])
        precisions.append(np.mean([found / place for found, place in enumerate(places, start=1)]))
    return np.array(first), 100 * np.array(precisions)


def example(seed, n=20, m=70, persons=6, levels=None):
    random = np.random.default_rng(seed)
    probe, gallery = random.standard_normal((n, 5)), random.standard_normal((m, 5))
    if levels:
        probe, gallery = (np.rint(x * levels) + 0.5 for x in (probe, gallery))
    return probe, gallery, random.integers(0, persons, n), np.arange(m) % persons


@pytest.mark.parametrize("persons", [6, 70])  # twelve images of a person, and one
@pytest.mark.parametrize("as_text", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_matches_definition(persons, as_text, dtype):
    probe, gallery, wanted, offered = example(persons, persons=persons)
    if as_text:
        wanted, offered = (np.array([f"p{label}" for label in labels]) for labels in (wanted, offered))
    result = identify(probe.astype(dtype), gallery.astype(dtype), wanted, offered)
    first, precisions = metrics_by_loop(probe, gallery, wanted, offered)
    np.testing.assert_array_equal(result.first_match, first)
    np.testing.assert_allclose(result.average_precision, precisions, rtol=0, atol=1e-10)
    assert result.rank == {k: pytest.approx(100 * np.mean(first <= k)) for k in (1, 5, 10, 20)}
    assert result.mean_ap == pytest.approx(precisions.mean())
    np.testing.assert_allclose(result.cmc, [100 * np.mean(first <= k) for k in range(1, 51)])


@pytest.mark.parametrize("persons", [2, 4])
def test_ties_go_to_strangers_whatever_the_order(persons):
    axes = np.eye(3)[np.arange(24) % 3]  # similarities are 0 or 1
    labels = np.arange(24) % persons
    first, precisions = metrics_by_loop(axes[:6], axes, labels[:6], labels)
    for order in (np.arange(24), np.arange(24)[::-1], np.random.default_rng(0).permutation(24)):
        result = identify(axes[:6], axes[order], labels[:6], labels[order])
        np.testing.assert_array_equal(result.first_match, first)
        np.testing.assert_allclose(result.average_precision, precisions)


def test_the_same_image_under_two_names_is_a_tie(rng):
    gallery = np.random.default_rng(0).standard_normal((301, 33)).astype(np.float32)
    gallery[300] = gallery[0]
    result = identify(gallery[:1], gallery, [0], np.arange(301))
    assert result.first_match.tolist() == [2]


def test_parts_make_the_whole(monkeypatch):
    arguments = example(3, levels=2)
    whole = identify(*arguments)
    monkeypatch.setattr(template_search, "_CELLS", 3 * 70)
    parts = identify(*arguments)
    np.testing.assert_array_equal(parts.first_match, whole.first_match)
    np.testing.assert_array_equal(parts.average_precision, whole.average_precision)


def test_perfect_and_collapsed():
    people = np.eye(4).repeat(2, axis=0)
    labels = np.arange(8) // 2
    assert identify(3 * people, people, labels, labels).rank == {1: 100.0, 5: 100.0}  # a gallery of eight
    collapsed = identify(np.ones((8, 4)), np.ones((8, 4)), labels, labels)
    assert collapsed.first_match.tolist() == [7] * 8
    assert collapsed.rank == {1: 0.0, 5: 0.0}
    zero = identify(np.zeros((8, 4)), people, labels, labels)
    assert zero.first_match.tolist() == [7] * 8


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"probe": np.ones(3)}, r"embeddings must be float32 or float64 \[n, E\], got float64 \[3\]"),
        ({"gallery": np.ones((3, 5))}, "differ in length: 4 and 5"),
        ({"probe": np.array([[1, np.nan, 0, 0]] * 2)}, "2 of 2 embeddings hold NaN .* first: probe row 0, probe row 1"),
        ({"gallery": np.array([[1.0] * 4] * 2 + [[np.inf] * 4])}, "1 of 3 embeddings .* first: gallery row 2"),
        ({"probe_labels": [1, 9]}, r"1 of 2 probes are of persons that the gallery lacks, first: probe row 1 \(9\)"),
        ({"probe_labels": [1]}, r"probe_labels must be 2 strings or integers, got int64 \[1\]"),
        ({"gallery_labels": [1.0, 2.0, 3.0]}, "gallery_labels must be 3 strings or integers, got float64"),
        ({"gallery_labels": ["1", "2", "3"]}, "labels must be all strings or all integers, got int64 and <U1"),
    ],
)
def test_refuses(change, match):
    arguments = {
        "probe": np.ones((2, 4)), "gallery": np.ones((3, 4)), "probe_labels": [1, 2], "gallery_labels": [1, 2, 3]
    } | change  # fmt: skip
    with pytest.raises(ValueError, match=match):
        identify(**arguments)
