"""Silhouettes and joints of rendered sequences belong together; imperfections do what they say."""

import itertools

import cv2
import numpy as np
import pytest

from common.keypoints import COCO_17
from plugin.synthesize import Camera, SynthesisSettings, Take, draw_subject, look, render_sequence, walk
from plugin.synthesize.detector import crop_boxes
from plugin.synthesize.render import Seen, draw, joints_seen

CLEAN = {"subjects": 5, "frames": 12, "pose_noise": 0.0, "missed_joints": 0.0}


def rendered(**changes):
    settings = SynthesisSettings(**(CLEAN | changes))
    return [
        frame
        for subject in range(settings.subjects)
        for sequence in range(settings.sequences_per_subject)
        for frame in render_sequence(settings, subject, sequence)
    ]


@pytest.fixture(scope="module")
def clean():
    return rendered()


def distance_to_silhouette(frame):
    """[17] pixels from each joint to the nearest silhouette pixel."""
    outside = np.where(frame.silhouette > 0, np.uint8(0), np.uint8(1))
    distances = cv2.distanceTransform(outside, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    x, y = np.rint(frame.joints[:, :2]).astype(int).T
    return distances[y, x]


def test_joints_lie_on_the_silhouette(clean):
    distances = np.concatenate([distance_to_silhouette(frame) for frame in clean])
    assert len(distances) > 3000
    assert (distances <= 2).mean() >= 0.97
    assert (distances <= 1).mean() >= 0.97


def test_silhouettes_are_binary_whole_and_of_their_crops_size(clean):
    heights = np.array([frame.silhouette.shape[0] for frame in clean])
    assert heights.min() >= 70
    assert heights.max() <= 230
    assert len(np.unique(heights)) > 20
    for frame in clean:
        assert frame.silhouette.dtype == np.uint8
        assert set(np.unique(frame.silhouette)) == {0, 255}
        assert frame.silhouette.shape == frame.size_wh[::-1]
        border = [frame.silhouette[0], frame.silhouette[-1], frame.silhouette[:, 0], frame.silhouette[:, -1]]
        assert not any(edge.any() for edge in border), "the body touches the edge of a clean crop"
        assert cv2.connectedComponents(frame.silhouette)[0] == 2, "a body is one piece"


def test_frame_numbers_rise_with_gaps_and_sometimes_sort_wrongly_by_name():
    settings = SynthesisSettings(**(CLEAN | {"subjects": 40, "frames": 3}))
    sorts_wrongly = gaps = 0
    for subject in range(settings.subjects):
        numbers = [frame.number for frame in render_sequence(settings, subject, 0)]
        assert all(a < b for a, b in itertools.pairwise(numbers))
        gaps += numbers[-1] - numbers[0] >= len(numbers)
        sorts_wrongly += sorted(map(str, numbers)) != [str(number) for number in numbers]
    assert sorts_wrongly
    assert gaps


def test_views_of_two_cameras_differ():
    subject = draw_subject(np.random.default_rng(0))
    walked = walk(subject, Take(), np.zeros(1))
    pictures = []
    for azimuth in (0.0, np.pi / 2):
        view = look(Camera(azimuth_rad=azimuth), walked)
        silhouette, _ = draw(view, 0, crop_boxes(view, 0.0, np.random.default_rng(0))[0])
        pictures.append(cv2.resize(silhouette, (44, 64)) > 127)
    assert (pictures[0] != pictures[1]).mean() > 0.1


@pytest.mark.parametrize(("heading", "nose"), [(0.0, Seen.CLEARLY), (np.pi, Seen.THROUGH_BODY)])
def test_face_is_seen_from_the_front_only(heading, nose):
    view = look(
        Camera(azimuth_rad=0.0), walk(draw_subject(np.random.default_rng(1)), Take(heading_rad=heading), np.zeros(1))
    )
    box = crop_boxes(view, 0.0, np.random.default_rng(0))[0]
    seen = joints_seen(view, 0, box, draw(view, 0, box)[1])
    assert seen[COCO_17.names.index("nose")] == nose
    assert seen[COCO_17.names.index("left_shoulder")] == Seen.CLEARLY


def test_far_side_is_hidden_from_the_side():
    view = look(Camera(azimuth_rad=np.pi / 2), walk(draw_subject(np.random.default_rng(1)), Take(), np.arange(25) / 25))
    boxes = crop_boxes(view, 0.0, np.random.default_rng(0))
    seen = np.stack([joints_seen(view, t, box, draw(view, t, box)[1]) for t, box in enumerate(boxes)])
    left, right = (
        (seen[:, [COCO_17.names.index(f"{side}_{part}") for part in ("shoulder", "elbow", "hip")]] > 0).mean()
        for side in ("left", "right")
    )
    assert left < 0.2 < 0.5 < right


def test_confidence_tells_what_is_seen(clean):
    confidence = np.concatenate([frame.joints[:, 2] for frame in clean])
    assert confidence.min() >= 0.35
    assert 0.5 < (confidence >= 0.7).mean() < 1.0


def test_missed_joints_are_zeros():
    joints = np.stack([frame.joints for frame in rendered(missed_joints=0.25)])
    missed = (joints == 0).all(axis=-1)
    assert 0.22 < missed.mean() < 0.28
    assert (joints[~missed][:, 2] > 0).all()


def test_noise_has_the_size_asked_for(clean):
    noisy = rendered(pose_noise=0.02, sequences_per_subject=4)
    for exact, moved in zip(clean, noisy, strict=True):
        np.testing.assert_array_equal(exact.silhouette, moved.silhouette)
    seen = [frame.joints[:, 2] >= 0.7 for frame in clean]
    heights = [np.ptp(np.flatnonzero(frame.silhouette.any(axis=1))) for frame in clean]
    shares = np.concatenate(
        [
            ((moved.joints - exact.joints)[mask][:, :2] / height).ravel()
            for exact, moved, mask, height in zip(clean, noisy, seen, heights, strict=True)
        ]
    )
    assert 0.016 < shares.std() < 0.024


def test_occlusion_only_removes_pixels_and_lowers_confidence(clean):
    hidden = rendered(occlusion=1.0)
    removed = []
    for whole, part in zip(clean, hidden, strict=True):
        assert not ((part.silhouette > 0) & (whole.silhouette == 0)).any()
        removed.append(((whole.silhouette > 0) & (part.silhouette == 0)).sum() / (whole.silhouette > 0).sum())
    assert np.mean(np.array(removed) > 0) >= 0.5, "at least half of the frames of every sequence"
    assert 0.02 < np.mean(removed) < 0.6
    covered = np.concatenate([frame.joints[:, 2] < 0.3 for frame in hidden])
    assert 0.05 < covered.mean() < 0.6


def test_miscrop_cuts_bodies_and_changes_sizes(clean):
    wrong = rendered(miscrop=0.4)
    touching = [frame.silhouette[[0, -1]].any() or frame.silhouette[:, [0, -1]].any() for frame in wrong]
    assert np.mean(touching) > 0.2
    assert all(frame.silhouette.any() for frame in wrong), "some of the walker is always left"
    ratio = [a.size_wh[1] / b.size_wh[1] for a, b in zip(wrong, clean, strict=True)]
    assert min(ratio) < 0.85
    assert max(ratio) > 1.15
    for frame in wrong:
        assert (frame.joints[:, :2] >= 0).all()
        assert (frame.joints[:, :2] <= np.array(frame.size_wh) - 1).all()


def test_dropped_frames_lack_one_of_the_two():
    frames = rendered(drop_frames=0.4)
    lacking = [(frame.silhouette is None) + (frame.joints is None) for frame in frames]
    assert max(lacking) == 1
    assert 0.3 < np.mean(lacking) < 0.5
    assert 0.3 < np.mean([frame.joints is None for frame in frames]) / np.mean(lacking) < 0.7


@pytest.mark.parametrize(("subject", "sequence", "message"), [(5, 0, "subject must be"), (0, 4, "sequence must be")])
def test_no_such_sequence(subject, sequence, message):
    with pytest.raises(ValueError, match=message):
        render_sequence(SynthesisSettings(**CLEAN), subject, sequence)
