"""Retrieval metrics against their definition as a loop, recorded numbers of OpenGait, OpenGait itself, and limits."""

import importlib.util
import json
import os
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch

from plugin.evaluation import gait3d_evaluation, part_distance, retrieval_metrics

SCORES = ("Rank-1", "Rank-5", "Rank-10", "mAP", "mINP")

# evaluate_Gait3D of ShiqiYu/OpenGait@0efafd4 on gait3d_case(), in the order of SCORES. The comparison with an
# OpenGait checkout below checks these numbers too.
RECORDED = {
    "euc": [75.0, 100.0, 100.0, 49.165954553677025, 15.414373734470772],
    "cos": [66.66667175292969, 91.66667175292969, 100.0, 46.845499174608804, 17.16224448330898],
}


def gait3d_case():
    """90 sequences of 12 identities, made from sines so that every platform sees the same numbers."""
    index = np.arange(90)
    identity, sequence = index % 12, index // 12
    grid = np.arange(6)[:, None] * 1.7 + np.arange(4)[None] * 0.9  # [c, p]
    own = np.sin(identity[:, None, None] * 2.3 + grid * (1 + identity[:, None, None]))
    noise = np.sin(index[:, None, None] * 37.7 + grid * 11.3) + np.cos(sequence[:, None, None] * 5.1 + grid * 3.1)
    embeddings = (own + 1.1 * noise).astype(np.float32)
    labels = [f"{i:04d}" for i in identity]
    types_ = [f"camid{i % 5}_videoid2" for i in sequence]
    views = [f"seq{i}" for i in sequence]
    names = ["-".join(parts) for parts in zip(labels, types_, views, strict=True)]
    return embeddings, labels, types_, views, [name for name in names if name.endswith(("seq0", "seq3"))]


def distance_by_loop(probe, gallery, metric):
    out = torch.zeros(len(probe), len(gallery), dtype=torch.float64)
    for i, x in enumerate(probe.double()):
        for j, y in enumerate(gallery.double()):
            for part in range(x.shape[1]):
                a, b = x[:, part], y[:, part]
                cosine = (a @ b) / (a.norm() * b.norm())
                out[i, j] += (1 - cosine if metric == "cos" else (a - b).norm()) / x.shape[1]
    return out


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


