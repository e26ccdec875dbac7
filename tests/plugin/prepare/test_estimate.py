"""The estimated place of a pose on a silhouette whose crop is lost, against the exact one."""

import numpy as np
import pytest

from plugin.prepare.estimate import estimate_placement
from plugin.prepare.normalise import normalise_silhouette, place_keypoints
from plugin.prepare.raw import DroppedFrame


@pytest.mark.parametrize("stature", [60.0, 115.0, 300.0])
@pytest.mark.parametrize("missing", [(), (0, 1, 2, 3, 4), (15, 16), (9, 10, 13)])
def test_near_the_exact_place(stature, missing, draw_body):
    crop, joints = draw_body(int(stature), int(1.2 * stature), centre_x=0.45 * stature, stature=stature)
    silhouette, placement = normalise_silhouette(crop)
    exact = place_keypoints(joints[None], np.array([placement]))[0]
    seen = joints.copy()
    seen[list(missing)] = 0
    scale, shift_x, shift_y = estimate_placement(silhouette, seen, confident=0.3)
    error = np.hypot(*(joints[:, :2] * scale + (shift_x, shift_y) - exact[:, :2]).T)
    assert np.median(error) < 2.0
    assert error.max() < 4.0
    assert scale == pytest.approx(placement.scale_y, rel=0.1)


def test_shift_and_scale_of_the_crop_do_not_matter(draw_body):
    crop, joints = draw_body()
    silhouette, _ = normalise_silhouette(crop)
    scale, shift_x, shift_y = estimate_placement(silhouette, joints, confident=0.3)
    moved = joints * (2.0, 2.0, 1.0) + (100.0, -30.0, 0.0)
    scale_2, shift_x_2, shift_y_2 = estimate_placement(silhouette, moved, confident=0.3)
    np.testing.assert_allclose(
        moved[:, :2] * scale_2 + (shift_x_2, shift_y_2), joints[:, :2] * scale + (shift_x, shift_y), atol=1e-6
    )


def test_too_few_or_fallen_joints(draw_body):
    crop, joints = draw_body()
    silhouette, _ = normalise_silhouette(crop)
    head_only = joints.copy()
    head_only[5:, 2] = 0.1
    with pytest.raises(DroppedFrame, match="fewer than two") as dropped:
        estimate_placement(silhouette, head_only, confident=0.3)
    assert dropped.value.reason == "no_placement"
    with pytest.raises(DroppedFrame, match="upright"):
        estimate_placement(silhouette, joints * (1, -1, 1), confident=0.3)
    with pytest.raises(DroppedFrame, match="upright"):
        estimate_placement(silhouette, joints * (1, 0, 1), confident=0.3)
