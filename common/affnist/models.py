"""The shallow ViT and the five ways in which it learns of positions.

Source: figure 1 of the KP-RPE paper; what it leaves open is chosen here and a setting: the size of the network, tokens
averaged or a class token, and whether the relative encodings stand beside the absolute one (as in the public face
models of the authors) or instead of it.
Shape letters: B batch, L = 5 keypoints, F x F frame, N tokens, C channels.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from common.affnist.frames import FRAME, KEYPOINTS
from common.rpe import PositionBiasSettings
from common.vit import VisionTransformer

__all__ = ["MODELS", "DigitClassifier", "Encoding", "ModelSettings", "build_model", "draw_dots"]

CLASSES = 10
POSITION_STD = 0.2  # of the absolute encoding at the start
MEAN, STD = 0.1, 0.25  # about those of a frame with a digit
Pool = Literal["mean", "class"]


@dataclass(frozen=True, kw_only=True)
class Encoding:
    """How a model learns of positions."""

    title: str
    """What tables and pictures call it."""

    bias: PositionBiasSettings
    """Its relative encoding."""

    drawn: bool = False
    """Whether it gets the keypoints as dots on the image."""


MODELS = {
    "absolute": Encoding(title="absolute PE", bias=PositionBiasSettings(position_bias="none")),
    "drawn": Encoding(
        title="absolute PE, keypoints drawn", bias=PositionBiasSettings(position_bias="none"), drawn=True
    ),
    "table": Encoding(title="RPE", bias=PositionBiasSettings(position_bias="table")),
    "irpe": Encoding(title="iRPE", bias=PositionBiasSettings(position_bias="irpe", irpe_on="qkv")),
    "kprpe": Encoding(title="KP-RPE", bias=PositionBiasSettings(position_bias="kprpe", num_keypoints=KEYPOINTS)),
}
"""The models of figure 1, by the names that the command line takes."""


@dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """Size and shape of the network, the same for all encodings.

    Raises:
        ValueError: a setting out of range, a patch that does not divide the frame, or heads that do not divide `dim`.
    """

    patch: int = 8
    """Side of a patch in pixels."""

    dim: int = 64
    """Channels of a token."""

    depth: int = 3
    """Attention layers."""

    heads: int = 4

    mlp_ratio: float = 2.0
    """Hidden channels of the MLP, as a multiple of `dim`."""

    pool: Pool = "mean"
    """What is classified: the mean of the tokens, or a class token."""

    absolute: bool = True
    """Whether the models with a relative encoding keep the absolute one beside it."""

    def __post_init__(self) -> None:
        for name in ("patch", "dim", "depth", "heads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be >= 1, got {getattr(self, name)}")
        if FRAME % self.patch:
            raise ValueError(f"patch must divide the frame of {FRAME} pixels, got {self.patch}")
        if self.dim % self.heads:
            raise ValueError(f"heads must divide dim, got {self.heads} heads and dim {self.dim}")
        if self.mlp_ratio <= 0:
            raise ValueError(f"mlp_ratio must be > 0, got {self.mlp_ratio}")
        if self.pool not in get_args(Pool):
            raise ValueError(f"pool must be one of {', '.join(get_args(Pool))}, got {self.pool!r}")


class DigitClassifier(nn.Module):
    """A ViT over a frame, and ten logits.

    Args:
        encoding: how it learns of positions.
        settings: its size.
    """

    def __init__(self, encoding: Encoding, settings: ModelSettings) -> None:
        super().__init__()
        self.drawn = encoding.drawn
        self.class_token = settings.pool == "class"
        self.vit = VisionTransformer(
            image_hw=(FRAME, FRAME),
            patch_hw=(settings.patch, settings.patch),
            # The dots have a channel of their own, as if they were drawn in colour.
            in_channels=2 if encoding.drawn else 1,
            embed_dim=settings.dim,
            depth=settings.depth,
            num_heads=settings.heads,
            mlp_ratio=settings.mlp_ratio,
            position_bias=encoding.bias,
            absolute=settings.absolute or encoding.bias.position_bias == "none",
            class_token=self.class_token,
        )
        self.head = nn.Linear(settings.dim, CLASSES)
        self._initialise()

    def _initialise(self) -> None:
        """Weights for a narrow network and a short training. The relative encodings keep their published start."""
        for module in self.modules():
            if isinstance(module, nn.Linear):  # of deviation 0.02 in the ViT, which suits hundreds of channels
                nn.init.xavier_uniform_(module.weight)
        if self.vit.pos_embed is not None:  # tokens of mostly black patches are told apart by little else
            nn.init.normal_(self.vit.pos_embed, std=POSITION_STD)

    def forward(self, images: Tensor, keypoints: Tensor) -> Tensor:
        """[B, F, F] grey levels in [0, 1] and [B, 5, 2] as fractions of the frame, to logits [B, 10]."""
        channels = [images]
        if self.drawn:
            channels.append(draw_dots(keypoints, (images.shape[1], images.shape[2])))
        tokens = self.vit((torch.stack(channels, dim=1) - MEAN) / STD, keypoints)
        return self.head(tokens[:, 0] if self.class_token else tokens.mean(dim=1))


def build_model(name: str, settings: ModelSettings, seed: int) -> DigitClassifier:
    """A fresh model of that name in `MODELS`.

    The weights that models have in common start the same at the same seed, whatever else a model draws. The global
    random state is left as it is.

    Raises:
        ValueError: no such model; those that there are, are listed.
    """
    if name not in MODELS:
        raise ValueError(f"no model {name!r}, there are {', '.join(MODELS)}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        start = DigitClassifier(MODELS["absolute"], settings).state_dict()
        model = DigitClassifier(MODELS[name], settings)
    own = model.state_dict()
    shared = {key: value for key, value in start.items() if key in own and own[key].shape == value.shape}
    model.load_state_dict(shared, strict=False)
    return model


def draw_dots(keypoints: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """A soft dot at every keypoint, 1 at its centre and 1 / e a pixel away.

    Args:
        keypoints: [B, L, 2] as fractions of the image.
        size_hw: height and width of the image.

    Returns:
        [B, h, w] in [0, 1]; where dots overlap, the stronger.
    """
    height, width = size_hw
    rows, cols = (torch.arange(size, dtype=keypoints.dtype, device=keypoints.device) + 0.5 for size in (height, width))
    across = torch.exp(-((cols - keypoints[..., :1] * width) ** 2))  # [B, L, w]
    down = torch.exp(-((rows - keypoints[..., 1:] * height) ** 2))
    return (down[..., :, None] * across[..., None, :]).amax(dim=1)
