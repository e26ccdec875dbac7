"""The aligner against the authors', and by what must hold wherever the network sees the face."""

import importlib.util
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from common.keypoints import fractions_to_pixels, pixels_to_fractions, transform_keypoints
from face.alignment import align_faces
from face.dfa.aligner import AlignerSettings, FaceAligner, load_aligner
from face.dfa.network import DFANetwork, DFAPrediction, DFASettings
from face.dfa.pretrained import create_dfa, save_dfa
from face.reference import reference_landmarks

CHECKOUT = os.environ.get("CVLFACE_ROOT")

_spec = importlib.util.spec_from_file_location(
    "parity_face_aligner", Path(__file__).parents[2] / "parity" / "face_aligner.py"
)
parity = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(parity)

TEMPLATE = torch.from_numpy(reference_landmarks(pixels=False)).float()
FACE = 0.3 + 0.4 * TEMPLATE


class Answers(nn.Module):
    """Stands in for a network: gives the same landmarks whatever it sees, and keeps what it saw."""

    def __init__(self, landmarks=FACE, image_hw=(40, 40)):
        super().__init__()
        self.settings = DFASettings(image_hw=image_hw)
        self.image_hw = image_hw
        self.landmarks = nn.Parameter(landmarks.clone())

    def predict(self, images, aggregate=True):
        self.seen = images
        landmarks = self.landmarks.expand(len(images), 5, 2)
        boxes = torch.cat([landmarks.amin(1), landmarks.amax(1)], -1)
        return DFAPrediction(landmarks=landmarks, score=images.new_full((len(images),), 0.9), boxes=boxes)


def smooth(count, hw):
    y, x = torch.meshgrid(*(torch.arange(size, dtype=torch.float32) for size in hw), indexing="ij")
    return torch.stack([torch.sin(x / 7 + y / 11 + phase) for phase in range(3 * count)]).unflatten(0, (count, 3))


def spots(points_px, hw):
    """[1, 3, h, w], a bright spot at each landmark, and how the middle of a spot is found again."""
    y, x = torch.meshgrid(*(torch.arange(size, dtype=torch.float32) for size in hw), indexing="ij")
    near = [torch.exp(-((x - px) ** 2 + (y - py) ** 2) / 18) for px, py in points_px.tolist()]
    return torch.stack(near)[:, None].expand(-1, 3, -1, -1)


def middle(image):
    """(x, y) in pixel-index coordinates of the mass of an image [h, w]."""
    rows, cols = (torch.arange(size, dtype=torch.float32) for size in image.shape)
    return torch.stack([(image.sum(0) * cols).sum(), (image.sum(1) * rows).sum()]) / image.sum()


# Against the authors'


@pytest.fixture(scope="module")
def weights_file(tmp_path_factory):
    shapes = json.loads(np.load(parity.STORED)["shapes"].tobytes())
    path = tmp_path_factory.mktemp("authors") / "model.pt"
    torch.save(parity.weights({name: tuple(shape) for name, shape in shapes.items()}), path)
    return path


def as_authors(weights_file, case, inference):
    settings = AlignerSettings(padding_ratio=case.padding_ratio, align_corners=True, sample_from="network")
    with torch.no_grad():
        found = load_aligner(weights_file, settings, inference=inference)(parity.images(case))
    assert found.valid.all()
    return found


@pytest.mark.parametrize("inference", [True, False])
@pytest.mark.parametrize("case", parity.CASES, ids=str)
def test_as_the_authors_aligner(weights_file, case, inference):
    found = as_authors(weights_file, case, inference)
    stored = np.load(parity.STORED)
    for name in parity.NAMES:
        if f"{case}/{name}" in stored:
            got = getattr(found, name)
            got = got[..., :: parity.STRIDE, :: parity.STRIDE] if name == "images" else got
            np.testing.assert_allclose(got.numpy(), stored[f"{case}/{name}"], atol=1e-4, err_msg=name)


@pytest.mark.skipif(CHECKOUT is None, reason="CVLFACE_ROOT names no CVLface checkout")
@pytest.mark.parametrize("case", parity.CASES, ids=str)
def test_as_the_authors_aligner_now(weights_file, case):
    pytest.importorskip("skimage")
    found = as_authors(weights_file, case, True)
    _, theirs = parity.outcome(Path(CHECKOUT), case)
    square = case.image_hw[0] == case.image_hw[1]
    for name in parity.NAMES:
        assert (theirs[name] is not None) == (square or name not in ("landmarks", "boxes"))
        if theirs[name] is not None:
            torch.testing.assert_close(getattr(found, name), theirs[name], atol=1e-4, rtol=0, msg=name)


