"""IResNet: sizes, images of any size, dropout. Numbers are compared with the authors' in test_iresnet_parity.py."""

import pytest
import torch

from face.models.iresnet import IResNet
from face.models.registry import create_model


def small(**settings):
    return IResNet(**{"depths": (1, 2, 1, 1), "width": 4, "image_hw": (20, 35), "dropout": 0.4, "num_features": 6,
                      **settings})  # fmt: skip


@pytest.mark.parametrize(
    ("name", "parameters"), [("iresnet18", 24_020_352), ("iresnet50", 43_585_600), ("iresnet101", 65_150_912)]
)
def test_published_numbers_of_parameters(name, parameters):
    with torch.device("meta"):
        model = create_model(name)
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters
    assert model.linear.in_features == 512 * 7 * 7


@pytest.mark.parametrize("image_hw", [(20, 35), (16, 16), (7, 40)])
def test_images_of_any_size(image_hw, rng):
    model = small(image_hw=image_hw)
    out = model(torch.randn(3, 3, *image_hw, generator=rng))
    assert out.shape == (3, 6)
    out.square().sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_keypoints_are_ignored(rng):
    model = small().eval()
    images = torch.randn(2, 3, 20, 35, generator=rng)
    assert not model.needs_keypoints
    assert torch.equal(model(images), model(images, torch.rand(2, 5, 2, generator=rng), torch.ones(2, 5)))


def test_dropout_before_the_last_linear_layer_in_training_alone(rng):
    """With everything dropped the linear layer gives its bias, which the norm of the batch takes away."""
    model = small(dropout=1.0)
    images = torch.randn(4, 3, 20, 35, generator=rng)
    assert not model(images).any()
    assert model.eval()(images).any()


def test_the_shortcut_takes_every_other_pixel(rng):
    """Where channels stay the same: with no weight in the last norm a block is its shortcut."""
    block = small().blocks[0].eval()
    torch.nn.init.zeros_(block.norm3.weight)
    x = torch.randn(2, 4, 5, 8, generator=rng)
    torch.testing.assert_close(block(x), x[:, :, ::2, ::2])


def test_bad_inputs(rng):
    with pytest.raises(ValueError, match=r"images must have shape \[B, 3, 20, 35\], got \[2, 3, 35, 20\]"):
        small()(torch.randn(2, 3, 35, 20, generator=rng))
    with pytest.raises(ValueError, match=r"depths must be four numbers of blocks, all >= 1, got \(1, 0, 1, 1\)"):
        small(depths=(1, 0, 1, 1))
    with pytest.raises(ValueError, match=r"must be >= 1, got 0, 6 and \(20, 35\)"):
        small(width=0)
