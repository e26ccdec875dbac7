"""Tables of landmarks: what is read lands at its image, and tables that do not fit are refused."""

import os

import numpy as np
import pytest

from face.data import SourceView, open_source, read_landmarks, write_cvlface_landmarks, write_landmarks
from face.data import landmarks as module

OURS = "image,x0,y0,x1,y1,x2,y2,x3,y3,x4,y4,score"
CVLFACE = "idx,ldmk_0,ldmk_1,ldmk_2,ldmk_3,ldmk_4,ldmk_5,ldmk_6,ldmk_7,ldmk_8,ldmk_9"


def row(name, offset=0.0, score=1.0):
    """A line whose ten coordinates are all different."""
    return ",".join(
        [str(name), *(f"{offset + 0.01 * place:.4f}" for place in range(10)), *([] if score is None else [str(score)])]
    )


def points(offset=0.0):
    return (offset + 0.01 * np.arange(10)).reshape(5, 2)


def write(path, *lines):
    path.write_text("\n".join(lines) + "\n")
    return path


def test_ours_for_folders(face_folder):
    root, names = face_folder
    path = write(root / "l.csv", OURS, row(names[3], 0.3, 0.25), row(names[0], 0.1, 1), "", row(names[5], -0.4, 0))
    found = read_landmarks(path, open_source(root))
    assert len(found) == 6
    assert found.found.tolist() == [True, False, False, True, False, True]
    np.testing.assert_allclose(found.points[[0, 3, 5]], [points(0.1), points(0.3), points(-0.4)], atol=1e-6)
    assert np.isnan(found.points[[1, 2, 4]]).all()
    assert found.scores.tolist() == [1, 0, 0, 0.25, 0, 0]
    assert (found.points.dtype, found.scores.dtype, found.found.dtype) == (np.float32, np.float32, bool)


@pytest.mark.parametrize("block", [2, 1 << 17])
def test_ours_for_records(block, cvlface_set, monkeypatch):
    monkeypatch.setattr(module, "_BLOCK", block)
    lines = [row(key, key / 10, None) for key in (0, 1, 2, 4, 6, 5)]
    found = read_landmarks(write(cvlface_set / "l.csv", OURS.removesuffix(",score"), *lines), open_source(cvlface_set))
    assert found.found.tolist() == [True, True, True, False, True, True, True]
    assert found.scores.tolist() == [1, 1, 1, 0, 1, 1, 1]
    for key in (0, 1, 2, 4, 5, 6):
        np.testing.assert_allclose(found.points[key], points(key / 10), atol=1e-6)


@pytest.mark.parametrize("block", [3, 1 << 17])
def test_cvlface(block, cvlface_set, monkeypatch):
    """In any order; by the place in the source, not the record's key."""
    monkeypatch.setattr(module, "_BLOCK", block)
    lines = [row(place, place / 10, None) for place in (3, 0, 1, 2, 6, 5, 4)]
    found = read_landmarks(write(cvlface_set / "l.csv", CVLFACE, *lines), open_source(cvlface_set))
    assert found.found.all()
    assert found.scores.tolist() == [1] * 7
    np.testing.assert_allclose(found.points, [points(place / 10) for place in range(7)], atol=1e-6)


def test_cvlface_with_scores(cvlface_set):
    header = ",".join(["idx", *(f"ldmk_{place}" for place in range(15))])
    triples = ",".join(f"{0.1 * point},{0.1 * point + 0.05},{score}" for point, score in enumerate([1, 0.5, 0, 0.5, 0]))
    found = read_landmarks(
        write(cvlface_set / "l.csv", header, *(f"{place},{triples}" for place in range(7))), open_source(cvlface_set)
    )
    np.testing.assert_allclose(found.points[4], [[0.1 * point, 0.1 * point + 0.05] for point in range(5)], atol=1e-6)
    np.testing.assert_allclose(found.scores, 0.4, atol=1e-6)


def test_views_take_theirs(cvlface_set):
    source = open_source(cvlface_set)
    path = write(cvlface_set / "l.csv", CVLFACE, *(row(place, place / 10, None) for place in range(7)))
    found = read_landmarks(path, SourceView(source, np.array([5, 2])))
    np.testing.assert_allclose(found.points, [points(0.5), points(0.2)], atol=1e-6)


def test_images_that_the_source_does_not_have(face_folder):
    root, names = face_folder
    path = write(root / "l.csv", OURS, *(row(name) for name in ["x/1", names[1], "x/2", "x/3", "x/4"]))
    with pytest.raises(
        ValueError, match=r"l\.csv: 4 row\(s\) of images that .*faces does not have, such as x/1, x/2, x/3$"
    ):
        read_landmarks(path, open_source(root))
    assert read_landmarks(path, open_source(root), allow_extra=True).found.tolist() == [False, True] + 4 * [False]
    with pytest.raises(ValueError, match=r"has no row of an image of .*faces"):
        read_landmarks(write(path, OURS, row("x/1")), open_source(root), allow_extra=True)
    with pytest.raises(ValueError, match=r"has no row of an image of .*faces"):
        read_landmarks(write(path, OURS), open_source(root))


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([row(0), row(0, 0.1)], "image 0 comes twice"),
        ([row(0), row(1), row(2), row(0)], "image 0 comes twice"),
        ([row(0), row(1, float("nan"))], "image 1: a number is NaN or infinite"),
        ([row(0), row(1, float("inf"))], "image 1: a number is NaN or infinite"),
        ([row(0, 30), row(1, 40)], r"l\.csv: keypoints must be fractions of the image .* are they in pixels"),
        ([row(0), row(1, score=1.5)], "image 1: scores must be from 0 to 1, found 1.5"),
        ([row(0), row(1, score=-0.5)], "image 1: scores must be from 0 to 1, found -0.5"),
        ([row(0), "", row(1, score=None)], "line 4: expected an image and 11 numbers, found '1,0.0000,"),
        ([row(0), row(1, score="high")], "line 3: expected an image and 11 numbers"),
        ([row(0) + ",5"], r"l\.csv: "),
    ],
)
def test_rows_that_are_refused(lines, message, cvlface_set, monkeypatch):
    for block in (2, 1 << 17):
        monkeypatch.setattr(module, "_BLOCK", block)
        with pytest.raises(ValueError, match=message):
            read_landmarks(write(cvlface_set / "l.csv", OURS, *lines), open_source(cvlface_set))