# Shapes and ways back


@pytest.mark.parametrize("hw", [(40, 40), (100, 100), (60, 90), (121, 50), (17, 30)])
@pytest.mark.parametrize("padding_ratio", [0.0, 0.13])
@pytest.mark.parametrize("sample_from", ["input", "network"])
@pytest.mark.parametrize("align_corners", [False, True])
def test_matrix_and_landmarks_belong_to_the_image_given(hw, padding_ratio, sample_from, align_corners):
    settings = AlignerSettings(
        out_hw=(30, 36), padding_ratio=padding_ratio, sample_from=sample_from, align_corners=align_corners
    )
    found = FaceAligner(Answers(), settings)(smooth(2, hw))
    assert found.images.shape == (2, 3, 30, 36)
    assert found.valid.all()
    corners = found.boxes.unflatten(-1, (2, 2))
    torch.testing.assert_close(corners[:, 0], found.landmarks.amin(1))
    torch.testing.assert_close(corners[:, 1], found.landmarks.amax(1))
    if align_corners:  # the authors' fractions, pixel / size, are pixel-index coordinates but for the size they span
        return
    moved = transform_keypoints(fractions_to_pixels(found.landmarks, hw), found.matrix)
    torch.testing.assert_close(pixels_to_fractions(moved, (30, 36)), found.aligned_landmarks, atol=1e-4, rtol=0)


@pytest.mark.parametrize("hw", [(80, 80), (60, 90), (121, 70)])
@pytest.mark.parametrize("padding_ratio", [0.0, 0.2])
@pytest.mark.parametrize("align_corners", [False, True])
def test_the_network_sees_a_spot_where_its_landmarks_say_the_image_has_it(hw, padding_ratio, align_corners):
    """Found in what the network saw, a spot's fractions of that are carried back to its place in the image."""
    points = fractions_to_pixels(FACE, hw)
    network = Answers(image_hw=(64, 64))
    aligner = FaceAligner(network, AlignerSettings(padding_ratio=padding_ratio, align_corners=align_corners, fill=0.0))
    aligner(spots(points, hw))
    at = torch.stack([middle(seen[0]) for seen in network.seen])
    fractions = (at + (0.0 if align_corners else 0.5)) / 64
    with torch.no_grad():
        network.landmarks.copy_(fractions)
    found = aligner(spots(points, hw))
    size = torch.tensor([hw[1], hw[0]])
    back = found.landmarks[0] * size - (0.0 if align_corners else 0.5)
    # pixel / size of the network's image is up to one of its pixels from that of the image: their half pixel
    tolerance = 1.5 * max(hw) / 64 if align_corners else 0.1
    torch.testing.assert_close(back, points, atol=tolerance, rtol=0)


def test_shrinking_for_the_network_is_antialiased(rng):
    noise = torch.rand(1, 3, 400, 400, generator=rng)
    network = Answers()
    FaceAligner(network)(noise)
    smoothed = network.seen.std()
    FaceAligner(network, AlignerSettings(align_corners=True))(noise)
    assert smoothed < 0.3 * network.seen.std()


def test_an_image_of_the_networks_size_is_seen_as_it_is():
    network, images = Answers(), smooth(2, (40, 40))
    FaceAligner(network)(images)
    assert network.seen is images


def test_landmarks_of_an_image_of_any_shape_are_put_on_the_template():
    hw = (90, 60)
    found = FaceAligner(Answers())(smooth(1, hw))
    torch.testing.assert_close(found.aligned_landmarks[0], TEMPLATE, atol=1e-4, rtol=0)
    direct = align_faces(smooth(1, hw), found.landmarks)
    torch.testing.assert_close(found.images, direct.images)
    # 90 x 90 with 15 columns on either side
    expected = (FACE * 90 - torch.tensor([15.0, 0.0])) / torch.tensor([60.0, 90.0])
    torch.testing.assert_close(found.landmarks[0], expected)


