"""KeyPoint Relative Position Encoding: keypoints in, additive attention biases out.

Source: Kim et al., "KeyPoint Relative Position Encoding for Face Recognition", CVPR 2024,
https://arxiv.org/abs/2403.14852. With d(i, j) the bucket of the offset from query i to key j,

    B_ij = f(P)[i, d(i, j)],   f(P) = P' W + b (absolute)   or   D' W + b with D = M - P (relative, multi-head).

Written from the paper. The order of the weight's rows (layer, head, bucket) and of its columns (point by point,
x then y) is that of the authors' `keypoint_linear`, so that public weights fit as they are.
Deliberate differences from the authors' code: rectangular grids, gradients reach the keypoints, keypoints may carry a
visibility, and the cross method has its own buckets for rows and for columns, as in iRPE.

f is affine in the query's position, which the default implementation uses: with S_k = sum_l v_l w_lk,

    f(P)[i, k] = M_i . S_k + (b_k - sum_l v_l P_l . w_lk),

so what depends on the image is one number a bucket and head (three with visibilities, which make S the image's own),
not K numbers a position; M_i . S_k is computed once for the batch. Nothing that grows with the batch but these numbers
is kept for the backward pass. `implementation="direct"` builds f(P) position by position instead; it is the reference
that tests compare with.

Extra tokens without a position (a class token, registers) come first and have a bucket of their own.

Coordinates: (x, y) as fractions of the image, x right and y down.
Shape letters: B batch, L keypoints, D layers, H heads, G head groups (H for multi-head, else 1), K buckets,
E extra tokens, N = E + rows * cols queries, W windows, n positions of a window (N where there are no windows),
R bucket tables (grids of rows and columns: cross).
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from common.keypoints.transforms import check_fractions
from common.rpe.attention import AttentionBias, CompactTables
from common.rpe.buckets import DistanceMethod, bucket_ids, num_buckets
from common.rpe.grids import Window, fixed_grid, grid_centres, window_centres
from common.rpe.lazy_biases import LazyBiases
from common.rpe.lookup import look_up
from common.rpe.tables import constant_table

__all__ = ["KeypointBias", "KeypointRPE", "KeypointRPEForm", "LayerBiases"]

KeypointRPEForm = Literal["absolute", "relative", "multihead"]


class _Features(NamedTuple):
    """What f(P) is made of, for all layers."""

    slope: Tensor | None
    """S: [D, G, K, 2], with visibilities [B, D, G, K, 2]; None for the absolute form."""

    intercept: Tensor
    """[B, D, G, K]"""

    folded: "dict[tuple[int, _Place, bool], Tensor] | None" = None
    """Where tables of this very slope are kept; None: nowhere."""


class _Place(NamedTuple):
    """Everything that positions and buckets follow from."""

    grid_hw: tuple[int, int]
    window: Window | None

    @property
    def size_hw(self) -> tuple[int, int]:
        """(rows, cols) of what attention sees."""
        return self.grid_hw if self.window is None else self.window.size_hw


@constant_table(maxsize=64)
def _pair_positions(
    grid_hw: tuple[int, int],
    window: tuple[tuple[int, int], tuple[int, int]] | None,
    dtype: torch.dtype,
    device: torch.device,
    extra_tokens: int,
) -> Tensor:
    """[2, W, 1, n, n]: x and y of the query of every pair; a window is given by its size and shift."""
    if window is None:
        centres = grid_centres(grid_hw, dtype, device, extra_tokens)[None]
    else:
        centres = window_centres(grid_hw, Window(*window), dtype, device)
    queries = centres.shape[1]
    return centres.permute(2, 0, 1)[:, :, None, :, None].repeat(1, 1, 1, 1, queries)


class LayerBiases(LazyBiases):
    """The biases of all layers.

    Item d is the bias of layer d, float32 (float64 where the module's weight is): [B, H, N, N] at image level and for
    a grid of the window's size, [B, W, H, n, n] where the image's grid is cut into windows.
    """

    def __init__(self, rpe: "KeypointRPE", features: "_Features | Tensor", place: "list[_Place]") -> None:
        self._rpe = rpe
        self._features = features
        self._place = place

    def __len__(self) -> int:
        return len(self._place)

    def _bias(self, layer: int) -> Tensor:
        return self.layer(layer).tensor()

    def layer(self, layer: int) -> "KeypointBias":
        """The bias of one layer before it is written out for every pair; `attention` takes it as it is."""
        layer = self._checked(layer)
        return KeypointBias(self._rpe, layer, self._features, self._place[layer])


class KeypointBias(AttentionBias):
    """The bias of one layer, not yet computed: attention reads it from compact tables where that pays."""

    def __init__(self, rpe: "KeypointRPE", layer: int, features: _Features | Tensor, place: _Place) -> None:
        self._rpe = rpe
        self._layer = layer
        self._features = features
        self._place = place

    def tensor(self) -> Tensor:
        """[B, H, N, N], or [B, W, H, n, n] in windows."""
        return self._rpe._layer_bias(self._layer, self._features, self._place)

    def logits(self, query: Tensor, key: Tensor) -> Tensor:
        """As `tensor`; queries and keys play no part."""
        return self.tensor()

    def compact(self) -> CompactTables | None:
        """The tables that every pair's value follows from; None in windows and for the direct implementation."""
        if isinstance(self._features, Tensor) or self._place.window is not None:
            return None
        return self._rpe._compact(self._layer, self._features, self._place)


class KeypointRPE(nn.Module):
    """Keypoints to the additive attention biases of a stack of layers. All zero at the start.

    Args:
        num_keypoints: L >= 1; 17 for COCO bodies, 5 for aligned faces.
        num_heads: H >= 1.
        num_layers: D >= 1, how many attention layers it serves.
        form: "absolute" and "relative" share one bias among the heads, "multihead" is relative with one a head.
        shared: one set of weights for all layers, instead of one a layer.
        method: how an offset becomes a bucket, see `common.rpe.buckets`.
        ratio: r, scales the piecewise index; the papers' is 1.9.
        implementation: "affine" (default) or "direct" (the definition, for tests and comparison).
        extra_tokens: E >= 0, tokens without a position before those of the grid, at image level.

    Raises:
        ValueError: a setting out of range or unknown.

    Example:
        >>> rpe = KeypointRPE(num_keypoints=5, num_heads=8, num_layers=12)
        >>> biases = rpe(torch.rand(2, 5, 2), grid_hw=(14, 14))
        >>> len(biases), list(biases[0].shape)
        (12, [2, 8, 196, 196])
    """

    # Parameters of its own, not an nn.Linear: host frameworks re-initialise every nn.Linear that they find, and a
    # KP-RPE that does not start at zero is another method.
    weight: nn.Parameter  # [D * G * K, 2 L]
    bias: nn.Parameter  # [D * G * K]

    def __init__(
        self,
        num_keypoints: int,
        num_heads: int,
        num_layers: int = 1,
        form: KeypointRPEForm = "multihead",
        shared: bool = False,
        method: DistanceMethod = "product",
        ratio: float = 1.9,
        implementation: Literal["affine", "direct"] = "affine",
        extra_tokens: int = 0,
    ) -> None:
        super().__init__()
        for name, value in (
            ("num_keypoints", num_keypoints),
            ("num_heads", num_heads),
            ("num_layers", num_layers),
        ):
            if value < 1:
                raise ValueError(f"{name} must be >= 1, got {value}")
        if form not in get_args(KeypointRPEForm):
            raise ValueError(f"form must be one of {', '.join(get_args(KeypointRPEForm))}, got {form!r}")
        if implementation not in ("affine", "direct"):
            raise ValueError(f"implementation must be affine or direct, got {implementation!r}")
        self.num_keypoints = num_keypoints
        self.num_heads = num_heads
        self.num_layers = num_layers
        self.form = form
        self.shared = shared
        self.method = method
        self.ratio = ratio
        self.implementation = implementation
        self.extra_tokens = extra_tokens
        self.num_buckets = num_buckets(method, ratio, extra_tokens)
        self.head_groups = num_heads if form == "multihead" else 1
        self.weight_layers = 1 if shared else num_layers
        outputs = self.weight_layers * self.head_groups * self.num_buckets
        self.weight = nn.Parameter(torch.zeros(outputs, 2 * num_keypoints))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self._folded = _Folded()

    def extra_repr(self) -> str:
        return (
            f"num_keypoints={self.num_keypoints}, num_heads={self.num_heads}, num_layers={self.num_layers}, "
            f"form={self.form}, shared={self.shared}, method={self.method}, ratio={self.ratio}, "
            f"extra_tokens={self.extra_tokens}"
        )

    def forward(
        self,
        keypoints: Tensor,
        grid_hw: tuple[int, int],
        visibility: Tensor | None = None,
        windows: Sequence[Window] | None = None,
    ) -> LayerBiases:
        """Biases for one batch.

        Args:
            keypoints: [B, L, 2], (x, y) as fractions of the image.
            grid_hw: (rows, cols) of the feature map; or the window's size, for the paper's window-level grid.
            visibility: [B, L] in [0, 1], how far each keypoint counts; a keypoint of visibility 0 may hold any
                coordinates, NaN included. None: all count fully.
            windows: one a layer, to cut the image's grid into that layer's windows. None: no windows.

        Returns:
            One bias a layer, float32 (float64 where the weight is), to be added to the logits after
            their scaling by 1 / sqrt(head dimension), as the public weights need it.

        Raises:
            ValueError: wrong shapes or dtypes; a number of windows that is not the number of layers; and, for
                keypoints on the CPU, coordinates that are plainly not fractions of the image.
        """
        self._check(keypoints, visibility, windows)
        # Autocast would round coordinates to half precision: 1/2048 of the image, and worse after the products.
        with torch.autocast(keypoints.device.type, enabled=False):
            dtype = torch.promote_types(self.weight.dtype, torch.float32)
            points = keypoints.to(dtype)
            weights = None if visibility is None else visibility.to(dtype)
            if weights is not None:
                # Where nothing is seen the coordinates may be anything; 0 * NaN would still be NaN.
                # (At exactly 0 the visibility's own gradient is therefore that of a keypoint at (0, 0).)
                points = torch.where(weights[..., None] > 0, points, torch.zeros_like(points))
            if self.implementation == "affine":
                features: _Features | Tensor = self._affine_features(points, weights)
            else:
                features = torch.cat(
                    [points, (torch.ones_like(points[..., 0]) if weights is None else weights)[..., None]], -1
                )
        grid_hw = fixed_grid(grid_hw)
        places = [_Place(grid_hw, None if windows is None else windows[layer]) for layer in range(self.num_layers)]
        return LayerBiases(self, features, places)

    def _check(self, keypoints: Tensor, visibility: Tensor | None, windows: Sequence[Window] | None) -> None:
        if keypoints.ndim != 3 or keypoints.shape[1:] != (self.num_keypoints, 2):
            raise ValueError(f"keypoints must have shape [B, {self.num_keypoints}, 2], got {list(keypoints.shape)}")
        if not keypoints.is_floating_point():
            raise ValueError(f"keypoints must be floating point fractions of the image, got {keypoints.dtype}")
        if visibility is not None and visibility.shape != keypoints.shape[:2]:
            raise ValueError(f"visibility must have shape {list(keypoints.shape[:2])}, got {list(visibility.shape)}")
        if windows is not None and len(windows) != self.num_layers:
            raise ValueError(f"windows must name one window for each of {self.num_layers} layers, got {len(windows)}")
        if windows is not None and self.extra_tokens:
            raise ValueError(f"windows hold no extra tokens, but this KP-RPE was built for {self.extra_tokens}")
        if keypoints.device.type == "cpu" and not torch.compiler.is_compiling():
            if visibility is not None and not bool(((visibility >= 0) & (visibility <= 1)).all()):
                low, high = (float(v) for v in visibility.detach().aminmax())
                raise ValueError(f"visibility must be within 0 and 1, got {low:g} to {high:g}")
            check_fractions(keypoints.detach(), None if visibility is None else visibility.detach())

    def _weight_view(self) -> Tensor:
        """[D, G, K, L, 2]"""
        return self.weight.view(self.weight_layers, self.head_groups, self.num_buckets, self.num_keypoints, 2)

    def _affine_features(self, points: Tensor, visibility: Tensor | None) -> _Features:
        weight = self._weight_view().to(points.dtype)
        seen = points if visibility is None else points * visibility[..., None]
        moved = seen.flatten(1) @ weight.flatten(3).flatten(0, 2).T
        offset = self.bias.to(points.dtype)
        # Not torch.add with alpha=-1, which torch 2.14's inductor takes for +1 beside a matrix product.
        intercept = (offset + moved if self.form == "absolute" else offset - moved).unflatten(1, weight.shape[:3])
        if self.form == "absolute":
            return _Features(None, intercept)
        if visibility is None:
            return _Features(weight.sum(3), intercept, self._folded.tables(self.weight))
        return _Features(torch.einsum("bl,dgklc->bdgkc", visibility, weight), intercept)

    def _layer_bias(self, layer: int, features: _Features | Tensor, place: _Place) -> Tensor:
        layer = 0 if self.shared else layer
        with torch.autocast(self.weight.device.type, enabled=False):
            if isinstance(features, Tensor):
                bias = self._direct_bias(layer, features, place)
            else:
                bias = self._affine_bias(layer, features, place)
        bias = bias.expand(-1, -1, self.num_heads, -1, -1)
        return bias if place.window is not None else bias[:, 0]

    def _ids(self, place: _Place, device: torch.device) -> Tensor:
        """[R, n, n]"""
        return bucket_ids(place.size_hw, self.method, self.ratio, device, self.extra_tokens)

    def _centres(self, place: _Place, dtype: torch.dtype, device: torch.device) -> Tensor:
        """[W, n, 2]; W is 1 where there are no windows."""
        if place.window is None:
            return grid_centres(place.grid_hw, dtype, device, self.extra_tokens)[None]
        return window_centres(place.grid_hw, place.window, dtype, device)

    def _affine_bias(self, layer: int, features: _Features, place: _Place) -> Tensor:
        """[B, W, G, n, n]"""
        intercept = features.intercept[:, layer]  # [B, G, K]
        ids = self._ids(place, intercept.device)
        if place.window is None and _by_query(ids.shape[-1], self.num_buckets):
            return look_up(self._query_table(layer, features, place), ids)[:, None]
        # The windows of an image differ by their positions alone, and a window has fewer keys than there are buckets:
        # read the buckets of all pairs first, then multiply by the positions.
        flat = ids.flatten(1)
        constant = _select(intercept, flat)[:, None]  # [B, 1, G, n n]
        if features.slope is None:
            pairs = constant.expand(-1, -1 if place.window is None else self._windows(place), -1, -1)
        elif features.slope.ndim == 4:
            pairs = constant + self._static(layer, features.slope, features.folded, place, pairs=True)
        else:
            x, y = self._positions(place, constant.dtype, constant.device)
            across, down = _select(features.slope[:, layer].movedim(-1, 0), flat)[:, :, None]  # [B, 1, G, n n]
            pairs = torch.addcmul(torch.addcmul(constant, across, x), down, y)
        return pairs.unflatten(-1, ids.shape[1:])

    def _query_table(self, layer: int, features: _Features, place: _Place) -> Tensor:
        """[B, G, N, K]: f(P) of every query."""
        intercept = features.intercept[:, layer, :, None]
        if features.slope is None:
            return intercept.expand(-1, -1, self._ids(place, intercept.device).shape[-1], -1)
        if features.slope.ndim == 4:
            return intercept + self._static(layer, features.slope, features.folded, place, pairs=False)
        centres = self._centres(place, intercept.dtype, intercept.device)[0]
        return intercept + centres @ features.slope[:, layer].mT

    def _compact(self, layer: int, features: _Features, place: _Place) -> CompactTables:
        layer = 0 if self.shared else layer
        intercept = features.intercept[:, layer]
        if features.slope is None:
            slope = intercept.new_zeros(1, *intercept.shape[1:], 2)
        else:
            slope = features.slope[None, layer] if features.slope.ndim == 4 else features.slope[:, layer]
        centres = self._centres(place, intercept.dtype, intercept.device)[0]
        return CompactTables(slope, intercept, centres, self._ids(place, intercept.device))

    def _windows(self, place: _Place) -> int:
        return len(self._centres(place, torch.float32, torch.device("cpu")))

    def _positions(self, place: _Place, dtype: torch.dtype, device: torch.device) -> Tensor:
        """[2, W, 1, n n]"""
        window = None if place.window is None else (place.window.size_hw, place.window.shift_hw)
        return _pair_positions(place.grid_hw, window, dtype, device, self.extra_tokens).flatten(3)

    def _static(
        self,
        layer: int,
        slope: Tensor,
        folded: dict[tuple[int, _Place, bool], Tensor] | None,
        place: _Place,
        pairs: bool,
    ) -> Tensor:
        """M . S of one layer, which the batch shares: [G, N, K] for queries, [W, G, n n] for pairs."""
        key = (layer, place, pairs)
        if folded is not None and key in folded:
            return folded[key]
        dtype, device = slope.dtype, slope.device
        if pairs:
            x, y = self._positions(place, dtype, device)
            across, down = _select(slope[layer].movedim(-1, 0), self._ids(place, device).flatten(1))
            static = across * x + down * y
        else:
            static = self._centres(place, dtype, device)[0] @ slope[layer].mT
        if folded is not None:
            with torch.inference_mode(False):  # what is kept while evaluating must serve any later use
                folded[key] = static.clone()
        return static

    def _direct_bias(self, layer: int, features: Tensor, place: _Place) -> Tensor:
        """The definition: f(P) for every query, then the look-up. Returns [B, W, G, n, n]."""
        centres = self._centres(place, features.dtype, features.device)
        weight = self._weight_view()[layer].to(features.dtype)  # [G, K, L, 2]
        offset = self.bias.view(self.weight_layers, self.head_groups, self.num_buckets)[layer]
        points, visibility = features[..., :2], features[..., 2]  # [B, L, 2], [B, L]
        if self.form == "absolute":
            seen = (points * visibility[..., None])[:, None, None].expand(-1, *centres.shape[:2], -1, -1)
        else:
            seen = (centres[None, :, :, None] - points[:, None, None]) * visibility[:, None, None, :, None]
        table = torch.einsum("bwnlc,gklc->bwgnk", seen, weight) + offset[:, None].to(features.dtype)
        return look_up(table, self._ids(place, features.device))


def _by_query(positions: int, buckets: int) -> bool:
    """Whether a table with K values a query is cheaper than reading the buckets of all pairs of positions first."""
    return 2 * positions >= buckets


def _select(values: Tensor, flat_ids: Tensor) -> Tensor:
    """[..., K] and [R, pairs] to [..., pairs], summed over the tables."""
    out = values.index_select(-1, flat_ids[0])
    for more in flat_ids[1:]:
        out = out + values.index_select(-1, more)
    return out


class _Folded:
    """Tables of frozen weights, computed once.

    Whether the weights are still the same is seen by comparing values, since version counters miss a write through
    `.data`. On a CPU that costs microseconds; on an accelerator it would make the host wait in every forward, for
    tables that are one small product there, so they are computed afresh.
    """

    _LARGEST = 256

    def __init__(self) -> None:
        self._weight: Tensor | None = None
        self._tables: dict[tuple[int, _Place, bool], Tensor] = {}

    def __deepcopy__(self, memo: object) -> "_Folded":
        return _Folded()

    def __reduce__(self) -> tuple[type["_Folded"], tuple[()]]:
        return _Folded, ()

    def tables(self, weight: Tensor) -> dict[tuple[int, _Place, bool], Tensor] | None:
        """Where to find and keep tables of this weight; None where they may not be kept."""
        if torch.compiler.is_compiling() or weight.device.type != "cpu":
            return None
        if torch.is_grad_enabled() and weight.requires_grad:
            return None
        known = self._weight
        if known is None or known.dtype != weight.dtype or not torch.equal(known, weight):
            self._weight = weight.detach().clone()
            self._tables = {}
        if len(self._tables) >= self._LARGEST:
            self._tables = {}
        return self._tables
