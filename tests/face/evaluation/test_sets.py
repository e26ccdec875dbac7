"""Evaluation sets from settings: checked before a run, measured in percent, and errors that name the set."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from common.runtime.settings import ConfigError, build_settings
from face.data import write_landmarks
from face.evaluation.bins import read_bin, write_bin
from face.evaluation.embed import embed_images
from face.evaluation.identification import identify
from face.evaluation.sets import EvaluationSetSettings, evaluate, measure, open_set
from face.evaluation.verification import verify, verify_distances


@dataclass(frozen=True, kw_only=True)
class Run:
    """Stands in for the settings of a training run."""

    evaluation_sets: tuple[EvaluationSetSettings, ...] = ()


def opened(needs_keypoints=False, **settings):
    return open_set(EvaluationSetSettings(name="toy", **settings), needs_keypoints=needs_keypoints)


def test_settings_from_yaml():
    mapping = {"name": "lfw", "path": "sets/lfw.bin", "missing_landmarks": "hide"}
    (found,) = build_settings({"evaluation_sets": [mapping]}, Run).evaluation_sets
    assert (found.path, found.kind, found.landmarks) == (Path("sets/lfw.bin"), "pairs", None)
    with pytest.raises(ConfigError, match=r"evaluation_sets\[0\]: name must be text without '/', got 'a/b'"):
        build_settings({"evaluation_sets": [{**mapping, "name": "a/b"}]}, Run)
    with pytest.raises(ConfigError, match="kind: 'pair' is not one of pairs, identification"):
        build_settings({"evaluation_sets": [{**mapping, "kind": "pair"}]}, Run)


def test_pairs(pair_bin, toy):
    """24 pairs do not tell a FAR of 0.01; of an untrained network images of one person are closer all the same."""
    found = opened(path=pair_bin(), missing_landmarks="error")
    model = toy()
    result = measure(found, model, batch_size=5)
    values = embed_images(model, found.content.images).values
    expected = verify(values, found.content.pairs, found.content.same)
    assert result.metrics == {
        "accuracy": pytest.approx(expected.accuracy),
        "accuracy_std": pytest.approx(expected.accuracy_std),
        "auc": pytest.approx(expected.auc),
        "eer": pytest.approx(expected.eer),
        "tar@far=1e-1": pytest.approx(expected.tar_at_far[1e-1]),
    }
    assert result.metrics["auc"] > 90
    assert result.details.roc.different == 12
    assert (result.images, result.without_landmarks) == (36, 0)
    assert evaluate(found, model, batch_size=5) == result.metrics


def test_metrics_of_a_set_that_can_tell(monkeypatch, pair_bin, toy):
    monkeypatch.setattr("face.evaluation.sets.verify", lambda *_, **__: expected)
    same = np.arange(2200) % 2 == 0
    expected = verify_distances(np.random.default_rng(0).random(2200) + ~same, same)
    found = evaluate(opened(path=pair_bin()), toy())
    assert found["val@far=1e-3"] == expected.val
    assert [name for name in found if "tar" in name] == ["tar@far=1e-1", "tar@far=1e-2", "tar@far=1e-3"]


def gallery(photos):
    folder = photos(people=6, each=3)
    for name, numbers in (("gallery.csv", (1, 2)), ("probe.csv", (3,))):
        rows = [f"person{i}/person{i}_{photo:04d}.png,person{i}" for i in range(6) for photo in numbers]
        (folder / name).write_text("image,identity\n" + "\n".join(rows) + "\n")
    return folder


def test_identification(photos, toy):
    found = opened(path=gallery(photos), kind="identification")
    model = toy()
    result = measure(found, model)
    values = embed_images(model, found.content.images).values
    people = np.arange(6)
    expected = identify(values[12:], values[:12], people, people.repeat(2))
    assert result.metrics == {
        "rank-1": expected.rank[1], "rank-5": expected.rank[5], "rank-10": expected.rank[10], "map": expected.mean_ap
    }  # fmt: skip
    assert result.metrics["rank-1"] > 50


def test_landmarks_count_for_networks_that_need_them(pair_bin, toy, points):
    path = pair_bin()
    with pytest.raises(ValueError, match="evaluation set toy: 36 of 36 images have no landmarks"):
        opened(needs_keypoints=True, path=path)
    assert opened(path=path).content.landmarks is None
    table = path.with_name("mine.csv")
    positions = [str(position) for position in range(40)]
    write_landmarks(table, positions, np.stack([points] * 40))
    with pytest.raises(ValueError, match=r"evaluation set toy: 8 of 40 images have no landmarks, first: toy\.bin, im"):
        opened(needs_keypoints=True, path=path, landmarks=table)
    found = opened(needs_keypoints=True, path=path, landmarks=table, missing_landmarks="reference")
    assert measure(found, toy(needs_keypoints=True)).without_landmarks == 8


def test_what_is_found_before_a_run(pair_bin, tmp_path):
    path = pair_bin()
    with pytest.raises(FileNotFoundError, match=r"evaluation set toy: .*none\.bin: no such file or folder"):
        opened(path=tmp_path / "none.bin")
    with pytest.raises(FileNotFoundError, match=r"evaluation set toy: .*none\.csv"):
        opened(needs_keypoints=True, path=path, landmarks=tmp_path / "none.csv")
    with pytest.raises(FileNotFoundError, match=r"evaluation set toy: .*toy\.bin: no such folder"):
        opened(path=path, kind="identification")
    content = read_bin(path)
    write_bin(path, [b"no image", *content.images[1:]], content.same)
    with pytest.raises(ValueError, match=r"evaluation set toy: .*toy\.bin, image 0"):
        opened(path=path)


def test_what_is_found_in_a_run_names_the_set(pair_bin, toy):
    path = pair_bin()
    found = opened(path=path)
    model = toy()
    model.pixels.data.fill_(float("nan"))
    with pytest.raises(
        ValueError, match=r"evaluation set toy: 36 of 36 embeddings hold NaN .*: toy\.bin, image 0, toy"
    ):
        evaluate(found, model)