def test_sampling_the_input_is_sharper():
    """Stripes that the network's image cannot show."""
    images = ((torch.arange(160) // 2) % 2).float().expand(1, 3, 160, 160) * 2 - 1
    landmarks = 0.4 + 0.2 * TEMPLATE  # enlarged 3.5 times
    ours = FaceAligner(Answers(landmarks))(images).images
    blurred = FaceAligner(Answers(landmarks), AlignerSettings(sample_from="network"))(images).images
    assert ours.std() > 0.5
    assert blurred.std() < 0.3


def test_degenerate_landmarks_are_flagged():
    aligner = FaceAligner(Answers(torch.full((5, 2), 0.5)), AlignerSettings(out_hw=(20, 20)))
    images = smooth(2, (40, 40))
    found = aligner(images)
    assert not found.valid.any()
    torch.testing.assert_close(found.images, F.interpolate(images, size=(20, 20), mode="bilinear"), atol=1e-5, rtol=0)
    found.images.sum().backward()
    assert not aligner.network.landmarks.grad.any()


# With a real network


@pytest.mark.parametrize("sample_from", ["input", "network"])
def test_gradients_reach_every_weight_of_the_network_through_the_images(sample_from, rng):
    torch.manual_seed(0)
    network = DFANetwork(DFASettings(image_hw=(64, 64)))
    aligner = FaceAligner(network, AlignerSettings(out_hw=(32, 32), sample_from=sample_from)).train()
    images = smooth(2, (64, 80)).requires_grad_()
    found = aligner(images)
    assert found.valid.all()
    (found.images * torch.rand(found.images.shape, generator=rng)).sum().backward()
    assert images.grad.isfinite().all()
    without = [name for name, value in network.named_parameters() if value.grad is None or not value.grad.any()]
    # The logits of the last layers' biases are shared by all anchors; all others have a say in the landmarks.
    assert [name for name in without if "aggregator.3.bias" not in name] == []
    assert all(value.grad.isfinite().all() for value in network.parameters() if value.grad is not None)


def test_without_an_aggregator_the_best_anchor_is_taken():
    torch.manual_seed(0)
    network = DFANetwork(DFASettings(image_hw=(64, 64), aggregator=False)).eval()
    images = smooth(2, (64, 64))
    with torch.no_grad():
        found = FaceAligner(network)(images)
        expected = network.predict(images, aggregate=False)
    torch.testing.assert_close(found.landmarks, expected.landmarks)
    torch.testing.assert_close(found.score, expected.score)


def test_half_precision_under_autocast():
    torch.manual_seed(0)
    aligner = FaceAligner(Answers(), AlignerSettings(sample_from="network", padding_ratio=0.1))
    images = smooth(2, (50, 64))
    expected = aligner(images.bfloat16().float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = aligner(images.bfloat16())
    assert found.images.dtype == torch.bfloat16
    assert found.matrix.dtype == found.landmarks.dtype == torch.float32
    torch.testing.assert_close(found.matrix, expected.matrix)
    torch.testing.assert_close(found.images.float(), expected.images, atol=0.03, rtol=0)


def test_no_images_give_no_faces():
    network = DFANetwork(DFASettings(image_hw=(64, 64))).eval()
    found = FaceAligner(network, AlignerSettings(out_hw=(8, 9)))(torch.zeros(0, 3, 30, 40))
    shapes = [(0, 3, 8, 9), (0, 5, 2), (0, 5, 2), (0,), (0, 4), (0,), (0, 3, 3)]
    assert [tuple(one.shape) for one in found] == shapes


def test_loaded_for_inference_or_to_be_trained(tmp_path):
    torch.manual_seed(0)
    save_dfa(create_dfa("dfa_mobilenet", image_hw=(64, 64)), tmp_path / "dfa")
    frozen = load_aligner(tmp_path / "dfa")
    trainable = load_aligner(tmp_path / "dfa", AlignerSettings(out_hw=(20, 20)), inference=False)
    assert not frozen.training
    assert not any(value.requires_grad for value in frozen.parameters())
    assert all(value.requires_grad for value in trainable.parameters())
    assert frozen.settings == AlignerSettings()
    images = smooth(2, (70, 64))
    with torch.inference_mode():
        found = frozen(images)
        torch.testing.assert_close(found.landmarks, trainable(images).landmarks, atol=1e-5, rtol=0)
    assert found.images.shape == (2, 3, 112, 112)


# Errors


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"out_hw": (0, 112)}, r"out_hw must be .* got \(0, 112\)"),
        ({"padding_ratio": -0.1}, "padding_ratio must be .* got -0.1"),
        ({"padding_ratio": float("nan")}, "padding_ratio must be .* got nan"),
        ({"sample_from": "image"}, "sample_from must be input or network, got 'image'"),
        ({"supersample": 0}, "supersample must be >= 1, got 0"),
    ],
)
def test_wrong_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        AlignerSettings(**settings)


@pytest.mark.parametrize(
    "images", [torch.zeros(1, 4, 8, 8), torch.zeros(3, 8, 8), torch.zeros(1, 3, 8, 8, dtype=torch.uint8)]
)
def test_wrong_images(images):
    with pytest.raises(ValueError, match=r"images must be floating point of shape \[B, 3, h, w\], got"):
        FaceAligner(Answers())(images)
