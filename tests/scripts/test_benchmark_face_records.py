"""benchmark_face_records.py on a few images."""

import importlib.util
import json
from pathlib import Path

import pytest

from face.data import open_source
from face.data.records.index import read_index
from face.data.records.reading import RecordFile

PATH = Path(__file__).parents[2] / "scripts" / "benchmark_face_records.py"

spec = importlib.util.spec_from_file_location("benchmark_face_records", PATH)
script = importlib.util.module_from_spec(spec)
spec.loader.exec_module(script)


def test_report(tmp_path, capsys):
    arguments = ["--images", "60", "--labels", "70", "--workers", "1", "2", "--repeats", "2"]
    assert script.main([*arguments, "--out", str(tmp_path / "report.json")]) == 0
    report = json.loads((tmp_path / "report.json").read_text())
    assert json.loads(capsys.readouterr().out) == report
    assert report["images"] == 60
    assert 3000 < report["mean_bytes_of_a_record"] < 8000
    assert len(report["reading"]["microseconds_an_image"]) == 8
    assert set(report["reading"]["folder_over_records"]) == {"bytes", "decoded"}
    assert set(report["loading"]["folder_over_records"]) == {"1 worker(s)", "2 worker(s)"}
    assert list(report["loading"]["speed_up_of_records"]) == ["2 over 1"]
    assert report["opening"]["records"] == 70
    assert report["opening"]["one_by_one_over_labels"]["min"] > 0


def test_all_read_the_same(tmp_path):
    """The plain loops are what they are compared with only if they find the same."""
    folder, records = script.make_set(tmp_path, 60)
    images = [records.read_bytes(index) for index in range(60)]
    assert list(script.read_plainly(records.root / "train.rec")) == images
    assert folder.labels.tolist() == records.labels.tolist() == [0] * 50 + [1] * 10
    script.make_heads(tmp_path / "heads", 120)
    source, index = open_source(tmp_path / "heads"), read_index(tmp_path / "heads" / "train.idx")
    assert script.scan_one_by_one(RecordFile(tmp_path / "heads" / "train.rec"), index) == source.labels.tolist()
    pairs = dict(zip(index.keys.tolist(), index.offsets.tolist(), strict=True))
    assert script.read_index_by_lines(tmp_path / "heads" / "train.idx") == pairs


def test_wrong_input():
    for option in ("--images", "--labels", "--repeats", "--workers"):
        with pytest.raises(SystemExit, match="2"):
            script.main([option, "0"])
