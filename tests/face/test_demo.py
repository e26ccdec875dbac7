"""The demo: its table says what came out, it removes nothing but its own folder, and a tiny one runs through."""

import json
import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from face.demo import CROPS, MODELS, format_table, main, run_demo
from face.evaluation.identification import IdentificationResult
from face.evaluation.sets import SetResult

ROOT = Path(__file__).parents[2]


def result(metrics, first_match=()):
    details = IdentificationResult(
        rank={},
        mean_ap=0.0,
        cmc=np.array([0.0]),
        first_match=np.asarray(first_match, int),
        average_precision=np.array([0.0]),
    )
    return SetResult(metrics=metrics, details=details, images=1, without_landmarks=0)


@pytest.mark.parametrize(
    ("hits", "said"), [(20, "KP-RPE helps here"), (0, "KP-RPE hurts here"), (10, "no clear difference")]
)
def test_table_says_what_came_out(hits, said):
    results = {}
    for model, found in zip(MODELS, (10, hits), strict=True):
        for crops in CROPS:
            # Which of the probes are found alternates, so that equal numbers are no equal probes.
            matches = np.full(20, 2)
            order = np.arange(20) if model == "ViT" else np.arange(20)[::-1]
            matches[order[:found]] = 1
            results[model, crops, "identification"] = result({"rank-1": 5.0 * found, "map": 7.0}, matches)
            results[model, crops, "pairs"] = result({"accuracy": 90.0})
    table = format_table(results)
    rows = [line for line in table.splitlines() if line.startswith("|")][2:]
    assert [row.split("|")[1].strip() for row in rows] == [*MODELS, "difference"] * 2
    assert [row.split("|")[4].strip() for row in rows[:3]] == ["50.00", f"{5 * hits:.2f}", f"{5 * hits - 50:+.2f}"]
    assert table.count(said) == 2
    assert "95 % interval over the 20 probes" in table


def test_folder_of_somebody_else_is_left_alone(tmp_path, capsys):
    (tmp_path / "thesis.tex").write_text("years of work")
    assert main(["--out", str(tmp_path)]) == 2
    assert "was not made by the demo" in capsys.readouterr().err
    assert (tmp_path / "thesis.tex").exists()


def test_tiny_demo_runs_through_and_again(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 1)  # no pool of processes for a few faces
    overrides = {
        "data": {"num_workers": 0},
        "model": {"settings": {"depth": 1, "embed_dim": 16}},
        "schedule": {"epochs": 1, "warmup_epochs": 0.0},
        "trainer": {"batch_size": 20},
    }
    out = tmp_path / "demo"
    tables = [run_demo(out, ROOT / "configs" / "demo" / "face", 3, 0, overrides, images=12, pairs=20) for _ in range(2)]
    assert tables[0] == tables[1] == (out / "table.md").read_text().rstrip("\n")
    assert tables[0].count("\n| ViT") == 4
    for name in ("faces.png", "roc.png", "cmc.png"):
        assert cv2.imread(str(out / name)).std() > 1
    assert len(json.loads((out / "seconds.json").read_text())) == 5
