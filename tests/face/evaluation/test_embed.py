"""embed_images against a network called by hand, image by image; modes, errors, and two processes."""

import sys
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist

from common.keypoints import FIVE_POINT_FACE, flip_keypoints
from face.data import ImageError, Landmarks
from face.evaluation.bins import read_bin, write_bin
from face.evaluation.embed import embed_images
from face.evaluation.pairs import open_pairs

ROOT = Path(__file__).parents[3]


@pytest.fixture
def images(pair_bin):
    return open_pairs(pair_bin()).images


@pytest.fixture
def landmarks(images, points):
    """Other points for each image; every fourth has none."""
    moved = points + np.random.default_rng(0).uniform(-0.1, 0.1, (len(images), 5, 2)).astype(np.float32)
    found = np.arange(len(images)) % 4 != 3
    moved[~found] = np.nan
    return Landmarks(points=moved, scores=found.astype(np.float32), found=found)


def by_hand(model, images, keypoints=None, visibility=None, flip_test=True):
    """One image at a time, pixels as they are."""
    out = []
    model.eval()
    for index in range(len(images)):
        image = torch.from_numpy(images.read(index)).permute(2, 0, 1)[None].float() / 127.5 - 1
        points = None if keypoints is None else torch.from_numpy(keypoints[index])[None]
        seen = None if visibility is None else torch.from_numpy(visibility[index])[None]
        value = model(image, points, seen)
        if flip_test:
            mirrored = None if points is None else flip_keypoints(points, FIVE_POINT_FACE)
            value = value + model(image.flip(-1), mirrored, seen)
        out.append(value.detach().numpy()[0])
    return np.stack(out)


@pytest.mark.parametrize("flip_test", [True, False])
@pytest.mark.parametrize("batch_size", [1, 7, 100])
def test_without_keypoints(images, toy, flip_test, batch_size):
    model = toy()
    found = embed_images(model, images, batch_size=batch_size, flip_test=flip_test)
    assert found.values.dtype == np.float32
    assert found.without_landmarks == 0
    assert all(call[1:] == (None, None) for call in model.calls)
    np.testing.assert_allclose(found.values, by_hand(model, images, flip_test=flip_test), rtol=0, atol=1e-5)


def test_images_go_in_as_rgb_of_unit_range(images, toy):
    model = toy()
    embed_images(model, images, batch_size=100, flip_test=False)
    pixels = torch.stack([torch.from_numpy(images.read(index)) for index in range(len(images))])
    torch.testing.assert_close(model.calls[0][0], pixels.permute(0, 3, 1, 2) / 127.5 - 1)


def test_hidden_and_mirrored_keypoints(images, toy, landmarks):
    model = toy(needs_keypoints=True)
    found = embed_images(model, images, landmarks, missing_landmarks="hide", batch_size=10)
    visibility = np.repeat(landmarks.found[:, None], 5, axis=1).astype(np.float32)
    expected = by_hand(model, images, np.nan_to_num(landmarks.points, nan=0.5), visibility)
    np.testing.assert_allclose(found.values, expected, rtol=0, atol=1e-5)
    assert found.without_landmarks == 9
    plain = by_hand(model, images, np.nan_to_num(landmarks.points, nan=0.5), visibility, flip_test=False)
    assert abs(2 * plain - expected).max() > 0.1  # the mirror is no copy


def test_landmarks_of_none(images, toy):
    model = toy(needs_keypoints=True)
    assert embed_images(model, images, missing_landmarks="reference").without_landmarks == 36
    with pytest.raises(ValueError, match="36 of 36 images have no landmarks"):
        embed_images(model, images)


def test_other_sizes_are_resized(pair_bin, toy):
    images = open_pairs(pair_bin(size_hw=(24, 20))).images
    model = toy().eval()
    found = embed_images(model, images, flip_test=False)
    first = images.read(0).reshape(12, 2, 10, 2, 3).mean(axis=(1, 3))
    expected = model(torch.from_numpy(first).permute(2, 0, 1)[None].float() / 127.5 - 1)
    np.testing.assert_allclose(found.values[0], expected.detach().numpy()[0], atol=0.02)


def test_workers_and_half_precision(images, toy):
    model = toy()
    alone = embed_images(model, images).values
    np.testing.assert_array_equal(embed_images(model, images, num_workers=1, progress="toy").values, alone)
    half = embed_images(model, images, precision="bf16").values
    assert half.dtype == np.float32
    assert 0 < abs(half - alone).max() < 0.1


def test_every_module_gets_its_mode_back(images, toy):
    model = torch.nn.Sequential(toy(), torch.nn.Dropout(0.5)).train()
    model.image_hw, model.needs_keypoints = (12, 10), False
    model[0].norm.eval()  # frozen while the rest is trained
    before = {name: value.clone() for name, value in model.state_dict().items()}
    embed_images(model, images)
    assert [module.training for module in model.modules()] == [True, True, False, True]
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_broken_image_is_named(pair_bin, toy, num_workers):
    path = broken(pair_bin())
    model = toy().train()
    with pytest.raises(ImageError, match=r"^\S*toy\.bin, image 7: ") as caught:
        embed_images(model, open_pairs(path).images, num_workers=num_workers)
    assert "Traceback" not in str(caught.value)
    assert model.training


def broken(path):
    content = read_bin(path)
    content.images[7] = content.images[7][:60]
    write_bin(path, content.images, content.same)
    return path


def test_refuses(images, toy):
    with pytest.raises(ValueError, match="need images and a batch_size >= 1, got 36 and 0"):
        embed_images(toy(), images, batch_size=0)


SECOND = """
import sys
from pathlib import Path
sys.path[:0] = sys.argv[1:3]
from conftest import Toy
from test_embed import share
print(share(Path(sys.argv[3]), 1, Toy()))
"""


def share(folder, rank, model):
    """One of two processes: embed what is whole, keep the result, and give the error of what is broken."""
    meeting = f"file://{folder}/meeting"
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=2, timeout=timedelta(seconds=60))
    try:
        values = embed_images(model, open_pairs(folder / "toy.bin").images, batch_size=5).values
        np.save(folder / f"{rank}.npy", values)
        with pytest.raises(ImageError) as caught:
            embed_images(model, open_pairs(folder / "broken.bin").images)
        return caught.value
    finally:
        dist.destroy_process_group()


def test_two_processes_are_one(pair_bin, toy, tmp_path, start_program):
    path = pair_bin()
    broken(pair_bin("broken.bin"))
    second = start_program(sys.executable, "-c", SECOND, ROOT, Path(__file__).parent, tmp_path)
    try:
        errors = [str(share(tmp_path, 0, toy()))]
    finally:
        out, err = second.finish()
    assert second.returncode == 0, err
    alone = embed_images(toy(), open_pairs(path).images, batch_size=5).values
    for rank, error in enumerate([*errors, out]):  # only one of them has read the broken image
        assert "broken.bin, image 7: " in error
        np.testing.assert_allclose(np.load(tmp_path / f"{rank}.npy"), alone, rtol=0, atol=1e-5)
