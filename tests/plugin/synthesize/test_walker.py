"""Bodies and gaits: what stays with a subject, what differs between subjects, and that it is walking."""

import numpy as np
import pytest

from common.keypoints import COCO_17
from plugin.synthesize import Take, draw_subject, draw_take, walk
from plugin.synthesize.walker import BODY_SPREAD, FACE, LINKS, NODES

LIMBS = [
    (f"{side}_{upper}", f"{side}_{lower}")
    for side in ("left", "right")
    for upper, lower in (("shoulder", "elbow"), ("elbow", "wrist"), ("hip", "knee"), ("knee", "ankle"))
]
TIMES = np.arange(60) / 25.0


def joint(walked, name):
    return walked.joints[:, COCO_17.names.index(name)]


def limb_lengths(walked):
    pairs = [(joint(walked, upper), joint(walked, lower)) for upper, lower in LIMBS]
    return np.stack([np.linalg.norm(first - second, axis=-1) for first, second in pairs], axis=1)


def subjects(count):
    return [draw_subject(np.random.default_rng(index)) for index in range(count)]


def test_limb_lengths_belong_to_the_subject():
    means = []
    for subject in subjects(6):
        takes = [draw_take(np.random.default_rng(seed)) for seed in range(4)]
        lengths = np.concatenate([limb_lengths(walk(subject, take, TIMES)) for take in takes])
        np.testing.assert_allclose(lengths, np.broadcast_to(lengths[0], lengths.shape), atol=1e-9)
        means.append(lengths[0])
    for first in range(len(means)):
        for second in range(first):
            assert np.abs(means[first] - means[second]).max() > 0.005, "two subjects have the same limbs"


def test_stature_is_the_bodys_height():
    for subject in subjects(4):
        walked = walk(subject, Take(), TIMES)
        top = (walked.nodes[..., 2] + np.linalg.norm(walked.axes[:, :, 2], axis=-1)).max()
        assert 0.94 * subject.body.height_m < top < 1.03 * subject.body.height_m


def test_feet_stand_on_the_ground():
    soles = [NODES.index(f"{side}_{part}") for side in ("left", "right") for part in ("heel", "toe")]
    for subject in subjects(8):
        walked = walk(subject, Take(), TIMES)
        heights = walked.nodes[:, soles, 2] - walked.axes[:, soles, 2, 2]
        assert heights.min() > -0.1
        cycle = (subject.gait.stride_hz * TIMES) % 1
        standing = heights[(cycle > 0.2) & (cycle < 0.4), :2]  # the left foot, right foot in the air
        assert np.abs(standing).max() < 0.03
        lifted = heights[:, 2:].max(axis=1)[(cycle > 0.15) & (cycle < 0.25)]
        assert lifted.min() > 0.03


@pytest.mark.parametrize("heading", [0.0, 1.0, 3.0])
def test_arms_swing_against_the_legs_and_knees_bend_backwards(heading):
    ahead = np.array([np.cos(heading), np.sin(heading), 0.0])
    for subject in subjects(4):
        walked = walk(subject, Take(heading_rad=heading), TIMES)
        for side in ("left", "right"):
            wrist, hip, knee, ankle = (joint(walked, f"{side}_{part}") for part in ("wrist", "hip", "knee", "ankle"))
            assert np.corrcoef(wrist @ ahead, ankle @ ahead)[0, 1] < -0.5
            share = (hip - knee)[:, 2] / (hip - ankle)[:, 2]
            straight = hip + share[:, None] * (ankle - hip)
            assert ((knee - straight) @ ahead > 0).all()


def test_left_is_the_persons_left():
    subject = subjects(1)[0]
    for heading in (0.0, 2.0, 4.0):
        walked = walk(subject, Take(heading_rad=heading), TIMES)
        left = np.array([-np.sin(heading), np.cos(heading), 0.0])
        for first, second in COCO_17.flip_pairs[:3] + COCO_17.flip_pairs[5:6]:
            assert ((walked.joints[:, first] - walked.joints[:, second]) @ left > 0).all()


def test_a_take_changes_girths_but_no_joint():
    subject = subjects(1)[0]
    plain, dressed = (walk(subject, Take(trunk_bulk=b, arm_bulk=b, leg_bulk=b), TIMES) for b in (1.0, 1.2))
    np.testing.assert_array_equal(plain.joints, dressed.joints)
    assert (dressed.axes[:, NODES.index("waist"), 0] ** 2).sum() > (plain.axes[:, NODES.index("waist"), 0] ** 2).sum()


def test_face_joints_are_inside_the_skull_and_links_name_nodes():
    assert all(np.linalg.norm(place) < 1 for place in FACE.values())
    assert {name for first, second, _ in LINKS for name in (first, second)} == set(NODES)


def test_spread_is_positive_within_reach():
    assert all(mean - 2.2 * std > 0 for name, (mean, std) in BODY_SPREAD.items() if name != "hair_drop")


@pytest.mark.parametrize("times", [np.zeros(0), np.zeros((2, 2))])
def test_bad_times(times):
    with pytest.raises(ValueError, match=r"shape \[T\] with T >= 1"):
        walk(subjects(1)[0], Take(), times)
