"""Retrieval metrics against their definition as a loop, OpenGait itself, and limits."""

import numpy as np
import pytest
import torch

from plugin.evaluation import part_distance, retrieval_metrics
from plugin.evaluation.retrieval import first_match_by_group, nearest


def metrics_by_loop(distances, probe_labels, gallery_labels, mask):
    """Rank-1/5/10, mAP, mINP in percent, with the gallery ordered by (distance, index)."""
    hits, precisions, penalties = [], [], []
    for i, label in enumerate(probe_labels):
        order = sorted((float(distances[i, j]), j) for j in range(len(gallery_labels)) if mask[i, j])
        matches = [gallery_labels[j] == label for _, j in order]
        places = [place for place, match in enumerate(matches, start=1) if match]
        if not places:
            continue
        hits.append([places[0] <= k for k in (1, 5, 10)])
        precisions.append(np.mean([found / place for found, place in enumerate(places, start=1)]))
        penalties.append(len(places) / places[-1])
    return [*(100 * np.mean(hits, axis=0)), 100 * np.mean(precisions), 100 * np.mean(penalties)], len(hits)


def scores(result):
    return [*result.rank.values(), result.mean_ap, result.mean_inp]


@pytest.mark.parametrize("levels", [3, 20, 10**6])  # few levels: most distances are tied
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("as_text", [False, True])
def test_metrics_match_definition(levels, masked, as_text):
    random = np.random.default_rng(levels)
    distances = random.integers(0, levels, (30, 60)).astype(np.float32) / levels
    probe_labels, gallery_labels = random.integers(0, 14, 30), random.integers(2, 12, 60)
    mask = random.random((30, 60)) < (0.5 if masked else 2)
    if as_text:
        probe_labels, gallery_labels = (np.array([f"p{x}" for x in y]) for y in (probe_labels, gallery_labels))
    result = retrieval_metrics(
        torch.from_numpy(distances), list(probe_labels), gallery_labels, gallery_mask=mask if masked else None
    )
    expected, valid = metrics_by_loop(distances, probe_labels, gallery_labels, mask)
    np.testing.assert_allclose(scores(result), expected, rtol=0, atol=1e-10)
    assert result.probes_without_match == 30 - valid > 0


def test_per_probe_details():
    distances = torch.tensor([[0.1, 0.2, 0.3], [0.3, 0.2, 0.1], [0.1, 0.2, 0.3]])
    result = retrieval_metrics(distances, ["a", "a", "z"], ["a", "b", "a"], ranks=(1, 2))
    assert result.rank == {1: 100.0, 2: 100.0}
    np.testing.assert_allclose(result.average_precision, [100 * (1 + 2 / 3) / 2] * 2 + [np.nan])
    assert result.first_match.tolist() == [1, 1, 0]
    assert result.cmc.tolist() == [100.0, 100.0, 100.0]
    assert result.probes_without_match == 1


def test_perfect_and_worst():
    labels, gallery = np.arange(4), np.repeat(np.arange(4), 5)
    distances = torch.from_numpy((labels[:, None] != gallery[None]).astype(np.float32))
    assert scores(retrieval_metrics(distances, labels, gallery)) == [100.0] * 5
    worst = retrieval_metrics(1 - distances, labels, gallery, ranks=(1, 15, 16))
    assert worst.rank == {1: 0.0, 15: 0.0, 16: 100.0}
    assert worst.mean_inp == 100 * 5 / 20
    assert worst.mean_ap == pytest.approx(100 * np.mean([k / (15 + k) for k in range(1, 6)]))
    assert len(worst.cmc) == 20


def test_equal_distances_are_ranked_by_gallery_index():
    result = retrieval_metrics(torch.zeros(1, 300), [1], [0] * 6 + [1] + [0] * 292 + [1], ranks=(6, 7))
    assert result.rank == {6: 0.0, 7: 100.0}
    assert result.first_match.tolist() == [7]
    assert result.mean_inp == pytest.approx(100 * 2 / 300)
    assert len(result.cmc) == 50


def test_negative_zero_ties_with_zero():
    assert retrieval_metrics(torch.tensor([[0.0, -0.0]]), [1], [0, 1], ranks=(1,)).first_match.tolist() == [2]


def test_gallery_of_one_clamps_the_ranks_and_says_so():
    with pytest.warns(UserWarning, match=r"the gallery has 1 sequence\(s\): ranks beyond that, of \[1, 5, 10\]"):
        result = retrieval_metrics(torch.tensor([[0.5]]), [3], [3])
    assert scores(result) == [100.0] * 5
    assert result.cmc.tolist() == [100.0]


