"""Shifted-window transformer over maps of features, with a choice of position bias.

Windows span one image, or several neighbouring frames of a sequence. Where a stage ends, the map keeps its size and
grows wider (as gait networks have it), or Swin's patch merging halves it.
Sources: Liu et al., "Swin Transformer", ICCV 2021, https://arxiv.org/abs/2103.14030, and "Video Swin Transformer",
https://arxiv.org/abs/2106.13230; Fan et al., "Exploring Deep Models for Practical Gait Recognition" (SwinGait),
https://arxiv.org/abs/2303.03301; KP-RPE in windows: Kim et al., CVPR 2024, https://arxiv.org/abs/2403.14852, section 5.
With the plain table, and without merging, it computes what OpenGait's SwinGait (ShiqiYu/OpenGait@0efafd4) computes with
the same windows, under the same names but for the tables'.
Shape letters: N clips (sequences; single images where windows span one), T frames of a clip, F frames (or images) of
all sequences, C channels, H heads, S windows along time, W windows of a frame, t frames of a window and n positions in
each of them, L keypoints.
"""

from collections.abc import Sequence

import torch
import torch.distributed as dist
import torch.nn.functional as F
from timm.layers import Mlp
from torch import Tensor, nn

from common.rpe import (
    AttentionBias,
    PositionBias,
    PositionBiasSettings,
    TimeWindow,
    Window,
    attention,
    window_partition,
)
from common.rpe.grids import fixed_grid
from common.rpe.tables import constant_table

__all__ = ["PatchMerging", "SwinStage", "SwinTransformer"]

# What Swin adds to the logits between positions that only the cyclic shift made neighbours.
_MASKED = -100.0


def _pad_to(size: int, multiple: int) -> int:
    return -size % multiple


