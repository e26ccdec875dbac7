"""Dots stay under their landmarks at every step; ends are exact; angles, scales, places between them by definition."""

import pickle

import cv2
import numpy as np
import pytest

from common.keypoints import fractions_to_pixels, transform_keypoints
from face.align import main as align
from face.data import decode_image, write_landmarks
from face.data.images import ImageError
from face.data.landmarks import Landmarks
from face.dfa.image_files import ImageFiles
from face.evaluation.moved_images import (
    MovedImages,
    alignment_path,
    centred_map,
    image_sizes,
    move_landmarks,
    resize_maps,
)
from face.reference import reference_landmarks

SIZES = [(100, 100), (120, 90), (96, 150), (300, 300)]
OUT_HW = (96, 80)


@pytest.fixture
def faces(tmp_path, dots, dot_points):
    """Images of several sizes, one of them turned upside down nearly, and their landmarks."""
    points = np.stack([dot_points + np.array([0.02, -0.02]) * number for number in range(len(SIZES))])
    points[1] = 1 - points[1] + 0.03
    for number, (size, each) in enumerate(zip(SIZES, points, strict=True)):
        assert cv2.imwrite(str(tmp_path / f"{number}.png"), dots(size, each, radius=0.05)[..., ::-1])
    names = [f"{number}.png" for number in range(len(SIZES))]
    write_landmarks(tmp_path / "landmarks.csv", names, points)
    count = len(SIZES)
    landmarks = Landmarks(points=np.float32(points), scores=np.ones(count, np.float32), found=np.ones(count, bool))
    return ImageFiles(tmp_path, names), landmarks


@pytest.fixture
def find_dots():
    """Centres of the dots of an image, fractions; NaN for one that is not there."""
    colours = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 0], [255, 0, 255]])

    def find(image):
        far = np.square(image[None].astype(float) - colours[:, None, None]).sum(-1) / 127.5**2
        found = np.full((5, 2), np.nan)
        for dot, weight in enumerate(np.where(far < 0.6, 1.0, 0.0)):
            rows, columns = np.nonzero(weight)
            if len(rows) > 4:
                found[dot] = (columns.mean() + 0.5) / image.shape[1], (rows.mean() + 0.5) / image.shape[0]
        return found

    return find


def seen(points, margin=0.1):
    """Which landmarks are well within the image."""
    return ((points > margin) & (points < 1 - margin)).all(-1)


@pytest.mark.parametrize("share", [0, 0.25, 0.5, 0.75, 1])
def test_dots_stay_under_their_landmarks_on_the_way(faces, find_dots, share):
    images, landmarks = faces
    path = alignment_path(images, landmarks, OUT_HW)
    moved = move_landmarks(landmarks, path.at(share), path.sizes, OUT_HW)
    view = MovedImages(images, path.at(share), OUT_HW)
    checked = 0
    for index in range(len(images)):
        image = view.read(index)
        assert image.shape == (*OUT_HW, 3)
        here = seen(moved.points[index])
        np.testing.assert_allclose(find_dots(image)[here], moved.points[index][here], atol=0.012)
        checked += here.sum()
    assert checked >= 15


@pytest.mark.parametrize(("degrees", "scale", "shift"), [(30, 1, (0, 0)), (-90, 0.6, (0, 0)), (0, 1.3, (0.1, -0.15))])
def test_dots_stay_under_their_landmarks_when_turned(faces, find_dots, degrees, scale, shift):
    images, landmarks = faces
    sizes = image_sizes(images)
    assert sizes.tolist() == [list(size) for size in SIZES]
    matrices = centred_map(OUT_HW, degrees, scale, shift) @ resize_maps(sizes, OUT_HW)
    moved = move_landmarks(landmarks, matrices, sizes, OUT_HW)
    view = MovedImages(images, matrices, OUT_HW)
    for index in range(len(images)):
        here = seen(moved.points[index])
        assert here.sum() >= 2
        np.testing.assert_allclose(find_dots(view.read(index))[here], moved.points[index][here], atol=0.012)


def test_maps_about_the_middle():
    """An image of 4 x 6: its middle stays, and a quarter turn clockwise moves what is right of it below it."""
    middle = np.array([[2.5, 1.5]])
    turned = centred_map((4, 6), degrees=90, scale=2)
    np.testing.assert_allclose(transform_keypoints(middle, turned), middle, atol=1e-12)
    np.testing.assert_allclose(
        transform_keypoints(middle + np.array([1, 0]), turned), middle + np.array([0, 2]), atol=1e-12
    )
    shifted = centred_map((4, 6), shift=(0.5, -0.25))
    np.testing.assert_allclose(transform_keypoints(middle, shifted), middle + np.array([3, -1]), atol=1e-12)
    np.testing.assert_array_equal(centred_map((4, 6)), np.eye(3))


