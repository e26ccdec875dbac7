"""KP-RPE for attention over clips: windows that span several frames, each frame with keypoints of its own.

Source: Kim et al., "KeyPoint Relative Position Encoding for Face Recognition", CVPR 2024,
https://arxiv.org/abs/2403.14852, which encodes single images; windows in space and time as in Video Swin
(https://arxiv.org/abs/2106.13230). Between them lies one choice, this project's: the bias of a query in frame a to a
key in frame b comes from the keypoints of the query's frame, and every offset b - a in time has buckets of its own,

    B_(a i)(b j) = f_(b - a)(P_a)[i, d(i, j)],

with f and d as in `common.rpe.keypoint_rpe`: a KP-RPE with 2 t - 1 times K buckets.
Coordinates: (x, y) as fractions of the image, x right and y down. Positions of a window are numbered frame by frame.
Shape letters: N clips, T frames, L keypoints, D layers, G head groups (H heads for multi-head, else 1), K buckets,
S windows along time, W windows of a frame, t frames of a window, n positions of a window in one frame.
"""

from collections.abc import Sequence
from operator import index
from typing import NamedTuple

import torch
from torch import Tensor, nn

from common.rpe.buckets import DistanceMethod
from common.rpe.grids import Window
from common.rpe.keypoint_rpe import KeypointRPE, KeypointRPEForm, LayerBiases
from common.rpe.lazy_biases import LazyBiases

__all__ = ["ClipBiases", "ClipKeypointRPE", "TimeWindow"]


