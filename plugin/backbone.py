"""SwinGait's backbones: silhouettes (and joints) to maps of tokens, frame by frame (2D) or over neighbours (3D).

Source: Fan et al., "Exploring Deep Models for Practical Gait Recognition", https://arxiv.org/abs/2303.03301. Stem and
two convolutional stages, bilinear resize to a fixed map, patches, two Swin stages. In 3D, as published, the second
stage's blocks are pseudo-3D and windows span three frames; made 2D, every convolution and window sees one frame. With
`position_bias="table"` and copied weights they equal OpenGait's SwinGait (ShiqiYu/OpenGait@0efafd4), for 2D with a 2D
second stage and windows of [1, 3, 5].
Shape letters: N sequences, T frames, F = N * T frames of all sequences, L keypoints, C channels.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from common.rpe import DistanceMethod, KeypointGrid, KeypointRPEForm, PositionBiasName, PositionBiasSettings
from common.rpe.image_rpe import ImageRPEPlaces
from common.swin import SwinTransformer

__all__ = ["SwinGait2DBackbone", "SwinGait3DBackbone", "translate_swingait_keys"]


# In evaluation; see SwinGait2DBackbone. A map of the full-size stem takes 0.7 MB a frame in float32.
_FRAMES_AT_ONCE = 256


_RENAMED = [
    # The two convolutions of a pseudo-3D block are wrapped with their batch norms.
    (re.compile(r"^(layer\d\.\d+)\.conv([12])\.forward_block\.0\."), r"\1.conv\2."),
    (re.compile(r"^(layer\d\.\d+)\.conv([12])\.forward_block\.1\."), r"\1.bn\2."),
    (re.compile(r"\.forward_block\."), "."),
    (re.compile(r"\.blocks\.(\d+)\.attn\.(relative_position_bias_table)$"), r".position_bias.tables.\1.\2"),
]


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with batch norm around a shortcut (ResNet's basic block), frame by frame.

    With `over_time` it is SwinGait's pseudo-3D block: what the first convolution gives is added to itself convolved
    over three frames, at every place alone.
    """

    def __init__(self, in_channels: int, channels: int, stride: int, over_time: bool = False) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or in_channels != channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )
        self.over_time = over_time
        if over_time:
            # A 3x1x1 convolution, as one in two dimensions: (time, place).
            self.shortcut3d = nn.Conv2d(channels, channels, (3, 1), 1, (1, 0), bias=False)
            self.sbn = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor, num_sequences: int) -> Tensor:
        """[F, C_in, h, w] to [F, C, h / stride, w / stride]; frames of one sequence are neighbours."""
        out = self.relu(self.bn1(self.conv1(x)))
        if self.over_time:
            out = self.relu(out + self._neighbours(out, num_sequences))
        return self.relu(self.bn2(self.conv2(out)) + self.downsample(x))

    def _neighbours(self, x: Tensor, num_sequences: int) -> Tensor:
        height = x.shape[2]
        clips = x.unflatten(0, (num_sequences, -1)).transpose(1, 2).flatten(3)  # [N, C, T, h w]
        clips = self.sbn(self.shortcut3d(clips))
        return clips.transpose(1, 2).flatten(0, 1).unflatten(2, (height, -1))


class ConvStage(nn.ModuleList):
    """Residual blocks, the first of which may take strides and change the number of channels."""

    def __init__(self, in_channels: int, channels: int, stride: int, blocks: int, over_time: bool = False) -> None:
        first = ResidualBlock(in_channels, channels, stride, over_time)
        super().__init__([first, *(ResidualBlock(channels, channels, 1, over_time) for _ in range(1, blocks))])

    def forward(self, x: Tensor, num_sequences: int) -> Tensor:
        """As of a block."""
        for block in self:
            x = block(x, num_sequences)
        return x