def test_the_aligned_end_is_what_face_align_writes(faces, tmp_path, tmp_path_factory):
    """Pixel by pixel, of images that are enlarged and of one that is shrunk; landmarks near the template."""
    images, landmarks = faces
    out = tmp_path_factory.mktemp("files") / "aligned"
    arguments = (tmp_path, out, "--landmarks", tmp_path / "landmarks.csv", "--workers", 0)
    assert align([*map(str, arguments), "--size", "96"]) == 0
    path = alignment_path(images, landmarks, (96, 96))
    view = MovedImages(images, path.at(1), (96, 96))
    differing = 0
    for index, name in enumerate(images.names):
        written = decode_image((out / name).read_bytes(), name).astype(int)
        difference = abs(view.read(index).astype(int) - written)
        assert difference.max() <= 1  # the table has six digits
        differing += (difference > 0).mean() / len(images)
    assert differing < 2e-3
    moved = move_landmarks(landmarks, path.at(1), path.sizes, (96, 96))
    template = reference_landmarks((96, 96), pixels=False)
    np.testing.assert_allclose(moved.points.mean(1), np.tile(template.mean(0), (4, 1)), atol=1e-5)


def test_the_way_by_its_definition(faces):
    """Angles and logarithms of scales in proportion, the landmarks' mean on a straight line, oblong images included."""
    images, landmarks = faces
    path = alignment_path(images, landmarks, OUT_HW)
    for index, (height, width) in enumerate(SIZES):
        end = path.at(1)[index].astype(float)
        scale, angle = np.hypot(end[0, 0], end[1, 0]), np.arctan2(end[1, 0], end[0, 0])
        mean = fractions_to_pixels(landmarks.points[index].astype(float), (height, width)).mean(0)
        ends = [transform_keypoints(mean[None], path.at(share)[index].astype(float))[0] for share in (0, 1)]
        for share in (0.2, 0.5, 0.9):
            matrix = path.at(share)[index]
            along = matrix[:2, 0], matrix[:2, 1]
            expected = [(OUT_HW[1] / width) ** (1 - share), (OUT_HW[0] / height) ** (1 - share)]
            np.testing.assert_allclose(
                [np.linalg.norm(each) for each in along], np.array(expected) * scale**share, rtol=1e-6
            )
            assert along[0] @ along[1] == pytest.approx(0, abs=1e-9)
            turn = np.arctan2(along[0][1], along[0][0])
            assert turn == pytest.approx(share * angle, abs=1e-6)
            assert np.linalg.det(matrix[:2, :2]) > 0
            place = transform_keypoints(mean[None], matrix)[0]
            np.testing.assert_allclose(place, (1 - share) * ends[0] + share * ends[1], atol=1e-4)
    assert abs(np.arctan2(path.aligned[1, 1, 0], path.aligned[1, 0, 0])) > 2.5  # the one upside down
    for near, end in ((1e-9, 0), (1 - 1e-9, 1)):
        np.testing.assert_allclose(path.at(near), path.at(end), atol=1e-4)


def test_a_frame_is_the_image_resized(faces):
    images, _ = faces
    sizes = image_sizes(images)
    maps = resize_maps(sizes, OUT_HW)
    for (height, width), matrix in zip(SIZES, maps, strict=True):
        corners = np.array([[-0.5, -0.5], [width - 0.5, height - 0.5]])
        expected = [[-0.5, -0.5], [OUT_HW[1] - 0.5, OUT_HW[0] - 0.5]]
        np.testing.assert_allclose(transform_keypoints(corners, matrix), expected, atol=1e-9)
    same = MovedImages(images, maps, (100, 100))
    np.testing.assert_array_equal(
        MovedImages(images, resize_maps(sizes, (100, 100)), (100, 100)).read(0), images.read(0)
    )
    assert same.read(0).shape == (100, 100, 3)


def test_it_is_a_list_of_images(faces):
    images, landmarks = faces
    path = alignment_path(images, landmarks, OUT_HW)
    view = pickle.loads(pickle.dumps(MovedImages(images, path.at(0.3), OUT_HW)))
    assert (len(view), view.root, view.key_of(1), view.name_of(1)) == (4, images.root, "1.png", "1.png")
    np.testing.assert_array_equal(decode_image(view.read_bytes(2), "x"), view.read(2))


def test_what_cannot_be_aligned(faces, tmp_path):
    images, landmarks = faces
    found = landmarks.found.copy()
    found[2] = False
    lacking = Landmarks(points=landmarks.points, scores=landmarks.scores, found=found)
    with pytest.raises(ValueError, match=r"1 of 4 images have no landmarks, first: 2\.png"):
        alignment_path(images, lacking, OUT_HW)
    points = landmarks.points.copy()
    points[[0, 3]] = 0.5
    one_point = Landmarks(points=points, scores=landmarks.scores, found=landmarks.found)
    with pytest.raises(ValueError, match=r"2 of 4 images have landmarks that give no alignment, first: 0\.png, 3\.png"):
        alignment_path(images, one_point, OUT_HW)
    with pytest.raises(ValueError, match=r"matrices must have shape \[4, 3, 3\], got \[3, 3\]"):
        MovedImages(images, np.eye(3), OUT_HW)
    (tmp_path / "1.png").write_bytes(b"none")
    with pytest.raises(ImageError, match=r"1\.png"):
        image_sizes(images)
