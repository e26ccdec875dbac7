"""Tables of the landmarks of whole sets: RecordIO and folders, padding, broken images, resuming, several processes."""

import json
import os
import shutil
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from face.data import FolderSource, RecordSource, open_source, read_landmarks
from face.data.packing import pack
from face.dfa.landmark_cache import CacheSettings, fill_landmark_cache, parts_folder
from face.landmarks import main

COUNT = 11
SMALL = CacheSettings(batch_size=2, num_workers=0, block=4, picture=False)


@pytest.fixture
def truth(dot_points):
    """[n, 5, 2]; the last reach to the rim of the image."""
    shifts = np.random.default_rng(0).uniform(-0.12, 0.12, (COUNT, 1, 2))
    return dot_points + shifts


@pytest.fixture
def faces(tmp_path, dots, truth):
    """A folder for each of three identities; one image has another size."""
    root = tmp_path / "faces"
    for number, points in enumerate(truth):
        path = root / f"id{number // 4}" / f"{number:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), dots((60, 60) if number != 5 else (80, 64), points)[..., ::-1])
    return root


@pytest.fixture(autouse=True)
def weights(monkeypatch, dot_aligner):
    """Any weights are those of an aligner that finds dots."""

    def load(source, settings=None, inference=True, device="cpu"):
        return dot_aligner(padding_ratio=settings.padding_ratio)

    monkeypatch.setattr("face.dfa.aligner.load_aligner", load)


def find(source, out, *arguments):
    return main(["--rec", str(source), "--out", str(out), "--weights", "dots", "--workers", "0", *arguments])


def test_a_folder_and_its_records(faces, tmp_path, truth, capsys, dot_network):
    pack(FolderSource(faces), tmp_path / "records")
    for source, out in ((faces, tmp_path / "of-folder.csv"), (tmp_path / "records", tmp_path / "of-records.csv")):
        assert find(source, out) == 0
        opened = open_source(source)
        found = read_landmarks(out, opened)
        assert found.found.all()
        np.testing.assert_allclose(found.points, truth, atol=0.01)
        assert (found.scores > 0.5).all()
        assert (found.scores < 1).all()
        assert not parts_folder(out).exists()
        record = json.loads(out.with_name(f"{out.name}.json").read_text())
        assert (record["images"], record["missing"], record["aligner"]["padding_ratio"]) == (COUNT, 0, 0.215)
        picture = cv2.imread(str(out.with_name(f"{out.name}.png")))
        assert picture.shape[1] > 8 * 112
    assert f"landmarks of {COUNT} of {COUNT} images" in capsys.readouterr().out
    with_name = [line.split(",")[0] for line in (tmp_path / "of-folder.csv").read_text().splitlines()]
    assert with_name[:3] == ["image", "id0/00.png", "id0/01.png"]
    assert find(faces, tmp_path / "of-folder.csv") == 2
    assert "of-folder.csv: exists already; remove it" in capsys.readouterr().err
    assert len(FolderSource(faces)) == COUNT  # nothing there that would pass for an identity


def test_the_table_may_stand_in_the_set(faces):
    assert find(faces, faces / "landmarks.csv", "--padding", "0") == 0
    assert len(FolderSource(faces)) == COUNT
    assert json.loads((faces / "landmarks.csv.json").read_text())["aligner"]["padding_ratio"] == 0


def test_images_that_do_not_decode(faces, tmp_path, capsys):
    (faces / "id1" / "06.png").write_bytes(b"no image")
    out = tmp_path / "out.csv"
    assert find(faces, out, "--cvlface") == 2
    assert "CVLface's table needs all images, 1 of 11 do not decode, first: " in capsys.readouterr().err
    assert not out.exists()
    assert find(faces, out) == 0
    found = read_landmarks(out, FolderSource(faces))
    assert np.flatnonzero(~found.found).tolist() == [6]
    said = capsys.readouterr()
    assert "landmarks of 10 of 11 images" in said.out
    assert f"1 image(s) do not decode and have no row, see {out}.missing.txt: {faces}/id1/06.png: 8 bytes" in said.err
    assert (tmp_path / "out.csv.missing.txt").read_text().startswith(f"{faces}/id1/06.png: 8 bytes, beginning")


@pytest.mark.skipif(os.name == "nt", reason="no such names there")
def test_names_that_the_table_cannot_have_come_up_first(faces, tmp_path, capsys):
    (faces / "id0" / "two\nlines.png").write_bytes((faces / "id0" / "00.png").read_bytes())
    assert find(faces, tmp_path / "out.csv") == 2
    assert rf"{faces}: a name has a line break: 'id0/two\nlines.png'" in capsys.readouterr().err
    assert find(faces, tmp_path / "ldmk_5points.csv", "--cvlface") == 0  # which has none


