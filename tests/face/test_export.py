"""The command line: from saved weights to an ONNX file, and its errors."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from face.export import main
from face.models.pretrained import save_pretrained
from face.models.registry import create_model


@pytest.fixture
def folder(tmp_path):
    save_pretrained(create_model("iresnet18", image_hw=(16, 16), width=2, depths=(1, 1, 1, 1)), tmp_path / "weights")
    return tmp_path / "weights"


def test_passes_its_options_on(folder, tmp_path, capsys, monkeypatch):
    asked = {}
    monkeypatch.setattr(
        "face.models.export.export_onnx", lambda model, path, **options: asked.update(options, path=path) or 1e-7
    )
    assert main(["--weights", str(folder), "--out", str(tmp_path / "a.onnx"), "--batch", "4", "--visibility"]) == 0
    assert asked == {"path": tmp_path / "a.onnx", "batch": 4, "visibility": True}
    assert capsys.readouterr().out.endswith("within 1.0e-07 of PyTorch\n")


@pytest.mark.slow
def test_writes_a_file(folder, tmp_path, capsys):
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    assert main(["--weights", str(folder), "--out", str(tmp_path / "a.onnx")]) == 0
    out = capsys.readouterr().out.strip().splitlines()[-1]
    assert out.startswith(f"{tmp_path / 'a.onnx'}: iresnet18 of {folder / 'model.safetensors'} (weights of RGB")
    assert (tmp_path / "a.onnx").stat().st_size > 1000


def test_errors_are_one_line(folder, tmp_path, capsys):
    assert main(["--weights", str(tmp_path / "none.pt"), "--out", str(tmp_path / "a.onnx")]) == 2
    assert capsys.readouterr().err == f"error: {tmp_path / 'none.pt'}: no such file or folder\n"
    assert main(["--weights", str(folder), "--out", str(tmp_path / "a.onnx"), "--colour-order", "BGR"]) == 2
    assert "the model takes RGB, colour_order= says BGR" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["--weights", str(folder), "--out", str(tmp_path / "a.onnx"), "--batch", "many"])


def test_irpe_in_a_process_that_has_run_no_model_yet(tmp_path):
    """Its tables must not be made for the first time within the tracing."""
    pytest.importorskip("onnxruntime")
    size = {"image_hw": (16, 16), "patch_hw": (8, 8), "embed_dim": 8, "depth": 1, "num_heads": 2, "num_features": 4}
    save_pretrained(create_model("vit_tiny", position_bias="irpe", irpe_on="qkv", **size), tmp_path / "weights")
    done = subprocess.run(
        [sys.executable, "-m", "face.export", "--weights", tmp_path / "weights", "--out", tmp_path / "a.onnx"],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "a.onnx").is_file()


def test_what_the_exporter_cannot_do_is_one_line(folder, tmp_path, capsys, monkeypatch):
    def fail(*arguments, **options):
        raise RuntimeError("an operator is missing\nand much more")

    monkeypatch.setattr("face.models.export.export_onnx", fail)
    assert main(["--weights", str(folder), "--out", str(tmp_path / "a.onnx")]) == 2
    assert capsys.readouterr().err.strip().endswith("torch cannot export it: an operator is missing")
