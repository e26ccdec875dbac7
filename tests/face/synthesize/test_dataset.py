"""Files on disk: what the readers make of them, the same bytes every time, and refusals."""

import csv
import json
import os
import signal
import sys
from pathlib import Path

import numpy as np
import pytest

from common.keypoints import fractions_to_pixels
from face.data import open_source, read_landmarks
from face.evaluation.bins import read_bin
from face.evaluation.galleries import open_gallery
from face.evaluation.pairs import open_pairs
from face.reference import reference_landmarks
from face.synthesize import Split, SynthesisSettings, crop_scene, main, render_scene, synthesize

SMALL = {
    "identities": 3,
    "images_per_identity": 2,
    "test_identities": 4,
    "test_images_per_identity": 3,
    "pairs": 20,
    "crop_size": 48,
    "train_crops": "both",
}


def contents(folder: Path) -> dict[str, bytes]:
    """Every file's bytes but those of hidden ones, such as readers keep beside the records."""
    files = [path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def table(path: Path) -> list[list[str]]:
    with path.open(newline="") as file:
        return list(csv.reader(file))


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return synthesize(SynthesisSettings(**SMALL), tmp_path_factory.mktemp("faces") / "new" / "set", workers=1)


def test_layout(written):
    assert {path.name for path in written.iterdir()} == {"train", "records", "test", "settings.json"}
    assert {path.name for path in (written / "train").iterdir()} == {
        *(f"train{number:05d}" for number in range(3)),
        "landmarks.csv",
    }
    expected = {"aligned", "unaligned", "aligned.bin", "aligned.bin.csv", "unaligned.bin", "unaligned.bin.csv"}
    assert {path.name for path in (written / "test").iterdir()} == expected
    for kind in ("aligned", "unaligned"):
        found = {path.name for path in (written / "test" / kind).iterdir()}
        tables = {"landmarks.csv", "pairs.csv", "gallery.csv", "probe.csv"}
        assert found == {*(f"test{number:05d}" for number in range(4)), *tables}
        assert len(list((written / "test" / kind).rglob("*.png"))) == 4 * 3


def test_training_images_and_landmarks_by_their_reader(written):
    source = open_source(written / "train")
    landmarks = read_landmarks(written / "train" / "landmarks.csv", source)
    assert source.num_classes == 3
    assert np.bincount(source.labels).tolist() == [4, 4, 4]
    assert landmarks.found.all()
    settings = SynthesisSettings(**SMALL)
    for index in range(len(source)):
        image, kind = source.name_of(index).removesuffix(".jpg").split("/")[1].split("_")
        identity = int(source.labels[index])
        scene = render_scene(settings, Split.TRAIN, identity, int(image))
        crop = crop_scene(settings, scene, kind, Split.TRAIN, identity, int(image))
        np.testing.assert_allclose(landmarks.points[index], crop.landmarks, atol=1e-6)
        assert np.abs(source.read(index).astype(int) - crop.image).mean() < 6  # JPEG; another image is off by tens


def test_records_are_the_same_images(written):
    folders, records = open_source(written / "train"), open_source(written / "records")
    assert len(records) == len(folders)
    np.testing.assert_array_equal(records.labels, folders.labels)
    for index in range(len(records)):
        assert records.read_bytes(index) == folders.read_bytes(index)
    points = read_landmarks(written / "records" / "ldmk_5points.csv", records).points
    np.testing.assert_array_equal(points, read_landmarks(written / "train" / "landmarks.csv", folders).points)
    assert (written / "records" / "property").read_text().strip() == "3,48,48"


@pytest.mark.parametrize("kind", ["aligned", "unaligned"])
def test_pairs_by_their_reader(written, kind):
    folder, packed = open_pairs(written / "test" / kind), open_pairs(written / "test" / f"{kind}.bin")
    assert folder.same.reshape(10, 2).sum(axis=1).tolist() == [1] * 10
    rows = table(written / "test" / kind / "pairs.csv")[1:]
    assert [first.split("/")[0] == second.split("/")[0] for first, second, _ in rows] == folder.same.tolist()
    np.testing.assert_array_equal(packed.same, folder.same)
    for mine, theirs in zip(packed.pairs.ravel(), folder.pairs.ravel(), strict=True):
        assert packed.images.read_bytes(mine) == folder.images.read_bytes(theirs)
        np.testing.assert_array_equal(packed.landmarks.points[mine], folder.landmarks.points[theirs])
    assert len(read_bin(written / "test" / f"{kind}.bin").images) == 40


@pytest.mark.parametrize("kind", ["aligned", "unaligned"])
def test_gallery_by_its_reader(written, kind):
    gallery = open_gallery(written / "test" / kind)
    assert sorted(gallery.gallery_labels) == [f"test{number:05d}" for number in range(4)]
    assert len(gallery.probe_labels) == 4 * 2
    assert gallery.landmarks.found.all()


def test_aligned_ones_are_at_the_reference_and_the_others_are_not(written):
    off = {}
    for kind in ("aligned", "unaligned"):
        points = open_gallery(written / "test" / kind).landmarks.points
        pixels = fractions_to_pixels(points.astype(float), (112, 112))
        off[kind] = np.linalg.norm(pixels - reference_landmarks(), axis=-1).mean()
    assert off["aligned"] < 6
    assert off["unaligned"] > 8


def test_settings_file_says_what_it_is(written):
    record = json.loads((written / "settings.json").read_text())
    assert SynthesisSettings(**record["settings"]) == SynthesisSettings(**SMALL)
    assert record["complete"] is True
    assert "nothing about real faces" in record["note"]


def test_same_bytes_whatever_the_number_of_processes(written, tmp_path):
    synthesize(SynthesisSettings(**SMALL), tmp_path / "two", workers=2)
    assert contents(tmp_path / "two") == contents(written)


def test_more_identities_leave_the_others_as_they_were(written, tmp_path):
    more = SMALL | {"identities": 4, "test_identities": 5, "images_per_identity": 3}
    synthesize(SynthesisSettings(**more), tmp_path, workers=1)
    before, after = contents(written), contents(tmp_path)
    images = [name for name in before if name.endswith((".png", ".jpg"))]
    assert len(images) == 3 * 4 + 4 * 3 * 2
    assert all(after[name] == before[name] for name in images)
    assert len(after) > len(before)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"write": "records"}, {"records"}),
        ({"write": "bins"}, {"test"}),
        ({"write": "folders", "test_identities": 0}, {"train"}),
        ({"write": "folders,bins", "identities": 0}, {"test"}),
    ],
    ids=lambda value: str(value),
)
def test_only_what_was_asked_for(changes, expected, tmp_path):
    synthesize(SynthesisSettings(**(SMALL | changes)), tmp_path, workers=1)
    assert {path.name for path in tmp_path.iterdir()} == {*expected, "settings.json"}
    if changes["write"] == "bins":
        assert {path.suffix for path in (tmp_path / "test").iterdir()} == {".bin", ".csv"}