class TimeWindow(NamedTuple):
    """How one layer cuts clips into windows along time: size and cyclic shift, both in frames."""

    size: int = 1
    shift: int = 0

    def within(self, num_frames: int) -> "TimeWindow":
        """The same for a clip: one that is no longer than the window is one window, with nowhere to shift to."""
        return self if num_frames > self.size else TimeWindow(index(num_frames))

    def count(self, num_frames: int) -> int:
        """S, how many windows there are; the last one may have to be padded."""
        return -(-num_frames // self.size)


class ClipKeypointRPE(nn.Module):
    """Keypoints of every frame to the additive attention biases of layers whose windows span frames. Zero at the start.

    Args:
        num_frames: t >= 1, the largest window along time.
        num_keypoints, num_heads, num_layers, form, shared, method, ratio: as for `KeypointRPE`.

    Raises:
        ValueError: a setting out of range or unknown.

    Example:
        >>> rpe = ClipKeypointRPE(num_frames=3, num_keypoints=17, num_heads=16, num_layers=2)
        >>> biases = rpe(torch.rand(2, 30, 17, 2), (3, 5), [TimeWindow(3), TimeWindow(3, 1)])
        >>> list(biases[0].shape)
        [2, 10, 1, 16, 45, 45]
    """

    def __init__(
        self,
        num_frames: int,
        num_keypoints: int,
        num_heads: int,
        num_layers: int = 1,
        form: KeypointRPEForm = "multihead",
        shared: bool = False,
        method: DistanceMethod = "product",
        ratio: float = 1.9,
    ) -> None:
        super().__init__()
        for name, value in (("num_frames", num_frames), ("num_layers", num_layers)):
            if value < 1:
                raise ValueError(f"{name} must be >= 1, got {value}")
        self.num_frames = num_frames
        self.num_layers = num_layers
        self.shared = shared
        self.num_offsets = 2 * num_frames - 1
        # Each offset in time is a layer of it: rows of its weight are (layer, offset, head, bucket).
        layers = self.num_offsets * (1 if shared else num_layers)
        self.rpe = KeypointRPE(num_keypoints, num_heads, layers, form, method=method, ratio=ratio)

    def forward(
        self,
        keypoints: Tensor,
        grid_hw: tuple[int, int],
        times: Sequence[TimeWindow],
        visibility: Tensor | None = None,
        windows: Sequence[Window] | None = None,
    ) -> "ClipBiases":
        """Biases for one batch of clips.

        Args:
            keypoints: [N, T, L, 2], (x, y) as fractions of the image.
            grid_hw: (rows, cols) of the feature map; or the window's size, for the paper's window-level grid.
            times: one a layer. In windows that the shift or padding made, slots of the padding hold the last frame's
                keypoints: no frame's output depends on what such a query sees.
            visibility: [N, T, L] in [0, 1], how far each keypoint counts, or None.
            windows: one a layer, to cut the image's grid into that layer's windows. None: grid_hw is the window's.

        Returns:
            D biases [N, S, W, G, t n, t n], W being 1 without `windows`, each computed when it is asked for.

        Raises:
            ValueError: wrong shapes or dtypes, or not one window a layer.
        """
        if keypoints.ndim != 4 or keypoints.shape[1] < 1 or keypoints.shape[2:] != (self.rpe.num_keypoints, 2):
            raise ValueError(
                f"keypoints must have shape [N, T, {self.rpe.num_keypoints}, 2], T >= 1, got {list(keypoints.shape)}"
            )
        if visibility is not None and visibility.shape != keypoints.shape[:3]:
            raise ValueError(f"visibility must have shape {list(keypoints.shape[:3])}, got {list(visibility.shape)}")
        for name, given in (("times", times), ("windows", windows)):
            if given is not None and len(given) != self.num_layers:
                raise ValueError(f"{name} must name one for each of {self.num_layers} layers, got {len(given)}")
        if max(time.size for time in times) > self.num_frames:
            raise ValueError(f"times must span at most {self.num_frames} frames, got {list(times)}")
        times = [time.within(keypoints.shape[1]) for time in times]
        return ClipBiases(self, keypoints, grid_hw, visibility, times, windows)


class ClipBiases(LazyBiases):
    """The biases of all layers, [N, S, W, G, t n, t n] each."""

    def __init__(
        self,
        rpe: ClipKeypointRPE,
        keypoints: Tensor,
        grid_hw: tuple[int, int],
        visibility: Tensor | None,
        times: Sequence[TimeWindow],
        windows: Sequence[Window] | None,
    ) -> None:
        self._rpe = rpe
        self._keypoints = keypoints
        self._grid_hw = grid_hw
        self._visibility = visibility
        self._times = times
        self._windows = windows
        self._slots_of: dict[tuple[TimeWindow, Window | None], list[LayerBiases]] = {}

    def __len__(self) -> int:
        return len(self._times)

    def _bias(self, layer: int) -> Tensor:
        time = self._times[layer]
        window = None if self._windows is None else self._windows[layer]
        slots = self._slots(time, window)
        same_frame = (0 if self._rpe.shared else layer * self._rpe.num_offsets) + self._rpe.num_frames - 1
        groups = self._rpe.rpe.head_groups
        # Heads that share a bias are one here, as long as it is put together: attention broadcasts it.
        rows = [
            torch.cat([biases[same_frame + key - query].narrow(-3, 0, groups) for key in range(time.size)], dim=-1)
            for query, biases in enumerate(slots)
        ]
        bias = torch.cat(rows, dim=-2).unflatten(0, (len(self._keypoints), -1))
        return bias.unsqueeze(2) if window is None else bias

    def _slots(self, time: TimeWindow, window: Window | None) -> list[LayerBiases]:
        """For every place along time in a window, the biases of the frames that are there: [N S, ...]."""
        if (time, window) not in self._slots_of:
            num_frames, device = self._keypoints.shape[1], self._keypoints.device
            places = time.count(num_frames) * time.size
            frames = ((torch.arange(places, device=device) + time.shift) % places).clamp(max=num_frames - 1)
            rpe = self._rpe.rpe
            windows = None if window is None else [window] * rpe.num_layers
            self._slots_of[time, window] = [
                rpe(
                    self._keypoints[:, slot].flatten(0, 1),
                    self._grid_hw,
                    None if self._visibility is None else self._visibility[:, slot].flatten(0, 1),
                    windows,
                )
                for slot in frames.view(-1, time.size).unbind(1)
            ]
        return self._slots_of[time, window]
