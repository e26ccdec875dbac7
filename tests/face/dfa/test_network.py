"""The DFA network: size, operations, limit cases, other image sizes, inference copies, precision, and errors."""

import pytest
import torch
from torch.testing import assert_close

from common.runtime.benchmark import multiply_adds
from face.dfa.anchors import decode_boxes, decode_landmarks, make_anchors
from face.dfa.network import DFANetwork, DFASettings

SMALL = DFASettings(image_hw=(33, 64))


@pytest.fixture
def network(rng):
    return randomised(DFANetwork(SMALL), rng)


def randomised(network, rng):
    """Every weight and running statistic is drawn, so that nothing is the same by chance; evaluating."""
    with torch.no_grad():
        for name, value in network.state_dict().items():
            if name.endswith("running_var") or (name.endswith("weight") and value.ndim == 1):
                value.copy_(0.7 + 0.6 * torch.rand(value.shape, generator=rng))
            elif value.is_floating_point():
                value.copy_(torch.randn(value.shape, generator=rng) / max(1, value[:1].numel()) ** 0.5)
    return network.eval()


def draw(rng, batch=2, image_hw=SMALL.image_hw):
    return torch.rand(batch, 3, *image_hw, generator=rng) * 2 - 1


def test_the_published_size():
    """0.49 M parameters. The paper's 0.14 GFLOP counts a multiplication and an addition as one each: multiply-adds,
    as most of the field counts, are half of that."""
    network = DFANetwork(DFASettings()).eval()
    assert sum(parameter.numel() for parameter in network.parameters()) == 486_775
    operations = 2 * multiply_adds(lambda: network(torch.zeros(1, 3, 160, 160)))
    assert round(operations / 1e9, 2) == 0.14
    weighted_mean = 1050 * 16  # a product of matrices here, a sum of products with the authors, which does not count
    assert operations == 2 * (68_596_000 + weighted_mean)


def test_shapes(rng, network):
    out = network(draw(rng))
    anchors = len(make_anchors(SMALL.image_hw))
    assert [tuple(value.shape) for value in out] == [
        (2, anchors, 4), (2, anchors, 2), (2, anchors, 10), (2, 4), (2, 2), (2, 5, 2), (2, anchors),
    ]  # fmt: skip
    assert_close(out.weights.sum(1), torch.ones(2))


def test_aggregation_by_loop(rng, network):
    out = network(draw(rng))
    boxes = decode_boxes(out.box_offsets, network.anchors)
    landmarks = decode_landmarks(out.landmark_offsets, network.anchors)
    for image in range(2):
        box, logits, points = torch.zeros(4), torch.zeros(2), torch.zeros(5, 2)
        for anchor, weight in enumerate(out.weights[image]):
            box += weight * boxes[image, anchor]
            logits += weight * out.logits[image, anchor]
            points += weight * landmarks[image, anchor]
        assert_close(out.boxes[image], box)
        assert_close(out.face_logits[image], logits)
        assert_close(out.landmarks[image], points)
    prediction = network.predict(draw(rng.manual_seed(1)))
    again = network(draw(rng.manual_seed(1)))
    assert_close(prediction.landmarks, again.landmarks)
    assert_close(prediction.score, again.face_logits.exp()[:, 1] / again.face_logits.exp().sum(1))
    assert_close(prediction.boxes, again.boxes)


def test_no_images(network):
    output = network.eval()(torch.empty(0, 3, *SMALL.image_hw))
    assert output.logits.shape == (0, len(network.anchors), 2)
    assert output.landmarks.shape == (0, 5, 2)
    for aggregate in (True, False):
        assert network.predict(torch.empty(0, 3, *SMALL.image_hw), aggregate).landmarks.shape == (0, 5, 2)


@pytest.mark.parametrize("anchor", [0, 17, 83])
def test_all_weight_on_one_anchor(anchor, rng, network):
    """Then the answer is this anchor's."""

    class OneHot(torch.nn.Module):
        def forward(self, tokens):
            assert tokens.shape[1:] == (len(network.anchors), 16)
            scores = torch.zeros_like(tokens[..., :1])
            scores[:, anchor] = 1e4
            return scores

    network.aggregator = OneHot()
    out = network(draw(rng))
    assert_close(out.boxes, decode_boxes(out.box_offsets, network.anchors)[:, anchor])
    assert_close(out.landmarks, decode_landmarks(out.landmark_offsets, network.anchors)[:, anchor])
    assert_close(out.face_logits, out.logits[:, anchor])


def test_the_best_anchor(rng, network):
    images = draw(rng, batch=3)
    with torch.no_grad():
        found, out = network.predict(images, aggregate=False), network(images)
    scores = out.logits.softmax(-1)[..., 1]
    for image in range(3):
        best = max(range(len(network.anchors)), key=lambda index: float(scores[image, index]))
        assert_close(found.score[image], scores[image, best])
        assert_close(found.boxes[image], decode_boxes(out.box_offsets, network.anchors)[image, best])
        assert_close(found.landmarks[image], decode_landmarks(out.landmark_offsets, network.anchors)[image, best])


def test_without_an_aggregator(rng):
    network = randomised(DFANetwork(DFASettings(image_hw=(33, 64), aggregator=False)), rng)
    images = draw(rng)
    out = network(images)
    assert out[3:] == (None, None, None, None)
    assert not any("aggregator" in name for name in network.state_dict())
    with pytest.raises(ValueError, match="has no aggregator: predict with aggregate=False, or train one that has"):
        network.predict(images)
    assert network.predict(images, aggregate=False).landmarks.shape == (2, 5, 2)


