"""The face Swin: sizes, keypoints on the part of the image that patches cover, training. (Windows and merging:
tests/common/test_swin.py.)"""

import pytest
import torch

from common.rpe import KeypointRPE, Window
from face.models.registry import create_model

TINY = {
    "image_hw": (25, 31),
    "embed_dim": 8,
    "depths": (2, 2),
    "num_heads": (2, 4),
    "window_size": (3, 4),
    "num_features": 6,
}


def tiny(**settings):
    return create_model("swin_small", **{**TINY, **settings})


def trained(rng, **settings):
    model = tiny(**settings)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.5, generator=rng)
    return model.eval()


@pytest.fixture
def batch(rng):
    return torch.randn(3, 3, 25, 31, generator=rng), torch.rand(3, 5, 2, generator=rng)


@pytest.mark.parametrize(
    ("name", "blocks", "kprpe"),
    # KP-RPE's as counted in the authors' networks: weights of 10 keypoint coordinates and a bias, for 49 buckets and
    # all heads of all blocks.
    [("swin_small", 18, 150_920), ("swin_base", 24, 202_664)],
)
def test_published_sizes(name, blocks, kprpe):
    with torch.device("meta"):
        model = create_model(name)
    assert [layer.grid_hw for layer in model.swin.layers] == [(37, 37), (19, 19), (10, 10), (5, 5)]
    assert sum(len(layer.blocks) for layer in model.swin.layers) == blocks
    assert model.feature[0].weight.shape == (1024, 25 * 1024)
    own = sum(value.numel() for key, value in model.named_parameters() if "kprpe" in key)
    assert own == kprpe


@pytest.mark.parametrize("position_bias", ["none", "table", "irpe", "kprpe"])
def test_every_parameter_learns(position_bias, batch):
    model = tiny(position_bias=position_bias, drop_path=0.1)
    assert model.needs_keypoints == (position_bias == "kprpe")
    out = model(*batch)
    assert out.shape == (3, 6)
    out.square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name


def test_keypoints_are_fractions_of_what_the_patches_cover(batch, rng):
    """The bias of a query follows from where it is in pixels, seen from the keypoints in pixels."""
    images, keypoints = batch
    model = trained(rng)
    seen = {}
    model.swin.layers[0].blocks[1].attn.register_forward_pre_hook(lambda _, args: seen.update(bias=args[1]))
    with torch.no_grad():
        model(images, keypoints)
    rpe = model.swin.layers[0].position_bias.kprpe
    # 8 x 10 patches of 3 px cover 24 of 25 rows and 30 of 31 columns.
    pixels = keypoints * torch.tensor([31.0, 25.0])
    reference = KeypointRPE(5, 2, 2, implementation="direct")
    reference.load_state_dict(rpe.state_dict())
    windows = [Window((3, 4)), Window((3, 4), (1, 2))]
    expected = reference(pixels / torch.tensor([30.0, 24.0]), (8, 10), windows=windows)[1]
    torch.testing.assert_close(seen["bias"], expected, rtol=1e-4, atol=1e-4)


def test_pixels_beside_the_last_patch_are_ignored(batch, rng):
    images, keypoints = batch
    model = trained(rng)
    changed = images.clone()
    changed[:, :, 24:] = 7
    changed[:, :, :, 30:] = 7
    assert torch.equal(model(changed, keypoints), model(images, keypoints))
    changed[:, :, 23] = 7
    assert (model(changed, keypoints) - model(images, keypoints)).abs().max() > 1e-3


def test_visibility_is_passed_on(batch, rng):
    images, keypoints = batch
    model = trained(rng)
    visibility = torch.tensor([1.0, 0.5, 0.0, 1.0, 1.0]).expand(3, -1)
    moved = keypoints.clone()
    moved[:, 2] = float("nan")
    torch.testing.assert_close(model(images, moved, visibility), model(images, keypoints, visibility))
    assert (model(images, keypoints) - model(images, keypoints, visibility)).abs().max() > 1e-3


def test_bad_inputs(batch):
    images, keypoints = batch
    with pytest.raises(ValueError, match=r"images must have shape \[B, 3, 25, 31\], got \[3, 3, 31, 25\]"):
        tiny()(images.mT, keypoints)
    with pytest.raises(ValueError, match="position_bias kprpe needs keypoints, got None"):
        tiny()(images)
    with pytest.raises(ValueError, match=r"swin_small: window_size \(5, 4\) must be within .* \(4, 5\) of stage 1"):
        tiny(window_size=(5, 4))
    with pytest.raises(ValueError, match="patch_size must be between 1 and the image's 25 pixels, got 26"):
        tiny(patch_size=26)
