"""benchmark_evaluation.py on a made-up test set of a few sequences."""

import importlib.util
import json
from pathlib import Path

import pytest

PATH = Path(__file__).parents[2] / "scripts" / "benchmark_evaluation.py"
SIZE = ["--size", "4", "20", "3", "2", "--repeats", "2", "--threads", "1", "--device", "cpu"]

spec = importlib.util.spec_from_file_location("benchmark_evaluation", PATH)
script = importlib.util.module_from_spec(spec)
spec.loader.exec_module(script)


@pytest.fixture(autouse=True)
def no_checkout(monkeypatch):
    monkeypatch.delenv("OPENGAIT_ROOT", raising=False)


def test_report(tmp_path, capsys):
    assert script.main([*SIZE, "--out", str(tmp_path / "evaluation.json")]) == 0
    report = json.loads((tmp_path / "evaluation.json").read_text())
    assert json.loads(capsys.readouterr().out) == report
    assert report["size"] == {"probes": 4, "gallery": 20, "channels": 3, "parts": 2}
    assert set(report["scores_percent"]["ours"]) == {"Rank-1", "mAP", "mINP"}
    seconds = report["seconds"]["ours"]
    assert set(seconds) == {"distances", "metrics", "total"}
    assert 0 < seconds["distances"]["min"] <= seconds["distances"]["median"] < seconds["total"]["max"]
    assert "opengait_over_ours" not in report


def test_beside_another(monkeypatch, capsys):
    """Each step meets what its own first step found; the ratios are of ranking and of whole evaluations."""
    other = (lambda probe, gallery: len(gallery), lambda distances, *labels: {"mAP": float(distances)})
    monkeypatch.setattr(script, "theirs", lambda root: {"opengait": other})
    assert script.main(SIZE) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["scores_percent"]["opengait"] == {"mAP": 20.0}
    for name, part in (("ranking alone", "metrics"), ("whole evaluation", "total")):
        theirs, ours = (report["seconds"][which][part] for which in ("opengait", "ours"))
        ratio = report["opengait_over_ours"][name]
        assert theirs["min"] / ours["max"] <= ratio["median"] <= theirs["max"] / ours["min"]


def test_no_checkout(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("OPENGAIT_ROOT", str(tmp_path))
    assert script.main(SIZE) == 2
    assert "metric.py does not exist" in capsys.readouterr().err
