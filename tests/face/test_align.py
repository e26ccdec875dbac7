"""Folders of faces aligned: tree, tables, what cannot be aligned, interruptions, lists, given landmarks, exit codes."""

import csv
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from common.geometry import fit_similarity
from common.keypoints import fractions_to_pixels, pixels_to_fractions, transform_keypoints
from face.align import main
from face.data import decode_image, open_source, read_landmarks, write_landmarks
from face.dfa import align_files as files
from face.dfa.align_files import AlignFileSettings, align_files
from face.dfa.image_files import open_images
from face.reference import reference_landmarks

ROOT = Path(__file__).parents[2]
SIZES = {"ann/1.png": (100, 120), "ann/2.jpg": (100, 120), "ann/more/3.bmp": (90, 60), "bob/x.webp": (100, 120)}


def write(path, image):
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image[..., ::-1])
    return path


def read(path):
    return decode_image(Path(path).read_bytes(), str(path))


@pytest.fixture
def truth(dot_points):
    """Landmarks by name."""
    return {name: dot_points + np.array([0.02, -0.01]) * number for number, name in enumerate(SIZES)}


@pytest.fixture
def faces(tmp_path, dots, truth):
    """Four faces, an image that is none by its bytes, one with nothing in it, and what is passed over."""
    folder = tmp_path / "in"
    for name, size_hw in SIZES.items():
        write(folder / name, dots(size_hw, truth[name]))
    write(folder / "bob" / "blank.png", np.full((50, 50, 3), 128, np.uint8))
    (folder / "bob" / "broken.jpg").write_bytes(b"no image")
    (folder / "notes.txt").write_text("none")
    write(folder / ".hidden" / "1.png", dots())
    return folder


@pytest.fixture(autouse=True)
def weights(monkeypatch, dot_aligner):
    """Any weights are those of an aligner that finds dots."""

    def load(source, settings=None, inference=True, device="cpu"):
        if source == "nowhere":
            raise FileNotFoundError(f"{source}: no such file or folder")
        return dot_aligner(out_hw=settings.out_hw, padding_ratio=settings.padding_ratio)

    monkeypatch.setattr("face.dfa.aligner.load_aligner", load)


def align(*arguments):
    return main([*map(str, arguments), "--workers", "0"])


def report_of(out):
    with (out / "report.csv").open(newline="") as file:
        return {row["image"]: row for row in csv.DictReader(file)}


def numbers(row):
    return np.array([float(row[f"{axis}{point}"]) for point in range(5) for axis in "xy"]).reshape(5, 2)


