"""What the adapted timm models have in common.

Written for timm 1.0 (https://github.com/huggingface/pytorch-image-models). An adapted model is of a subclass of its
timm class, and each forward pass hands the biases down as arguments: timm's own methods run, on a shallow copy of the
module in which the layers know their biases. Nothing is left on modules by a pass, so that copies, gradient
checkpointing, threads and compilation need no care.

Coordinates: (x, y) as fractions of the image, x right and y down.
Shape letters: B batch, C channels, L keypoints.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from common.rpe.grids import fixed_grid

__all__ = ["Chain", "KeypointModel", "check_patches", "fractions_of_map", "install", "original", "patch_grid"]


def original(kind: type, module: nn.Module, **replaced: object) -> Any:
    """The methods that `kind` overrides, to be run on a module that shares all with this one but what is replaced."""
    variant = module.__new__(type(module))
    variant.__dict__ = {**module.__dict__, **replaced}
    return super(kind, variant)


class Chain(list[Callable[..., Tensor]]):
    """Layers that know their biases, in the place of an nn.Sequential or nn.ModuleList."""

    def __call__(self, x: Tensor) -> Tensor:
        for layer in self:
            x = layer(x)
        return x


class KeypointModel(nn.Module):
    """Makes keypoints an argument of all methods that run the layers. To be inherited along with a timm model."""

    def biased_layers(self, images: Tensor, keypoints: Tensor, visibility: Tensor | None) -> dict[str, Chain]:
        """What to put in the place of the model's layers, under the name that they have in it."""
        raise NotImplementedError

    def _timm(self, images: Tensor, keypoints: Tensor | None, visibility: Tensor | None) -> Any:
        """timm's methods, on layers that know their biases."""
        if keypoints is None:
            raise ValueError(
                f"{type(self).__name__} needs keypoints: [B, L, 2], (x, y) as fractions of the image; got none"
            )
        if len(keypoints) != len(images):
            raise ValueError(f"the keypoints of {len(images)} images are needed, got those of {len(keypoints)}")
        return original(KeypointModel, self, **self.biased_layers(images, keypoints, visibility))

    def forward(self, x: Tensor, keypoints: Tensor | None = None, visibility: Tensor | None = None) -> Any:
        """As timm's: images [B, C, h, w] to logits. Keypoints are [B, L, 2], visibility is [B, L] in [0, 1]."""
        head: Any = self.forward_head
        return head(self.forward_features(x, keypoints, visibility))

    def forward_features(self, x: Tensor, keypoints: Tensor | None = None, visibility: Tensor | None = None) -> Tensor:
        """As timm's: images to the features of the last layer."""
        return self._timm(x, keypoints, visibility).forward_features(x)

    def forward_intermediates(
        self,
        x: Tensor,
        *args: Any,
        keypoints: Tensor | None = None,
        visibility: Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """As timm's, whose arguments it takes: images to the features of several layers."""
        return self._timm(x, keypoints, visibility).forward_intermediates(x, *args, **kwargs)


def fractions_of_map(keypoints: Tensor, image_hw: Iterable[int], covered_hw: Iterable[int]) -> Tensor:
    """Keypoints [B, L, 2] as fractions of what a feature map covers: more than the image where timm pads the map.

    So they are in the units of the map's positions. Both sizes are in pixels.
    """
    down, across = (image / covered for image, covered in zip(image_hw, covered_hw, strict=True))
    if across == down == 1:
        return keypoints
    return torch.stack([keypoints[..., 0] * across, keypoints[..., 1] * down], dim=-1)


def patch_grid(model: Any, image_hw: Iterable[int]) -> tuple[tuple[int, int], tuple[int, int]]:
    """(rows, cols) of the patches of an image, and (height, width) in pixels of a patch."""
    rows, cols = model.patch_embed.dynamic_feat_size(image_hw)
    height, width = model.patch_embed.feat_ratio(False)
    return fixed_grid((rows, cols)), (height, width)


def check_patches(model: Any) -> None:
    """Raises ValueError if the patch embedding cannot say which grid it makes of an image."""
    if not all(hasattr(model.patch_embed, name) for name in ("dynamic_feat_size", "feat_ratio")):
        raise ValueError(
            f"{type(model).__name__} has patches of class {type(model.patch_embed).__name__}, which has no "
            "dynamic_feat_size and feat_ratio to tell their grid from"
        )


def install(model: nn.Module, kprpe: nn.Module, classes: dict[type, type]) -> None:
    """Register the encoding as `model.kprpe`, and give the model and what is in it their new classes."""
    like = next(parameter for parameter in model.parameters() if parameter.is_floating_point())
    model.kprpe = kprpe.to(like.device, like.dtype).train(model.training)
    for module in model.modules():
        if type(module) in classes:
            module.__class__ = classes[type(module)]
