"""A folder of pairs as a `.bin` file is the same set."""

import csv
import os
import pickle

import numpy as np
import pytest

from face.data import write_landmarks
from face.evaluation.bin_packing import pack_bin
from face.evaluation.pairs import open_pairs


@pytest.fixture
def folder(photos, points):
    """Twenty pairs of eight images, landmarks of all but one."""
    root = photos(people=4, each=2)
    names = sorted(str(path.relative_to(root)) for path in root.glob("*/*.png"))
    with (root / "pairs.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image1", "image2", "same"])
        for number in range(20):
            person = 2 * (number // 2 % 4)
            other = person + 1 if number % 2 == 0 else (person + 3) % 8
            writer.writerow([names[person], names[other], int(number % 2 == 0)])
    marks = np.stack([points + number / 1000 for number in range(8)])
    write_landmarks(root / "landmarks.csv", names[1:], marks[1:], np.linspace(0.5, 1, 7))
    return root


def test_the_same_set(folder, tmp_path):
    out = tmp_path / "set.bin"
    assert pack_bin(folder, out) == (20, 8, 7)
    before, after = open_pairs(folder), open_pairs(out)
    assert after.same.tolist() == before.same.tolist()
    for pair, other in zip(before.pairs.ravel(), after.pairs.ravel(), strict=True):
        assert before.images.read_bytes(int(pair)) == after.images.read_bytes(int(other))
        np.testing.assert_array_equal(before.landmarks.points[pair], after.landmarks.points[other])
        assert before.landmarks.scores[pair] == after.landmarks.scores[other]
    with out.open("rb") as file:  # as insightface's load_bin does
        images, same = pickle.load(file)
    assert (len(images), same) == (40, before.same.tolist())


def test_without_landmarks(folder, tmp_path):
    (folder / "landmarks.csv").unlink()
    assert pack_bin(folder / "pairs.csv", tmp_path / "set.bin").with_landmarks == 0
    assert not (tmp_path / "set.bin.csv").exists()


def test_refuses_and_leaves_nothing(folder, tmp_path, monkeypatch):
    def refused(error, match, out="set.bin", source=folder):
        with pytest.raises(error, match=match):
            pack_bin(source, tmp_path / out)
        assert not [name for name in os.listdir(tmp_path) if ".bin" in name and name != "old.bin"]

    refused(ValueError, "expected a name that ends in .bin", "set")
    refused(FileNotFoundError, "none: no such folder", "none/set.bin")
    refused(FileNotFoundError, "nowhere: no such file or folder", source=tmp_path / "nowhere")
    (tmp_path / "old.bin").touch()
    refused(FileExistsError, r"old\.bin: is there already", "old.bin")
    refused(ValueError, "expected a folder with pairs", source=tmp_path / "old.bin")
    image = folder / "person1/person1_0002.png"
    image.write_bytes(b"no image")
    refused(ValueError, "1 of 8 images do not decode, first: person1/person1_0002.png")
    image.write_bytes((folder / "person1/person1_0001.png").read_bytes())

    def full(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr("face.evaluation.bin_packing.write_bin", full)
    refused(OSError, "no space")


def test_other_folds_are_refused(photos, tmp_path):
    root = photos(people=2, each=3)
    lines = ["2 1", "person0 1 2", "person0 1 person1 1", "person1 1 2", "person0 2 person1 2"]
    (root / "pairs.txt").write_text("\n".join(lines))
    with pytest.raises(ValueError, match="in 10 folds, these are in 2"):
        pack_bin(root, tmp_path / "set.bin")
