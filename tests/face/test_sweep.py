"""The command: what it writes and prints, names of models, options of another kind, errors before the work."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from face.data import write_landmarks
from face.evaluation.sets import EvaluationSetSettings, evaluate, open_set
from face.models.pretrained import load_pretrained, save_pretrained
from face.models.registry import create_model
from face.sweep import main

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    for name in ("kprpe", "none"):
        torch.manual_seed(0)
        model = create_model(
            "vit_tiny", position_bias=name, image_hw=(32, 32), patch_hw=(16, 16), depth=1, embed_dim=16, num_heads=2,
            num_features=8,
        ).eval()  # fmt: skip
        save_pretrained(model, folder / name / "weights" / "best")
    return [folder / name / "weights" / "best" for name in ("none", "kprpe")]


@pytest.fixture
def faces(tmp_path, dots, dot_points):
    folder = tmp_path / "faces"
    folder.mkdir()
    points = dot_points + np.random.default_rng(0).uniform(-0.08, 0.08, (20, 5, 2))
    for number, each in enumerate(points):
        assert cv2.imwrite(str(folder / f"{number}.png"), dots((40, 40), each, radius=0.06)[..., ::-1])
    write_landmarks(folder / "landmarks.csv", [f"{number}.png" for number in range(20)], points)
    rows = [f"{k}.png,{(k + 5 + k % 7) % 20}.png,{k % 2}" for k in range(20)]
    (folder / "pairs.csv").write_text("\n".join(["image1,image2,same", *rows]) + "\n")
    return folder


def sweep(*arguments):
    return main(["--workers", "0", "--device", "cpu", *map(str, arguments)])


def test_what_it_writes(faces, models, tmp_path, capsys):
    out = tmp_path / "out"
    options = ("--data", faces, "--out", out, "--weights", *models)
    assert sweep("--kind", "alignment", "--steps", 0, 0.5, 1, *options) == 0
    said = capsys.readouterr().out
    assert "| alignment | none, accuracy (%) | kprpe, accuracy (%) |" in said
    assert sorted(path.name for path in out.iterdir()) == ["steps.png", "sweep.csv", "sweep.json", "sweep.png"]
    record = json.loads((out / "sweep.json").read_text())
    assert record["settings"]["steps"] == [0, 0.5, 1]
    assert record["set"]["name"] == "faces"
    assert list(record["models"]) == ["none", "kprpe"]
    with (out / "sweep.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["model"], float(row["alignment"])) for row in rows] == [
        (model, share) for model in ("none", "kprpe") for share in (0, 0.5, 1)
    ]
    opened = open_set(EvaluationSetSettings(name="faces", path=faces), needs_keypoints=True)
    for row, path in ((rows[0], models[0]), (rows[3], models[1])):
        expected = evaluate(opened, load_pretrained(path))
        assert {name: float(row[name]) for name in expected} == pytest.approx(expected)


def test_flat_lines_are_said_and_metrics_chosen(faces, models, tmp_path, capsys):
    out = tmp_path / "out"
    options = ("--data", faces, "--out", out, "--weights", *models, "--names", "a", "b")
    assert sweep("--kind", "noise", "--steps", 0, 0.1, *options, "--metric", "auc", "--repeats", 2) == 0
    said = capsys.readouterr()
    assert "note: a takes no keypoints: it is evaluated once, and its line is flat" in said.err
    assert "| a, auc (%) | b, auc (%) |" in said.out
    record = json.loads((out / "sweep.json").read_text())
    assert record["notes"] == ["a takes no keypoints: it is evaluated once, and its line is flat"]
    assert [row["variant"] for row in record["rows"] if row["model"] == "b"] == ["", "draw 0", "draw 1"]
    assert sweep("--kind", "noise", "--steps", 0, *options, "--metric", "rank-1") == 2
    assert "no metric rank-1; this set has accuracy, accuracy_std, auc" in capsys.readouterr().err


def test_affine_and_keypoints(faces, models, tmp_path, capsys):
    options = ("--data", faces, "--weights", *models)
    few = ("--rotations", 0, 90, "--scales", 1, "--shifts", 0, 0.2)
    assert sweep("--kind", "affine", *few, *options, "--out", tmp_path / "affine") == 0
    assert "| model | rotation x scale: mean |" in capsys.readouterr().out
    assert sweep("--kind", "keypoints", "--steps", 0, 5, *options, "--out", tmp_path / "keypoints") == 0
    assert (tmp_path / "keypoints" / "sweep.png").stat().st_size > 1000


def test_wrong_input(faces, models, tmp_path, capsys):
    options = ("--weights", *models, "--out", tmp_path / "out")
    data = ("--data", faces)
    for arguments, said in (
        (
            ("--kind", "noise", "--rotations", 1, *data),
            "--kind noise takes --noise, --repeats, --seed, --steps, and",
        ),
        (
            ("--kind", "affine", "--steps", 1, *data),
            "--kind affine takes --rotations, --scales, --shifts, and not",
        ),
        (("--kind", "noise", "--aligner", "x", *data), "--kind noise is about landmarks that are given"),
        (("--kind", "alignment", "--steps", 2, *data), "steps must rise within 0 and 1, got 2"),
        (("--kind", "noise", "--data", faces / "none.bin"), "none.bin: no such file or folder"),
        (("--kind", "noise", "--data", tmp_path), "what kind of set it is does not show; give --protocol"),
        (("--kind", "noise", "--landmarks", tmp_path / "none.csv", *data), "none.csv: no such file of landmarks"),
        (("--kind", "affine", "--pipeline", "dfa", *data), "kind dfa needs aligner"),
    ):
        assert sweep(*arguments, *options) == 2
        assert said in capsys.readouterr().err
    (faces / "landmarks.csv").unlink()
    assert sweep("--kind", "alignment", *data, "--weights", models[0], "--out", tmp_path / "out") == 2
    assert "evaluation set faces: 20 of 20 images have no landmarks" in capsys.readouterr().err
    assert not (tmp_path / "out" / "sweep.json").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--weights", "a", "a"], "--weights names a model twice"),
        (["--weights", "a", "b", "--names", "x"], "--names must be 2 different ones"),
        (["--weights", "a", "--batch-size", "0"], "--batch-size must be >= 1, got 0"),
    ],
    ids=range(3),
)
def test_options(arguments, said, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["--kind", "noise", "--data", "x", "--out", "y", *arguments])
    assert said in capsys.readouterr().err


def test_help_does_not_wait_for_torch():
    code = (
        "import sys\nfrom face.sweep import main\n"
        "try:\n    main(['--help'])\n"
        "finally:\n    assert not {'torch', 'numpy', 'cv2'} & set(sys.modules), sorted(sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, env=dict(os.environ)
    )
    assert done.returncode == 0, done.stderr
    assert "--rotations" in done.stdout
