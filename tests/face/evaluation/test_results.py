"""The table of results, the files, and the hashes of what was measured on."""

import csv
import hashlib
import json

import numpy as np
import pytest

from face.evaluation.results import (
    Column,
    ResultRecord,
    data_hashes,
    format_percent,
    headline_columns,
    markdown_table,
    results_table,
)
from face.evaluation.sets import EvaluationSetSettings, SetResult, open_set


def result(**metrics):
    return SetResult(metrics=metrics, details=None, images=3, without_landmarks=1)


def test_columns_are_those_of_papers_in_the_order_of_the_catalogue():
    first = {
        "ijbs": {"surveillance_to_single/rank-1": 1.0, "surveillance_to_single/tpir@fpir=1e-2": 1.0},
        "ijbc": {"tar@far=1e-4": 1.0, "tar@far=1e-5": 1.0, "g1/rank-1": 1.0},
        "tinyface": {"rank-1": 1.0, "rank-5": 1.0, "rank-20": 1.0, "map": 1.0},
    }
    second = {"lfw": {"accuracy": 1.0, "auc": 1.0}, "ijbs": {"surveillance_to_booking/rank-5": 1.0}}
    columns = headline_columns([first, second])
    assert [column.title for column in columns] == [
        "LFW",
        "IJB-C TAR@1e-4",
        "TinyFace Rank-1",
        "TinyFace Rank-5",
        "IJB-S single Rank-1",
        "IJB-S booking Rank-5",
    ]


def test_a_small_set_is_known_by_its_first_metric():
    assert headline_columns([{"ijbb": {"tar@far=1e-2": 1.0, "auc": 1.0}}]) == [Column("ijbb", "tar@far=1e-2")]
    assert headline_columns([{"ijbb": {}}]) == []


def test_table():
    models = {"ViT": {"lfw": {"accuracy": 99.126}, "tinyface": {"rank-1": 68.0}}, "KP-RPE": {"lfw": {"accuracy": 100}}}
    assert results_table(models).splitlines() == [
        "| model  |    LFW | TinyFace Rank-1 |",
        "| ------ | -----: | --------------: |",
        "| ViT    |  99.13 |           68.00 |",
        "| KP-RPE | 100.00 |               - |",
    ]
    assert markdown_table(["a", "b"], [], left=2).splitlines() == ["| a   | b   |", "| --- | --- |"]
    assert [format_percent(value) for value in (None, np.nan, 0)] == ["-", "-", "0.00"]


def test_files_grow_with_results_and_are_whole(tmp_path):
    record = ResultRecord(tmp_path, {"command": "face.evaluate"})
    record.add("ViT", "lfw", result(accuracy=99.5, auc=np.nan), 1.26)
    record.write(complete=False)
    content = json.loads((tmp_path / "results.json").read_text())
    assert (content["complete"], content["command"], content["format"]) == (
        False,
        "face.evaluate",
        "kprpe-face-evaluation",
    )
    (row,) = content["results"]
    assert row["metrics"] == {"accuracy": 99.5, "auc": None}
    assert (row["model"], row["set"], row["images"], row["without_landmarks"]) == ("ViT", "lfw", 3, 1)
    assert record.metrics() == {"ViT": {"lfw": {"accuracy": 99.5}}}
    record.add("B, or C", "lfw", result(accuracy=1 / 3), 0)
    record.write(complete=True)
    assert json.loads((tmp_path / "results.json").read_text())["complete"]
    with (tmp_path / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [list(row.values()) for row in rows] == [
        ["ViT", "lfw", "accuracy", "99.5"],
        ["ViT", "lfw", "auc", ""],
        ["B, or C", "lfw", "accuracy", str(1 / 3)],
    ]
    assert len(list(tmp_path.iterdir())) == 2


def opened(path, kind="pairs", needs_keypoints=False):
    return open_set(EvaluationSetSettings(name="lfw", path=path, kind=kind), needs_keypoints=needs_keypoints)


def test_hashes_of_a_bin(pair_bin, points):
    from face.data import write_landmarks

    path = pair_bin()
    expected = hashlib.sha256(path.read_bytes()).hexdigest()
    assert data_hashes(opened(path)) == {"lists": {"toy.bin": expected}, "landmarks": {}}
    table = path.with_name("toy.bin.csv")
    write_landmarks(table, list(map(str, range(48))), np.repeat(points[None], 48, axis=0))
    found = data_hashes(opened(path, needs_keypoints=True))
    assert found["lists"] == {"toy.bin": expected}
    assert found["landmarks"] == {"toy.bin.csv": hashlib.sha256(table.read_bytes()).hexdigest()}
    assert data_hashes(opened(path))["landmarks"] == {}  # it was not read


@pytest.fixture(scope="module")
def benchmarks(tmp_path_factory):
    from face.synthesize.benchmarks import write_benchmarks
    from face.synthesize.settings import SynthesisSettings

    folder = tmp_path_factory.mktemp("hashes")
    settings = SynthesisSettings(write="benchmarks", benchmark_identities=2, benchmark_frames=1, crop_size=48)
    write_benchmarks(settings, folder)
    return folder / "benchmarks"


@pytest.mark.parametrize(
    ("folder", "kind", "names"),
    [
        (
            "IJBB",
            "ijb",
            "ijbb_1N_gallery_S1.csv ijbb_1N_gallery_S2.csv ijbb_1N_probe_mixed.csv ijbb_face_tid_mid.txt "
            "ijbb_name_5pts_score.txt ijbb_template_pair_label.txt",
        ),
        ("tinyface", "tinyface", "gallery_match_img_ID_pairs.mat names of images probe_img_ID_pairs.mat"),
        (
            "ijbs",
            "ijbs",
            "frames.csv surveillance_to_booking_gallery.csv surveillance_to_booking_probes.csv "
            "surveillance_to_single_gallery.csv surveillance_to_single_probes.csv "
            "surveillance_to_surveillance_gallery.csv surveillance_to_surveillance_probes.csv",
        ),
    ],
    ids=["ijb", "tinyface", "ijbs"],
)
def test_hashes_of_folders(benchmarks, folder, kind, names):
    found = data_hashes(opened(benchmarks / folder, kind, needs_keypoints=True))
    assert " ".join(sorted(name.removeprefix("meta/") for name in found["lists"])) == names
    assert list(found["landmarks"]) == (["landmarks.csv"] if kind == "tinyface" else [])


def test_an_image_that_is_added_changes_the_hash_of_tinyface(benchmarks):
    before = data_hashes(opened(benchmarks / "tinyface", "tinyface"))
    folder = benchmarks / "tinyface/Testing_Set/Gallery_Distractor"
    added = folder / "added.jpg"
    added.write_bytes(next(iter(folder.iterdir())).read_bytes())
    after = data_hashes(opened(benchmarks / "tinyface", "tinyface"))
    added.unlink()
    changed = [name for name, value in before["lists"].items() if after["lists"][name] != value]
    assert changed == ["names of images"]
