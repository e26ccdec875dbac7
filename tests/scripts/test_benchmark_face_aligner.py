"""benchmark_face_aligner.py: nothing is timed before both sides give the same, and wrong input is named."""

import importlib.util
import json
import os
from pathlib import Path

import pytest
import torch

from face.dfa.aligner import AlignerSettings

PATH = Path(__file__).parents[2] / "scripts" / "benchmark_face_aligner.py"
CHECKOUT = os.environ.get("CVLFACE_ROOT")

_spec = importlib.util.spec_from_file_location("benchmark_face_aligner", PATH)
script = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(script)


@pytest.fixture(autouse=True)
def same_threads():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--batch", "0"], "--batch, --rounds and --threads must be >= 1"),
        (["--out", "nowhere/x.json"], "folder nowhere does not exist"),
    ],
)
def test_wrong_options(monkeypatch, capsys, tmp_path, arguments, problem):
    monkeypatch.setenv("CVLFACE_ROOT", str(tmp_path))
    assert script.main(arguments) == 2
    assert problem in capsys.readouterr().err


def test_a_checkout_and_scikit_image_are_needed(monkeypatch, capsys, tmp_path):
    monkeypatch.delenv("CVLFACE_ROOT", raising=False)
    assert script.main([]) == 2
    assert "CVLFACE_ROOT must name a checkout" in capsys.readouterr().err
    monkeypatch.setenv("CVLFACE_ROOT", str(tmp_path))
    monkeypatch.setattr(script.importlib.util, "find_spec", lambda name: None)
    assert script.main([]) == 2
    assert "scikit-image must be installed" in capsys.readouterr().err
    monkeypatch.setattr(script.importlib.util, "find_spec", lambda name: name)
    assert script.main([]) == 2
    assert "does not exist or has no aligner" in capsys.readouterr().err


@pytest.mark.skipif(CHECKOUT is None, reason="CVLFACE_ROOT names no CVLface checkout")
def test_beside_the_authors(monkeypatch, capsys, tmp_path):
    pytest.importorskip("skimage")
    path = tmp_path / "aligner.json"
    arguments = ["--batch", "2", "--rounds", "1", "--threads", "1"]
    assert script.main([*arguments, "--out", str(path)]) == 0
    report = json.loads(path.read_text())
    assert max(report["largest_difference"].values()) < 1e-4
    assert report["network"]["gflop"] == pytest.approx(0.14, abs=0.005)
    assert report["network"]["parameters"] == pytest.approx(0.49e6, rel=0.01)
    for row in report["cases"].values():
        assert row["authors_over_ours"]["median"] > 0

    monkeypatch.setattr(script, "AS_THEIRS", AlignerSettings())
    assert script.main(arguments) == 2
    assert "the two sides differ by" in capsys.readouterr().err
