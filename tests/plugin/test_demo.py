"""The demo: its table is honest about noise, it removes nothing but its own folder, and a tiny one runs through."""

import json
import os
from pathlib import Path

import cv2
import numpy as np
import pytest

import plugin.prepare.run
from common.runtime.settings import merge
from common.runtime.workers import work_all
from plugin.demo import METRICS, MODELS, format_table, main, run_demo
from plugin.evaluation import RetrievalResult
from plugin.runtime.runner import TestResult

ROOT = Path(__file__).parents[2]


def result(average_precision):
    average_precision = np.asarray(average_precision, float)
    values = [10.0, 20.0, 30.0, average_precision.mean(), 5.0]
    details = RetrievalResult(
        rank={},
        mean_ap=average_precision.mean(),
        mean_inp=5.0,
        cmc=np.array([10.0]),
        average_precision=average_precision,
        first_match=np.ones(len(average_precision), int),
        probes_without_match=0,
    )
    metrics = {f"scalar/test_accuracy/{name}": value for name, value in zip(METRICS, values, strict=True)}
    return TestResult(metrics=metrics, details=details, path=Path("none"))


@pytest.mark.parametrize(
    ("new", "verdict"),
    [
        ([30.0] * 20, "KP-RPE helps here"),
        ([10.0] * 20, "KP-RPE hurts here"),
        ([10.0, 30.0] * 10, "no clear difference"),
    ],
)
def test_table_says_what_came_out(new, verdict):
    baseline, kprpe = MODELS
    table = format_table({(baseline, "clean"): result([20.0] * 20), (kprpe, "clean"): result(new)})
    rows = [line for line in table.splitlines() if line.startswith("|")][2:]
    assert [row.split("|")[1].strip() for row in rows] == [baseline, kprpe, "difference"]
    assert [row.split("|")[6].strip() for row in rows] == ["20.00", f"{np.mean(new):.2f}", f"{np.mean(new) - 20:+.2f}"]
    assert verdict in table


def test_folder_of_somebody_else_is_left_alone(tmp_path, capsys):
    (tmp_path / "thesis.tex").write_text("years of work")
    assert main(["--out", str(tmp_path)]) == 2
    assert "was not made by the demo" in capsys.readouterr().err
    assert (tmp_path / "thesis.tex").exists()


def test_tiny_demo_runs_through_and_again(tmp_path, monkeypatch):
    # No pools of processes for a few walkers.
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    monkeypatch.setattr(plugin.prepare.run, "work_all", lambda work, tasks, workers: work_all(work, tasks, 1))
    overrides = {
        "data_cfg": {"num_workers": 0},
        "trainer_cfg": {
            "total_iter": 2,
            "sampler": {"batch_size": [2, 2], "frames_num_fixed": 2, "frames_skip_num": 0},
        },
        "evaluator_cfg": {"sampler": {"frames_all_limit": 2}},
    }
    out = tmp_path / "demo"
    tables = [run_demo(out, ROOT / "configs" / "demo", 5, 0, merge({}, overrides)) for _ in range(2)]
    assert tables[0] == tables[1] == (out / "table.md").read_text().rstrip("\n")
    assert tables[0].count("\n| SwinGait-2D") == 4
    for name in ("sequences.png", "cmc.png"):
        assert cv2.imread(str(out / name)).std() > 1
    assert len(list((out / "output").rglob("results/*.json"))) == 4
    assert len(json.loads((out / "seconds.json").read_text())) == 8
