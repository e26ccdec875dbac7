"""Projection against a pinhole written out point by point; left and right for every direction of view."""

import numpy as np
import pytest

from common.keypoints import COCO_17
from plugin.synthesize import Camera, Take, draw_cameras, draw_subject, look, walk
from plugin.synthesize.camera import TARGET_HEIGHT_M

TIMES = np.arange(25) / 25.0


@pytest.fixture
def subject():
    return draw_subject(np.random.default_rng(5))


def pinhole_by_hand(camera, point):
    """For a camera at azimuth 0 and elevation 0: it looks along -x, image right is +y, image down is -z."""
    depth = camera.distance_m - point[0]
    focal = camera.pixels_per_m * camera.distance_m
    return focal * point[1] / depth, focal * (TARGET_HEIGHT_M - point[2]) / depth


def test_projection_matches_a_pinhole(subject):
    camera = Camera(azimuth_rad=0.0, elevation_rad=0.0, distance_m=6.0, pixels_per_m=90.0)
    walked = walk(subject, Take(heading_rad=0.7), TIMES)
    expected = [[pinhole_by_hand(camera, point) for point in frame] for frame in walked.joints]
    np.testing.assert_allclose(look(camera, walked).joints, expected, atol=1e-9)


@pytest.mark.parametrize("away_deg", [-60, -30, 0, 30, 60, 120, 150, 180, 210, 240])
@pytest.mark.parametrize("heading_deg", [0, 100, 200])
def test_left_appears_on_the_right_only_when_facing_the_camera(subject, away_deg, heading_deg):
    camera = Camera(azimuth_rad=np.deg2rad(heading_deg + away_deg), elevation_rad=0.2)
    view = look(camera, walk(subject, Take(heading_rad=np.deg2rad(heading_deg)), TIMES))
    facing = np.cos(np.deg2rad(away_deg))
    for name in ("shoulder", "hip", "ear"):
        left, right = (COCO_17.names.index(f"{side}_{name}") for side in ("left", "right"))
        assert ((view.joints[:, left, 0] - view.joints[:, right, 0]) * facing > 0).all(), name


def test_head_is_above_the_feet_and_zoom_enlarges(subject):
    camera, walked = Camera(azimuth_rad=1.0), walk(subject, Take(), TIMES)
    near, far = look(camera, walked, zoom=1.2), look(camera, walked)
    nose, ankle = COCO_17.names.index("nose"), COCO_17.names.index("left_ankle")
    assert (near.joints[:, nose, 1] < near.joints[:, ankle, 1]).all()
    assert np.ptp(near.outlines[..., 1]) > 1.1 * np.ptp(far.outlines[..., 1])


def test_ellipses_are_the_outline_of_the_projected_ellipsoid(subject):
    """Points on each ellipsoid's surface, projected one by one, lie inside its outline's box and fill it."""
    camera, walked = Camera(azimuth_rad=0.0, elevation_rad=0.0, distance_m=20.0), walk(subject, Take(), TIMES[:1])
    view, rng = look(camera, walked), np.random.default_rng(0)
    for node in range(walked.nodes.shape[1]):
        directions = rng.normal(size=(2000, 3))
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        surface = walked.nodes[0, node] + directions @ walked.axes[0, node].T
        points = np.array([pinhole_by_hand(camera, point) for point in surface])
        outline = view.outlines[0, node]
        np.testing.assert_allclose(np.ptp(outline, axis=0), np.ptp(points, axis=0), rtol=0.03)


def test_cameras_differ():
    cameras = draw_cameras(np.random.default_rng(0), 6)
    azimuths = np.sort([camera.azimuth_rad for camera in cameras])
    assert np.diff(azimuths).min() > 0.5
    assert len({camera.elevation_rad for camera in cameras}) == 6


def test_bad_camera():
    with pytest.raises(ValueError, match=r"distance_m >= 2 .* got 1\.0"):
        Camera(azimuth_rad=0.0, distance_m=1.0)
