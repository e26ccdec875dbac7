"""Query grids: where the positions of a feature map are, as fractions of the image. No parameters.

KP-RPE calls the grid M. At image level it is the patch grid. At window level there are two readings: a grid of the
size of the window, the same for every window (what the paper says of gait), or the image's grid cut into the windows
that a shifted-window block attends in (what the public code does for face Swin).
Shape letters: N = rows * cols positions, W windows, n positions of a window.
"""

from operator import index
from typing import NamedTuple

import torch
from torch import Tensor

from common.rpe.tables import constant_table

__all__ = ["Window", "fixed_grid", "grid_centres", "window_centres", "window_partition"]


class Window(NamedTuple):
    """How one layer cuts its feature map into windows: size and cyclic shift, both (rows, cols)."""

    size_hw: tuple[int, int]
    shift_hw: tuple[int, int] = (0, 0)


@constant_table(maxsize=64)
def grid_centres(
    grid_hw: tuple[int, int], dtype: torch.dtype, device: torch.device | str = "cpu", extra_tokens: int = 0
) -> Tensor:
    """Centres of the cells of a grid. Cached: treat the result as read-only.

    Extra tokens have no position. They are put at the image's centre, and it makes no difference to attention where:
    all keys are in one bucket for such a query, and softmax ignores what is the same for all keys.

    Args:
        grid_hw: (rows, cols), both >= 1.
        dtype: floating point.
        device: where the result lives.
        extra_tokens: E, tokens without a position.

    Returns:
        [E + N, 2], (x, y) as fractions of the image: extra tokens, then the grid row by row.

    Raises:
        ValueError: an empty grid.
    """
    rows, cols = grid_hw
    if rows < 1 or cols < 1:
        raise ValueError(f"grid_hw must be (rows, cols), both >= 1, got {grid_hw}")
    centres = _centres(rows, cols, rows, cols).reshape(-1, 2)
    middle = torch.full((extra_tokens, 2), 0.5, dtype=centres.dtype, device="cpu")
    return torch.cat([middle, centres]).to(device, dtype)


def _centres(padded_rows: int, padded_cols: int, rows: int, cols: int) -> Tensor:
    """[padded_rows, padded_cols, 2]; cells of the padding lie beyond 1, with the pitch of the image's own."""
    y = (torch.arange(padded_rows, dtype=torch.float64, device="cpu") + 0.5) / rows
    x = (torch.arange(padded_cols, dtype=torch.float64, device="cpu") + 0.5) / cols
    return torch.stack([x[None, :].expand(padded_rows, -1), y[:, None].expand(-1, padded_cols)], dim=-1)


def fixed_grid(grid_hw: tuple[int, int]) -> tuple[int, int]:
    """(rows, cols) as plain numbers. Compiled with dynamic shapes, a model is specialised to its grids here: tables
    depend on them."""
    return index(grid_hw[0]), index(grid_hw[1])


def window_partition(x: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """Cut a map into windows: [..., rows, cols, C] to [..., W, n, C], windows and positions row by row.

    Raises:
        ValueError: rows or cols is no multiple of the window's.
    """
    *lead, rows, cols, channels = x.shape
    height, width = size_hw
    if rows % height or cols % width:
        raise ValueError(f"a map of {rows} x {cols} cannot be cut into windows of {height} x {width}")
    x = x.reshape(*lead, rows // height, height, cols // width, width, channels).transpose(-4, -3)
    return x.reshape(*lead, -1, height * width, channels)


def window_centres(
    grid_hw: tuple[int, int], window: Window, dtype: torch.dtype, device: torch.device | str = "cpu"
) -> Tensor:
    """The image's grid cut into (cyclically shifted) windows. Cached: treat the result as read-only.

    A map that is no multiple of the window is padded at the right and bottom, as Swin does.

    Returns:
        [W, n, 2], (x, y) as fractions of the image.

    Raises:
        ValueError: an empty grid or window, or a shift that is not smaller than the window.
    """
    # Plain tuples: a Window that is made while a model is being compiled is no constant to the compiler.
    return _window_centres(grid_hw, window.size_hw, window.shift_hw, dtype, device)


@constant_table(maxsize=64)
def _window_centres(
    grid_hw: tuple[int, int],
    size_hw: tuple[int, int],
    shift_hw: tuple[int, int],
    dtype: torch.dtype,
    device: torch.device | str,
) -> Tensor:
    (rows, cols), (height, width), (down, right) = grid_hw, size_hw, shift_hw
    if min(rows, cols, height, width) < 1:
        raise ValueError(f"grid {grid_hw} and window {size_hw} must be (rows, cols), all >= 1")
    if not (0 <= down < height and 0 <= right < width):
        raise ValueError(f"shift {shift_hw} must be at least 0 and smaller than the window {size_hw}")
    centres = _centres(-(-rows // height) * height, -(-cols // width) * width, rows, cols)
    centres = torch.roll(centres, (-down, -right), dims=(0, 1))
    return window_partition(centres, size_hw).to(device, dtype)