def test_one_landmark_far_outside_is_legal(cvlface_set):
    path = write(cvlface_set / "l.csv", OURS, row(0, 40), *(row(key) for key in range(1, 7)))
    np.testing.assert_allclose(read_landmarks(path, open_source(cvlface_set)).points[0], points(40), atol=1e-4)


@pytest.mark.parametrize(
    ("places", "message"),
    [
        (range(6), r"l\.csv: has 6 rows, the data set has 7 images; idx must be their places 0 to 6; idx 6 is missing"),
        (range(8), r"has 8 rows, the data set has 7 images; idx must be their places 0 to 6$"),
        (range(1, 8), r"has 7 rows, the data set has 7 images; .*; idx 0 is missing"),
        ([0, 1, 2, 2, 4, 5, 6], "image 2 comes twice"),
        ([0, 1, 2, "3.5", 4, 5, 6], "l.csv: "),
    ],
)
def test_places_that_are_refused(places, message, cvlface_set):
    path = write(cvlface_set / "l.csv", CVLFACE, *(row(place, score=None) for place in places))
    with pytest.raises(ValueError, match=message):
        read_landmarks(path, open_source(cvlface_set))


@pytest.mark.parametrize("header", ["", "image,x0,y0", OURS.replace("x0", "x"), CVLFACE + ",ldmk_10", "0,0.1"])
def test_other_headers(header, cvlface_set):
    with pytest.raises(ValueError, match=r"l\.csv: the header must be image,x0,y0,...,x4,y4,score or idx,ldmk_0,"):
        read_landmarks(write(cvlface_set / "l.csv", header), open_source(cvlface_set))


def test_no_such_file(cvlface_set):
    with pytest.raises(FileNotFoundError, match="none"):
        read_landmarks(cvlface_set / "none", open_source(cvlface_set))


def test_names_of_any_kind_come_back(tmp_path, encode):
    names = ['a "b"/1, 2.jpg', " lead/ .png", "Žofie/x'.jpg", "\udcff/0.jpg"]
    for name in names:
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(encode(0))
    source = open_source(tmp_path)
    random = np.random.default_rng(0)
    expected, scores = random.uniform(-0.2, 1.2, (4, 5, 2)), random.random(4)
    write_landmarks(tmp_path / "l.csv", [source.key_of(index) for index in range(4)], expected, scores)
    found = read_landmarks(tmp_path / "l.csv", source)
    assert found.found.all()
    np.testing.assert_allclose(found.points, expected, atol=1e-6)
    np.testing.assert_allclose(found.scores, scores, atol=1e-6)


def test_written_line_by_line(tmp_path):
    write_landmarks(tmp_path / "ours.csv", ["b/1.jpg"], points()[None], np.array([0.5]))
    write_landmarks(tmp_path / "all.csv", ["b/1.jpg"], points()[None])
    numbers = ",".join(f"0.0{place}0000" for place in range(10))
    assert (tmp_path / "ours.csv").read_text() == f"{OURS}\nb/1.jpg,{numbers},0.500000\n"
    assert (tmp_path / "all.csv").read_text() == f"{OURS}\nb/1.jpg,{numbers},1.000000\n"
    write_cvlface_landmarks(tmp_path / "cvlface.csv", points()[None])
    assert (tmp_path / "cvlface.csv").read_text() == f"{CVLFACE}\n0,{numbers}\n"


@pytest.mark.parametrize("scores", [None, [1, 1, 0.5, 1, 1, 0, 1]])
def test_cvlface_table_round_trip(scores, cvlface_set):
    expected = np.random.default_rng(0).random((7, 5, 2))
    write_cvlface_landmarks(cvlface_set / "l.csv", expected, None if scores is None else np.array(scores))
    found = read_landmarks(cvlface_set / "l.csv", open_source(cvlface_set))
    np.testing.assert_allclose(found.points, expected, atol=1e-6)
    np.testing.assert_allclose(found.scores, scores or [1] * 7)


@pytest.mark.parametrize(
    ("names", "shape", "score", "message"),
    [
        (["a", "a"], (2, 5, 2), 1, r"1 name\(s\) come twice"),
        (["a", "b\n"], (2, 5, 2), 1, r"a name has a line break: 'b\\n'"),
        (["a"], (2, 5, 2), 1, r"expected points \[1, 5, 2\] and scores \[1\], got \[2, 5, 2\] and \[2\]"),
        (["a", "b"], (2, 4, 2), 1, r"got \[2, 4, 2\]"),
        (["a", "b"], (2, 5, 2), 1.5, "image a: scores must be from 0 to 1, found 1.5"),
        (["a", "b"], (2, 5, 2), np.nan, "image a: a number is NaN"),
    ],
)
def test_not_written(names, shape, score, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        write_landmarks(tmp_path / "l.csv", names, np.zeros(shape), np.full(shape[0], score))
    with pytest.raises(ValueError, match="are they in pixels"):
        write_landmarks(tmp_path / "l.csv", ["a"], np.full((1, 5, 2), 50.0))
    assert os.listdir(tmp_path) == []
