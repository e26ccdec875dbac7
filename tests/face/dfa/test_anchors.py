"""Anchors against loops that spell out the definition, and offsets there and back."""

import math

import pytest
import torch

from face.dfa.anchors import decode_boxes, decode_landmarks, encode_boxes, encode_landmarks, make_anchors

SIZES = [(160, 160), (128, 160), (33, 70)]


def anchors_by_loop(image_hw, strides, sizes):
    rows, cols = image_hw
    found = []
    for level, stride in enumerate(strides):
        for row in range(math.ceil(rows / stride)):
            for col in range(math.ceil(cols / stride)):
                for size in sizes[level]:
                    x, y = stride * (col + 0.5), stride * (row + 0.5)  # in pixels
                    found.append([x / cols, y / rows, size / cols, size / rows])
    return torch.tensor(found, dtype=torch.float64)


@pytest.mark.parametrize("image_hw", SIZES)
def test_matches_definition(image_hw):
    expected = anchors_by_loop(image_hw, (8, 16, 32), ((64, 80), (96, 112), (128, 144)))
    found = make_anchors(image_hw)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=0)
    other = make_anchors(image_hw, strides=(4, 10), sizes=((5,), (6,)))
    torch.testing.assert_close(other.double(), anchors_by_loop(image_hw, (4, 10), ((5,), (6,))), rtol=1e-6, atol=0)


def test_the_published_number():
    assert len(make_anchors((160, 160))) == 1050
    assert len(make_anchors((128, 160))) == 2 * (16 * 20 + 8 * 10 + 4 * 5)


def test_wrong_sizes():
    with pytest.raises(ValueError, match="got 3 strides and 2 levels"):
        make_anchors((160, 160), sizes=((64,), (96,)))
    with pytest.raises(ValueError, match=r"must be >= 1, got \(0, 160\)"):
        make_anchors((0, 160))


def test_decoding_by_loop(rng):
    anchors = make_anchors((40, 70))
    boxes, points = torch.randn(2, len(anchors), 4, generator=rng), torch.randn(2, len(anchors), 10, generator=rng)
    found, landmarks = decode_boxes(boxes, anchors), decode_landmarks(points, anchors)
    assert landmarks.shape == (2, len(anchors), 5, 2)
    for image in range(2):
        for index, (cx, cy, w, h) in enumerate(anchors.tolist()):
            dx, dy, dw, dh = boxes[image, index].tolist()
            x, y = cx + 0.1 * dx * w, cy + 0.1 * dy * h
            half_w, half_h = w * math.exp(0.2 * dw) / 2, h * math.exp(0.2 * dh) / 2
            expected = torch.tensor([x - half_w, y - half_h, x + half_w, y + half_h])
            torch.testing.assert_close(found[image, index], expected, rtol=1e-4, atol=1e-5)
            for point in range(5):
                dx, dy = points[image, index, 2 * point : 2 * point + 2].tolist()
                expected = torch.tensor([cx + 0.1 * dx * w, cy + 0.1 * dy * h])
                torch.testing.assert_close(landmarks[image, index, point], expected, rtol=1e-4, atol=1e-5)


def test_there_and_back(rng):
    anchors = make_anchors((64, 96)).double()
    corner, size = torch.rand(2, 3, len(anchors), 2, generator=rng, dtype=torch.float64)
    boxes = torch.cat([corner, corner + size + 0.01], dim=-1)
    torch.testing.assert_close(decode_boxes(encode_boxes(boxes, anchors), anchors), boxes)
    points = torch.rand(3, len(anchors), 5, 2, generator=rng, dtype=torch.float64)
    torch.testing.assert_close(decode_landmarks(encode_landmarks(points, anchors), anchors), points)


def test_one_face_for_all_anchors(rng):
    anchors = make_anchors((64, 96))
    box, points = torch.tensor([[[0.1, 0.2, 0.7, 0.6]], [[0.3, 0.1, 0.9, 0.8]]]), torch.rand(2, 1, 5, 2, generator=rng)
    offsets, shifts = encode_boxes(box, anchors), encode_landmarks(points, anchors)
    assert (offsets.shape, shifts.shape) == ((2, len(anchors), 4), (2, len(anchors), 10))
    torch.testing.assert_close(decode_boxes(offsets, anchors), box.expand(-1, len(anchors), -1), rtol=0, atol=1e-5)
    torch.testing.assert_close(
        decode_landmarks(shifts, anchors), points.expand(-1, len(anchors), -1, -1), rtol=0, atol=1e-5
    )


def test_an_anchor_is_its_own_box():
    anchors = make_anchors((64, 96))
    boxes = decode_boxes(torch.zeros(1, len(anchors), 4), anchors)[0]
    torch.testing.assert_close(boxes[:, 2:] - boxes[:, :2], anchors[:, 2:])
    torch.testing.assert_close((boxes[:, 2:] + boxes[:, :2]) / 2, anchors[:, :2])


def test_gradients(rng):
    anchors = make_anchors((16, 24)).double()
    offsets = torch.randn(1, len(anchors), 4, generator=rng, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: decode_boxes(x, anchors), offsets)
    assert torch.autograd.gradcheck(lambda x: decode_landmarks(x[..., :2], anchors), offsets)