class _SwinGaitBackbone(nn.Module):
    """Silhouettes and joints to token maps.

    All arguments are positional-or-keyword: OpenGait drops keyword-only ones when it reads them from YAML.

    Args:
        in_channels: of the silhouettes.
        channels: of the stem with the first, and of the second convolutional stage.
        layers: blocks of the two convolutional and the two Swin stages.
        feature_size: (rows, cols) that the convolutional map is resized to.
        patch_size: of the patch embedding.
        embed_dim: of the first Swin stage; the second has twice as many channels.
        num_heads: of the two Swin stages.
        window_size: in tokens, (rows, cols) in 2D and (frames, rows, cols) in 3D. None: (3, 5) or (3, 3, 5).
        mlp_ratio: of the Swin blocks.
        drop_path_rate: stochastic depth of the last block.
        position_bias: "none", "table", "irpe_bias", "irpe" or "kprpe"; iRPE not in windows of several frames.
        num_keypoints: L, for kprpe.
        keypoint_grid, form, shared, method, ratio, irpe_on, irpe_per_head: see `common.rpe.PositionBiasSettings`.
        confidence: what the third channel of the keypoints does: "weight" (its value, cut to [0, 1], is the joint's
            visibility), "threshold" (visible or not), "ignore" (all joints count, also missing ones).
        min_confidence: a joint below it (or whose confidence is NaN) has visibility 0, unless confidence is ignored.

    Raises:
        ValueError: settings that do not fit each other.
    """

    _window: tuple[int, ...]
    """The published window."""

    _over_time: bool
    """Whether convolutions of the second stage see neighbouring frames."""

    def __init__(
        self,
        in_channels: int = 1,
        channels: Sequence[int] = (64, 128),
        layers: Sequence[int] = (1, 4, 4, 2),
        feature_size: Sequence[int] = (30, 20),
        patch_size: int = 2,
        embed_dim: int = 256,
        num_heads: Sequence[int] = (16, 32),
        window_size: Sequence[int] | None = None,
        mlp_ratio: float = 4.0,
        drop_path_rate: float = 0.1,
        position_bias: PositionBiasName = "kprpe",
        num_keypoints: int = 17,
        keypoint_grid: KeypointGrid = "window",
        form: KeypointRPEForm = "multihead",
        shared: bool = False,
        method: DistanceMethod = "product",
        ratio: float = 1.9,
        irpe_on: ImageRPEPlaces = "k",
        irpe_per_head: bool = False,
        confidence: Literal["weight", "threshold", "ignore"] = "weight",
        min_confidence: float = 0.1,
    ) -> None:
        super().__init__()
        if confidence not in ("weight", "threshold", "ignore"):
            raise ValueError(f"confidence must be one of weight, threshold, ignore, got {confidence!r}")
        if len(channels) != 2 or len(layers) != 4:
            raise ValueError(f"need 2 channels and 4 layers, got {list(channels)} and {list(layers)}")
        window = self._window if window_size is None else tuple(window_size)
        if len(window) != len(self._window):
            axes = ("frames", "rows", "cols")[-len(self._window) :]
            raise ValueError(f"window_size must be ({', '.join(axes)}) for {type(self).__name__}, got {window}")
        self.position_bias = position_bias
        self.num_keypoints = num_keypoints
        self.confidence = confidence
        self.min_confidence = min_confidence
        self.layer0 = nn.Sequential(
            nn.Conv2d(in_channels, channels[0], 3, 1, 1, bias=False),
            nn.BatchNorm2d(channels[0]),
            nn.ReLU(inplace=True),
        )
        self.layer1 = ConvStage(channels[0], channels[0], 1, layers[0])
        self.layer2 = ConvStage(channels[0], channels[1], 2, layers[1], self._over_time)
        self.ulayer = nn.UpsamplingBilinear2d(size=(feature_size[0], feature_size[1]))
        self.transformer = SwinTransformer(
            in_channels=channels[1],
            feature_size=(feature_size[0], feature_size[1]),
            patch_size=patch_size,
            embed_dim=embed_dim,
            depths=layers[2:],
            num_heads=num_heads,
            window_size=window,
            bias=PositionBiasSettings(
                position_bias=position_bias,
                num_keypoints=num_keypoints,
                keypoint_grid=keypoint_grid,
                form=form,
                shared=shared,
                method=method,
                ratio=ratio,
                irpe_on=irpe_on,
                irpe_per_head=irpe_per_head,
            ),
            mlp_ratio=mlp_ratio,
            drop_path_rate=drop_path_rate,
        )
        self.out_channels = self.transformer.out_channels

    def forward(self, silhouettes: Tensor, keypoints: Tensor | None = None, seqL: Tensor | None = None) -> Tensor:
        """Token maps of every frame.

        Args:
            silhouettes: [N, T, h, w] in [0, 1].
            keypoints: [N, T, L, 2], or [N, T, L, 3] with a confidence; (x, y) as fractions of the silhouette.
                Needed for kprpe only, and not looked at otherwise.
            seqL: [1, n], numbers of frames of n sequences that lie end to end in silhouettes [1, T, h, w]. None: there
                are N sequences of T frames.

        Returns:
            [N, C, T, rows, cols].

        Raises:
            ValueError: wrong shapes, or kprpe without keypoints.
        """
        if silhouettes.ndim != 4:
            raise ValueError(f"silhouettes must have shape [N, T, h, w], got {list(silhouettes.shape)}")
        sequences, frames = silhouettes.shape[:2]
        points, visibility = None, None
        if self.position_bias == "kprpe":
            points, visibility = self._split_keypoints(keypoints, (sequences, frames))
        images = silhouettes.flatten(0, 1).unsqueeze(1)
        stretches = self._stretches(sequences, frames, seqL)
        if stretches is None:
            x = self._frames(images, points, visibility, sequences)
        else:
            parts = zip(images.split(stretches), _split(points, stretches), _split(visibility, stretches), strict=True)
            x = torch.cat([self._frames(*part, 1) for part in parts])
        return x.unflatten(0, (sequences, frames)).permute(0, 4, 1, 2, 3)

    def _stretches(self, sequences: int, frames: int, seqL: Tensor | None) -> list[int] | None:
        """Numbers of frames, in their order, that go through the network one after the other; None: all at once."""
        raise NotImplementedError

    def _frames(self, x: Tensor, points: Tensor | None, visibility: Tensor | None, num_sequences: int) -> Tensor:
        """[F, 1, h, w], [F, L, 2], [F, L] to [F, rows, cols, C]."""
        x = self.layer1(self.layer0(x), num_sequences)
        x = self.ulayer(self.layer2(x, num_sequences))
        return self.transformer(x, points, visibility, num_sequences)

    def _split_keypoints(self, keypoints: Tensor | None, lead: tuple[int, int]) -> tuple[Tensor, Tensor | None]:
        """[N T, L, 2] and [N T, L] (None: all visible)."""
        if keypoints is None:
            raise ValueError("position_bias kprpe needs keypoints, got None")
        allowed = [(*lead, self.num_keypoints, channels) for channels in (2, 3)]
        if tuple(keypoints.shape) not in allowed:
            raise ValueError(
                f"keypoints must have shape {list(allowed[0])} or {list(allowed[1])} (sequences, frames, keypoints, "
                f"x y [confidence]) to go with the silhouettes, got {list(keypoints.shape)}"
            )
        keypoints = keypoints.flatten(0, 1)
        if keypoints.shape[-1] == 2 or self.confidence == "ignore":
            return keypoints[..., :2], None
        score = keypoints[..., 2]
        visible = (score >= self.min_confidence) & (score > 0)
        seen = torch.ones_like(score) if self.confidence == "threshold" else score.clamp(0, 1)
        # Chosen, not multiplied: a confidence that is no number means missing, and 0 * NaN would still be NaN.
        return keypoints[..., :2], torch.where(visible, seen, torch.zeros_like(score))