def test_labels_as_tensors():
    result = retrieval_metrics(torch.tensor([[0.1, 0.2]]), torch.tensor([1]), torch.tensor([0, 1]), ranks=(1, 2))
    assert result.rank == {1: 0.0, 2: 100.0}


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"distances": torch.zeros(2)}, r"distances must be floating point of shape \[n, m\], got float32 \[2\]"),
        ({"distances": torch.zeros(2, 3).long()}, r"distances must be .* got int64 \[2, 3\]"),
        ({"distances": torch.zeros(2, 0), "gallery_labels": []}, r"distances must be .* \[2, 0\]"),
        ({"probe_labels": [1, 2, 3]}, r"probe_labels must be 2 strings or integers, got int64 \[3\]"),
        ({"gallery_labels": [1.0, 2.0, 3.0]}, r"gallery_labels must be 3 strings or integers, got float64"),
        ({"gallery_labels": ["1", "2", "3"]}, "labels must be all strings or all integers, got int64 and <U1"),
        ({"gallery_labels": [7, 8, 9]}, "none of the 2 probes has a true match among its 3 gallery sequences"),
        ({"gallery_mask": np.zeros((2, 3), dtype=bool)}, "none of the 2 probes"),
        ({"gallery_mask": torch.ones(3, 2, dtype=torch.bool)}, r"bool of shape \[2, 3\], got bool \[3, 2\]"),
        ({"gallery_mask": np.ones((2, 3))}, r"gallery_mask must be bool of shape \[2, 3\], got float64"),
        ({"ranks": (0, 1)}, r"ranks and max_rank must be >= 1, got \[0, 1\] and 50"),
        ({"max_rank": 0}, "ranks and max_rank must be >= 1"),
        ({"distances": torch.tensor([[0, 1, 2], [0, float("nan"), 1]])}, "1 of 2 distance rows hold NaN .* first: 1"),
    ],
)
def test_metrics_refuse(change, match):
    arguments = {
        "distances": torch.zeros(2, 3), "probe_labels": [1, 2], "gallery_labels": [1, 2, 3], "ranks": (1,)
    } | change  # fmt: skip
    with pytest.raises(ValueError, match=match):
        retrieval_metrics(**arguments)


def test_masked_distances_may_be_anything():
    distances = torch.tensor([[float("nan"), 0.2, 0.1]])
    mask = torch.tensor([[False, True, True]])
    result = retrieval_metrics(distances, [1], [1, 1, 0], ranks=(1, 2), gallery_mask=mask)
    assert result.first_match.tolist() == [2]


@pytest.mark.parametrize("levels", [2, 5, 10**6])
def test_first_match_of_each_group_matches_definition(levels):
    random = np.random.default_rng(levels)
    distances = (random.integers(0, levels, (20, 30)) / levels).astype(np.float32)
    same, groups = random.random((20, 30)) < 0.1, random.integers(-1, 4, 30)
    found = first_match_by_group(distances, same, groups, 5)
    for probe in range(20):
        for group in range(5):
            order = sorted((distances[probe, j], j) for j in range(30) if groups[j] == group)
            places = [place for place, (_, j) in enumerate(order, start=1) if same[probe, j]]
            assert found[probe, group] == (places[0] if places else 0)


@pytest.mark.parametrize("levels", [1, 3, 10**6])
@pytest.mark.parametrize("k", [1, 4, 12])
def test_nearest_are_the_first_of_a_stable_sort(levels, k):
    distances = np.random.default_rng(levels).integers(0, levels, (9, 12)).astype(np.float32)
    assert np.array_equal(nearest(distances, k), np.argsort(distances, axis=1, kind="stable")[:, :k])


@pytest.mark.parametrize("k", [0, 4])
def test_nearest_refuses(k):
    with pytest.raises(ValueError, match=f"within 1 and the 3 gallery sequences, got {k}"):
        nearest(np.zeros((2, 3)), k)


def test_opengait_ranks_a_larger_gallery_the_same(opengait, rng):
    probe, gallery = torch.randn(100, 16, 4, generator=rng), torch.randn(700, 16, 4, generator=rng)
    labels = np.random.default_rng(0)
    probe_labels, gallery_labels = labels.integers(0, 60, 100), labels.integers(5, 60, 700)
    theirs = opengait.cuda_dist(probe.numpy(), gallery.numpy())
    torch.testing.assert_close(part_distance(probe, gallery), theirs, rtol=0, atol=1e-5)
    # float64: in float32 two of these distances are equal, and OpenGait's order of equals is open
    distances = part_distance(probe.double(), gallery.double())
    cmc, precisions, penalties = opengait.evaluate_rank(distances.numpy(), probe_labels, gallery_labels)
    result = retrieval_metrics(distances, probe_labels, gallery_labels)
    np.testing.assert_allclose(result.cmc, cmc * 100, rtol=0, atol=1e-5)
    own = result.average_precision[~np.isnan(result.average_precision)]
    np.testing.assert_allclose(own, np.array(precisions) * 100, rtol=0, atol=1e-10)
    assert result.mean_inp == pytest.approx(np.mean(penalties) * 100, abs=1e-10)