@constant_table(maxsize=32)
def _shift_mask(
    grid_hw: tuple[int, int], window: Window, time: TimeWindow, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """[1 or 2, W, 1, t n, t n]: 0 where two positions of a window are neighbours in the clip too, else -100.

    With a shift along time the last of the windows along time is the second item, and all others are the first.
    """
    (rows, cols), (height, width), (down, right) = grid_hw, window.size_hw, window.shift_hw
    region = torch.zeros(rows + _pad_to(rows, height), cols + _pad_to(cols, width), device="cpu")
    region[region.shape[0] - down :] += 1
    region[:, region.shape[1] - right :] += 2
    windows = window_partition(region[..., None], window.size_hw)[..., 0]  # [W, n]
    after = torch.zeros(2 if time.shift else 1, time.size, device="cpu")
    if time.shift:
        after[1, time.size - time.shift :] = 4
    regions = (after[:, None, :, None] + windows[:, None]).flatten(2)  # [1 or 2, W, t n]
    apart = regions[:, :, None, :, None] != regions[:, :, None, None, :]
    return (apart * _MASKED).to(device, dtype)


class WindowAttention(nn.Module):
    """Multi-head self-attention inside windows.

    Args:
        dim: C.
        num_heads: H, a divisor of C.
        window: the window's size and shift in a frame.
        time: its size and shift along time; None: it sees one frame.
    """

    def __init__(self, dim: int, num_heads: int, window: Window, time: TimeWindow | None = None) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.window = window
        self.time = time
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, bias: Tensor | AttentionBias | None, num_sequences: int = 1) -> Tensor:
        """[F, rows, cols, C] to the same, under a bias that broadcasts to the logits, or None.

        Logits are [F, W, H, n, n], or [N, S, W, H, t n, t n] in windows over time, which the F / N frames of a sequence
        are cut into.
        """
        rows, cols = x.shape[1:3]
        height, width = self.window.size_hw
        shifts: tuple[int, ...] = self.window.shift_hw
        padding = [0, 0, 0, _pad_to(cols, width), 0, _pad_to(rows, height)]
        time, length = None, 1
        if self.time is not None:
            x = x.unflatten(0, (num_sequences, -1))
            length = x.shape[1]
            time = self.time.within(length)
            padding += [0, _pad_to(length, time.size)]
            shifts = (time.shift, *shifts)
        axes = tuple(range(-1 - len(shifts), -1))
        if any(padding):  # F.pad copies even where there is nothing to add
            x = F.pad(x, padding)
        padded_rows = x.shape[-3]
        shifted = any(shifts)
        if shifted:
            x = torch.roll(x, tuple(-shift for shift in shifts), axes)
        windows = window_partition(x, self.window.size_hw)  # [F, W, n, C] or [N, S t, W, n, C]
        if time is not None:
            windows = windows.unflatten(1, (-1, time.size)).transpose(2, 3).flatten(3, 4)  # [N, S, W, t n, C]
        qkv = self.qkv(windows).unflatten(-1, (3, self.num_heads, -1))
        query, key, value = qkv.movedim(-3, 0).transpose(-3, -2).unbind(0)  # each [..., H, n, d]
        mask = self._mask((rows, cols), time, length, query) if shifted else None
        out = attention(query, key, value, bias, implementation="explicit", mask=mask)
        out = self.proj(out.transpose(-3, -2).flatten(-2))
        if time is not None:
            out = out.unflatten(3, (time.size, -1)).transpose(2, 3).flatten(1, 2)
        out = out.unflatten(-3, (padded_rows // height, -1)).unflatten(-2, (height, width))
        out = out.transpose(-4, -3).flatten(-3, -2).flatten(-4, -3)
        if shifted:
            out = torch.roll(out, shifts, axes)
        out = out[..., :rows, :cols, :]
        return out if time is None else out[:, :length].flatten(0, 1)

    def _mask(self, grid_hw: tuple[int, int], time: TimeWindow | None, length: int, like: Tensor) -> Tensor:
        """[W, 1, n, n] or [1 or S, W, 1, t n, t n]."""
        mask = _shift_mask(fixed_grid(grid_hw), self.window, time or TimeWindow(), like.dtype, like.device)
        if time is None:
            return mask[0]
        if not time.shift:
            return mask
        others = mask[:1].expand(time.count(length) - 1, *mask.shape[1:])
        return torch.cat([others, mask[1:]])


class DropPath(nn.Module):
    """Stochastic depth: in training, a branch is left out for a whole sequence.

    Several processes that draw from the same seed draw for the whole batch, of which each has every so many-th sequence
    (as the sampler shares them out): they then train as one process does.

    Args:
        drop_prob: probability of leaving out; what stays is scaled up to make up for it.
    """

    def __init__(self, drop_prob: float) -> None:
        super().__init__()
        self.drop_prob = drop_prob

    def extra_repr(self) -> str:
        return f"drop_prob={self.drop_prob:g}"

    def forward(self, x: Tensor, num_sequences: int) -> Tensor:
        """[F, ...] to the same; frames of one sequence are neighbours and equally many in each."""
        if not self.training or self.drop_prob == 0:
            return x
        world, rank = 1, 0
        if dist.is_available() and dist.is_initialized():
            world, rank = dist.get_world_size(), dist.get_rank()
        kept = x.new_empty(num_sequences * world).bernoulli_(1 - self.drop_prob)[rank::world] / (1 - self.drop_prob)
        frames = len(x) // num_sequences
        return x * kept.repeat_interleave(frames).view(-1, *[1] * (x.ndim - 1))


class SwinBlock(nn.Module):
    """Window attention and MLP, each behind a LayerNorm, with residuals and stochastic depth (one draw a sequence)."""

    def __init__(
        self,
        dim: int,
        num_heads: int,
        window: Window,
        mlp_ratio: float,
        drop_path: float,
        time: TimeWindow | None = None,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attn = WindowAttention(dim, num_heads, window, time)
        self.drop_path = DropPath(drop_path)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))

    def forward(self, x: Tensor, bias: Tensor | AttentionBias | None, num_sequences: int) -> Tensor:
        """[F, rows, cols, C] to the same; frames of one sequence are neighbours and equally many in each."""
        x = x + self.drop_path(self.attn(self.norm1(x), bias, num_sequences), num_sequences)
        return x + self.drop_path(self.mlp(self.norm2(x)), num_sequences)


class PatchMerging(nn.Module):
    """Two by two tokens to one of twice the width; a map of odd size is padded with zeros at the right and bottom."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * dim)
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[F, rows, cols, C] to [F, ceil(rows / 2), ceil(cols / 2), 2 C]."""
        rows, cols = x.shape[1:3]
        if rows % 2 or cols % 2:
            x = F.pad(x, [0, 0, 0, cols % 2, 0, rows % 2])
        corners = [x[:, down::2, right::2] for right in (0, 1) for down in (0, 1)]
        return self.reduction(self.norm(torch.cat(corners, dim=-1)))


class SwinStage(nn.Module):
    """Blocks at one width, every second one with shifted windows, then (if asked) the step to twice that width.

    Args:
        dim: C.
        depth: number of blocks.
        num_heads: H.
        grid_hw: (rows, cols) of the token map.
        window_size: (rows, cols), neither larger than the map, or (frames, rows, cols).
        bias: what is added to the logits.
        mlp_ratio: hidden width of the MLP over C.
        drop_path: one rate a block.
        widen: whether the stage ends in twice the width: by LayerNorm and Linear, token by token, ...
        merge: ... or by patch merging.
    """

    def __init__(
        self,
        dim: int,
        depth: int,
        num_heads: int,
        grid_hw: tuple[int, int],
        window_size: tuple[int, ...],
        bias: PositionBiasSettings,
        mlp_ratio: float,
        drop_path: Sequence[float],
        widen: bool,
        merge: bool = False,
    ) -> None:
        super().__init__()
        self.grid_hw = grid_hw
        *_, rows, cols = window_size
        num_frames = window_size[0] if len(window_size) == 3 else 1
        # A window as large as the map has no neighbours to shift towards.
        down, right = (0 if size >= cells else size // 2 for size, cells in zip((rows, cols), grid_hw, strict=True))
        shifted = [block % 2 == 1 for block in range(depth)]
        self.windows = [Window((rows, cols), (down, right) if shift else (0, 0)) for shift in shifted]
        self.times: list[TimeWindow] | None = None
        if num_frames > 1:
            self.times = [TimeWindow(num_frames, num_frames // 2 if shift else 0) for shift in shifted]
        self.blocks = nn.ModuleList(
            SwinBlock(dim, num_heads, window, mlp_ratio, drop_path[block], self.times[block] if self.times else None)
            for block, window in enumerate(self.windows)
        )
        self.position_bias = PositionBias(bias, num_heads, dim // num_heads, depth, (rows, cols), num_frames=num_frames)
        self.downsample: nn.Module = nn.Identity()
        if widen and merge:
            self.downsample = PatchMerging(dim)
        elif widen:
            self.downsample = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, 2 * dim, bias=False))

    def forward(self, x: Tensor, keypoints: Tensor | None, visibility: Tensor | None, num_sequences: int) -> Tensor:
        """[F, rows, cols, C], [F, L, 2], [F, L] to [F, rows, cols, C or 2 C], merged to half the rows and cols."""
        times = None
        if self.times is not None:
            keypoints, visibility = (
                None if stream is None else stream.unflatten(0, (num_sequences, -1))
                for stream in (keypoints, visibility)
            )
            times = [time.within(len(x) // num_sequences) for time in self.times]
        biases = self.position_bias(self.grid_hw, keypoints, visibility, self.windows, times)
        for block, bias in zip(self.blocks, biases, strict=True):
            x = block(x, bias, num_sequences)
        return self.downsample(x)


class PatchEmbed(nn.Module):
    """Non-overlapping patches to tokens: [F, C_in, h, w] to [F, h / patch, w / patch, C]."""

    def __init__(self, patch_size: int, in_channels: int, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_channels, dim, kernel_size=patch_size, stride=patch_size)
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.proj(x).permute(0, 2, 3, 1))


class SwinTransformer(nn.Module):
    """Patch embedding, stages, final LayerNorm.

    Args:
        in_channels: of the feature map.
        feature_size: (rows, cols) of the feature map, multiples of patch_size.
        patch_size: side of a patch.
        embed_dim: C of the first stage; every stage but the last doubles it.
        depths: blocks of each stage.
        num_heads: heads of each stage.
        window_size: (rows, cols) of a window, in tokens, or (frames, rows, cols).
        bias: what is added to the attention logits.
        mlp_ratio: hidden width of the MLPs over their input's.
        drop_path_rate: of the last block; it grows linearly from 0 at the first.
        merge: whether patches are merged between stages. If not, all stages have the map of the first.

    Attributes:
        out_channels: C of the last stage.
        out_hw: (rows, cols) of its map.

    Raises:
        ValueError: settings that do not fit each other, all named.
    """

    def __init__(
        self,
        in_channels: int,
        feature_size: tuple[int, int],
        patch_size: int,
        embed_dim: int,
        depths: Sequence[int],
        num_heads: Sequence[int],
        window_size: tuple[int, ...],
        bias: PositionBiasSettings,
        mlp_ratio: float,
        drop_path_rate: float,
        merge: bool = False,
    ) -> None:
        super().__init__()
        if any(size % patch_size for size in feature_size):
            raise ValueError(f"feature_size {tuple(feature_size)} must be multiples of patch_size {patch_size}")
        grid_hw = (feature_size[0] // patch_size, feature_size[1] // patch_size)
        if len(window_size) not in (2, 3) or window_size[0] < 1:
            raise ValueError(
                f"window_size must be (rows, cols) or (frames, rows, cols), all >= 1, got {tuple(window_size)}"
            )
        if len(depths) != len(num_heads):
            raise ValueError(f"one number of heads a stage: got depths {list(depths)} and num_heads {list(num_heads)}")
        self.patch_embed = PatchEmbed(patch_size, in_channels, embed_dim)
        rates = torch.linspace(0, drop_path_rate, sum(depths), device="cpu").tolist()
        self.layers = nn.ModuleList()
        for stage, (depth, heads) in enumerate(zip(depths, num_heads, strict=True)):
            dim = embed_dim * 2**stage
            if any(size < 1 or size > cells for size, cells in zip(window_size[-2:], grid_hw, strict=True)):
                where = f" of stage {stage}" if merge else ""
                raise ValueError(f"window_size {tuple(window_size)} must be within the token map {grid_hw}{where}")
            if dim % heads:
                raise ValueError(f"stage {stage}: {dim} channels cannot be split into {heads} heads")
            first, widen = sum(depths[:stage]), stage < len(depths) - 1
            self.layers.append(
                SwinStage(
                    dim,
                    depth,
                    heads,
                    grid_hw,
                    tuple(window_size),
                    bias,
                    mlp_ratio,
                    rates[first : first + depth],
                    widen,
                    merge,
                )
            )
            if widen and merge:
                grid_hw = (-(-grid_hw[0] // 2), -(-grid_hw[1] // 2))
        self.out_channels = embed_dim * 2 ** (len(depths) - 1)
        self.out_hw = grid_hw
        self.norm = nn.LayerNorm(self.out_channels)

    def forward(self, x: Tensor, keypoints: Tensor | None, visibility: Tensor | None, num_sequences: int) -> Tensor:
        """[F, C_in, h, w], [F, L, 2] or None, [F, L] or None to [F, rows, cols, C_out]."""
        x = self.patch_embed(x)
        for layer in self.layers:
            x = layer(x, keypoints, visibility, num_sequences)
        return self.norm(x)
