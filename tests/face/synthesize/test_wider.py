"""Synthetic photographs in WIDER FACE's and WFLW's layouts, read back by the readers of those."""

import dataclasses
import json
import re

import cv2
import numpy as np
import pytest

from face.dfa.annotations import read_retinaface_labels, read_wflw
from face.synthesize import SynthesisSettings, main, synthesize
from face.synthesize.face import SPREAD, Face, Paints, Shape
from face.synthesize.images import Split
from face.synthesize.outlines import EXACT, outline_points
from face.synthesize.photographs import EVENTS, render_photograph
from face.synthesize.pictures import write_photographs
from face.synthesize.pose import Head, Take

SETTINGS = SynthesisSettings(write="wider", photographs=8, val_photographs=5, photograph_size=400, seed=2)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return synthesize(SETTINGS, tmp_path_factory.mktemp("set") / "out", workers=1) / "wider"


def files_of(root):
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


@pytest.mark.parametrize(("split", "name", "count"), [(Split.TRAIN, "train", 8), (Split.TEST, "val", 5)])
def test_labels_are_what_was_painted(written, split, name, count):
    faces = read_retinaface_labels(written / name / "label.txt", written / f"WIDER_{name}/images")
    assert len(faces.images) == count
    assert faces.counts == {}
    at = 0
    for number, image in enumerate(faces.images):
        shot = render_photograph(SETTINGS, split, number)
        assert image.split("/")[0] == shot.event
        assert shot.event in EVENTS
        picture = cv2.imread(str(faces.image_path(number)))[..., ::-1]
        assert picture.shape == shot.image.shape
        assert np.abs(picture.astype(int) - shot.image).mean() < 6
        for face in shot.faces[::-1]:
            assert faces.image_of[at] == number
            assert faces.boxes_px[at].tolist() == face.box.tolist()
            assert faces.has_landmarks[at] == face.clear
            if face.clear:
                np.testing.assert_allclose(faces.landmarks_px[at], face.landmarks, atol=6e-4)
            at += 1
    assert at == len(faces)


def test_both_kinds_and_many_sizes():
    settings = dataclasses.replace(SETTINGS, photograph_size=256)
    faces = [face for number in range(24) for face in render_photograph(settings, Split.TRAIN, number).faces]
    heights = np.array([face.box[3] - face.box[1] for face in faces])
    clear = np.array([face.clear for face in faces])
    assert heights.min() <= 8
    assert heights.max() >= 80
    assert not clear[heights < 12].any()
    assert clear[heights > 40].any()
    assert not clear[heights > 20].all()  # blurred ones


def test_lines_are_in_the_distributed_format(written):
    number, decimal = r"-?\d+", r"-?\d+\.\d{3}"
    point = rf"(?:{decimal} {decimal} [01]\.0)"
    absent = " ".join([r"-1\.0"] * 16)
    line = re.compile(rf"{number} {number} \d+ \d+ (?:{point} {point} {point} {point} {point} \d\.\d+|{absent})")
    for text in (written / "train/label.txt").read_text().splitlines():
        assert text.startswith("# ") or line.fullmatch(text), text


def test_wflw_has_the_same_landmarks(written):
    for wider, wflw in (("train", "train"), ("val", "test")):
        root = written / f"WIDER_{wider}/images"
        all_faces = read_retinaface_labels(written / wider / "label.txt", root)
        faces = read_wflw(written / f"wflw/list_98pt_rect_attr_{wflw}.txt", root)
        keys = zip(all_faces.image_of.tolist(), all_faces.boxes_px.tolist(), strict=True)
        known = {(all_faces.images[image], *box): place for place, (image, box) in enumerate(keys)}
        assert len(faces) >= 2
        for index in range(len(faces)):
            place = known[(faces.images[faces.image_of[index]], *faces.boxes_px[index].tolist())]
            np.testing.assert_allclose(faces.landmarks_px[index], all_faces.landmarks_px[place], atol=6e-4)


