"""Poses of everybody in an image: what a file may hold, and which person the silhouette belongs to."""

import json

import numpy as np
import pytest

from common.keypoints import COCO_17, OPENPOSE_18
from plugin.prepare.people import choose_person, read_people, to_coco
from plugin.prepare.raw import DroppedFrame


def write(path, *people):
    path.write_text(json.dumps({"people": [{"pose_keypoints_2d": [float(v) for v in np.ravel(p)]} for p in people]}))
    return path


def test_joints_go_by_their_names(tmp_path):
    """Each joint carries its own name's number as x, so that a wrong order shows."""
    number = {name: index for index, name in enumerate(COCO_17.names)}
    openpose = np.array([(number.get(name, -1), 5, 0.5) for name in OPENPOSE_18.names])
    coco = np.array([(index, 5, 0.5) for index in range(17)])
    found = read_people(write(tmp_path / "0001.json", openpose, coco))
    for person in found:
        np.testing.assert_array_equal(person, coco)
    np.testing.assert_array_equal(to_coco(np.stack([openpose] * 3)), np.stack([coco] * 3))


def test_nobody(tmp_path):
    assert read_people(write(tmp_path / "0001.json")) == []
    np.testing.assert_array_equal(choose_person([], np.zeros((5, 5), np.uint8)), np.zeros((17, 3)))


def of_values(last):
    return '{"people": [{"pose_keypoints_2d": [' + "1," * 50 + last + "]}]}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "Expecting value"),
        ("{", "Expecting property name"),
        ("[]", 'expected an object with a list "people"'),
        ('{"people": {}}', 'expected an object with a list "people"'),
        ('{"people": [{}]}', 'person 0: expected a list "pose_keypoints_2d"'),
        ('{"people": [[1]]}', 'person 0: expected a list "pose_keypoints_2d"'),
        ('{"people": [{"pose_keypoints_2d": [1, 2]}]}', "person 0: expected 51 or 54 values, found 2"),
        (of_values('"1"'), 'person 0: expected numbers, found "1"'),
        (of_values("null"), "person 0: expected numbers, found null"),
        (of_values("true"), "person 0: expected numbers, found true"),
        (of_values("1" + "0" * 400), "person 0: .*too large"),
        ("[" * 100000, "recursion"),
    ],
)
def test_what_is_no_pose_is_dropped(text, message, tmp_path):
    path = tmp_path / "0001.json"
    path.write_text(text)
    with pytest.raises(DroppedFrame, match=message) as dropped:
        read_people(path)
    assert dropped.value.reason == "bad_pose"
    assert "0001.json" in str(dropped.value)
    with pytest.raises(DroppedFrame, match="No such file"):
        read_people(tmp_path / "none.json")


def hits_by_loop(person, image):
    hits = 0
    for x, y, confidence in person:
        if np.isfinite([x, y, confidence]).all() and confidence > 0:
            column, row = round(float(x)), round(float(y))
            if 0 <= column < image.shape[1] and 0 <= row < image.shape[0]:
                hits += bool(image[row, column])
    return hits


def test_the_person_with_most_joints_on_the_silhouette():
    draw = np.random.default_rng(0)
    chosen = set()
    for _ in range(30):
        image = (draw.uniform(size=(40, 30)) > 0.7).astype(np.uint8) * 255
        people = [draw.uniform((-10, -10, 0), (40, 50, 1), (17, 3)) for _ in range(4)]
        people[0][0] = (np.nan, 5, 1)
        people[1][1] = (1e30, 5, 1)
        people[2][2:9, 2] = 0
        hits = [hits_by_loop(person, image) for person in people]
        found = choose_person(people, image)
        index = next(i for i, person in enumerate(people) if person is found)
        assert hits[index] == max(hits)
        chosen.add(index)
    assert len(chosen) > 1


def test_of_equals_the_more_confident():
    people = [np.full((17, 3), confidence) for confidence in (0.4, 0.6, 0.5)]
    assert choose_person(people, np.ones((9, 9), np.uint8)) is people[1]
    assert choose_person(people, None) is people[1]
    only = [np.full((17, 3), -5.0)]
    assert choose_person(only, np.zeros((9, 9), np.uint8)) is only[0]