def test_an_image_that_was_mended(faces, tmp_path, dot_aligner):
    """Only its block is looked at again."""
    mended = faces / "id1" / "06.png"
    content = mended.read_bytes()
    mended.write_bytes(b"no image")
    settings = replace(SMALL, cvlface=True)
    with pytest.raises(ValueError, match="mend them, or run without --cvlface"):
        fill_landmark_cache(FolderSource(faces), tmp_path / "out.csv", Counting(dot_aligner()), settings)
    mended.write_bytes(content)
    again = Counting(dot_aligner())
    assert fill_landmark_cache(FolderSource(faces), tmp_path / "out.csv", again, settings).missing == []
    assert again.seen == 4


def test_no_image_that_decodes(tmp_path, capsys):
    (tmp_path / "faces" / "a").mkdir(parents=True)
    (tmp_path / "faces" / "a" / "1.png").write_bytes(b"no image")
    assert find(tmp_path / "faces", tmp_path / "out.csv") == 2
    assert "none of its 1 images decodes" in capsys.readouterr().err


def test_cvlfaces_table(faces, tmp_path, truth):
    pack(FolderSource(faces), tmp_path / "records")
    out = tmp_path / "records" / "ldmk_5points.csv"
    assert find(tmp_path / "records", out, "--cvlface") == 0
    assert out.read_text().splitlines()[0] == "idx," + ",".join(f"ldmk_{place}" for place in range(10))
    found = read_landmarks(out, RecordSource(tmp_path / "records"))
    np.testing.assert_allclose(found.points, truth, atol=0.01)


class Counting(torch.nn.Module):
    """An aligner that counts, and is stopped after so many images."""

    def __init__(self, aligner, images=1000):
        super().__init__()
        self.aligner, self.left, self.seen = aligner, images, 0
        self.settings, self.network = aligner.settings, aligner.network

    def forward(self, images):
        if self.left < len(images):
            raise KeyboardInterrupt
        self.left -= len(images)
        self.seen += len(images)
        return self.aligner(images)


def test_an_interrupted_run_goes_on(faces, tmp_path, dot_aligner):
    source, out, whole = FolderSource(faces), tmp_path / "out.csv", tmp_path / "whole.csv"
    report = fill_landmark_cache(source, whole, Counting(dot_aligner()), SMALL)
    assert (report.images, report.missing, report.degenerate) == (COUNT, [], 0)
    with pytest.raises(KeyboardInterrupt):
        fill_landmark_cache(source, out, Counting(dot_aligner(), 7), SMALL)
    assert not out.exists()
    parts = parts_folder(out)
    assert sorted(path.name for path in parts.glob("*.npz")) == ["0000000.npz"]

    # Killed while it wrote a block.
    (parts / ".0000001.npz.0123.tmp").write_bytes(b"half")
    shutil.copy(parts / "0000000.npz", parts / "0000002.npz")
    with (parts / "0000002.npz").open("r+b") as file:
        file.truncate(200)
    again = Counting(dot_aligner())
    fill_landmark_cache(source, out, again, SMALL)
    assert again.seen == 7
    assert out.read_text() == whole.read_text()


def test_what_was_begun_otherwise_is_not_gone_on_with(faces, tmp_path, dot_aligner):
    source, out = FolderSource(faces), tmp_path / "out.csv"
    with pytest.raises(KeyboardInterrupt):
        fill_landmark_cache(source, out, Counting(dot_aligner(), 7), SMALL)
    with pytest.raises(ValueError, match=r"what is there was begun with aligner \{.*0\.0.*\} \(here .*0\.3"):
        fill_landmark_cache(source, out, Counting(dot_aligner(padding_ratio=0.3)), SMALL)
    other = dot_aligner()
    with torch.no_grad():
        other.network.sharpness += 1
    with pytest.raises(ValueError, match=r"begun with weights_crc32 \d+ \(here \d+\); remove it to begin anew"):
        fill_landmark_cache(source, out, Counting(other), SMALL)
    (faces / "id0" / "new.png").write_bytes((faces / "id0" / "00.png").read_bytes())
    with pytest.raises(ValueError, match=r"begun with images 11 \(here 12\)"):
        fill_landmark_cache(FolderSource(faces), out, Counting(dot_aligner()), SMALL)


def test_a_damaged_block_is_named(faces, tmp_path, dot_aligner, monkeypatch):
    out = tmp_path / "out.csv"
    with pytest.raises(KeyboardInterrupt):
        fill_landmark_cache(FolderSource(faces), out, Counting(dot_aligner(), 7), SMALL)
    part = parts_folder(out) / "0000000.npz"
    content = bytearray(part.read_bytes())
    content[content.index(b"NUMPY") + 130] ^= 0xFF
    part.write_bytes(content)
    with pytest.raises(ValueError, match=r"0000000\.npz: damaged \(.*\); remove it and run again"):
        fill_landmark_cache(FolderSource(faces), out, Counting(dot_aligner()), SMALL)
    part.unlink()
    again = Counting(dot_aligner())
    fill_landmark_cache(FolderSource(faces), out, again, SMALL)
    assert again.seen == 4