def test_one_kind_of_crops_has_plain_names(tmp_path):
    settings = SynthesisSettings(**(SMALL | {"train_crops": "unaligned", "test_identities": 0, "train_format": "png"}))
    synthesize(settings, tmp_path, workers=1)
    assert {path.name for path in (tmp_path / "train" / "train00000").iterdir()} == {"0000.png", "0001.png"}


def test_nothing_is_written_over_what_is_there(tmp_path):
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(FileExistsError, match=r"expected an empty or new folder, found mine\.txt"):
        synthesize(SynthesisSettings(**SMALL), tmp_path, workers=1)
    with pytest.raises(FileExistsError, match="found a file"):
        synthesize(SynthesisSettings(**SMALL), tmp_path / "mine.txt", workers=1)
    assert contents(tmp_path) == {"mine.txt": b"keep"}


def test_no_workers(tmp_path):
    with pytest.raises(ValueError, match="workers must be >= 1, got 0"):
        synthesize(SynthesisSettings(**SMALL), tmp_path / "out", workers=0)
    assert not (tmp_path / "out").exists()


def test_command_line(tmp_path, capsys):
    out = tmp_path / "out"
    arguments = ["--identities", "1", "--images-per-identity", "1", "--test-identities", "0", "--workers", "1"]
    assert main(["--out", str(out), *arguments]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[-1].startswith(f"{out}: Synthetic faces")
    assert shown[-1].endswith("nothing about real faces.")
    assert main(["--out", str(out), *arguments]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"error: {out}: expected an empty")
    assert main(["--out", str(tmp_path / "other"), "--occlusion", "2"]) == 2
    assert capsys.readouterr().err == "error: occlusion must be >= 0 and <= 1, got 2.0\n"
    assert main(["--out", str(tmp_path / "other"), "--preview", "sheet.nothing"]) == 2
    assert "suffix must be one of" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


def test_help_says_what_the_faces_are_not(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert "nothing about real faces" in shown
    assert "(default: 45.0)" in shown


def test_an_output_that_cannot_be_written_is_named(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    out = tmp_path / "file" / "out"
    assert main(["--out", str(out)]) == 2
    assert capsys.readouterr().err.startswith(f"error: --out {out}: cannot be written: ")


@pytest.mark.skipif(os.name != "posix", reason="process groups")
def test_interrupted_with_its_whole_group(tmp_path, capsys, start_program):
    out = tmp_path / "out"
    arguments = ["--identities", "3000", "--workers", "2"]
    program = start_program(sys.executable, "-m", "face.synthesize", "--out", out, *arguments)
    program.wait_until(lambda: any(out.glob("train/*/*.jpg")))
    program.send(signal.SIGINT, to_group=True)
    shown = program.finish()[1]
    assert program.returncode == 130
    lines = [line for line in shown.splitlines() if line.strip() and "identity" not in line]  # without the bar's
    assert lines == [f"interrupted: {out} is incomplete (settings.json says so); remove it and run again"]
    assert main(["--out", str(out), "--identities", "1"]) == 2
    assert capsys.readouterr().err.startswith(
        f"error: {out}: expected an empty or new folder, found an interrupted run"
    )