@pytest.mark.parametrize("body", ["mobilenet0.25", "resnet50"])
@pytest.mark.parametrize("image_hw", [(128, 160), (40, 33)])
def test_other_image_sizes(body, image_hw, rng):
    network = DFANetwork(DFASettings(body=body, image_hw=image_hw)).eval()
    out = network(draw(rng, 1, image_hw))
    assert out.box_offsets.shape[1] == len(make_anchors(image_hw))
    with pytest.raises(ValueError, match=rf"\[B, 3, {image_hw[0]}, {image_hw[1]}\], got \[1, 3, {image_hw[1]}, "):
        network(draw(rng, 1, image_hw[::-1]))


def test_other_anchors(rng):
    network = DFANetwork(DFASettings(image_hw=(32, 64), anchor_sizes=((9,), (20,), (30,))))
    assert network(draw(rng, 2, (32, 64))).logits.shape == (2, 4 * 8 + 2 * 4 + 1 * 2, 2)


def test_cells_are_where_their_anchors_are(rng):
    """A pixel changes the anchors around it first of all: rows and columns are not swapped on their way out."""
    network = randomised(DFANetwork(DFASettings(image_hw=(256, 64), aggregator=False)), rng)
    images = draw(rng, 1, (256, 64))
    changed = images.clone()
    changed[:, :, 200:, :] = -images[:, :, 200:, :]
    near = network.anchors[: 2 * 32 * 8, 1] > 0.8  # of the finest level, by the heights of their centres
    difference = (network(changed).landmark_offsets - network(images).landmark_offsets).abs()[0, : 2 * 32 * 8].mean(1)
    assert difference[near].mean() > 3 * difference[network.anchors[: 2 * 32 * 8, 1] < 0.2].mean()


@pytest.mark.parametrize("body", ["mobilenet0.25", "resnet50"])
def test_inference_copy(body, rng):
    network = DFANetwork(DFASettings(body=body, image_hw=(33, 64)))
    with torch.no_grad():  # statistics of its own, not those of a fresh norm
        for _ in range(3):
            network(draw(rng, 4))
    network.train()
    fast = network.for_inference()
    assert network.training
    assert not fast.training
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in fast.modules())
    assert not any(parameter.requires_grad for parameter in fast.parameters())
    assert all(parameter.requires_grad for parameter in network.parameters())
    images = draw(rng)
    for copy in (fast, fast.for_inference()):
        for found, expected in zip(copy(images), network.eval()(images), strict=True):
            assert_close(found, expected, rtol=1e-5, atol=1e-5)
    around = torch.nn.Sequential(fast).train()
    assert around.training
    assert not fast.training


def test_gradients_reach_everything(rng):
    network = DFANetwork(SMALL)
    images = draw(rng, 4).requires_grad_()
    out = network(images)
    (out.landmarks.square().sum() + out.boxes.sum() + out.face_logits.sum()).backward()
    silent = [name for name, value in network.named_parameters() if value.grad is None or not value.grad.abs().sum()]
    assert set(silent) <= {"aggregator.3.bias"}  # the softmax does not see it
    assert images.grad.abs().sum() > 0


def test_fresh_networks_start_at_the_anchors(rng):
    """Every anchor predicts about itself, and all count about the same."""
    network = DFANetwork(DFASettings())
    out = network(draw(rng, 2, (160, 160)))
    assert out.box_offsets.abs().mean() < 1
    assert out.logits.abs().mean() < 1
    assert out.weights.max() < 10 / 1050


def test_autocast_aggregates_in_float32(rng, network):
    images = draw(rng)
    seen = {}
    network.aggregator.register_forward_pre_hook(lambda _, args: seen.update(tokens=args[0]))
    network.heads[0].register_forward_hook(lambda *args: seen.update(head=args[2]))
    with torch.autocast("cpu", torch.bfloat16):
        out = network(images)
        prediction = network.predict(images)
    assert seen["head"].dtype == torch.bfloat16
    assert seen["tokens"].dtype == torch.float32
    assert {value.dtype for value in (*out, *prediction)} == {torch.float32}
    assert_close(out.landmarks, network(images).landmarks, rtol=0, atol=0.1)


def test_export(rng, network):
    """No step of the forward pass depends on values, and the batch may be of any size."""
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(network, (draw(rng, 3),), dynamic_shapes=({0: batch},))
    images = draw(rng, 2)
    for found, expected in zip(program.module()(images), network(images), strict=True):
        assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"body": "resnet18"}, "body must be mobilenet0.25 or resnet50, got 'resnet18'"),
        ({"image_hw": (0, 160)}, r"image_hw must be >= 1, got \(0, 160\)"),
        ({"anchor_sizes": ((1, 2), (3,), (4,))}, "anchor_sizes must be 3 levels of as many sizes"),
        ({"anchor_sizes": ((1,), (2,))}, "anchor_sizes must be 3 levels of as many sizes"),
        ({"anchor_sizes": ((1,), (2,), (0,))}, "anchor_sizes must be >= 1"),
    ],
)
def test_wrong_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        DFASettings(**settings)


@pytest.mark.parametrize("shape", [(1, 1, 33, 64), (3, 33, 64), (1, 3, 32, 64)])
def test_wrong_images(shape, network):
    with pytest.raises(ValueError, match=r"images must have shape \[B, 3, 33, 64\], got \["):
        network(torch.zeros(shape))
