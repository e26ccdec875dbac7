"""Alignment against insightface's, against sampling written out as a loop, and by what it must do to landmarks."""

import importlib.util
import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from common.keypoints import fractions_to_pixels, pixels_to_fractions, transform_keypoints
from face.alignment import align_faces, warp_images
from face.reference import reference_landmarks

CHECKOUT = os.environ.get("INSIGHTFACE_ROOT")

_spec = importlib.util.spec_from_file_location(
    "parity_face_alignment", Path(__file__).parents[1] / "parity" / "face_alignment.py"
)
parity = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(parity)


def template(dtype=torch.float32):
    return torch.from_numpy(reference_landmarks(pixels=False)).to(dtype)


def faces(rng, count=2, dtype=torch.float32, noise=0.02):
    """Landmarks [B, 5, 2] about as they are in a crop."""
    return 0.25 + 0.5 * template(dtype) + noise * torch.randn(count, 5, 2, generator=rng, dtype=dtype)


def smooth(count=1, hw=(40, 50), dtype=torch.float32):
    y, x = torch.meshgrid(*(torch.arange(size, dtype=dtype) for size in hw), indexing="ij")
    waves = [torch.sin(x / 5 + y / 9 + phase) for phase in range(3 * count)]
    return torch.stack(waves).unflatten(0, (count, 3))


def sampled_by_loop(image, matrix, out_hw, fill):
    """[C, h, w] to [C, H, W] in NumPy float64, four pixels a sample."""
    channels, height, width = image.shape
    inverse = np.linalg.inv(matrix)
    out = np.zeros((channels, *out_hw))
    for row in range(out_hw[0]):
        for col in range(out_hw[1]):
            x, y, _ = inverse @ (col, row, 1.0)
            for i in (math.floor(y), math.floor(y) + 1):
                for j in (math.floor(x), math.floor(x) + 1):
                    inside = 0 <= i < height and 0 <= j < width
                    value = image[:, i, j] if inside else np.full(channels, fill)
                    out[:, row, col] += (1 - abs(x - j)) * (1 - abs(y - i)) * value
    return out


# Against others


def compare_with_insightface(matrices, images, stride):
    given = torch.from_numpy(parity.image()).permute(2, 0, 1)
    points = torch.from_numpy(parity.landmarks()).float()
    landmarks = pixels_to_fractions(points, parity.IMAGE_HW)
    found = align_faces(given.expand(len(points), -1, -1, -1), landmarks, fill=0.0)
    assert found.valid.all()
    np.testing.assert_allclose(found.matrix[:, :2].numpy(), matrices, atol=1e-4, rtol=1e-5)
    # Older OpenCVs round coordinates to 1/32 of a pixel; from here to black there are steps of up to 0.95.
    difference = np.abs(found.images.permute(0, 2, 3, 1)[:, ::stride, ::stride].numpy() - images)
    assert difference.max() < 0.95 / 16
    assert difference.mean() < 5e-4


def test_as_insightface_aligns():
    stored = np.load(parity.STORED)
    compare_with_insightface(stored["matrices"], stored["images"], parity.STRIDE)


@pytest.mark.skipif(CHECKOUT is None, reason="INSIGHTFACE_ROOT names no checkout of insightface")
def test_as_insightface_aligns_now():
    pytest.importorskip("skimage")
    compare_with_insightface(*parity.crops(Path(CHECKOUT)), 1)


@pytest.mark.parametrize("fill", [0.0, -1.0, 0.3])
@pytest.mark.parametrize("in_hw", [(7, 9), (19, 14), (1, 3), (40, 1)])  # some much larger than what is made of them
def test_warping_is_bilinear_interpolation(fill, in_hw, rng):
    images = torch.rand(2, 3, *in_hw, generator=rng, dtype=torch.float64)
    matrix = torch.eye(3, dtype=torch.float64).repeat(2, 1, 1)
    matrix[:, :2] += 0.3 * torch.randn(2, 2, 3, generator=rng, dtype=torch.float64)
    matrix[:, :2, 2] += torch.tensor([[2.0, -1.0], [0.0, 0.5]])
    found = warp_images(images, matrix, (6, 10), fill)
    for image, one, got in zip(images, matrix, found, strict=True):
        np.testing.assert_allclose(got.numpy(), sampled_by_loop(image.numpy(), one.numpy(), (6, 10), fill), atol=1e-9)