def test_degenerate_landmarks_are_counted(faces, tmp_path, capsys):
    cv2.imwrite(str(faces / "id0" / "blank.png"), np.full((60, 60, 3), 128, np.uint8))
    assert find(faces, tmp_path / "out.csv", "--padding", "0") == 0
    assert "1 image(s) have landmarks that would give no alignment" in capsys.readouterr().err
    assert read_landmarks(tmp_path / "out.csv", FolderSource(faces)).found.all()


def test_refuses(faces, tmp_path, capsys):
    assert find(tmp_path / "nowhere", tmp_path / "out.csv") == 2
    assert "error: " in capsys.readouterr().err
    assert find(faces, tmp_path / "nowhere" / "out.csv") == 2
    assert "nowhere: no such folder" in capsys.readouterr().err
    assert find(faces, tmp_path / "out.csv", "--batch-size", "0") == 2
    assert "batch_size must be >= 1, got 0" in capsys.readouterr().err
    assert find(faces, tmp_path / "out.csv", "--device", "cude") == 2
    assert "--device cude: " in capsys.readouterr().err


PROCESSES = """
import sys, torch
from pathlib import Path
from common.runtime.distribution import make_accelerator
from face.data import FolderSource
from face.dfa.aligner import AlignerSettings, FaceAligner
from face.dfa.landmark_cache import CacheSettings, fill_landmark_cache
from face.dfa.pretrained import load_dfa
from face.landmarks import main

accelerator = make_accelerator("fp32")
settings = CacheSettings(batch_size=2, num_workers=0, block=4, picture=False)
weights, faces, out, broken, already, commanded = map(Path, sys.argv[1:])
aligner = FaceAligner(load_dfa(weights), AlignerSettings(padding_ratio=0.215)).eval()
report = fill_landmark_cache(FolderSource(faces), out, aligner, settings)
assert (report.images, len(report.missing)) == (11, 1), report
for path, source in ((broken, faces), (already, faces / "nowhere")):
    try:
        fill_landmark_cache(FolderSource(faces), path, aligner, settings)
    except (ValueError, OSError) as error:
        print(f"{accelerator.process_index} {type(error).__name__}: {error}", flush=True)
options = ["--batch-size", "2", "--workers", "1", "--block", "4"]
sys.exit(main(["--rec", str(faces), "--out", str(commanded), "--weights", str(weights), *options]))
"""


def test_any_number_of_processes(faces, tmp_path, torchrun):
    """Three blocks: two processes go on where one was stopped, and say the same of what is wrong."""
    from face.dfa.aligner import AlignerSettings, FaceAligner
    from face.dfa.pretrained import create_dfa, load_dfa, save_dfa

    (faces / "id1" / "06.png").write_bytes(b"no image")
    torch.manual_seed(0)
    save_dfa(create_dfa("dfa_mobilenet", image_hw=(64, 64)), tmp_path / "dfa")
    aligner = FaceAligner(load_dfa(tmp_path / "dfa"), AlignerSettings(padding_ratio=0.215)).eval()
    source, out, whole = FolderSource(faces), tmp_path / "out.csv", tmp_path / "whole.csv"
    fill_landmark_cache(source, whole, aligner, SMALL)
    with pytest.raises(KeyboardInterrupt):
        fill_landmark_cache(source, out, Counting(aligner, 5), SMALL)
    assert len(list(parts_folder(out).glob("*.npz"))) == 1
    broken = tmp_path / "broken.csv"
    parts_folder(broken).mkdir()
    (parts_folder(broken) / "run.json").write_text('{"images": 3}')
    script = tmp_path / "processes.py"
    script.write_text(PROCESSES)
    commanded = tmp_path / "commanded.csv"
    process = torchrun(script, tmp_path / "dfa", faces, out, broken, whole, commanded)
    said, err = process.finish()
    assert process.returncode == 0, err
    for rank in "01":
        assert f"{rank} ValueError: {parts_folder(broken)}: what is there was begun with images 3 (here 11)" in said
        assert f"{rank} FileExistsError: {whole}: exists already" in said
    assert f"{commanded}: landmarks of 10 of 11 images" in said
    assert said.count("landmarks of 10") == 1  # the first process speaks for all
    one = read_landmarks(whole, source)
    for path in (out, commanded):
        two = read_landmarks(path, source)
        np.testing.assert_allclose(two.points, one.points, atol=5e-6)
        np.testing.assert_allclose(two.scores, one.scores, atol=5e-6)
        assert two.found.tolist() == one.found.tolist()
        missing = path.with_name(f"{path.name}.missing.txt").read_text()
        assert missing == whole.with_name("whole.csv.missing.txt").read_text()
