"""The face transformers: sizes of the published ones, starting point, shapes."""

import pytest
import torch

from common.rpe import PositionBiasSettings
from face.models.vit import FaceViT, vit_base, vit_small

NONE = PositionBiasSettings(position_bias="none")
KPRPE = PositionBiasSettings(position_bias="kprpe", num_keypoints=5)
IRPE = PositionBiasSettings(position_bias="irpe", irpe_on="qkv")


def small(**settings):
    """A network of 2 x 3 patches."""
    defaults = {"image_hw": (8, 12), "patch_hw": (4, 4), "embed_dim": 8, "depth": 2, "num_heads": 2, "mlp_ratio": 2.0}
    return FaceViT(num_features=6, **{**defaults, **settings})


def trained(rng, **settings):
    """A network whose weights are all random, evaluating."""
    model = small(**settings)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.5, generator=rng)
    return model.eval()


def batch(rng, image_hw=(8, 12)):
    return torch.randn(3, 3, *image_hw, generator=rng), torch.rand(3, 5, 2, generator=rng)


@pytest.mark.parametrize(
    ("build", "position_bias", "parameters"),
    [
        (vit_small, None, 95_952_384),
        (vit_small, NONE, 95_952_384),
        (vit_small, KPRPE, 96_004_128),
        (vit_small, IRPE, 96_065_280),
        (vit_base, None, 114_869_760),
        (vit_base, KPRPE, 115_076_736),
        (vit_base, IRPE, 114_982_656),
    ],
)
def test_published_numbers_of_parameters(build, position_bias, parameters):
    with torch.device("meta"):
        model = build(position_bias)
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters


@pytest.mark.parametrize("position_bias", [KPRPE, IRPE, PositionBiasSettings(position_bias="irpe_bias", irpe_on="qk")])
def test_a_fresh_encoding_changes_nothing(position_bias, rng):
    """Same seed, same weights in all else, and the same embeddings: the encoding starts at zero."""
    models = []
    for settings in (NONE, position_bias):
        torch.manual_seed(0)
        models.append(small(position_bias=settings).eval())
    without, fresh = models
    assert any("position_bias" in name for name, _ in fresh.named_parameters())
    for name, value in without.named_parameters():
        assert torch.equal(value, fresh.get_parameter(name))
    images, keypoints = batch(rng)
    torch.testing.assert_close(fresh(images, keypoints), without(images), rtol=1e-5, atol=1e-6)


def test_keypoints_matter_once_trained(rng):
    model = trained(rng, position_bias=KPRPE)
    images, keypoints = batch(rng)
    assert (model(images, keypoints) - model(images, keypoints.flip(1))).abs().max() > 1e-2


@pytest.mark.parametrize("position_bias", [NONE, KPRPE, IRPE, PositionBiasSettings(position_bias="table")])
@pytest.mark.parametrize(("image_hw", "patch_hw"), [((8, 12), (4, 4)), ((12, 8), (4, 2)), ((6, 6), (3, 3))])
def test_rectangular_images_and_patches(image_hw, patch_hw, position_bias, rng):
    model = small(image_hw=image_hw, patch_hw=patch_hw, position_bias=position_bias)
    images, keypoints = batch(rng, image_hw=image_hw)
    out = model(images, keypoints)
    assert out.shape == (3, 6)
    out.sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name


def test_the_class_token_is_no_part_of_the_embedding(rng):
    """It is attended to, but only the patches are flattened into the head."""
    model = trained(rng, class_token=True, position_bias=KPRPE)
    assert model.feature[0].in_features == 2 * 3 * 8
    images, keypoints = batch(rng)
    with torch.no_grad():
        tokens = super(FaceViT, model).forward(images, keypoints)
        torch.testing.assert_close(model(images, keypoints), model.feature(tokens[:, 1:].flatten(1)))


def test_visibility_is_passed_on(rng):
    """A keypoint that is not seen may be anywhere."""
    model = trained(rng, position_bias=KPRPE)
    images, keypoints = batch(rng)
    visibility = torch.tensor([1.0, 0.5, 0.0, 1.0, 1.0]).expand(3, -1)
    moved = keypoints.clone()
    moved[:, 2] = float("nan")
    torch.testing.assert_close(model(images, keypoints, visibility), model(images, moved, visibility))
    assert (model(images, keypoints, visibility) - model(images, keypoints)).abs().max() > 1e-2


def test_bad_inputs(rng):
    images, keypoints = batch(rng)
    model = small(position_bias=KPRPE)
    with pytest.raises(ValueError, match="needs keypoints, got None"):
        model(images)
    with pytest.raises(ValueError, match=r"keypoints must have shape \[B, 5, 2\], got \[3, 4, 2\]"):
        model(images, keypoints[:, :4])
    with pytest.raises(ValueError, match=r"\[B, 3, h, w\], got \[3, 1, 8, 12\]"):
        model(images[:, :1], keypoints)
    with pytest.raises(ValueError, match=r"built for images of \(8, 12\), got \(12, 8\)"):
        model(images.transpose(2, 3), keypoints)
    with pytest.raises(ValueError, match="8 cannot be split into 3 heads"):
        small(num_heads=3)
    with pytest.raises(ValueError, match=r"\(8, 10\) pixels cannot be cut into patches of \(4, 4\)"):
        small(image_hw=(8, 10))


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_compiles_as_a_whole_and_trains(backend, rng):
    """Forward and backward without a break in the graph, with KP-RPE in it."""
    model = small(position_bias=KPRPE)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.5, generator=rng)
    images, keypoints = batch(rng)
    weights = torch.randn(3, 6, generator=rng)
    torch.compiler.reset()
    outcomes = []
    for network in (model, torch.compile(model, fullgraph=True, backend=backend)):
        model.zero_grad()
        out = network(images, keypoints)
        (out * weights).sum().backward()
        outcomes.append([out.detach(), *(parameter.grad.clone() for parameter in model.parameters())])
    for found, expected in zip(outcomes[1], outcomes[0], strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3 * max(1.0, float(expected.abs().max())))
