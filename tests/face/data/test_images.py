"""Decoding: channels in order, formats made alike, and damage that OpenCV lets pass."""

import cv2
import numpy as np
import pytest

from face.data.images import ImageError, decode_image, resize_image


def test_rgb_in_this_order():
    image = np.zeros((2, 3, 3), np.uint8)
    image[0, 1] = (255, 128, 7)
    encoded = cv2.imencode(".png", image[..., ::-1])[1].tobytes()
    decoded = decode_image(encoded, "x")
    np.testing.assert_array_equal(decoded, image)
    assert decoded.dtype == np.uint8
    assert decoded.flags.c_contiguous


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_grey_becomes_rgb(dtype):
    grey = (np.arange(6).reshape(2, 3) * np.iinfo(dtype).max // 5).astype(dtype)
    decoded = decode_image(cv2.imencode(".png", grey)[1].tobytes(), "x")
    np.testing.assert_array_equal(decoded, np.repeat((np.arange(6).reshape(2, 3, 1) * 51).astype(np.uint8), 3, axis=2))


def test_transparency_is_dropped():
    image = np.zeros((2, 2, 4), np.uint8)
    image[..., 0], image[..., 3] = 200, 10
    np.testing.assert_array_equal(decode_image(cv2.imencode(".png", image)[1].tobytes(), "x")[..., 2], 200)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp", ".webp"])
def test_every_cut_is_an_error(suffix):
    noise = np.random.default_rng(0).integers(0, 256, (24, 24, 3), dtype=np.uint8)
    encoded = cv2.imencode(suffix, noise)[1].tobytes()
    assert decode_image(encoded, "x").shape == (24, 24, 3)
    for kept in (0.1, 0.5, 0.9):
        with pytest.raises(ImageError, match=r"^id3/1: "):
            decode_image(encoded[: int(len(encoded) * kept)], "id3/1")


def test_no_image_at_all():
    with pytest.raises(ImageError, match="id3/1: no bytes"):
        decode_image(b"", "id3/1")
    with pytest.raises(ImageError, match=r"id3/1: 5 bytes, beginning with b'hello', do not decode"):
        decode_image(b"hello", "id3/1")


def test_shrinking_is_the_mean_over_areas():
    image = np.random.default_rng(0).integers(0, 256, (12, 8, 3)).astype(np.uint8)
    expected = image.reshape(6, 2, 2, 4, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(resize_image(image, (6, 2)), expected, atol=0.5)


@pytest.mark.parametrize("size_hw", [(24, 10), (20, 5)])
def test_growing_keeps_fractions(size_hw):
    """A ramp over the image stays the same ramp over it, up to its edge."""
    ramp = (np.arange(10) + 0.5) / 10
    image = np.repeat(np.broadcast_to(np.rint(250 * ramp)[:, None], (10, 8))[..., None], 3, axis=2).astype(np.uint8)
    grown = resize_image(image, size_hw)
    assert grown.shape == (*size_hw, 3)
    centres = (np.arange(size_hw[0]) + 0.5) / size_hw[0]
    inside = (centres > 0.05) & (centres < 0.95)
    np.testing.assert_allclose(grown[inside, 2, 0], 250 * centres[inside], atol=1.5)


def test_the_right_size_is_left_alone():
    image = np.zeros((4, 3, 3), np.uint8)
    assert resize_image(image, (4, 3)) is image
    assert resize_image(image, (3, 4)).shape == (3, 4, 3)


def test_resize_image():
    image = np.random.default_rng(1).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    assert resize_image(image, (40, 60)) is image
    halves = image.reshape(20, 2, 30, 2, 3).mean((1, 3))
    np.testing.assert_allclose(resize_image(image, (20, 30)), halves, atol=0.51)
    even = np.full((9, 7, 3), 93, np.uint8)
    for size_hw in ((18, 14), (5, 20), (3, 3)):
        resized = resize_image(even, size_hw)
        assert resized.shape == (*size_hw, 3)
        assert (resized == 93).all()