@pytest.mark.parametrize("align_corners", [False, True])
def test_plain_resizing_is_interpolate(align_corners):
    images = smooth(2, (20, 31))
    found = align_faces(images, torch.full((2, 5, 2), 0.4), (15, 44), align_corners=align_corners)
    assert not found.valid.any()
    # Within: interpolate repeats the outermost pixels, which here fade into what is outside.
    expected = F.interpolate(images, size=(15, 44), mode="bilinear", align_corners=align_corners)
    torch.testing.assert_close(found.images[..., 1:-1, 1:-1], expected[..., 1:-1, 1:-1], atol=1e-5, rtol=0)


# What landmarks do


@pytest.mark.parametrize(("in_hw", "out_hw"), [((160, 160), (112, 112)), ((90, 200), (112, 96)), ((50, 40), (64, 128))])
@pytest.mark.parametrize("align_corners", [False, True])
def test_landmarks_and_matrix_go_along(in_hw, out_hw, align_corners, rng):
    """Landmarks that are a similarity of the template come to stand on it, in pixels of images that are not square."""
    angle, scale = 0.4, 0.6
    turn = scale * torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    points = torch.from_numpy(reference_landmarks(out_hw)).float() @ turn.T + torch.tensor([20.0, 5.0])
    landmarks = pixels_to_fractions(points, in_hw)[None]
    if align_corners:  # the centre of a pixel is i / (size - 1) there, and the authors' landmarks are pixel / size
        landmarks = points[None] / torch.tensor([in_hw[1], in_hw[0]])
    found = align_faces(smooth(1, in_hw), landmarks, out_hw, align_corners=align_corners)
    assert found.valid.all()
    if align_corners:
        side = max(out_hw)
        margin = torch.tensor([side - out_hw[1], side - out_hw[0]]) / 2
        template_px = torch.tensor([[38.2946, 51.6963], [73.5318, 51.5014]]) * side / 112 - margin
        expected = template_px / torch.tensor([out_hw[1], out_hw[0]])
        torch.testing.assert_close(found.landmarks[0, :2], expected, atol=2e-2, rtol=0)
        to_index = torch.tensor([in_hw[1] - 1.0, in_hw[0] - 1.0]), torch.tensor([out_hw[1] - 1.0, out_hw[0] - 1.0])
        moved = transform_keypoints(landmarks * to_index[0], found.matrix) / to_index[1]
        torch.testing.assert_close(moved, found.landmarks, atol=1e-5, rtol=1e-5)
        return
    expected = torch.from_numpy(reference_landmarks(out_hw, pixels=False)).float()
    torch.testing.assert_close(found.landmarks[0], expected, atol=1e-5, rtol=0)
    moved = transform_keypoints(fractions_to_pixels(landmarks, in_hw), found.matrix)
    torch.testing.assert_close(pixels_to_fractions(moved, out_hw), found.landmarks, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("align_corners", [False, True])
def test_a_mark_in_the_image_goes_where_its_landmark_goes(align_corners, rng):
    """A bright spot painted on each landmark is found at the landmark of the aligned image."""
    hw, out_hw = (120, 160), (100, 90)
    landmarks = faces(rng, 1)
    y, x = torch.meshgrid(*(torch.arange(size, dtype=torch.float32) for size in hw), indexing="ij")
    size = torch.tensor([hw[1], hw[0]])
    for number in range(5):
        centre = landmarks[0, number] * (size - 1) if align_corners else landmarks[0, number] * size - 0.5
        spot = torch.exp(-((x - centre[0]) ** 2 + (y - centre[1]) ** 2) / 8)
        found = align_faces(spot[None, None], landmarks, out_hw, fill=0.0, align_corners=align_corners)
        image = found.images[0, 0]
        rows, cols = (torch.arange(n, dtype=torch.float32) for n in out_hw)
        at = torch.stack([(image.sum(0) * cols).sum(), (image.sum(1) * rows).sum()]) / image.sum()
        out = torch.tensor([out_hw[1], out_hw[0]])
        expected = found.landmarks[0, number] * (out - 1) if align_corners else found.landmarks[0, number] * out - 0.5
        torch.testing.assert_close(at, expected, atol=0.05, rtol=0)


def test_a_reference_of_ones_own(rng):
    reference = torch.tensor([[0.2, 0.3], [0.7, 0.4], [0.5, 0.9]])
    landmarks = 0.5 * reference + 0.2
    found = align_faces(smooth(2), landmarks.expand(2, 3, 2), (30, 30), reference=reference.expand(2, 3, 2))
    # The image is not square, fractions of it are not lengths: the landmarks come near, not onto it.
    torch.testing.assert_close(found.landmarks[0], reference, atol=0.1, rtol=0)
    square = align_faces(smooth(2, (40, 40)), landmarks.expand(2, 3, 2), (30, 30), reference=reference)
    torch.testing.assert_close(square.landmarks[1], reference, atol=1e-5, rtol=0)


def test_aligned_already_stays_as_it_is():
    images = smooth(2, (112, 112))
    found = align_faces(images, template().expand(2, 5, 2))
    torch.testing.assert_close(found.images, images, atol=1e-3, rtol=0)
    torch.testing.assert_close(found.matrix, torch.eye(3).expand(2, 3, 3), atol=1e-4, rtol=0)


def test_upside_down_and_absurdly_small_faces_are_aligned_exactly():
    images = smooth(1, (112, 112))
    turned = align_faces(images.flip(-1, -2), 1 - template()[None])
    torch.testing.assert_close(turned.images, images, atol=1e-3, rtol=0)
    small = align_faces(images, 0.5 + (template()[None] - 0.5) * 1e-4)
    assert small.valid.all()
    middle = images[..., 55:57, 55:57].mean((-2, -1))
    torch.testing.assert_close(small.images.amax((-2, -1)), middle, atol=1e-2, rtol=0)
    torch.testing.assert_close(small.images.amin((-2, -1)), middle, atol=1e-2, rtol=0)


def test_outside_is_fill():
    found = align_faces(torch.zeros(1, 3, 20, 20), 50 + template()[None], fill=0.7)
    assert found.valid.all()
    torch.testing.assert_close(found.images, torch.full_like(found.images, 0.7))


# No answer

DEGENERATE = {
    "all equal": torch.full((5, 2), 0.3),
    "zeros": torch.zeros(5, 2),
    "on a line": torch.linspace(0.2, 0.7, 10).view(5, 2),
    "upright line": torch.stack([torch.full((5,), 0.4), torch.tensor([0.3, 0.1, 0.5, 0.9, 0.7])], 1),
    "tiny": 1e-12 * torch.arange(10.0).view(5, 2),
    "nan": torch.full((5, 2), 0.5).index_fill(0, torch.tensor([2]), float("nan")),
    "all nan": torch.full((5, 2), float("nan")),
    "inf": torch.rand(5, 2, generator=torch.Generator().manual_seed(0)).index_fill(0, torch.tensor([1]), float("inf")),
    "huge": 1e20 * torch.rand(5, 2, generator=torch.Generator().manual_seed(0)),
    "largest": torch.full((5, 2), 3e38) * torch.linspace(0, 1, 10).view(5, 2),
}


@pytest.mark.parametrize("name", DEGENERATE)
@pytest.mark.parametrize("align_corners", [False, True])
def test_no_similarity_is_plain_resizing_and_a_flag(name, align_corners, rng):
    images = smooth(3).requires_grad_()
    good = faces(rng, 3)
    landmarks = good.clone()
    landmarks[1] = DEGENERATE[name]
    landmarks.requires_grad_()
    found = align_faces(images, landmarks, (30, 28), align_corners=align_corners)
    assert found.valid.tolist() == [True, False, True]
    assert found.images.isfinite().all()
    resized = F.interpolate(images[1:2], size=(30, 28), mode="bilinear", align_corners=align_corners)
    torch.testing.assert_close(found.images[1, :, 1:-1, 1:-1], resized[0, :, 1:-1, 1:-1], atol=1e-5, rtol=0)
    torch.testing.assert_close(found.landmarks[1], landmarks[1], equal_nan=True)

    weights = torch.rand(found.images.shape, generator=rng)
    (found.images * weights).sum().backward(retain_graph=True)
    found.landmarks[found.landmarks.isfinite()].sum().backward()
    assert images.grad.isfinite().all()
    assert landmarks.grad.isfinite().all()
    assert not landmarks.grad[1].any()

    alone, others = good[::2].clone().requires_grad_(), smooth(3)[::2].requires_grad_()
    without = align_faces(others, alone, (30, 28), align_corners=align_corners)
    torch.testing.assert_close(found.images[::2], without.images, atol=1e-6, rtol=0)
    torch.testing.assert_close(found.matrix[::2], without.matrix)
    (without.images * weights[::2]).sum().backward(retain_graph=True)
    without.landmarks.sum().backward()
    torch.testing.assert_close(landmarks.grad[::2], alone.grad, atol=1e-2, rtol=1e-4)


def test_a_line_that_the_reference_has_too_is_aligned():
    line = torch.tensor([[[0.2, 0.3], [0.4, 0.5], [0.7, 0.8]]])
    found = align_faces(torch.zeros(1, 1, 20, 20), line, (20, 20), reference=line[0] + 0.1)
    assert found.valid.all()
    torch.testing.assert_close(found.landmarks, line + 0.1)


def test_matrices_without_an_inverse_give_fill():
    bad = torch.eye(3).repeat(4, 1, 1)
    bad[0, :2, :2] = 0
    bad[1, 0, 2] = float("nan")
    bad[2, 1, 1] = float("inf")
    bad.requires_grad_()
    images = smooth(4)
    found = warp_images(images, bad, (40, 50), 0.25)
    torch.testing.assert_close(found[:3], torch.full_like(found[:3], 0.25))
    torch.testing.assert_close(found[3], images[3], atol=1e-5, rtol=0)
    found.sum().backward()
    assert bad.grad[:3].isfinite().all()


# Gradients


@pytest.mark.parametrize("align_corners", [False, True])
def test_gradient(align_corners, rng):
    """No sample of these falls near the centre of a pixel, where the gradient jumps."""
    images = torch.rand(2, 1, 6, 7, generator=rng, dtype=torch.float64, requires_grad=True)
    landmarks = faces(rng, 2, torch.float64).requires_grad_()

    def run(images, landmarks):
        found = align_faces(images, landmarks, (4, 5), align_corners=align_corners, supersample=2)
        return found.images, found.landmarks, found.matrix

    assert torch.autograd.gradcheck(run, (images, landmarks), eps=1e-7, atol=1e-5)


@pytest.mark.parametrize("in_hw", [(5, 6), (11, 12)])
def test_gradient_of_warping(in_hw, rng):
    images = torch.rand(2, 2, *in_hw, generator=rng, dtype=torch.float64, requires_grad=True)
    # Part of what is made lies on the rim, where pixels fade into `fill`.
    matrix = torch.tensor([[1.1, 0.2, 0.3], [-0.3, 0.9, 0.8], [0.0, 0.0, 1.0]], dtype=torch.float64)
    matrix = torch.stack([matrix, matrix @ matrix])[:, :2].requires_grad_()
    last = torch.tensor([[[0.0, 0.0, 1.0]]], dtype=torch.float64).expand(2, 1, 3)
    assert torch.autograd.gradcheck(
        lambda images, upper: warp_images(images, torch.cat([upper, last], 1), (4, 5), -1.0), (images, matrix), eps=1e-7
    )


def train_on_images_alone(detached):
    """Mean error of landmarks, in fractions, before and after training by a loss on aligned images."""
    rng = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    points = 0.3 + 0.4 * template() + 0.1 * (torch.rand(24, 1, 2, generator=rng) - 0.5)
    y, x = torch.meshgrid(*[(torch.arange(32) + 0.5) / 32] * 2, indexing="ij")
    distance = (x - points[..., 0, None, None]).square() + (y - points[..., 1, None, None]).square()
    spots = torch.exp(-distance / 0.02)  # [B, 5, 32, 32]
    images = torch.stack([spots[:, :2].sum(1), spots[:, 2], spots[:, 3:].sum(1)], 1)
    wanted = align_faces(images, points, (24, 24), fill=0.0).images
    network = nn.Sequential(nn.AvgPool2d(4), nn.Flatten(), nn.Linear(192, 10))
    with torch.no_grad():
        network[-1].weight.mul_(0.1)
        network[-1].bias.copy_((0.3 + 0.4 * template() + 0.03).flatten())
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    errors = []
    for _ in range(60):
        landmarks = network(images).unflatten(-1, (5, 2))
        errors.append((landmarks - points).norm(dim=-1).mean().item())
        found = align_faces(images, landmarks.detach() if detached else landmarks, (24, 24), fill=0.0)
        loss = F.mse_loss(found.images, wanted) + 0 * landmarks.sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return errors[0], errors[-1]


def test_a_loss_on_aligned_images_trains_landmarks():
    before, after = train_on_images_alone(detached=False)
    assert after < 0.6 * before
    before, after = train_on_images_alone(detached=True)
    assert after == before


# Dtypes, sizes, errors


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_aligned_in_float32(dtype, rng):
    images, landmarks = smooth(2), faces(rng, 2)
    half = images.to(dtype)
    expected = align_faces(half.float(), landmarks)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = align_faces(half, landmarks)
        rounded = align_faces(images, landmarks.to(dtype))
    assert found.images.dtype == dtype
    assert found.matrix.dtype == found.landmarks.dtype == torch.float32
    torch.testing.assert_close(found.matrix, expected.matrix)
    torch.testing.assert_close(found.images, expected.images.to(dtype))
    torch.testing.assert_close(rounded.matrix, align_faces(images, landmarks.to(dtype).float()).matrix)


def test_double_precision_landmarks_and_inference_mode(rng):
    images, landmarks = smooth(2), faces(rng, 2, torch.float64)
    found = align_faces(images, landmarks)
    assert (found.images.dtype, found.landmarks.dtype) == (torch.float32, torch.float64)
    with torch.inference_mode():
        torch.testing.assert_close(align_faces(images, landmarks).images, found.images)


def test_no_images_give_no_faces():
    found = align_faces(torch.zeros(0, 3, 20, 30), torch.zeros(0, 5, 2), (8, 9))
    assert [tuple(one.shape) for one in found] == [(0, 3, 8, 9), (0, 5, 2), (0, 3, 3), (0,)]


def test_supersampling_is_the_mean_of_finer_crops(rng):
    """And keeps a checkerboard, which single samples turn into anything, at its mean."""
    images, landmarks = smooth(2), faces(rng, 2)
    found = align_faces(images, landmarks, (20, 24), supersample=3)
    finer = align_faces(images, landmarks, (60, 72))
    torch.testing.assert_close(found.images, F.avg_pool2d(finer.images, 3), atol=1e-4, rtol=0)
    torch.testing.assert_close(found.landmarks, finer.landmarks, atol=1e-5, rtol=0)
    y, x = torch.meshgrid(torch.arange(403), torch.arange(403), indexing="ij")
    board = ((x + y) % 2).float()[None, None]
    plain = align_faces(board, template()[None], (40, 40)).images[..., 2:-2, 2:-2]
    averaged = align_faces(board, template()[None], (40, 40), supersample=10).images[..., 2:-2, 2:-2]
    assert averaged.sub(0.5).abs().max() < 0.05
    assert plain.sub(0.5).abs().max() > 0.2


@pytest.mark.parametrize(
    ("images", "landmarks", "options", "message"),
    [
        (torch.zeros(3, 8, 8), torch.zeros(1, 5, 2), {}, r"images must be .*\[B, C, h, w\], got .*\[3, 8, 8\]"),
        (torch.zeros(1, 3, 8, 8, dtype=torch.uint8), torch.zeros(1, 5, 2), {}, "floating point.*uint8"),
        (torch.zeros(2, 3, 8, 8), torch.zeros(1, 5, 2), {}, r"landmarks must have shape \[2, L, 2\], got \[1, 5, 2\]"),
        (torch.zeros(1, 3, 8, 8), torch.zeros(1, 4, 2), {}, r"as many points, got shapes \[1, 4, 2\] and \[5, 2\]"),
        (torch.zeros(1, 3, 8, 8), torch.zeros(1, 5, 2), {"out_hw": (0, 4)}, r"out_hw must be .* got \(0, 4\)"),
        (torch.zeros(1, 3, 8, 8), torch.zeros(1, 5, 2), {"supersample": 0}, "supersample must be >= 1, got 0"),
        (
            torch.zeros(1, 3, 1, 8),
            torch.zeros(1, 5, 2),
            {"align_corners": True},
            r"at least 2 x 2 pixels, got \(1, 8\)",
        ),
    ],
)
def test_errors_name_what_they_got(images, landmarks, options, message):
    with pytest.raises(ValueError, match=message):
        align_faces(images, landmarks, **options)


def test_wrong_matrices():
    with pytest.raises(ValueError, match=r"matrix must be floating point of shape \[2, 3, 3\], got .*\[2, 2, 3\]"):
        warp_images(torch.zeros(2, 3, 8, 8), torch.zeros(2, 2, 3), (4, 4))


@pytest.mark.gpu
def test_the_same_on_the_gpu(rng):
    images, landmarks = smooth(2), faces(rng, 2)
    found = align_faces(images.cuda(), landmarks.cuda())
    expected = align_faces(images, landmarks)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one.cpu(), other, atol=1e-4, rtol=1e-4)
