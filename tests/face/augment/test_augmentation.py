"""FaceAugmentation: landmarks stay on the parts of the face that they mark, and everything comes from `rng`."""

import pickle
from dataclasses import replace

import cv2
import numpy as np
import pytest

from common.keypoints import FIVE_POINT_FACE, flip_keypoints, fractions_to_pixels
from face.augment import AugmentationSettings, FaceAugmentation

KEYPOINTS = np.array([[0.3, 0.36], [0.66, 0.42], [0.52, 0.6], [0.33, 0.78], [0.61, 0.83]], np.float32)
COLOURS = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [0, 1, 1]])  # one a landmark
SIZES = [((112, 112), (112, 112)), ((160, 160), (112, 112)), ((100, 140), (112, 112)), ((113, 97), (80, 121))]
GEOMETRY = replace(AugmentationSettings(), cutout_prob=0.0, blur_prob=0.0, randaug_ops=0)
ALONE = {
    "flip": {"flip_prob": 0.5},
    "rotation": {"rotation_prob": 1.0, "rotation_degrees": 60.0},
    "scale": {"scale_range": (0.6, 1.3)},
    "translation": {"translation_extra": 0.5},
    "room": {"scale_range": (0.7, 0.7), "translation_room": 1.0},
    "flip and rotation": {"flip_prob": 0.5, "rotation_prob": 1.0, "rotation_degrees": 45.0},
}
CASES = {name: replace(AugmentationSettings.none(), **changes) for name, changes in ALONE.items()}
CASES |= {"table 6": replace(GEOMETRY, rotation_prob=0.7)}


def noise(height, width):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def blobs(size_hw):
    """A dark image with a bright spot of its own colour at every landmark, centred to a fraction of a pixel."""
    rows, columns = np.mgrid[: size_hw[0], : size_hw[1]]
    image = np.zeros((*size_hw, 3))
    for (x, y), colour in zip(fractions_to_pixels(KEYPOINTS.astype(float), size_hw), COLOURS, strict=True):
        image += 250 * np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * 2.2**2))[..., None] * colour
    return np.clip(image, 0, 255).astype(np.uint8)


def find_blob(image, colour):
    """Centroid (x, y) in pixels of what has a colour."""
    brightest = image.max(-1).astype(float)
    same = ((image > 0.5 * brightest[..., None]) == colour.astype(bool)).all(-1) & (brightest > 12)
    weight = brightest * same
    rows, columns = np.mgrid[: image.shape[0], : image.shape[1]]
    return np.array([(weight * columns).sum(), (weight * rows).sum()]) / weight.sum()


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize(("in_hw", "out_hw"), SIZES)
def test_landmarks_are_where_the_blobs_are(name, in_hw, out_hw):
    image, augment = blobs(in_hw), FaceAugmentation(CASES[name], out_hw)
    checked, orders = 0, []
    for seed in range(16):
        moved, keypoints = augment(image, KEYPOINTS, np.random.default_rng(seed))
        left, right, _, left_mouth, right_mouth = keypoints
        down = (left_mouth + right_mouth - left - right) * out_hw[::-1]
        across = (right - left) * out_hw[::-1]
        assert across[0] * down[1] - across[1] * down[0] > 0  # left is left and right is right, mirrored or not
        pixels = fractions_to_pixels(keypoints.astype(float), out_hw)
        mirrored = np.linalg.norm(find_blob(moved, COLOURS[1]) - pixels[0]) < 3
        order = FIVE_POINT_FACE.flip_order if mirrored else range(5)
        orders.append(mirrored)
        for (x, y), colour in zip(pixels, COLOURS[order], strict=True):
            if min(x, y) > 9 and x < out_hw[1] - 10 and y < out_hw[0] - 10:  # the whole blob is in the image
                np.testing.assert_allclose(find_blob(moved, colour), (x, y), atol=0.5 if max(in_hw) > 140 else 0.25)
                checked += 1
    assert checked > 0.6 * 5 * 16
    assert any(orders) == (CASES[name].flip_prob > 0)
    assert not all(orders)


def test_nothing_is_changed_byte_for_byte():
    image = noise(112, 112)
    out, keypoints = FaceAugmentation(AugmentationSettings.none())(image, KEYPOINTS, np.random.default_rng(0))
    np.testing.assert_array_equal(out, image)
    np.testing.assert_array_equal(keypoints, KEYPOINTS)
    assert not np.shares_memory(out, image)
    assert not np.shares_memory(keypoints, KEYPOINTS)


def test_a_mirror_alone_is_exact():
    image = noise(60, 47)
    flip = FaceAugmentation(replace(AugmentationSettings.none(), flip_prob=1.0), (60, 47))
    out, keypoints = flip(image, KEYPOINTS, np.random.default_rng(0))
    np.testing.assert_array_equal(out, image[:, ::-1])
    np.testing.assert_array_equal(keypoints, flip_keypoints(KEYPOINTS, FIVE_POINT_FACE))


@pytest.mark.parametrize("settings", [AugmentationSettings(), AugmentationSettings.basic()], ids=["table 6", "basic"])
def test_all_randomness_is_the_generators(settings):
    image, augment = noise(112, 112), FaceAugmentation(settings)
    np.random.seed(0)
    cv2.setRNGSeed(0)
    first = [augment(image, KEYPOINTS, rng) for rng in [np.random.default_rng(3)] for _ in range(12)]
    np.random.seed(1)
    cv2.setRNGSeed(1)
    rng = np.random.default_rng(3)
    for out, keypoints in first:
        again, keypoints_again = augment(image, KEYPOINTS, rng)
        np.testing.assert_array_equal(again, out)
        np.testing.assert_array_equal(keypoints_again, keypoints)
    assert len({out.tobytes() for out, _ in first}) > 4