@pytest.mark.parametrize("metric", ["euc", "cos"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_distance_matches_definition(metric, dtype, rng):
    probe = torch.randn(3, 5, 2, generator=rng, dtype=dtype)
    gallery = torch.randn(4, 5, 2, generator=rng, dtype=dtype)
    distances = part_distance(probe, gallery, metric)
    assert distances.dtype == dtype
    tolerance = 1e-6 if dtype == torch.float32 else 1e-12
    expected = distance_by_loop(probe, gallery, metric)
    torch.testing.assert_close(distances.double(), expected, rtol=0, atol=tolerance)


def test_distance_across_block_borders(rng):
    probe, gallery = torch.randn(1026, 3, 2, generator=rng), torch.randn(1030, 3, 2, generator=rng)
    expected = sum(torch.cdist(probe[..., part], gallery[..., part]) for part in range(2)) / 2
    torch.testing.assert_close(part_distance(probe, gallery), expected, rtol=0, atol=1e-5)


def test_half_precision_and_autocast_still_compute_in_float32(rng):
    probe, gallery = torch.randn(4, 64, 2, generator=rng), torch.randn(5, 64, 2, generator=rng)
    before = torch.get_float32_matmul_precision()
    expected = part_distance(probe, gallery)
    try:
        torch.set_float32_matmul_precision("medium")
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(part_distance(probe, gallery), expected)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)
    halved = part_distance(probe.half(), gallery.half())
    assert torch.equal(halved, part_distance(probe.half().float(), gallery.half().float()))
    assert halved.dtype == torch.float32


def test_embedding_of_the_training_graph_gives_no_gradient(rng):
    probe = torch.randn(2, 3, 2, generator=rng, requires_grad=True)
    assert not part_distance(probe, probe.detach()).requires_grad


@pytest.mark.gpu
def test_distance_on_a_gpu_with_tf32_allowed(rng):
    probe, gallery = torch.randn(40, 256, 3, generator=rng), torch.randn(50, 256, 3, generator=rng)
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("high")
        distances = part_distance(probe.cuda(), gallery.cuda())
    finally:
        torch.set_float32_matmul_precision(before)
    assert distances.is_cuda
    torch.testing.assert_close(distances.cpu(), part_distance(probe, gallery), rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("probe", "gallery", "metric", "match"),
    [
        (torch.zeros(2, 3), torch.zeros(2, 3, 1), "euc", r"probe must be floating point of shape \[n, c, p\], got"),
        (torch.zeros(2, 3, 1), torch.zeros(2, 3, 1).int(), "euc", r"gallery must be .* got torch.int32 \[2, 3, 1\]"),
        (torch.zeros(0, 3, 1), torch.zeros(2, 3, 1), "euc", r"probe must be .* \[0, 3, 1\]"),
        (torch.zeros(2, 3, 1), torch.zeros(2, 4, 1), "euc", r"differ in \[c, p\]: \[2, 3, 1\] and \[2, 4, 1\]"),
        (torch.zeros(2, 3, 1), torch.zeros(2, 3, 1), "l1", "metric must be one of euc, cos, got 'l1'"),
    ],
)
def test_distance_refuses(probe, gallery, metric, match):
    with pytest.raises(ValueError, match=match):
        part_distance(probe, gallery, metric)


def test_non_finite_embeddings_are_counted_and_named():
    gallery = torch.zeros(12, 3, 2)
    gallery[[2, 3, 5, 6, 8, 11], 1, 1] = float("nan")
    gallery[4, 0, 0] = float("inf")
    with pytest.raises(
        ValueError, match=r"7 of 12 gallery embeddings hold NaN or infinity, first: 2, 3, 4, 5, 6, \.\.\."
    ):
        part_distance(torch.zeros(1, 3, 2), gallery)


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


@pytest.mark.parametrize("metric", ["euc", "cos"])
def test_gait3d_protocol_gives_the_recorded_numbers(metric):
    embeddings, labels, types_, views, probe_names = gait3d_case()
    results, details = gait3d_evaluation(embeddings, labels, types_, views, probe_names, metric)
    assert list(results) == [f"scalar/test_accuracy/{name}" for name in SCORES]
    np.testing.assert_allclose(list(results.values()), RECORDED[metric], rtol=0, atol=1e-5)
    assert len(details.first_match) == len(probe_names)


def test_gait3d_protocol_refuses_and_warns():
    embeddings, labels, types_, views, probe_names = gait3d_case()
    with pytest.raises(ValueError, match=r"equal lengths, got \[90, 89, 90, 90\]"):
        gait3d_evaluation(embeddings, labels[1:], types_, views, probe_names)
    with pytest.raises(ValueError, match=r"got 0 probes among 90 sequences .*; probe names: nobody"):
        gait3d_evaluation(embeddings, labels, types_, views, {"nobody"})
    with pytest.raises(ValueError, match=r"1 sequence\(s\) come twice: 0001-camid0_videoid2-seq0"):
        gait3d_evaluation(embeddings[:2], labels[1:2] * 2, types_[:2], views[:2], probe_names)
    with pytest.warns(UserWarning, match=r"1 probe name\(s\) have no sequence: nobody"):
        gait3d_evaluation(embeddings, labels, types_, views, [*probe_names, "nobody"])
    embeddings[7, 0, 0] = np.nan
    with pytest.raises(ValueError, match="1 of 90 embeddings hold NaN or infinity, first: 0007-camid0_videoid2-seq0"):
        gait3d_evaluation(embeddings, labels, types_, views, probe_names)


@pytest.fixture
def opengait(monkeypatch):
    """OpenGait's evaluation package, loaded by path, its CUDA calls staying on the CPU."""
    root = os.environ.get("OPENGAIT_ROOT")
    if not root:
        pytest.skip("set OPENGAIT_ROOT to an OpenGait checkout to compare with its evaluation")
    folder = Path(root) / "opengait" / "evaluation"
    silent = types.SimpleNamespace(log_info=lambda text: None)
    utils = types.ModuleType("utils")
    vars(utils).update(get_msg_mgr=lambda: silent, mkdir=os.makedirs, is_tensor=torch.is_tensor)
    monkeypatch.setitem(sys.modules, "utils", utils)
    monkeypatch.setattr(torch.Tensor, "cuda", lambda self: self)
    spec = importlib.util.spec_from_file_location("opengait_evaluation", folder / "__init__.py")
    package = importlib.util.module_from_spec(spec)
    options = np.get_printoptions()
    monkeypatch.setitem(sys.modules, spec.name, package)
    spec.loader.exec_module(package)
    yield importlib.import_module("opengait_evaluation.evaluator")
    np.set_printoptions(**options)
    for name in [name for name in sys.modules if name.startswith("opengait_evaluation.")]:
        del sys.modules[name]


@pytest.mark.parametrize("metric", ["euc", "cos"])
def test_opengait_gives_the_same_numbers(opengait, metric, tmp_path, monkeypatch):
    embeddings, labels, types_, views, probe_names = gait3d_case()
    partition = tmp_path / "datasets" / "Gait3D" / "Gait3D.json"
    partition.parent.mkdir(parents=True)
    partition.write_text(json.dumps({"PROBE_SET": probe_names}))
    monkeypatch.chdir(tmp_path)
    data = {"embeddings": embeddings, "labels": labels, "types": types_, "views": views}
    theirs = opengait.evaluate_Gait3D(data, "Gait3D", metric)
    ours, _ = gait3d_evaluation(embeddings, labels, types_, views, probe_names, metric)
    assert list(ours) == list(theirs)
    np.testing.assert_allclose(list(ours.values()), list(theirs.values()), rtol=0, atol=1e-5)
    np.testing.assert_allclose(RECORDED[metric], list(theirs.values()), rtol=0, atol=1e-5)


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
