"""Images with landmarks in pixels: aligned as insightface aligns them, or as they are."""

import importlib.util
import os
import pickle
from pathlib import Path

import cv2
import numpy as np
import pytest

from common.keypoints import fractions_to_pixels
from face.data.images import decode_image
from face.evaluation.images import FolderImages
from face.evaluation.marked_images import AlignedImages, UnalignedImages
from face.reference import reference_landmarks

CHECKOUT = os.environ.get("INSIGHTFACE_ROOT")

_spec = importlib.util.spec_from_file_location(
    "parity_face_alignment", Path(__file__).parents[2] / "parity" / "face_alignment.py"
)
parity = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(parity)


@pytest.fixture
def images(tmp_path):
    """The same photograph four times, once for each of the recorded cases."""
    photograph = np.rint(parity.image() * 255).astype(np.uint8)
    names = [f"{number}.png" for number in range(4)]
    for name in names:
        cv2.imwrite(str(tmp_path / name), photograph[..., ::-1])
    return FolderImages(tmp_path, names, tmp_path / "list")


def compare_with_insightface(images, matrices, crops, stride):
    """`crops` are of floating-point pixels in [0, 1]; ours are of bytes."""
    aligned = AlignedImages(images, parity.landmarks())
    np.testing.assert_allclose(aligned.matrices[:, :2], matrices, rtol=1e-6, atol=1e-6)  # their template is float32
    for index, crop in enumerate(crops):
        found = aligned.read(index)
        assert found.shape == (112, 112, 3)
        assert found.dtype == np.uint8
        assert np.abs(found[::stride, ::stride] - 255.0 * crop).max() < 1.5


def test_it_is_insightface_norm_crop(images):
    stored = np.load(parity.STORED)
    compare_with_insightface(images, stored["matrices"], stored["images"], parity.STRIDE)


@pytest.mark.skipif(CHECKOUT is None, reason="INSIGHTFACE_ROOT names no checkout of insightface")
def test_it_is_the_checkouts_norm_crop(images):
    compare_with_insightface(images, *parity.crops(Path(CHECKOUT)), 1)


def test_landmarks_are_carried_along(images):
    marks = parity.landmarks().astype(np.float32)
    aligned = AlignedImages(images, marks, (56, 70))
    assert len(aligned) == 4
    assert aligned.key_of(2) == aligned.name_of(2) == "2.png"
    assert aligned.root == images.root
    assert aligned.landmarks.found.all()
    assert aligned.landmarks.scores.tolist() == [1, 1, 1, 1]
    for index, (x, y) in enumerate(marks[:, 3]):
        moved = aligned.matrices[index, :2] @ [x, y, 1]
        found = fractions_to_pixels(aligned.landmarks.points[index].astype(np.float64), (56, 70))
        np.testing.assert_allclose(found[3], moved, atol=1e-4)
        assert np.abs(found - reference_landmarks((56, 70))).max() < 5
        marked = aligned.read_marked(index)
        np.testing.assert_array_equal(marked.image, aligned.read(index))
        np.testing.assert_array_equal(marked.landmarks, aligned.landmarks.points[index])
        assert marked.image.shape == (56, 70, 3)
        np.testing.assert_array_equal(decode_image(aligned.read_bytes(index), "it"), marked.image)


def test_as_they_are(images):
    unaligned = UnalignedImages(images, parity.landmarks())
    image, landmarks = unaligned.read_marked(1)
    np.testing.assert_array_equal(image, images.read(1))
    np.testing.assert_array_equal(unaligned.read(1), image)
    assert unaligned.read_bytes(1) == images.read_bytes(1)
    height, width = parity.IMAGE_HW
    np.testing.assert_allclose(landmarks, (parity.landmarks()[1] + 0.5) / [width, height], rtol=1e-6)
    assert landmarks.dtype == np.float32


@pytest.mark.parametrize("view", [AlignedImages, UnalignedImages])
def test_loader_processes_can_have_them(images, view):
    before = view(images, parity.landmarks())
    after = pickle.loads(pickle.dumps(before))
    np.testing.assert_array_equal(after.read(3), before.read(3))


@pytest.mark.parametrize("bad", [np.full((5, 2), 7.0), np.full((5, 2), np.nan)], ids=["one_point", "nan"])
def test_landmarks_without_an_alignment(images, bad):
    marks = parity.landmarks()
    marks[[1, 3]] = bad
    with pytest.raises(ValueError, match=r"landmarks of 2 of 4 images give no alignment, first: 1\.png, 3\.png"):
        AlignedImages(images, marks)


def test_landmarks_of_other_images(images):
    with pytest.raises(ValueError, match=r"must have shape \[4, 5, 2\], got \[3, 5, 2\]"):
        UnalignedImages(images, parity.landmarks()[:3])
