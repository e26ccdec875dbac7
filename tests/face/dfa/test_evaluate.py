"""The command: what it prints and writes, the same from two processes, and what it refuses before it begins."""

import csv
import hashlib
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
from face.dfa import create_dfa, save_dfa
from face.dfa.annotations import WFLW_FIVE_POINTS, read_retinaface_labels
from face.dfa.crops import PhotographCrops
from face.dfa.dataset import CropSet
from face.dfa.evaluate import main
from face.dfa.evaluation import evaluate_landmarks
from face.dfa.pretrained import load_dfa

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Five photographs with a face each; the last is small, the fourth without landmarks. Two networks, a table."""
    folder, rng = tmp_path_factory.mktemp("evaluate"), np.random.default_rng(0)
    (folder / "images").mkdir()
    retinaface, wflw, names, points = [], [], [], []
    for number in range(5):
        image = cv2.resize(rng.integers(0, 256, (9, 12, 3), dtype=np.uint8), (120, 90), interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(folder / "images" / f"{number}.png"), image)
        x, y, w, h = rng.uniform([5, 5, 40, 40], [60, 30, 50, 50]) if number < 4 else (10.0, 10.0, 15.0, 18.0)
        marks = np.array([[0.3, 0.4], [0.7, 0.4], [0.5, 0.6], [0.35, 0.8], [0.65, 0.8]]) * (w, h) + (x, y)
        flags = " ".join("-1 -1 -1" if number == 3 else f"{px:.3f} {py:.3f} 0.0" for px, py in marks)
        retinaface += [f"# {number}.png", f"{x:.3f} {y:.3f} {w:.3f} {h:.3f} {flags} 0.5"]
        many = np.tile([x, y], (98, 1))
        many[list(WFLW_FIVE_POINTS)] = marks
        numbers = [*many.ravel(), x, y, x + w, y + h, *[0] * 6]
        wflw.append(" ".join(f"{value:.3f}" for value in numbers) + f" {number}.png")
        names.append(f"{number}.png#{2 * number + 2}")
        points.append((marks + (2, 0) + 0.5) / (120, 90))
    (folder / "label.txt").write_text("\n".join(retinaface) + "\n")
    (folder / "wflw.txt").write_text("\n".join(wflw) + "\n")
    write_landmarks(folder / "other.csv", names[:2], np.stack(points[:2]))
    for name, settings in (("mobile", {}), ("plain", {"aggregator": False, "image_hw": (96, 96)})):
        torch.manual_seed(0)
        save_dfa(create_dfa("dfa_mobilenet", **({"image_hw": (64, 64)} | settings)), folder / name)
    return folder


def arguments(folder, out, *more, labels="label.txt"):
    options = ["--images", folder / "images", "--labels", folder / labels, "--out", out, "--device", "cpu"]
    return [str(each) for each in [*more, *options, "--workers", 0]]


def weights(folder, *names):
    return ["--weights", *(folder / name for name in names)]


def test_results_of_networks_and_a_table(folder, tmp_path, capsys):
    more = [*weights(folder, "mobile", "plain"), "--predictions", folder / "other.csv"]
    assert main(arguments(folder, tmp_path / "new" / "out", *more)) == 0
    out = tmp_path / "new" / "out"
    assert sorted(path.name for path in out.iterdir()) == ["curve.png", "faces.png", "results.csv", "results.json"]
    content = json.loads((out / "results.json").read_text())
    rows = content["results"]
    assert [(row["model"], row["aggregator"]) for row in rows] == [
        ("mobile", True),
        ("mobile", False),
        ("plain", False),
        ("other", None),
    ]
    assert [(row["faces"], row["found"]) for row in rows] == [(3, 3)] * 3 + [(3, 2)]
    faces = read_retinaface_labels(folder / "label.txt", folder / "images", 20)
    for name, size in (("mobile", 64), ("plain", 96)):
        alone = evaluate_landmarks(load_dfa(folder / name), CropSet(PhotographCrops(faces, 0.1), (size, size)))
        found = [row for row in rows if row["model"] == name]
        for row, expected in zip(found, alone.values(), strict=True):
            assert {key: row[key] for key in expected.metrics} == pytest.approx(expected.metrics, rel=1e-6)
    sizes = np.sqrt((faces.boxes_px[:2, 2:] - faces.boxes_px[:2, :2]).prod(axis=1))
    assert rows[-1]["nme"] == pytest.approx((200 / sizes).mean(), rel=1e-3)
    assert rows[-1]["failure_rate@10"] == pytest.approx(100 / 3)
    assert content["labels"]["sha256"] == hashlib.sha256((folder / "label.txt").read_bytes()).hexdigest()
    assert content["labels"]["left_out"] == {"boxes below 20 px": 1}
    assert content["settings"] == {
        "normaliser": "box",
        "failure_percent": 10,
        "auc_percent": 10,
        "layout": "widerface",
        "min_side_px": 20,
        "padding": 0.1,
    }
    with (out / "results.csv").open() as file:
        table = list(csv.DictReader(file))
    assert [row["model"] for row in table] == ["mobile", "mobile", "plain", "other"]
    assert [float(row["nme"]) for row in table] == [row["nme"] for row in rows]
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert len({len(line) for line in lines}) == 1
    assert [[cell.strip() for cell in line.split("|")[1:6]] for line in lines[2:]] == [
        [
            row["model"],
            {True: "yes", False: "no", None: "-"}[row["aggregator"]],
            "3",
            str(row["found"]),
            f"{row['nme']:.2f}",
        ]
        for row in rows
    ]
    for name in ("curve.png", "faces.png"):
        assert cv2.imread(str(out / name)).std() > 1


def test_wflw_and_other_settings(folder, tmp_path):
    write_landmarks(tmp_path / "t.csv", ["0.png#1", "4.png#5"], np.full((2, 5, 2), 0.5))
    more = ["--predictions", tmp_path / "t.csv", "--layout", "wflw", "--min-side", 5, "--normaliser", "eyes"]
    command = arguments(folder, tmp_path, *more, "--failure", 8, "--auc", 12, labels="wflw.txt")
    assert main(command) == 0
    content = json.loads((tmp_path / "results.json").read_text())
    (row,) = content["results"]
    assert (row["faces"], row["found"]) == (5, 2)
    assert {"failure_rate@8", "auc@12"} < row.keys()
    errors = []
    for line in ((folder / "wflw.txt").read_text().splitlines()[number] for number in (0, 4)):
        marks = np.array(line.split()[:196], float).reshape(98, 2)[list(WFLW_FIVE_POINTS)]
        distances = np.linalg.norm(marks - (59.5, 44.5), axis=1)
        errors.append(100 * distances.mean() / np.linalg.norm(marks[0] - marks[1]))
    assert row["nme"] == pytest.approx(np.mean(errors), rel=1e-3)


def test_a_table_without_any_of_the_faces_has_no_mean(folder, tmp_path):
    write_landmarks(tmp_path / "t.csv", ["3.png#8"], np.full((1, 5, 2), 0.5))  # the face without landmarks
    assert main(arguments(folder, tmp_path, "--predictions", tmp_path / "t.csv")) == 0
    (row,) = json.loads((tmp_path / "results.json").read_text())["results"]
    assert (row["found"], row["nme"], row["failure_rate@10"], row["auc@10"]) == (0, None, 100, 0)


def test_two_processes_are_one(folder, tmp_path, torchrun):
    more = [*weights(folder, "mobile"), "--predictions", folder / "other.csv", "--batch-size", 1]
    process = torchrun("-m", "face.dfa.evaluate", *arguments(folder, tmp_path / "two", *more))
    assert main(arguments(folder, tmp_path / "one", *more)) == 0
    out, err = process.finish()
    assert process.returncode == 0, err
    assert out.count("| mobile | yes") == 1
    one, two = (json.loads((tmp_path / name / "results.json").read_text())["results"] for name in ("one", "two"))
    for alone, shared in zip(one, two, strict=True):
        for key in ("model", "aggregator"):
            assert alone.pop(key) == shared.pop(key)
        assert alone == pytest.approx(shared, rel=1e-6)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--weights", "absent"], "absent"),
        (["--weights", "mobile", "mobile"], "mobile is given twice"),
        (["--predictions", "absent.csv"], "absent.csv: no such file"),
        (["--weights", "mobile", "--labels", "absent.txt"], "absent.txt: no such label file"),
        (["--weights", "mobile", "--images", "absent"], "absent: no such folder"),
        (["--weights", "mobile", "--min-side", 1000], "none of its 5 faces has min_side_px 1000"),
        (["--weights", "mobile", "--failure", 0], "failure_percent must be positive, got 0"),
        (["--weights", "mobile", "--device", "gpu"], "--device gpu: "),
        (["--weights", "mobile", "--predictions", "images/mobile.csv"], "both have a mobile"),
    ],
)
def test_refused_before_it_begins(folder, tmp_path, more, message, capsys, monkeypatch):
    monkeypatch.chdir(folder)
    (folder / "images" / "mobile.csv").write_bytes((folder / "other.csv").read_bytes())
    assert main([*arguments(folder, tmp_path / "out"), *map(str, more)]) == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert printed.err.startswith("error: ")
    assert "faces in" not in printed.out
    assert not list((tmp_path / "out").glob("*"))


def test_damage_that_is_met_later_is_named(folder, tmp_path, capsys):
    images = tmp_path / "images"
    images.mkdir()
    for path in (folder / "images").glob("*.png"):
        content = path.read_bytes()
        (images / path.name).write_bytes(content if path.name != "2.png" else b"damaged")
    command = [*arguments(folder, tmp_path / "out", *weights(folder, "mobile")), "--images", str(images)]
    assert main(command) == 2
    error = capsys.readouterr().err.splitlines()[-1].rpartition("error: ")[2]
    assert error.startswith(f"{images / '2.png'}: 7 bytes")
    assert not list((tmp_path / "out").glob("*"))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ([], "nothing to evaluate: give --weights or --predictions"),
        (["--weights", "mobile", "--batch-size", "0"], "--batch-size must be >= 1, got 0"),
        (["--weights", "mobile", "--padding", "nan"], "--padding must be >= 0, got nan"),
        (["--weights", "mobile", "--layout", "300w"], "invalid choice"),
    ],
)
def test_typing_errors(folder, tmp_path, more, message, capsys):
    with pytest.raises(SystemExit) as caught:
        main([*arguments(folder, tmp_path), *more])
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


def test_help_does_not_wait_for_torch():
    program = (
        "import sys\n"
        "from face.dfa.evaluate import main\n"
        "try:\n    main(['--help'])\n"
        "finally:\n    assert not {'torch', 'numpy', 'cv2'} & set(sys.modules), sorted(sys.modules)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert "--predictions" in done.stdout
