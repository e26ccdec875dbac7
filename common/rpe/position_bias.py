"""One setting that names the relative position encoding of a transformer: none, table, iRPE or KP-RPE.

Shape letters: B batch, T frames, L keypoints, D layers, H heads, N tokens, W windows of an image, S windows along
time, n positions of a window, t frames of one, d channels of a head.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from torch import Tensor, nn

from common.rpe.attention import AttentionBias
from common.rpe.buckets import DistanceMethod
from common.rpe.clip_rpe import ClipKeypointRPE, TimeWindow
from common.rpe.grids import Window, fixed_grid
from common.rpe.image_rpe import ImageRPE, ImageRPEPlaces
from common.rpe.keypoint_rpe import KeypointRPE, KeypointRPEForm
from common.rpe.lazy_biases import LazyBiases
from common.rpe.table_rpe import TableRPE

__all__ = ["KeypointGrid", "PositionBias", "PositionBiasName", "PositionBiasSettings"]

PositionBiasName = Literal["none", "table", "irpe_bias", "irpe", "kprpe"]
KeypointGrid = Literal["window", "image"]


@dataclass(frozen=True, kw_only=True)
class PositionBiasSettings:
    """What is added to the attention logits. Changing `position_bias` alone is an ablation.

    Raises:
        ValueError: an unknown name, or values in iRPE's bias mode.
    """

    position_bias: PositionBiasName = "kprpe"
    """Nothing, Swin's table, iRPE in bias or contextual mode, or KP-RPE."""

    num_keypoints: int = 5
    """L, for kprpe: 5 for faces, 17 for COCO bodies."""

    keypoint_grid: KeypointGrid = "image"
    """For kprpe in windows: "window" takes the query grid of the window's size, the same in every window (what the
    paper says of gait, section 5); "image" gives each window its own slice of the image's grid (what the public code
    does for face Swin)."""

    form: KeypointRPEForm = "multihead"
    """For kprpe, as `shared`: see `common.KeypointRPE`."""

    shared: bool = False

    method: DistanceMethod = "product"
    """For kprpe and iRPE, as `ratio`: see `common.rpe.buckets`."""

    ratio: float = 1.9

    irpe_on: ImageRPEPlaces = "k"
    """For iRPE: queries, keys, values. The paper's comparison has "qkv", which only the contextual mode knows."""

    irpe_per_head: bool = False
    """For iRPE: tables of every head's own."""

    def __post_init__(self) -> None:
        for name, kind in (("position_bias", PositionBiasName), ("keypoint_grid", KeypointGrid)):
            if getattr(self, name) not in get_args(kind):
                raise ValueError(f"{name} must be one of {', '.join(get_args(kind))}, got {getattr(self, name)!r}")
        if self.position_bias == "irpe_bias" and "v" in self.irpe_on:
            raise ValueError(f"irpe_on: bias mode encodes queries and keys, not values, got {self.irpe_on!r}")