def tree(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_a_folder(faces, tmp_path, truth, capsys, dot_network):
    out = tmp_path / "out"
    assert align(faces, out, "--weights", "dots") == 0
    assert tree(out) == ["ann/1.png", "ann/2.png", "ann/more/3.png", "bob/x.png", "landmarks.csv", "report.csv"]
    rows = report_of(out)
    assert {name: row["status"] for name, row in rows.items()} == {
        **dict.fromkeys(SIZES, "aligned"), "bob/blank.png": "degenerate", "bob/broken.jpg": "unreadable"
    }  # fmt: skip
    for name, points in truth.items():
        np.testing.assert_allclose(numbers(rows[name]), points, atol=0.006)
        assert float(rows[name]["score"]) > 0.5
    assert "bob/broken.jpg: 8 bytes, beginning with b'no image', do not decode" in rows["bob/broken.jpg"]["why"]
    said = capsys.readouterr()
    assert f"{out}: 4 of 6 images aligned" in said.out
    assert "1 degenerate: bob/blank.png\n" in said.err
    assert "1 unreadable: " in said.err

    # What was written is a source for training, its landmarks are where its dots are, which is near the template.
    source = open_source(out)
    landmarks = read_landmarks(out / "landmarks.csv", source)
    assert landmarks.found.all()
    assert source.identities == ("ann", "bob")
    template = reference_landmarks(pixels=False)
    for index in range(len(source)):
        image = source.read(index)
        assert image.shape == (112, 112, 3)
        pixels = torch.from_numpy(image).permute(2, 0, 1)[None] / 127.5 - 1
        seen = dot_network.predict(torch.nn.functional.interpolate(pixels, (160, 160), mode="bilinear")).landmarks
        np.testing.assert_allclose(landmarks.points[index], seen[0].detach(), atol=0.006)
        assert abs(landmarks.points[index] - template).max() < 0.06


def test_aligned_pixels_are_those_of_the_original(tmp_path, dots, dot_points):
    """cv2.warpAffine of the whole image, with landmarks from a table: no network, and no resizing between."""
    image = write(tmp_path / "in" / "a.png", dots((230, 200), dot_points, radius=0.05))
    table = tmp_path / "points.csv"
    write_landmarks(table, ["a.png"], dot_points[None], np.array([0.75]))
    assert align(image, tmp_path / "out", "--landmarks", table, "--size", "96") == 0
    pixels = fractions_to_pixels(dot_points, (230, 200))
    matrix = fit_similarity(pixels, reference_landmarks((96, 96))).matrix
    assert 0.5 < np.linalg.norm(matrix[:2, 0]) < 1.5  # so that one sample a pixel is enough
    expected = cv2.warpAffine(read(image), matrix[:2], (96, 96), flags=cv2.INTER_LINEAR)
    found = read(tmp_path / "out" / "a.png")
    assert abs(found.astype(int) - expected).mean() < 1.5
    assert abs(found.astype(int) - expected).max() < 40  # cv2 knows 32 places between two pixels
    row = report_of(tmp_path / "out")["a.png"]
    assert row["score"] == "0.750000"
    np.testing.assert_allclose(numbers(row), dot_points, atol=1e-6)
    written = read_landmarks(tmp_path / "out" / "landmarks.csv", open_images(tmp_path / "out"))
    expected = pixels_to_fractions(transform_keypoints(pixels, matrix), (96, 96))
    np.testing.assert_allclose(written.points[0], expected, atol=1e-5)
    assert written.scores.tolist() == [0.75]


def test_shrinking_does_not_alias(dot_points):
    """A chessboard of single pixels becomes grey, and not the one colour that is looked at."""
    board = torch.from_numpy(np.indices((1000, 1000)).sum(0) % 2 * 2.0 - 1).float().expand(2, 3, -1, -1).clone()
    points = torch.from_numpy(np.stack([dot_points, dot_points * 0.5])).float()
    made = files._align_sharply(board, points, 112)
    for image in made.images:
        assert image[:, 45:67, 45:67].abs().max() < 0.3
    assert files.align_faces(board, points).images[0, :, 45:67, 45:67].abs().max() > 0.6


def test_low_scores_and_images_without_landmarks(faces, tmp_path, truth, capsys):
    table = tmp_path / "points.csv"
    names = list(SIZES)[:2]
    write_landmarks(table, names, np.stack([truth[name] for name in names]), np.array([0.2, 0.9]))
    out = tmp_path / "out"
    assert align(faces, out, "--landmarks", table, "--min-score", "0.5") == 0
    rows = report_of(out)
    assert [rows[name]["status"] for name in SIZES] == ["low score", "aligned", "no landmarks", "no landmarks"]
    assert rows[names[0]]["score"] == "0.200000"
    assert rows["ann/more/3.bmp"]["x0"] == ""
    assert tree(out) == ["ann/2.png", "landmarks.csv", "report.csv"]
    assert "1 low score: ann/1.png\n" in capsys.readouterr().err


def test_nothing_to_align_is_exit_code_1(tmp_path, capsys):
    write(tmp_path / "in" / "a.png", np.full((40, 40, 3), 128, np.uint8))
    assert align(tmp_path / "in", tmp_path / "out", "--weights", "dots") == 1
    assert tree(tmp_path / "out") == ["report.csv"]
    assert "0 of 1 images aligned" in capsys.readouterr().out


def test_formats_keep_names_apart(faces, tmp_path, dots, capsys):
    write(faces / "ann" / "1.jpg", dots())
    assert align(faces, tmp_path / "out", "--weights", "dots") == 2
    assert "ann/1.jpg and ann/1.png would both become ann/1.png; use --format same" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert align(faces, tmp_path / "out", "--weights", "dots", "--format", "same") == 0
    assert tree(tmp_path / "out")[:4] == ["ann/1.jpg", "ann/1.png", "ann/2.jpg", "ann/more/3.bmp"]
    for path, start in (("ann/1.jpg", b"\xff\xd8"), ("bob/x.webp", b"RIFF"), ("ann/more/3.bmp", b"BM")):
        assert (tmp_path / "out" / path).read_bytes().startswith(start)


def test_overlays(faces, tmp_path):
    assert align(faces, tmp_path / "out", "--weights", "dots", "--overlays", tmp_path / "seen", "--format", "jpg") == 0
    assert tree(tmp_path / "seen") == ["ann/1.jpg", "ann/2.jpg", "ann/more/3.jpg", "bob/x.jpg"]
    picture = read(tmp_path / "seen" / "ann" / "1.jpg")
    assert picture.shape == (320, 2 * (120 * 160 // 100 + 160), 3)
    blue = (abs(picture.astype(int) - (0, 114, 178)).max(-1) < 40).sum()
    assert blue > 50  # the markers of the left side, which no dot has the colour of


class Stopping:
    """Finds dots until it is Ctrl-C'd."""

    def __init__(self, aligner, images):
        self.aligner, self.left, self.seen = aligner, images, []

    def __call__(self, images, indices):
        if self.left < len(indices):
            raise KeyboardInterrupt
        self.left -= len(indices)
        self.seen += indices.tolist()
        found = self.aligner(images)
        return found.landmarks, found.score


def test_overlays_of_strips(tmp_path):
    """Which at the height of the picture would be wider than a JPEG may be."""
    write(tmp_path / "in" / "wide.png", np.full((4, 2000, 3), 128, np.uint8))
    write(tmp_path / "in" / "high.png", np.full((2000, 4, 3), 128, np.uint8))
    wide, high = (reference_landmarks(pixels=False).astype(np.float32) * scale for scale in ((0.002, 1), (1, 0.002)))
    write_landmarks(tmp_path / "in" / "landmarks.csv", ["wide.png", "high.png"], np.stack([wide, high]))
    given = ("--landmarks", tmp_path / "in" / "landmarks.csv", "--overlays", tmp_path / "seen")
    assert align(tmp_path / "in", tmp_path / "out", *given) == 0
    for name, width in (("wide", 1600), ("high", 1)):
        assert read(tmp_path / "seen" / f"{name}.jpg").shape == (320, 2 * (width + 160), 3)  # drawn at twice the size


@pytest.mark.skipif(os.name == "nt", reason="no such names there")
def test_names_that_no_table_can_have_come_up_first(faces, tmp_path, capsys):
    (faces / "two\nlines.png").write_bytes(b"")
    assert align(faces, tmp_path / "out", "--weights", "dots") == 2
    assert r"a name has a line break: 'two\nlines.png'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_an_interrupted_run_goes_on(faces, tmp_path, dot_aligner):
    whole, out = tmp_path / "whole", tmp_path / "out"
    settings = AlignFileSettings(batch_size=2, num_workers=0)
    aligner = dot_aligner()
    images = open_images(faces)
    align_files(images, whole, Stopping(aligner, 100), {"weights": 1}, settings)
    with pytest.raises(KeyboardInterrupt):
        align_files(images, out, Stopping(aligner, 3), {"weights": 1}, settings)
    assert not (out / "report.csv").exists()
    state = out / ".align" / "done.jsonl"
    done = [json.loads(line)["image"] for line in state.read_text().splitlines()]
    assert len(done) >= 2
    with pytest.raises(ValueError, match=r"begun with weights 1 \(here 2\), size 112 \(here 96\); give the same"):
        align_files(images, out, Stopping(aligner, 100), {"weights": 2}, AlignFileSettings(size=96, num_workers=0))

    # Killed in the middle of a line and of an image, and an image that has gone since.
    state.write_bytes(state.read_bytes() + b'{"image": "bob/x.webp", "status": "ali')
    (out / "ann" / ".1.png.0123.tmp").write_bytes(b"half")
    gone = next(name for name in done if name.startswith("ann/"))
    (out / Path(gone).with_suffix(".png")).unlink()
    find = Stopping(aligner, 100)
    align_files(images, out, find, {"weights": 1}, settings)
    assert {images.names[index] for index in find.seen} == {*images.names, gone} - (set(done) - {gone}) - {
        "bob/broken.jpg"
    }
    assert tree(out) == tree(whole)
    for name in tree(whole):
        assert (out / name).read_bytes() == (whole / name).read_bytes(), name


def test_what_is_in_the_way(faces, tmp_path, capsys, dots):
    out = tmp_path / "out"
    write(out / "mine.png", dots())
    assert align(faces, out, "--weights", "dots") == 2
    assert "expected a new or empty folder, or an interrupted run, found mine.png in it" in capsys.readouterr().err
    assert tree(out) == ["mine.png"]
    assert align(faces, faces / "aligned", "--weights", "dots") == 2
    assert f"{faces / 'aligned'}: lies in {faces}" in capsys.readouterr().err
    assert not (faces / "aligned").exists()
    assert align(faces, tmp_path / "done", "--weights", "dots", "--overlays", out) == 2
    assert "expected a new or empty folder for overlays" in capsys.readouterr().err
    assert align(faces, tmp_path / "new", "--weights", "dots", "--overlays", tmp_path / "new" / "seen") == 2
    assert align(faces, tmp_path / "new", "--weights", "dots") == 0
    assert align(faces, tmp_path / "new", "--weights", "dots") == 2
    assert "holds aligned images already" in capsys.readouterr().err
    assert align(tmp_path / "nowhere", tmp_path / "other", "--weights", "dots") == 2
    assert "nowhere: no such file or folder" in capsys.readouterr().err
    assert align(faces, tmp_path / "other", "--weights", "nowhere") == 2
    assert not (tmp_path / "other").exists()


def test_lists(faces, tmp_path, capsys):
    (faces / "list.txt").write_text("ann/2.jpg\n\nbob/x.webp\n")
    images = open_images(faces / "list.txt")
    assert (images.root, images.names) == (faces, ["ann/2.jpg", "bob/x.webp"])
    (tmp_path / "list.csv").write_text(f"identity,image\n1,{faces / 'ann' / '1.png'}\n2,in/ann/more/3.bmp\n")
    images = open_images(tmp_path / "list.csv")
    assert (images.root, images.names) == (tmp_path, ["in/ann/1.png", "in/ann/more/3.bmp"])
    (tmp_path / "lists").mkdir()
    listed = tmp_path / "lists" / "list.txt"
    listed.write_text("../in/ann/1.png\n../in/bob/gone.png\n")
    assert open_images(listed).root == faces
    assert align(listed, tmp_path / "out", "--weights", "dots") == 0
    assert tree(tmp_path / "out") == ["ann/1.png", "landmarks.csv", "report.csv"]
    assert report_of(tmp_path / "out")["bob/gone.png"]["status"] == "unreadable"
    for text, said in (
        ("", "names no images"),
        ("a.png\n./a.png\nb.png\n", r"1 image\(s\) come twice, such as .*a\.png"),
    ):
        listed.write_text(text)
        with pytest.raises(ValueError, match=said):
            open_images(listed)
    (tmp_path / "list.csv").write_text("path\nx.png\n")
    with pytest.raises(ValueError, match="expected a header with the column image, found path"):
        open_images(tmp_path / "list.csv")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no images"):
        open_images(tmp_path / "empty")


def test_one_image(faces, tmp_path):
    assert align(faces / "ann" / "2.jpg", tmp_path / "out", "--weights", "dots") == 0
    assert tree(tmp_path / "out") == ["2.png", "landmarks.csv", "report.csv"]


def test_weights_of_a_folder(faces, tmp_path, monkeypatch):
    from face.dfa.pretrained import create_dfa, save_dfa

    monkeypatch.undo()  # the real loader
    save_dfa(create_dfa("dfa_mobilenet", image_hw=(64, 64)), tmp_path / "dfa")
    align(faces, tmp_path / "out", "--weights", tmp_path / "dfa", "--padding", "0.1")
    rows = report_of(tmp_path / "out")
    assert len(rows) == 6
    assert all(0 <= float(rows[name]["score"]) <= 1 for name in SIZES)


def test_settings():
    with pytest.raises(ValueError, match=r"size must be from 8 to 4096, got 4; min_score must be from 0 to 1, got 2"):
        AlignFileSettings(size=4, min_score=2)
    with pytest.raises(ValueError, match="batch_size must be >= 1 and num_workers >= 0, got 0 and 1"):
        AlignFileSettings(batch_size=0, num_workers=1)


@pytest.mark.parametrize("command", ["align", "landmarks"])
def test_help_does_not_wait_for_torch(command):
    code = (
        f"import sys\nfrom face.{command} import main\n"
        "try:\n    main(['--help'])\n"
        "finally:\n    assert not {'torch', 'numpy', 'cv2'} & set(sys.modules), sorted(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "--weights DFA" in done.stdout


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_signals(faces, tmp_path, monkeypatch, capsys, name, code):
    def stop(*_, **__):
        os.kill(os.getpid(), getattr(signal, name))

    monkeypatch.setattr("face.dfa.align_files._Run.work", stop)
    assert align(faces, tmp_path / "out", "--weights", "dots") == code
    assert capsys.readouterr().err == "interrupted; what is done stays, the same command goes on\n"