def test_keypoints_follow_the_geometry_alone():
    """Cutout, blur and colour come later and leave them as they are; without keypoints the image is the same."""
    image = noise(90, 120)
    for seed in range(30):
        whole, keypoints = FaceAugmentation()(image, KEYPOINTS, np.random.default_rng(seed))
        without, none = FaceAugmentation()(image, None, np.random.default_rng(seed))
        _, moved_alone = FaceAugmentation(GEOMETRY)(image, KEYPOINTS, np.random.default_rng(seed))
        np.testing.assert_array_equal(keypoints, moved_alone)
        np.testing.assert_array_equal(whole, without)
        assert none is None


@pytest.mark.parametrize("settings", [AugmentationSettings(), AugmentationSettings.basic()], ids=["table 6", "basic"])
@pytest.mark.parametrize("out_hw", [(112, 112), (90, 64)])
def test_inputs_stay_and_outputs_are_sound(settings, out_hw):
    image = noise(90, 64)
    before, points = image.copy(), KEYPOINTS.copy()
    image.setflags(write=False)
    points.setflags(write=False)
    augment, rng = FaceAugmentation(replace(settings, cutout_holes_share=0.5), out_hw), np.random.default_rng(0)
    for _ in range(40):
        out, keypoints = augment(image, points, rng)
        assert (out.dtype, out.shape) == (np.uint8, (*out_hw, 3))
        assert (keypoints.dtype, keypoints.shape) == (np.float32, (5, 2))
        assert out.flags.c_contiguous
        assert out.flags.writeable
        assert not np.shares_memory(out, image)
    np.testing.assert_array_equal(image, before)


def test_every_probability_at_its_ends():
    image = noise(40, 40)
    everything = AugmentationSettings(flip_prob=1, rotation_prob=1, cutout_prob=1, blur_prob=1, jitter_prob=1)
    out, _ = FaceAugmentation(everything, (40, 40))(image, KEYPOINTS, np.random.default_rng(0))
    assert not np.array_equal(out, image)
    for step in ("cutout_prob", "blur_prob", "jitter_prob", "flip_prob", "rotation_prob"):
        one = FaceAugmentation(replace(AugmentationSettings.none(), **{step: 1.0}), (40, 40))
        changed = [not np.array_equal(one(image, None, np.random.default_rng(n))[0], image) for n in range(8)]
        assert sum(changed) >= 7, step  # a blur of one pixel changes nothing


def test_views_that_are_not_contiguous():
    image = noise(112, 112)
    augment = FaceAugmentation()
    for seed in range(8):
        view, _ = augment(image[:, ::-1, ::-1], None, np.random.default_rng(seed))
        copy, _ = augment(image[:, ::-1, ::-1].copy(), None, np.random.default_rng(seed))
        np.testing.assert_array_equal(view, copy)


def test_it_goes_to_worker_processes():
    augment = FaceAugmentation(AugmentationSettings.basic(), (50, 40))
    other, image = pickle.loads(pickle.dumps(augment)), noise(60, 60)
    for seed in range(8):
        found = (each(image, None, np.random.default_rng(seed))[0] for each in (augment, other))
        np.testing.assert_array_equal(*found)


def test_border_is_a_setting():
    small = replace(AugmentationSettings.none(), scale_range=(0.5, 0.5), border=200)
    out, _ = FaceAugmentation(small, (40, 40))(np.zeros((40, 40, 3), np.uint8), None, np.random.default_rng(0))
    assert (out[:9] == 200).all()
    assert (out[11:29, 11:29] == 0).all()


def test_plain():
    image, augment = noise(112, 112), FaceAugmentation()
    out, keypoints = augment.plain(image, KEYPOINTS.astype(np.float64))
    np.testing.assert_array_equal(out, image)
    assert not np.shares_memory(out, image)
    np.testing.assert_array_equal(keypoints, KEYPOINTS)
    assert keypoints.dtype == np.float32
    resized, none = augment.plain(noise(224, 336), None)
    np.testing.assert_allclose(resized, noise(224, 336).reshape(112, 2, 112, 3, 3).mean((1, 3)), atol=0.51)
    assert none is None


BAD = {
    "image dtype": ({"image": np.zeros((8, 8, 3), np.float32)}, r"image must be uint8 .* got float32 \[8, 8, 3\]"),
    "image shape": ({"image": np.zeros((8, 8), np.uint8)}, r"image must be .* got uint8 \[8, 8\]"),
    "channels first": ({"image": np.zeros((3, 8, 8), np.uint8)}, r"image must be .* got uint8 \[3, 8, 8\]"),
    "empty": ({"image": np.zeros((0, 8, 3), np.uint8)}, "image must be"),
    "keypoints shape": ({"keypoints": KEYPOINTS[:4]}, r"keypoints must be .* \[5, 2\], got float32 \[4, 2\]"),
    "keypoints dtype": ({"keypoints": np.zeros((5, 2), int)}, "keypoints must be floating point .* got int64"),
    "pixels": ({"keypoints": KEYPOINTS * 112}, "keypoints must be fractions of the image"),
    "nan": ({"keypoints": KEYPOINTS * np.nan}, "keypoints must be finite"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_inputs(name):
    changes, message = BAD[name]
    arguments = {"image": noise(8, 8), "keypoints": KEYPOINTS, **changes}
    with pytest.raises(ValueError, match=message):
        FaceAugmentation()(**arguments, rng=np.random.default_rng(0))
    with pytest.raises(ValueError, match=message):
        FaceAugmentation().plain(**arguments)


def test_bad_output_size():
    for out_hw in ((0, 112), (112,)):
        with pytest.raises(ValueError, match="out_hw must be"):
            FaceAugmentation(out_hw=out_hw)
