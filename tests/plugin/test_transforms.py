"""Paired transforms, seen from outside: a dot painted at a joint must still be at that joint afterwards.

Frame t of the painted sequence shows one dot, at the place of joint t. Whatever a chain does, the dot's centroid in
frame t must be where the keypoints say that joint t, or its mirror partner after a flip, now is.
"""

import numpy as np
import pytest

from common.keypoints import COCO_17, fractions_to_pixels
from common.runtime.settings import ConfigError
from plugin.transforms import (
    BaseSilCuttingTransform,
    CropMisalignment,
    JointDropout,
    JointNoise,
    PairedCompose,
    PairedSample,
    RandomHorizontalFlip,
    RandomRotate,
)

JOINTS = len(COCO_17)
TOLERANCE = 0.3  # pixels
ALWAYS = {
    "rotate": [{"type": "RandomRotate", "prob": 1.0, "degree": 25.0}],
    "perspective": [{"type": "RandomPerspective", "prob": 1.0}],
    "affine": [{"type": "RandomAffine", "prob": 1.0}],
    "misalignment": [{"type": "CropMisalignment", "shift": 0.15, "scale": 0.2}],
    "misalignment per frame": [{"type": "CropMisalignment", "shift": 0.15, "scale": 0.2, "per_frame": True}],
    "flip": [{"type": "RandomHorizontalFlip", "prob": 1.0}],
    "cutting": [{"type": "BaseSilCuttingTransform"}],
    "recipe": [
        {"type": "RandomPerspective", "prob": 1.0},
        {"type": "BaseSilCuttingTransform"},
        {"type": "RandomHorizontalFlip", "prob": 1.0},
        {"type": "RandomRotate", "prob": 1.0},
    ],
    "all": [
        {"type": "BaseSilTransform"},
        {"type": "RandomHorizontalFlip", "prob": 1.0},
        {"type": "RandomAffine", "prob": 1.0},
        {"type": "CropMisalignment", "per_frame": True, "shift": 0.05, "scale": 0.05},
        {"type": "BaseSilCuttingTransform", "cutting": 7},
        {"type": "RandomRotate", "prob": 1.0},
    ],
}


def painted(height=64, width=64, margin=18, spread=1.5):
    """[17, h, w] with a soft dot at joint t in frame t, and the joints [17, 17, 3] in pixels, the same each frame."""
    rng = np.random.default_rng(7)
    places = rng.uniform([margin, margin], [width - 1 - margin, height - 1 - margin], (JOINTS, 2))
    rows, cols = np.mgrid[:height, :width]
    x, y = places[:, 0, None, None], places[:, 1, None, None]
    dots = 255 * np.exp(-((cols - x) ** 2 + (rows - y) ** 2) / (2 * spread**2))
    keypoints = np.concatenate([places, rng.uniform(0.2, 1, (JOINTS, 1))], axis=-1)
    return dots.round().astype(np.uint8), np.tile(keypoints, (JOINTS, 1, 1)).astype(np.float32)


def centroids(silhouettes):
    rows, cols = np.mgrid[: silhouettes.shape[1], : silhouettes.shape[2]]
    mass = silhouettes.sum((1, 2))
    return np.stack([(silhouettes * cols).sum((1, 2)), (silhouettes * rows).sum((1, 2))], axis=-1) / mass[:, None]


def blob(frames=3, height=64, width=64, seed=0):
    """Random silhouettes and joints."""
    rng = np.random.default_rng(seed)
    silhouettes = (rng.random((frames, height, width)) < 0.5).astype(np.uint8) * 255
    keypoints = rng.uniform(5, 40, (frames, JOINTS, 3)).astype(np.float32)
    keypoints[..., 2] = rng.uniform(0.3, 1, (frames, JOINTS))
    return silhouettes, keypoints


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("name", ALWAYS)
def test_dots_stay_on_their_joints(name, seed):
    silhouettes, keypoints = painted()
    moved, fractions = PairedCompose(ALWAYS[name])(silhouettes, keypoints, seed)
    assert moved.dtype == fractions.dtype == np.float32
    joints = fractions_to_pixels(fractions.astype(np.float64), moved.shape[1:])
    flips = sum(step["type"] == "RandomHorizontalFlip" for step in ALWAYS[name])
    slots = COCO_17.flip_order if flips % 2 else list(range(JOINTS))
    before = centroids(silhouettes / 255)
    checked = 0
    for frame, slot in enumerate(slots):
        x, y, confidence = joints[frame, slot]
        if not (5 <= x <= moved.shape[2] - 6 and 5 <= y <= moved.shape[1] - 6):
            continue  # the dot is cut off by the border
        assert np.abs(centroids(moved[frame : frame + 1])[0] - [x, y]).max() < TOLERANCE
        np.testing.assert_allclose(confidence, keypoints[frame, frame, 2], rtol=1e-6)
        checked += 1
    assert checked >= 10
    if name != "cutting":
        shown = moved.sum((1, 2)) > 0
        assert np.abs(centroids(moved[shown]) - before[shown]).max() > 1  # it did move


