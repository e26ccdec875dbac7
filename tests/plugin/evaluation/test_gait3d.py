"""The Gait3D protocol against recorded numbers of OpenGait and OpenGait itself."""

import json

import numpy as np
import pytest

from plugin.evaluation import gait3d_evaluation

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