def _split(stream: Tensor | None, sizes: list[int]) -> Sequence[Tensor | None]:
    return [None] * len(sizes) if stream is None else stream.split(sizes)


class SwinGait2DBackbone(_SwinGaitBackbone):
    """Silhouettes and joints to token maps, frame by frame, wherever one sequence ends and the next one begins.

    Arguments, inputs and outputs are those of its base class.
    """

    _window = (3, 5)
    _over_time = False

    def _stretches(self, sequences: int, frames: int, seqL: Tensor | None) -> list[int] | None:
        if self.training:
            return None
        # No frame depends on another one now, so that long sequences need not be in memory all at once.
        total = sequences * frames
        return [min(_FRAMES_AT_ONCE, total - first) for first in range(0, total, _FRAMES_AT_ONCE)]


class SwinGait3DBackbone(_SwinGaitBackbone):
    """Silhouettes and joints to token maps, with convolutions and windows over neighbouring frames of a sequence.

    Sequences that lie end to end are kept apart: each goes through the network alone, whole. Arguments, inputs and
    outputs are those of its base class.
    """

    _window = (3, 3, 5)
    _over_time = True

    def _stretches(self, sequences: int, frames: int, seqL: Tensor | None) -> list[int] | None:
        if seqL is None:
            return None
        lengths: list[int] = seqL[0].tolist()
        if sequences != 1 or sum(lengths) != frames or min(lengths) < 1:
            raise ValueError(
                f"seqL must be lengths >= 1 of sequences that lie end to end in silhouettes [1, sum, h, w], "
                f"got {lengths} for {sequences} x {frames} frames"
            )
        return lengths


def translate_swingait_keys(state: Mapping[str, Tensor], prefix: str = "") -> dict[str, Tensor]:
    """Weights of OpenGait's SwinGait or DeepGaitV2 under the names that these backbones have for them.

    Frame-wise wrappers vanish from the names, buffers that follow from the window are dropped, and kernels over one
    frame or one place lose that axis. Pseudo-3D blocks get the names of 2D blocks, so that a 2D backbone finds their
    2D convolutions too. Names that are this package's own already pass unchanged.

    Args:
        state: names to tensors.
        prefix: put before the names of backbone parts that stand at the top level, e.g. "Backbone.".
    """
    translated = {}
    for name, value in state.items():
        if name.endswith("relative_position_index"):
            continue
        new = name
        for pattern, replacement in _RENAMED:
            new = pattern.sub(replacement, new)
        if new.split(".", 1)[0] in ("layer0", "layer1", "layer2", "transformer"):
            new = prefix + new
            if value.ndim == 5 and value.shape[2] == 1:
                value = value.squeeze(2)
            elif value.ndim == 5 and value.shape[4] == 1:
                value = value.squeeze(4)
        translated[new] = value
    return translated
