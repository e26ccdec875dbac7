"""Small timm models that the tests of this folder share."""

from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

LANDMARKS = 5
VIT_SIZE: dict[str, Any] = {"img_size": (48, 32), "embed_dim": 24, "depth": 2, "num_heads": 3, "mlp_ratio": 1.0}
SWIN_SIZE: dict[str, Any] = {
    "img_size": (32, 48),
    "embed_dim": 8,
    "depths": (2, 2),
    "num_heads": (2, 4),
    "window_size": (4, 3),
    "mlp_ratio": 1.0,
    "drop_path_rate": 0.0,
}

# What a model stands for: timm's name, and what makes it small.
VITS = {
    "class token": ("vit_tiny_patch16_224", VIT_SIZE),
    "distilled": ("deit_tiny_distilled_patch16_224", VIT_SIZE),
    "class token and registers": ("vit_small_patch14_reg4_dinov2", {**VIT_SIZE, "img_size": (56, 42)}),
    "registers, average pool": ("vit_little_patch16_reg4_gap_256", VIT_SIZE),
    "attention pool": ("vit_base_patch16_siglip_224", VIT_SIZE),
    "normalised queries": ("vit_tiny_patch16_224", {**VIT_SIZE, "qk_norm": True}),
    "post norm": ("vit_base_patch16_rpn_224", VIT_SIZE),
    "attention side by side": ("vit_small_patch16_18x2_224", VIT_SIZE),
    "parallel scaling": ("vit_base_patch16_xp_224", VIT_SIZE),
    "convolutional stem": ("vit_tiny_r_s16_p8_224", {**VIT_SIZE, "img_size": (64, 32)}),
    "EVA-02": ("eva02_tiny_patch14_224", {**VIT_SIZE, "img_size": (56, 42)}),
    "rotary with register": ("vit_medium_patch16_rope_reg1_gap_256", VIT_SIZE),
    "mixed rotary": ("vit_small_patch16_rope_mixed_224", VIT_SIZE),
}
SWINS = {
    "Swin": ("swin_tiny_patch4_window7_224", SWIN_SIZE),  # maps 8 x 12 and 4 x 6, where only columns are shifted
    "Swin, padded": ("swin_tiny_patch4_window7_224", {**SWIN_SIZE, "window_size": (5, 4)}),
    "Swin V2": ("swinv2_tiny_window8_256", SWIN_SIZE),
    "Swin V2, padded": ("swinv2_tiny_window8_256", {**SWIN_SIZE, "window_size": (3, 5)}),
    "Swin V2, odd maps": (
        "swinv2_tiny_window8_256",
        {**SWIN_SIZE, "img_size": (36, 44), "depths": (1, 2, 2), "num_heads": (1, 2, 4)},
    ),
}
EVERY_MODEL = {**VITS, **SWINS}


@pytest.fixture(params=EVERY_MODEL)
def what(request: pytest.FixtureRequest) -> str:
    """Every kind of model in turn."""
    return request.param


@pytest.fixture(params=VITS)
def vit(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(params=SWINS)
def swin(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def build(rng: torch.Generator) -> Callable[..., nn.Module]:
    """build(what, **more settings): timm's model with random numbers in all parameters, evaluating."""

    def build_model(what: str, **settings: Any) -> nn.Module:
        name, size = EVERY_MODEL[what]
        model = timm.create_model(name, pretrained=False, num_classes=4, **{**size, **settings}).eval()
        randomize(model, rng, 0.3)
        return model

    return build_model


@pytest.fixture
def fill(rng: torch.Generator) -> Callable[[nn.Module], nn.Module]:
    """fill(model): random numbers in place of the zeros of its KP-RPE, large enough to matter."""

    def fill_encoding(model: Any) -> nn.Module:
        randomize(model.kprpe, rng, 2.0)
        return model

    return fill_encoding


@pytest.fixture
def batch(rng: torch.Generator) -> Callable[..., tuple[Tensor, Tensor, Tensor]]:
    """batch(model, image_hw=None): two images, their keypoints and visibility."""

    def make_batch(model: Any, image_hw: tuple[int, int] | None = None) -> tuple[Tensor, Tensor, Tensor]:
        dtype = next(model.parameters()).dtype
        shapes = (2, 3, *(image_hw or model.patch_embed.img_size)), (2, LANDMARKS, 2), (2, LANDMARKS)
        images, keypoints, visibility = (torch.rand(shape, generator=rng, dtype=torch.float64) for shape in shapes)
        return (2 * images - 1).to(dtype), (1.2 * keypoints - 0.1).to(dtype), visibility.to(dtype)

    return make_batch


def randomize(module: nn.Module, rng: torch.Generator, scale: float) -> None:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(scale * torch.randn(parameter.shape, generator=rng, dtype=torch.float64))