class PositionBias(nn.Module):
    """The position encoding of a stack of layers, whichever it is.

    Args:
        settings: which one.
        num_heads: H.
        head_dim: d.
        num_layers: D.
        size_hw: (rows, cols) of what attention sees, the feature map or a window. The table is bound to it.
        extra_tokens: E, tokens without a position (class token, registers) before those of the map.
        num_frames: t, the frames that a window spans.

    Raises:
        ValueError: a setting out of range, or iRPE (or extra tokens) in windows of several frames.
    """

    def __init__(
        self,
        settings: PositionBiasSettings,
        num_heads: int,
        head_dim: int,
        num_layers: int,
        size_hw: tuple[int, int],
        extra_tokens: int = 0,
        num_frames: int = 1,
    ) -> None:
        super().__init__()
        if num_frames > 1 and extra_tokens:
            raise ValueError(f"windows of {num_frames} frames hold no extra tokens, got extra_tokens {extra_tokens}")
        if num_frames > 1 and settings.position_bias in ("irpe", "irpe_bias"):
            raise ValueError(
                f"position_bias must be none, table or kprpe in windows of {num_frames} frames (iRPE encodes offsets "
                f"in one image), got {settings.position_bias!r}"
            )
        self.settings = settings
        self.num_layers = num_layers
        self.size_hw = size_hw
        self.num_frames = num_frames
        name, method, ratio = settings.position_bias, settings.method, settings.ratio
        self.tables = nn.ModuleList()
        self.irpe: ImageRPE | None = None
        self.kprpe: KeypointRPE | ClipKeypointRPE | None = None
        if name == "table":
            size = size_hw if num_frames == 1 else (num_frames, *size_hw)
            self.tables.extend(TableRPE(size, num_heads, extra_tokens) for _ in range(num_layers))
        elif name in ("irpe", "irpe_bias"):
            mode: Literal["contextual", "bias"] = "contextual" if name == "irpe" else "bias"
            places, per_head = settings.irpe_on, settings.irpe_per_head
            self.irpe = ImageRPE(num_heads, head_dim, num_layers, mode, places, per_head, method, ratio, extra_tokens)
        elif name == "kprpe":
            keypoints, form, shared = settings.num_keypoints, settings.form, settings.shared
            if num_frames == 1:
                self.kprpe = KeypointRPE(
                    keypoints, num_heads, num_layers, form, shared, method, ratio, extra_tokens=extra_tokens
                )
            else:
                self.kprpe = ClipKeypointRPE(num_frames, keypoints, num_heads, num_layers, form, shared, method, ratio)

    def forward(
        self,
        grid_hw: tuple[int, int],
        keypoints: Tensor | None = None,
        visibility: Tensor | None = None,
        windows: Sequence[Window] | None = None,
        times: Sequence[TimeWindow] | None = None,
    ) -> Sequence[Tensor | AttentionBias | None]:
        """One item a layer, which `attention` takes as it is.

        Args:
            grid_hw: (rows, cols) of the feature map.
            keypoints: [B, L, 2], (x, y) as fractions of the image; kprpe needs them, the others ignore them. Where
                windows span frames, [B, T, L, 2].
            visibility: [B, L] (or [B, T, L]) in [0, 1] or None.
            windows: one a layer where attention sees windows.
            times: one a layer where these windows span frames, each already within the clip.

        Returns:
            D items; tensors broadcast to [B, H, N, N], in windows to [B, W, H, n, n], in windows that span frames to
            [B, S, W, H, t n, t n].

        Raises:
            ValueError: no keypoints for kprpe, a table of another size, or times where there should be none.
        """
        seen_hw = fixed_grid(grid_hw if windows is None else windows[0].size_hw)
        if (times is None) is not (self.num_frames == 1) or (times is not None and windows is None):
            raise ValueError(
                f"windows of {self.num_frames} frame(s) need "
                f"{'no times' if self.num_frames == 1 else 'windows and times'}, got times {times}, windows {windows}"
            )
        if self.tables:
            if seen_hw != tuple(self.size_hw):
                raise ValueError(f"the table was built for {self.size_hw} positions, got {seen_hw}")
            if times is None:
                return [table() for table in self.tables]
            # In a clip that is shorter than the window, its first frames.
            seen = [time.size * seen_hw[0] * seen_hw[1] for time in times]
            return [table()[:, :size, :size] for table, size in zip(self.tables, seen, strict=True)]
        if self.irpe is not None:
            return self.irpe(seen_hw)
        if self.kprpe is None:
            return [None] * self.num_layers
        if keypoints is None:
            raise ValueError("position_bias kprpe needs keypoints, got None")
        if isinstance(self.kprpe, ClipKeypointRPE):
            assert times is not None
            if self.settings.keypoint_grid == "image":
                return self.kprpe(keypoints, grid_hw, times, visibility, windows)
            return self.kprpe(keypoints, seen_hw, times, visibility)
        if windows is None:
            biases = self.kprpe(keypoints, grid_hw, visibility)
            return [biases.layer(layer) for layer in range(self.num_layers)]
        if self.settings.keypoint_grid == "image":
            return self.kprpe(keypoints, grid_hw, visibility, windows)
        return _PerWindow(self.kprpe(keypoints, seen_hw, visibility))


class _PerWindow(LazyBiases):
    """The same bias in every window: [B, H, n, n] to [B, 1, H, n, n]."""

    def __init__(self, biases: Sequence[Tensor]) -> None:
        self._biases = biases

    def __len__(self) -> int:
        return len(self._biases)

    def _bias(self, layer: int) -> Tensor:
        return self._biases[layer].unsqueeze(1)
