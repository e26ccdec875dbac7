"""Landmarks against the picture: each is where its part is seen, whatever the pose.

A part is found as the pixels that change with its colour alone.
"""

import numpy as np
import pytest

from common.keypoints import FIVE_POINT_FACE, flip_keypoints
from face.synthesize import Head, Take, paint_scene
from face.synthesize.face import SPREAD, Face, Paints, Shape

SIZE, UNIT, CENTRE = 384, 110.0, (190.0, 186.0)
BACKDROP = np.zeros((SIZE, SIZE, 3), np.uint8)
POSES = [
    Take(),
    Take(yaw=45),
    Take(yaw=-45),
    Take(pitch=20),
    Take(pitch=-20),
    Take(roll=20),
    Take(yaw=30, pitch=-15, roll=-20),
    Take(yaw=-25, pitch=15, roll=20),
    Take(smile=1.0),
    Take(smile=-0.5, yaw=20),
    Take(mouth_open=1.0, pitch=10),
    Take(brow_raise=1.0, mouth_open=0.5, smile=0.6, roll=-10),
]


def a_face(**paints):
    """The mean face without anything in front of its parts; its eyes are too tall for the lids to touch the iris."""
    shape = Shape(**({name: mean for name, (mean, _) in SPREAD.items()} | {"eye_height": 0.1, "brow_gap": 0.2}))
    grey = {name: (128.0, 128.0, 128.0) for name in Paints.__dataclass_fields__}
    return Face(
        shape=shape,
        paints=Paints(**(grey | paints)),
        hair="bald",
        fringe="parted",
        beard="none",
        glasses="none",
        blush=0.0,
        spots=np.zeros((0, 4)),
        texture_seed=0,
    )


def scene_of(take, **paints):
    return paint_scene(Head(a_face(**paints), take, UNIT, CENTRE), BACKDROP)


def pixels_of(part, take):
    """(x, y) of the pixels that show a part, [n, 2]."""
    first, second = (scene_of(take, **{part: colour}).image for colour in ((250.0, 0, 0), (0, 0, 250.0)))
    rows, columns = np.nonzero((first != second).any(axis=2))
    return np.stack([columns, rows], axis=1).astype(float)


def middle(points):
    return (points.min(axis=0) + points.max(axis=0)) / 2


@pytest.mark.parametrize("take", POSES, ids=str)
def test_eyes_are_where_irises_look_straight_out(take):
    landmarks, iris = scene_of(take).landmarks, pixels_of("iris", take)
    nearer_left = ((iris[:, None] - landmarks[:2]) ** 2).sum(axis=2).argmin(axis=1) == 0
    assert 0 < nearer_left.sum() < len(iris)
    for landmark, mine in zip(landmarks[:2], (nearer_left, ~nearer_left), strict=True):
        np.testing.assert_allclose(middle(iris[mine]), landmark, atol=1.0)


@pytest.mark.parametrize("take", POSES, ids=str)
def test_the_nose_is_the_middle_of_its_ball(take):
    np.testing.assert_allclose(middle(pixels_of("nose_tip", take)), scene_of(take).landmarks[2], atol=1.0)


@pytest.mark.parametrize("take", [take for take in POSES if abs(take.yaw) < 45], ids=str)
def test_mouth_corners_are_the_ends_of_the_lips(take):
    left, right = scene_of(take).landmarks[3:]
    along = (right - left) / np.linalg.norm(right - left)
    lips = pixels_of("lips", take)
    reach = lips @ along
    for landmark, end in ((left, lips[reach <= reach.min() + 0.5]), (right, lips[reach >= reach.max() - 0.5])):
        np.testing.assert_allclose(end.mean(axis=0), landmark, atol=1.5)  # the ends are rounded


def test_a_face_turned_the_other_way_is_the_mirror_image():
    first, second = (
        Head(a_face(), Take(yaw=yaw, roll=roll, pitch=8), UNIT, CENTRE) for yaw, roll in ((25, 10), (-25, -10))
    )
    mirrored = flip_keypoints(first.landmarks(), FIVE_POINT_FACE, width=2 * CENTRE[0])
    np.testing.assert_allclose(second.landmarks(), mirrored, atol=1e-9)


@pytest.mark.parametrize(
    ("take", "axis", "sign"), [(Take(yaw=20), 0, 1), (Take(pitch=15), 1, 1), (Take(yaw=-20), 0, -1)]
)
def test_the_nose_leads_when_the_head_turns(take, axis, sign):
    straight, turned = (Head(a_face(), pose, UNIT, CENTRE).landmarks() for pose in (Take(), take))
    moved = sign * (turned - straight)[:, axis]
    assert moved[2] > max(np.delete(moved, 2)) > 0


def test_positive_roll_is_clockwise():
    left, right = Head(a_face(), Take(roll=20), UNIT, CENTRE).landmarks()[:2]
    assert np.rad2deg(np.arctan2(*(right - left)[::-1])) == pytest.approx(20)


def test_size_and_place_are_a_scaling_and_a_shift():
    take = Take(yaw=20, pitch=5, roll=10)
    first, second = Head(a_face(), take, 50.0, (0.0, 0.0)), Head(a_face(), take, 100.0, (7.0, -3.0))
    np.testing.assert_allclose(second.landmarks(), 2 * first.landmarks() + (7.0, -3.0))
    np.testing.assert_allclose(second.box, 2 * np.array(first.box) + (7, -3, 7, -3))


@pytest.mark.parametrize("take", POSES, ids=str)
def test_the_box_is_about_the_face(take):
    """What is seen of the skin lies in it, but for forehead and ears; so do the landmarks, but for a turned nose."""
    scene = scene_of(take)
    left, top, right, bottom = scene.box
    assert (scene.landmarks[[0, 1, 3, 4]] > (left, top)).all()
    assert (scene.landmarks[[0, 1, 3, 4]] < (right, bottom)).all()
    skin = pixels_of("skin", take)
    assert skin[:, 1].max() > bottom - 4
    if take.pitch >= 0:  # else the underside of the head is seen, too
        assert skin[:, 1].max() < bottom + 4
    assert 0.7 < (right - left) / (bottom - top) < 1.3
