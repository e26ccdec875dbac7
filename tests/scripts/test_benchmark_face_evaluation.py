"""benchmark_face_evaluation.py on a thousandth of IJB-C's size."""

import importlib.util
import json
import os
from pathlib import Path

import numpy as np
import pytest

PATH = Path(__file__).parents[2] / "scripts" / "benchmark_face_evaluation.py"
SMALL = ["--share", "0.002", "--channels", "32"]

spec = importlib.util.spec_from_file_location("benchmark_face_evaluation", PATH)
script = importlib.util.module_from_spec(spec)
spec.loader.exec_module(script)


@pytest.fixture
def here(monkeypatch):
    """Jobs run in this process, so that none has to import everything anew."""

    def start(arguments):
        options = dict(zip(arguments[2::2], arguments[3::2], strict=True))
        share, channels = float(options["--share"]), int(options["--channels"])
        return script.run_job(*arguments[:2], Path(options["--data"]), share, channels)

    monkeypatch.setattr(script, "start", start)


@pytest.mark.skipif("INSIGHTFACE_ROOT" not in os.environ, reason="INSIGHTFACE_ROOT names no checkout of insightface")
def test_same_numbers_as_insightface(here, tmp_path, capsys):
    assert script.main([*SMALL, "--out", str(tmp_path / "report.json")]) == 0
    report = json.loads((tmp_path / "report.json").read_text())
    assert json.loads(capsys.readouterr().out) == report
    for row in report["evaluations"].values():
        assert row["same_numbers"]
        assert row["ours"]["printed"] == row["insightface"]["printed"]
        ratio = row["insightface"]["seconds"] / row["ours"]["seconds"]
        assert row["insightface_over_ours"]["seconds"] == pytest.approx(ratio)


def test_ours_alone(here, monkeypatch, tmp_path, capsys):
    monkeypatch.delenv("INSIGHTFACE_ROOT", raising=False)
    assert script.main([*SMALL, "--data", str(tmp_path)]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["size"] == json.loads((tmp_path / "size.json").read_text())
    assert [list(row) for row in report["evaluations"].values()] == [["ours"], ["ours"]]
    rates = [float(line.split()[1]) for line in report["evaluations"]["1:1"]["ours"]["printed"]]
    assert rates == sorted(rates)
    assert 0 < rates[0] < 100

    assert script.main([*SMALL, "--data", str(tmp_path)]) == 0  # what is there is used again
    again = json.loads(capsys.readouterr().out)
    for kind, row in again["evaluations"].items():
        assert row["ours"]["printed"] == report["evaluations"][kind]["ours"]["printed"]
    with pytest.raises(SystemExit, match="holds other sizes: expected"):
        script.main(["--share", "0.003", "--channels", "32", "--data", str(tmp_path)])


def test_other_numbers_are_an_error(monkeypatch, tmp_path, capsys):
    """A process a job; figures are those of the jobs."""
    root = tmp_path / "insightface"
    for place in script.SCRIPTS.values():
        (root / place).parent.mkdir(parents=True, exist_ok=True)
        (root / place).touch()
    monkeypatch.setenv("INSIGHTFACE_ROOT", str(root))

    def start(arguments):
        name = arguments[0]
        (tmp_path / "size.json").write_text(json.dumps(script.sizes(0.002, 32)))
        figure = {"ours": 2.0, "insightface": 8.0}.get(name)
        figures = dict.fromkeys(("seconds", "cpu_seconds", "evaluation_megabytes", "peak_megabytes"), figure)
        return {**figures, "printed": [name]}

    monkeypatch.setattr(script, "start", start)
    assert script.main([*SMALL, "--data", str(tmp_path)]) == 1
    row = json.loads(capsys.readouterr().out)["evaluations"]["1:N"]
    assert not row["same_numbers"]
    assert set(row["insightface_over_ours"].values()) == {4.0}


def test_a_process_for_each_job(tmp_path):
    settings = ["--data", str(tmp_path), *SMALL]
    assert script.start(["data", "-", *settings]) == {}
    found = script.start(["ours", "1:N", *settings])
    assert found["printed"][0].startswith("top1 = 0.")
    assert 0 <= found["evaluation_megabytes"] < found["peak_megabytes"]
    assert found["cpu_seconds"] > 0
    with pytest.raises(SystemExit, match="error: nobody 1:N ended with 1"):
        script.start(["nobody", "1:N", *settings])


def test_sizes_are_those_of_ijbc():
    assert script.sizes(1.0, 512) == {
        "images": 469375,
        "channels": 512,
        "templates": 23124,
        "gallery_1": 1772,
        "gallery_2": 1759,
        "probes": 19593,
        "genuine": 19557,
        "pairs": 15658489,
    }


def test_made_up_lists_fit(tmp_path):
    size = script.sizes(0.002, 8)
    script.make_data(tmp_path, size)
    read = script.reader(tmp_path)
    gallery, probes = read("gallery_templates"), read("probe_templates")
    ids = np.append(gallery, probes)
    assert len(set(ids)) == size["templates"] == len(np.unique(read("templates")))
    assert set(ids) == set(read("templates"))
    subject = dict(zip(ids, np.append(read("gallery_subjects"), read("probe_subjects")), strict=True))
    assert len(set(read("gallery_subjects"))) == size["gallery_1"] + size["gallery_2"]
    pairs = zip(read("p1"), read("p2"), strict=True)
    assert [int(subject[one] == subject[other]) for one, other in pairs] == read("label").tolist()
    assert read("label").sum() == size["genuine"]


@pytest.mark.parametrize("arguments", [["--share", "0"], ["--share", "1.5"], ["--channels", "0"]])
def test_wrong_options(arguments, capsys):
    with pytest.raises(SystemExit, match="2"):
        script.main(arguments)
    assert "--share must be in (0, 1]" in capsys.readouterr().err


def test_no_checkout(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("INSIGHTFACE_ROOT", str(tmp_path))
    assert script.main(SMALL) == 2
    assert "eval_ijbc.py does not exist" in capsys.readouterr().err
