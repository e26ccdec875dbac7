"""benchmark_face_step.py: nothing is timed before both sides give the same loss, and wrong input is named."""

import importlib.util
import json
import os
from pathlib import Path

import pytest

from face.losses import ArcFace

SCRIPTS = Path(__file__).parents[2] / "scripts"
CHECKOUT = os.environ.get("CVLFACE_ROOT")


@pytest.fixture(scope="module")
def script():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(SCRIPTS)
        spec = importlib.util.spec_from_file_location("benchmark_face_step", SCRIPTS / "benchmark_face_step.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        yield module


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--batch", "1"], "--batch and --classes >= 2"),
        (["--rounds", "0"], "--rounds and --threads must be >= 1"),
        (["--out", "nowhere/x.json"], "folder nowhere does not exist"),
    ],
)
def test_wrong_options(script, monkeypatch, capsys, tmp_path, arguments, problem):
    monkeypatch.setenv("CVLFACE_ROOT", str(tmp_path))
    assert script.main(arguments) == 2
    assert problem in capsys.readouterr().err


def test_a_checkout_is_needed(script, monkeypatch, capsys, tmp_path):
    monkeypatch.delenv("CVLFACE_ROOT", raising=False)
    assert script.main([]) == 2
    assert "CVLFACE_ROOT must name a checkout" in capsys.readouterr().err
    monkeypatch.setenv("CVLFACE_ROOT", str(tmp_path))
    assert script.main(["--model", "vit_tiny", "--authors-operator", "python"]) == 2
    assert "does not exist" in capsys.readouterr().err


@pytest.mark.skipif(CHECKOUT is None, reason="CVLFACE_ROOT names no CVLface checkout")
def test_both_sides_give_the_same_loss(script, capsys, monkeypatch, tmp_path):
    path = tmp_path / "step.json"
    arguments = ["--model", "vit_tiny", "--batch", "4", "--classes", "20", "--rounds", "1"]
    assert script.main([*arguments, "--authors-operator", "python", "--out", str(path)]) == 0
    report = json.loads(path.read_text())
    assert report["first_loss"]["ours"] == pytest.approx(report["first_loss"]["authors"], rel=1e-4)
    assert report["authors_over_ours"]["median"] > 0

    monkeypatch.setattr(script, "AdaFace", lambda margin, h: ArcFace(margin))  # ours alone
    assert script.main([*arguments, "--authors-operator", "python"]) == 2
    assert "the losses of the first step differ" in capsys.readouterr().err