def test_frames_move_apart_only_when_asked():
    silhouettes, keypoints = blob(frames=4)
    keypoints[:] = keypoints[0]
    for per_frame in (False, True):
        chain = PairedCompose([CropMisalignment(per_frame=per_frame)])
        _, moved = chain(silhouettes, keypoints, 3)
        assert np.array_equal(moved[0], moved[1]) is not per_frame


def test_a_flip_puts_the_left_dot_into_the_right_joints_slot():
    silhouettes, keypoints = painted()
    moved, fractions = PairedCompose([RandomHorizontalFlip(prob=1.0)])(silhouettes, keypoints, 0)
    left, right = COCO_17.names.index("left_wrist"), COCO_17.names.index("right_wrist")
    joints = fractions_to_pixels(fractions, (64, 64))
    dot = centroids(moved[left : left + 1])[0]
    np.testing.assert_allclose(dot, joints[left, right, :2], atol=0.05)
    assert np.abs(dot - joints[left, left, :2]).max() > 1
    np.testing.assert_allclose(joints[left, right, 0], 63 - keypoints[left, left, 0], rtol=1e-5)


@pytest.mark.parametrize(
    ("chain", "expected"),
    [
        ([], lambda s: s),
        ([{"type": "BaseSilTransform"}], lambda s: s),
        ([{"type": "BaseSilCuttingTransform"}], lambda s: s[:, :, 10:-10]),
        ([{"type": "BaseSilCuttingTransform", "cutting": 3}], lambda s: s[:, :, 3:-3]),
        ([{"type": "RandomHorizontalFlip", "prob": 1.0}], lambda s: s[:, :, ::-1]),
        (
            [{"type": "BaseSilCuttingTransform"}, {"type": "RandomHorizontalFlip", "prob": 1.0}],
            lambda s: s[:, :, 10:-10][:, :, ::-1],
        ),
        (
            [{"type": "RandomHorizontalFlip", "prob": 1.0}, {"type": "BaseSilCuttingTransform", "cutting": 5}],
            lambda s: s[:, :, ::-1][:, :, 5:-5],
        ),
        ([{"type": "RandomHorizontalFlip", "prob": 1.0}] * 2, lambda s: s),
    ],
)
def test_crops_and_flips_are_exact(chain, expected):
    rng = np.random.default_rng(0)
    silhouettes = rng.integers(0, 256, (5, 64, 64), dtype=np.uint8)
    moved, _ = PairedCompose(chain)(silhouettes, None, 0)
    np.testing.assert_array_equal(moved, expected(silhouettes).astype(np.float32) / 255)


def test_uncommon_crops_are_exact_or_zero_outside():
    """A shift by whole pixels that leaves the frame: what was there is moved, what comes in is 0."""
    silhouettes, _ = blob(frames=5)
    for dx, dy in ((3, -2), (-4, 5), (0, 7)):
        sample = PairedSample(silhouettes, None)
        matrix = np.eye(3)
        matrix[:2, 2] = dx, dy
        sample.move(matrix)
        moved, _ = sample.finish()
        expected = np.zeros_like(moved)
        for row in range(64):
            for col in range(64):
                if 0 <= row - dy < 64 and 0 <= col - dx < 64:
                    expected[:, row, col] = silhouettes[:, row - dy, col - dx] / 255
        np.testing.assert_allclose(moved, expected, atol=1e-6)


@pytest.mark.parametrize("frames", [1, 3, 4, 5, 9])
def test_every_frame_is_moved_alike_whatever_their_number(frames):
    silhouettes, _ = blob(frames=frames)
    chain = PairedCompose(ALWAYS["rotate"])
    together, _ = chain(silhouettes, None, 1)
    assert together.shape == (frames, 64, 64)
    for frame in range(frames):
        alone, _ = chain(silhouettes[frame : frame + 1], None, 1)
        np.testing.assert_array_equal(together[frame], alone[0])