def test_photographs_depend_on_their_number_alone(written, tmp_path):
    more = dataclasses.replace(SETTINGS, photographs=9, val_photographs=1)
    again = synthesize(more, tmp_path / "out", workers=1) / "wider"
    before, after = files_of(written), files_of(again)
    images = [name for name in before if name.startswith("WIDER_train")]
    assert len(images) == 8
    assert all(after[name] == before[name] for name in images)
    assert after["train/label.txt"].startswith(before["train/label.txt"])
    other = render_photograph(dataclasses.replace(SETTINGS, seed=3), Split.TRAIN, 0)
    first = render_photograph(SETTINGS, Split.TRAIN, 0)
    assert other.image.shape != first.image.shape or (other.image != first.image).any()
    test = render_photograph(SETTINGS, Split.TEST, 0)
    assert test.image.shape != first.image.shape or (test.image != first.image).any()


@pytest.mark.slow
def test_workers_change_nothing(written, tmp_path):
    again = synthesize(SETTINGS, tmp_path / "out", workers=2) / "wider"
    assert files_of(again) == files_of(written)


def test_no_face_hides_another():
    for number in range(12):
        boxes = [face.box.astype(float) for face in render_photograph(SETTINGS, Split.TRAIN, number).faces]
        for place, far in enumerate(boxes):
            for near in boxes[place + 1 :]:
                assert (np.maximum(far[:2], near[:2]) >= np.minimum(far[2:], near[2:]) - 2).any()


def mean_head(**take):
    colour = (120.0, 90.0, 80.0)
    paints = Paints(**{name: colour for name in Paints.__dataclass_fields__})
    shape = Shape(**{name: mean for name, (mean, _) in SPREAD.items()})
    face = Face(
        shape=shape,
        paints=paints,
        hair="bald",
        fringe="straight",
        beard="none",
        glasses="none",
        blush=0.0,
        spots=np.empty((0, 4)),
        texture_seed=0,
    )
    return Head(face, Take(**take), 100.0, (200.0, 200.0))


def test_98_points_lie_in_wflw_order():
    head = mean_head(mouth_open=0.5)
    points = outline_points(head)
    assert points.shape == (98, 2)
    assert np.isfinite(points).all()
    np.testing.assert_array_equal(points[list(EXACT)], head.landmarks())
    x, y = points.T
    assert (np.diff(x[0:33]) > 0).all()
    assert y[0:33].argmax() == 16
    for first, last in ((33, 37), (42, 46), (55, 59), (60, 64), (68, 72), (76, 82), (88, 92)):  # left to right
        assert (np.diff(x[first : last + 1]) > 0).all()
    assert (np.diff(y[51:55]) > 0).all()
    for left, right, pupil in ((60, 64, 96), (68, 72, 97)):
        assert x[left] < x[pupil] < x[right]
        assert y[left + 2] < y[pupil] < y[left + 6]
    assert y[35] < y[62]
    assert y[44] < y[70]
    assert y[79] < y[90] < y[94] < y[85]
    np.testing.assert_allclose(points[:, 0].mean(), 200, atol=2)  # a head that looks straight ahead is symmetric


def test_the_command_and_its_picture(tmp_path, capsys):
    out, picture = tmp_path / "out", tmp_path / "sheet.png"
    options = ["--write", "wider", "--photographs", "1", "--val-photographs", "1", "--photograph-size", "160"]
    assert main(["--out", str(out), *options, "--workers", "1"]) == 0
    assert "Synthetic faces" in capsys.readouterr().out
    assert sorted(path.name for path in out.iterdir()) == ["settings.json", "wider"]
    assert json.loads((out / "settings.json").read_text())["settings"]["photographs"] == 1
    write_photographs(SETTINGS, picture)
    assert cv2.imread(str(picture)).shape == (3 * 486, 4 * 486, 3)


def test_other_parts_know_nothing_of_photographs(tmp_path):
    settings = SynthesisSettings(write="folders", identities=1, images_per_identity=1, test_identities=0)
    out = synthesize(settings, tmp_path / "out", workers=1)
    assert not any("photograph" in name for name in json.loads((out / "settings.json").read_text())["settings"])
    assert not (out / "wider").exists()
