"""`python -m face.pack`: what it says and returns."""

import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

import face.pack
from face.data import FolderSource, RecordSource, write_landmarks


@pytest.fixture
def faces(tmp_path):
    """Two identities of two images, with landmarks."""
    names = ["a/1.png", "a/2.png", "b/1.png", "b/2.png"]
    for number, name in enumerate(names):
        path = tmp_path / "faces" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), np.full((8, 8, 3), 10 * number, np.uint8))
    write_landmarks(tmp_path / "faces" / "landmarks.csv", names, np.full((4, 5, 2), 0.5))
    return tmp_path / "faces"


def run(*arguments):
    return face.pack.main([*map(str, arguments), "--workers", "1"])


def test_packed_and_unpacked(faces, tmp_path, capsys):
    assert run(faces, tmp_path / "set", "--landmarks", faces / "landmarks.csv") == 0
    assert capsys.readouterr().out == f"{tmp_path}/set: 4 images of 2 identities\n"
    names = ["ldmk_5points.csv", "property", "train.idx", "train.rec", "train.tsv"]
    assert sorted(os.listdir(tmp_path / "set")) == names
    assert run("--unpack", tmp_path / "set", tmp_path / "again", "--landmarks", tmp_path / "set/ldmk_5points.csv") == 0
    assert capsys.readouterr().out == f"{tmp_path}/again: 4 images of 2 identities\n"
    for name in ("a/1.png", "b/2.png", "landmarks.csv"):
        assert (tmp_path / "again" / name).read_bytes() == (faces / name).read_bytes()


def test_options_arrive(faces, tmp_path, capsys):
    (faces / "a" / "1.png").write_bytes(b"")
    cv2.imwrite(str(faces / "b" / "2.png"), np.zeros((9, 8, 3), np.uint8))
    options = ["--no-header", "--skip-broken", "--reencode", "jpg", "--quality", "50"]
    assert run(faces, tmp_path / "set", *options) == 0
    source = RecordSource(tmp_path / "set")
    assert source.key_of(0) == "0"
    expected = cv2.imencode(".jpg", np.full((8, 8, 3), 10, np.uint8), [cv2.IMWRITE_JPEG_QUALITY, 50])[1].tobytes()
    assert source.read_bytes(0) == expected
    out = capsys.readouterr().out
    assert f"1 image(s) that do not decode were left out, see {tmp_path}/set/skipped.txt" in out
    assert "1 image(s) have another size than the first one" in out


def test_wrong_input(faces, tmp_path, capsys):
    cases = {
        "none: no such folder": [tmp_path / "none", tmp_path / "set"],
        "train.rec: no such file": ["--unpack", faces, tmp_path / "set"],
        "quality must be from 1 to 100, got 0": [faces, tmp_path / "set", "--quality", "0"],
        "landmarks.csv: 2 row(s) of images": [faces, tmp_path / "set", "--landmarks", faces / "landmarks.csv"],
        "1.png: no bytes": [faces, tmp_path / "set"],
    }
    (faces / "b").rename(faces / "c")
    (faces / "a" / "1.png").write_bytes(b"")
    for message, arguments in cases.items():
        assert run(*arguments) == 2
        assert message in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        run(faces)


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (KeyboardInterrupt(), 130, "interrupted: nothing was written"),
        (KeyboardInterrupt(15), 143, "interrupted: nothing was written"),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed."), 1, "a worker process was killed"),
    ],
)
def test_interrupts(error, code, message, faces, tmp_path, monkeypatch, capsys):
    def stop(*arguments):
        raise error

    monkeypatch.setattr(face.pack, "pack", stop)
    assert run(faces, tmp_path / "set") == code
    assert message in capsys.readouterr().err


def test_other_errors_are_not_hidden(faces, tmp_path, monkeypatch):
    def fail(*arguments):
        raise RuntimeError("a mistake in the program")

    monkeypatch.setattr(face.pack, "pack", fail)
    with pytest.raises(RuntimeError, match="a mistake"):
        run(faces, tmp_path / "set")


def test_pairs_as_a_bin(faces, tmp_path, capsys):
    rows = ["image1,image2,same", *["a/1.png,a/2.png,1", "a/1.png,b/1.png,0"] * 10]
    (faces / "pairs.csv").write_text("\n".join(rows))
    assert run("--bin", faces, tmp_path / "lfw.bin") == 0
    assert capsys.readouterr().out == f"{tmp_path}/lfw.bin: 20 pairs of 3 images, 3 with landmarks\n"
    assert (tmp_path / "lfw.bin.csv").is_file()
    assert run("--bin", faces, tmp_path / "lfw.bin") == 2
    assert "lfw.bin: is there already" in capsys.readouterr().err
    for option in (["--unpack"], ["--skip-broken"], ["--no-header"], ["--reencode", "png"]):
        with pytest.raises(SystemExit, match="2"):
            run("--bin", faces, tmp_path / "other.bin", *option)


def test_as_a_program(faces, tmp_path):
    """From another folder."""
    arguments = [faces, tmp_path / "set", "--workers", "1"]
    root = str(Path(face.pack.__file__).parents[1])
    subprocess.run(
        [sys.executable, "-m", "face.pack", *map(str, arguments)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": root},
        check=True,
        capture_output=True,
        timeout=60,
    )
    source, records = FolderSource(faces), RecordSource(tmp_path / "set")
    assert [records.read_bytes(index) for index in range(4)] == [source.read_bytes(index) for index in range(4)]