def test_one_interpolation_is_close_to_one_after_the_other():
    silhouettes, keypoints = painted(spread=4.0)  # smooth, so that interpolation itself hardly errs
    geometry, joints = np.random.default_rng(2).spawn(2)
    composed = PairedSample(silhouettes, keypoints)
    steps = [RandomRotate(prob=1.0), CropMisalignment(scale=0.05, shift=0.05)]
    for step in steps:
        step(composed, geometry, joints)
    once, once_joints = composed.finish()

    geometry, joints = np.random.default_rng(2).spawn(2)
    twice, pixels = silhouettes, keypoints
    for step in steps:
        sample = PairedSample(twice, pixels)
        step(sample, geometry, joints)
        moved, fractions = sample.finish()
        twice, pixels = (moved * 255).round().astype(np.uint8), fractions_to_pixels(fractions, (64, 64))
    np.testing.assert_allclose(once_joints, fractions, atol=1e-5)
    assert np.abs(once - moved).max() < 0.03
    assert np.abs(once - silhouettes / 255).max() > 0.3
    # Interpolating twice blurs more.
    assert (once**2).sum() > (moved**2).sum()


@pytest.mark.parametrize("name", ALWAYS)
def test_models_with_and_without_joints_meet_the_same_silhouettes(name):
    chain = [{"type": "JointDropout", "prob": 0.5}, *ALWAYS[name], {"type": "JointNoise"}]
    silhouettes, keypoints = blob()
    for seed in (0, [4, 2, 7]):
        with_joints, _ = PairedCompose(chain)(silhouettes, keypoints, seed)
        without, none = PairedCompose(chain)(silhouettes, None, seed)
        assert none is None
        np.testing.assert_array_equal(with_joints, without)
        np.testing.assert_array_equal(with_joints, PairedCompose(ALWAYS[name])(silhouettes, None, seed)[0])


def test_the_seed_decides():
    chain = PairedCompose([*ALWAYS["rotate"], {"type": "JointDropout", "prob": 0.5}, {"type": "JointNoise"}])
    silhouettes, keypoints = blob()
    first, again, other = (chain(silhouettes, keypoints, seed) for seed in (1, 1, 2))
    for a, b, c in zip(first, again, other, strict=True):
        np.testing.assert_array_equal(a, b)
        assert not np.array_equal(a, c)


def test_probabilities():
    silhouettes, _ = blob(frames=1)
    for kind in ("RandomHorizontalFlip", "RandomRotate", "RandomPerspective", "RandomAffine", "CropMisalignment"):
        for prob, low, high in ((0.0, 0, 0), (1.0, 60, 60), (0.3, 8, 30)):
            chain = PairedCompose([{"type": kind, "prob": prob}])
            moved = [not np.array_equal(chain(silhouettes, None, seed)[0], silhouettes / 255) for seed in range(60)]
            assert low <= sum(moved) <= high


def test_misalignment_hides_what_it_cuts_off():
    silhouettes, keypoints = blob(frames=6)
    keypoints[..., :2] = np.random.default_rng(3).uniform(0, 63, (6, JOINTS, 2))
    chain = PairedCompose([CropMisalignment(shift=0.3, scale=0.3, per_frame=True)])
    _, moved = chain(silhouettes, keypoints, 0)
    inside = ((moved[..., :2] >= 0) & (moved[..., :2] <= 1)).all(-1)
    assert 0 < inside.sum() < inside.size
    np.testing.assert_array_equal(moved[..., 2], np.where(inside, keypoints[..., 2], 0))


def test_misalignment_stays_in_its_range():
    silhouettes, keypoints = blob(frames=200, height=32, width=32)
    keypoints[..., :2] = [15.5, 15.5]  # the centre, which scaling leaves where it is
    keypoints[:, 1, :2] = [25.5, 15.5]
    _, moved = PairedCompose([CropMisalignment(shift=0.1, scale=0.2, per_frame=True)])(silhouettes, keypoints, 0)
    shift = moved[:, 0, :2] - 0.5
    assert 0.08 < np.abs(shift).max() <= 0.1 + 1e-6
    scale = (moved[:, 1, 0] - moved[:, 0, 0]) * 32 / 10
    assert 0.8 - 1e-5 <= scale.min() < 0.83
    assert 1.17 < scale.max() <= 1.2 + 1e-5


def test_rotation_is_about_the_centre():
    silhouettes, keypoints = blob(frames=1, height=64, width=44)
    keypoints[..., :2] = [21.5, 31.5]
    keypoints[:, 1, :2] = [21.5, 11.5]
    for seed in range(20):
        _, moved = PairedCompose([RandomRotate(prob=1.0, degree=10.0)])(silhouettes, keypoints, seed)
        joints = fractions_to_pixels(moved.astype(np.float64), (64, 44))
        np.testing.assert_allclose(joints[0, 0, :2], [21.5, 31.5], atol=1e-5)
        x, y = joints[0, 1, :2] - joints[0, 0, :2]
        assert abs(np.hypot(x, y) - 20) < 1e-4
        assert abs(np.degrees(np.arctan2(x, -y))) <= 10 + 1e-4


