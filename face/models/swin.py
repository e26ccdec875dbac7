"""Swin for faces, with KP-RPE on the image's grid in its windows: 112 px faces to embeddings, Swin-S and Swin-B.

Sources: Liu et al., "Swin Transformer", ICCV 2021, https://arxiv.org/abs/2103.14030; sizes of the KP-RPE authors' face
Swin (mk-minchul/CVLface@d3d09c9, models/swin_kprpe): patches of 3 px, so 37 x 37 tokens, which patch merging makes
19 x 19, 10 x 10 and 5 x 5; windows of 5 x 5; one KP-RPE a stage, on that stage's grid; all tokens into one linear
layer.
Deliberate differences from theirs:
- Theirs is a Swin V2 (https://arxiv.org/abs/2111.09883): cosine attention with a learned scale, and norms after
  attention and MLP. This is the first Swin: scaled products, norms before. Their weights do not fit.
- 112 px leave one row and column of pixels that patches of 3 do not cover; both networks ignore them. Here keypoints
  are then counted in fractions of what the patches cover; theirs stay fractions of the whole image, 0.9% off.
- The position encoding is a setting; images may be rectangular.
Shape letters: B batch, L keypoints, C channels, E embedding channels.
"""

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from common.rpe import PositionBiasSettings
from common.swin import SwinTransformer
from face.models.base import FaceModel, bias_settings, check_images, embedding_head, in_float32

__all__ = ["SWIN_SIZES", "FaceSwin", "SwinSettings", "build_swin"]

SWIN_SIZES: dict[str, dict[str, Any]] = {
    "swin_small": {"depths": (2, 2, 12, 2)},
    "swin_base": {"depths": (2, 2, 18, 2)},
}


class FaceSwin(FaceModel):
    """Face images and keypoints to embeddings.

    Args:
        image_hw: (rows, cols) of the images in pixels. What is left beside the last patch is ignored.
        patch_size: side of a patch in pixels.
        embed_dim: C of the first stage; every later one has twice that of the one before, on half the rows and columns.
        depths: blocks of each stage.
        num_heads: heads of each stage.
        window_size: (rows, cols) of a window in tokens, within the map of every stage.
        mlp_ratio: hidden width of the MLPs over their input's.
        position_bias: what is added to the attention logits.
        drop_path: stochastic depth of the last block; it grows linearly from 0 at the first.
        num_features: E, channels of an embedding.

    Raises:
        ValueError: settings that do not fit each other.
    """

    def __init__(
        self,
        image_hw: tuple[int, int],
        patch_size: int,
        embed_dim: int,
        depths: tuple[int, ...],
        num_heads: tuple[int, ...],
        window_size: tuple[int, int],
        mlp_ratio: float,
        position_bias: PositionBiasSettings,
        drop_path: float,
        num_features: int,
    ) -> None:
        super().__init__()
        if patch_size < 1 or min(image_hw) < patch_size:
            raise ValueError(f"patch_size must be between 1 and the image's {min(image_hw)} pixels, got {patch_size}")
        self.image_hw = image_hw
        self.num_features = num_features
        self.needs_keypoints = position_bias.position_bias == "kprpe"
        self.covered_hw = (image_hw[0] - image_hw[0] % patch_size, image_hw[1] - image_hw[1] % patch_size)
        self.swin = SwinTransformer(
            3,
            self.covered_hw,
            patch_size,
            embed_dim,
            depths,
            num_heads,
            window_size,
            position_bias,
            mlp_ratio,
            drop_path,
            merge=True,
        )
        for module in self.swin.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        rows, cols = self.swin.out_hw
        channels = self.swin.out_channels
        self.feature = embedding_head(rows * cols * channels, channels, num_features)

    def forward(self, images: Tensor, keypoints: Tensor | None = None, visibility: Tensor | None = None) -> Tensor:
        """[B, 3, h, w] RGB in [-1, 1], [B, L, 2] fractions of the image, [B, L] or None to embeddings [B, E]."""
        check_images(images, self.image_hw)
        rows, cols = self.covered_hw
        if self.needs_keypoints and keypoints is not None and self.covered_hw != self.image_hw:
            keypoints = keypoints * keypoints.new_tensor([self.image_hw[1] / cols, self.image_hw[0] / rows])
        # Every image is a sequence of its own: stochastic depth draws for each.
        tokens = self.swin(images[:, :, :rows, :cols], keypoints, visibility, images.shape[0])
        return in_float32(self.feature, tokens.flatten(1))


@dataclass(frozen=True, kw_only=True)
class SwinSettings(PositionBiasSettings):
    """A face Swin, by name and by settings of one's own. It has no absolute encoding.

    Raises:
        ValueError: as PositionBiasSettings. Sizes that do not fit each other are refused when the model is built.
    """

    num_features: int = 512
    """E, channels of an embedding."""

    image_hw: tuple[int, int] = (112, 112)
    """(rows, cols) of the images in pixels."""

    patch_size: int = 3
    """Side of a patch in pixels."""

    embed_dim: int = 128
    """C of the first stage; each later one doubles it."""

    depths: tuple[int, ...] = (2, 2, 12, 2)
    """Blocks of each stage. A model's name sets this."""

    num_heads: tuple[int, ...] = (4, 8, 16, 32)
    """Heads of each stage."""

    window_size: tuple[int, int] = (5, 5)
    """(rows, cols) of a window in tokens."""

    mlp_ratio: float = 4.0
    """Hidden width of the MLPs over their input's."""

    drop_path: float = 0.0
    """Stochastic depth of the last block; the authors train Swin-S with 0.3 and Swin-B with 0.5."""


def build_swin(settings: SwinSettings) -> FaceSwin:
    """The network of these settings.

    Raises:
        ValueError: sizes that do not fit each other.
    """
    return FaceSwin(
        image_hw=settings.image_hw,
        patch_size=settings.patch_size,
        embed_dim=settings.embed_dim,
        depths=settings.depths,
        num_heads=settings.num_heads,
        window_size=settings.window_size,
        mlp_ratio=settings.mlp_ratio,
        position_bias=bias_settings(settings),
        drop_path=settings.drop_path,
        num_features=settings.num_features,
    )
