"""benchmark_prepare.py on a few frames."""

import importlib.util
import json
import os
from pathlib import Path

import numpy as np
import pytest

from common.runtime.arrays import save_array
from plugin.prepare.raw import read_pose, read_silhouette
from plugin.synthesize import SynthesisSettings, synthesize

PATH = Path(__file__).parents[2] / "scripts" / "benchmark_prepare.py"
SIZE = ["--subjects", "2", "--frames", "3", "--repeats", "2", "--enlarge", "2"]

spec = importlib.util.spec_from_file_location("benchmark_prepare", PATH)
script = importlib.util.module_from_spec(spec)
spec.loader.exec_module(script)


@pytest.fixture
def no_checkout(monkeypatch):
    monkeypatch.delenv("OPENGAIT_ROOT", raising=False)


def test_ours_alone(no_checkout, tmp_path, capsys):
    assert script.main([*SIZE, "--out", str(tmp_path / "prepare.json")]) == 0
    report = json.loads((tmp_path / "prepare.json").read_text())
    assert json.loads(capsys.readouterr().out) == report
    small, large = report["sets"].values()
    assert list(report["sets"]) == ["walkers", "walkers, 2 times as large"]
    assert small["frames"] == large["frames"] > 0
    assert large["mean_pixels_of_a_crop"] == 4 * small["mean_pixels_of_a_crop"]
    assert set(small["seconds"]) == {"ours"}
    assert "opengait_silhouettes_over_ours" not in small


def test_beside_opengait(capsys):
    if not os.environ.get("OPENGAIT_ROOT"):
        pytest.skip("OPENGAIT_ROOT is not set: no OpenGait checkout to compare with")
    assert script.main(SIZE) == 0
    for row in json.loads(capsys.readouterr().out)["sets"].values():
        assert row["identical_frames"] == row["frames"] > 0
        assert set(row["seconds"]) == {"ours", "opengait silhouettes", "opengait poses"}
        assert row["opengait_both_over_ours"]["min"] > row["opengait_silhouettes_over_ours"]["min"] > 0


def test_enlarged_joints_stay_on_their_pixels(tmp_path):
    raw = synthesize(SynthesisSettings(subjects=1, frames=2, train_share=1.0), tmp_path / "raw", workers=1)
    script.enlarge(raw, tmp_path / "large", 3)
    paths = sorted((raw / "2D_Silhouettes").rglob("*.png"))
    assert paths
    for path in paths:
        larger = read_silhouette(tmp_path / "large" / path.relative_to(raw))
        np.testing.assert_array_equal(larger, np.kron(read_silhouette(path), np.ones((3, 3), np.uint8)))
        place = path.relative_to(raw / "2D_Silhouettes").with_suffix(".txt")
        size, joints = read_pose(raw / "2D_Poses" / place)
        other_size, other = read_pose(tmp_path / "large" / "2D_Poses" / place)
        assert other_size == (3 * size[0], 3 * size[1])
        np.testing.assert_allclose((other[:, :2] + 0.5) / 3, joints[:, :2] + 0.5, atol=1e-3)


def test_silhouettes_that_differ_are_found(tmp_path):
    raw = tmp_path / "silhouettes" / "1" / "a" / "b"
    for folder in (raw, tmp_path / "ours/1/a/b", tmp_path / "theirs/1/a/b"):
        folder.mkdir(parents=True)
    for number in (9, 10):
        (raw / f"f{number}.png").touch()
    frames = np.arange(2 * 64 * 64, dtype=np.uint8).reshape(2, 64, 64)
    frames[1] += 1
    settings = script.PrepareSettings(silhouettes=tmp_path / "silhouettes", poses=raw, partition=raw, out=raw)
    save_array(tmp_path / "ours/1/a/b/0-silhouettes.pkl", frames)
    save_array(tmp_path / "theirs/1/a/b/b.pkl", frames[::-1].copy())  # f10 sorts before f9
    assert script.count_identical(tmp_path / "ours", tmp_path / "theirs", settings) == 2
    save_array(tmp_path / "theirs/1/a/b/b.pkl", frames)
    with pytest.raises(ValueError, match="1/a/b: silhouettes of ours and OpenGait's differ"):
        script.count_identical(tmp_path / "ours", tmp_path / "theirs", settings)


def test_wrong_input(no_checkout, monkeypatch, tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        script.main(["--frames", "0"])
    assert script.main(["--raw", str(tmp_path / "none")]) == 2
    assert "none/partition.json: partition cannot be read" in capsys.readouterr().err
    monkeypatch.setenv("OPENGAIT_ROOT", str(tmp_path))
    assert script.main(SIZE) == 2
    assert "pretreatment.py does not exist" in capsys.readouterr().err