def test_joint_dropout_touches_confidences_alone():
    silhouettes, keypoints = blob(frames=40)
    _, plain = PairedCompose([])(silhouettes, keypoints, 0)
    for per_frame in (True, False):
        chain = PairedCompose([JointDropout(prob=0.4, per_frame=per_frame)])
        moved, dropped = chain(silhouettes, keypoints, 0)
        np.testing.assert_array_equal(moved, silhouettes / np.float32(255))
        np.testing.assert_array_equal(dropped[..., :2], plain[..., :2])
        lost = dropped[..., 2] == 0
        np.testing.assert_array_equal(dropped[~lost], plain[~lost])
        assert 0.2 < lost.mean() < 0.6
        assert (lost == lost[:1]).all() is np.bool_(not per_frame)


def test_joint_noise_touches_places_alone():
    silhouettes, keypoints = blob(frames=40)
    _, plain = PairedCompose([])(silhouettes, keypoints, 0)
    moved, noisy = PairedCompose([JointNoise(std=0.05)])(silhouettes, keypoints, 0)
    np.testing.assert_array_equal(moved, silhouettes / np.float32(255))
    np.testing.assert_array_equal(noisy[..., 2], plain[..., 2])
    assert 0.045 < (noisy - plain)[..., :2].std() < 0.055


def test_inputs_are_left_as_they_are():
    silhouettes, keypoints = blob()
    before = silhouettes.copy(), keypoints.copy()
    chain = [{"type": "JointDropout", "prob": 0.9}, {"type": "JointNoise"}, *ALWAYS["all"]]
    PairedCompose(chain)(silhouettes, keypoints, 0)
    PairedCompose([])(silhouettes, keypoints, 0)[0][:] = 7
    np.testing.assert_array_equal(silhouettes, before[0])
    np.testing.assert_array_equal(keypoints, before[1])


def test_cutting_leaves_44_columns():
    for width in (64, 44):
        silhouettes, keypoints = blob(width=width)
        moved, fractions = PairedCompose([BaseSilCuttingTransform()])(silhouettes, keypoints, 0)
        assert moved.shape == (3, 64, 44)
        left = (width - 44) // 2
        np.testing.assert_array_equal(moved, silhouettes[:, :, left : left + 44] / np.float32(255))
        np.testing.assert_allclose(fractions[..., 0], (keypoints[..., 0] - left + 0.5) / 44, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(fractions[..., 1], (keypoints[..., 1] + 0.5) / 64, rtol=1e-5)


def test_everything_wrong_with_a_chain_is_named():
    chain = [
        {"type": "RandomErase"},
        {"type": "RandomRotate", "degrees": 5.0},
        {"type": "RandomHorizontalFlip", "prob": 1.5},
        {"type": "CropMisalignment", "scale": 1.0},
        {"type": "JointNoise", "std": -0.1},
        {"type": "BaseSilCuttingTransform", "cutting": -1},
    ]
    with pytest.raises(ConfigError) as error:
        PairedCompose(chain)
    for part in ("RandomErase", "degrees", "prob must be within 0 and 1", "scale within", "std must", "cutting must"):
        assert part in str(error.value)
    for index in range(len(chain)):
        assert f"trf_cfg[{index}]" in str(error.value)


def test_wrong_shapes():
    silhouettes, keypoints = blob()
    chain = PairedCompose([])
    with pytest.raises(ValueError, match=r"silhouettes must be uint8 of shape \[T, h, w\], got float32 \[3, 64, 64\]"):
        chain(silhouettes.astype(np.float32), keypoints, 0)
    with pytest.raises(ValueError, match=r"silhouettes must be uint8 of shape \[T, h, w\], got uint8 \[64, 64\]"):
        chain(silhouettes[0], keypoints, 0)
    for wrong in (keypoints[:2], keypoints[:, :16], keypoints[..., :2]):
        with pytest.raises(ValueError, match=r"keypoints must have shape \[3, 17, 3\]"):
            chain(silhouettes, wrong, 0)
    for kind, message in (
        ({"type": "RandomPerspective", "prob": 1.0}, "at least 44 wide, got 32"),
        ({"type": "RandomAffine", "prob": 1.0}, "at least 64 high, got 32"),
        ({"type": "BaseSilCuttingTransform", "cutting": 16}, "leaves nothing of a width of 32"),
    ):
        with pytest.raises(ValueError, match=message):
            PairedCompose([kind])(silhouettes[:, :32, :32], None, 0)
