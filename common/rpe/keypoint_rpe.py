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

so an image needs three numbers a bucket and head (x slope, y slope, intercept), not K numbers a position.
`implementation="direct"` builds f(P) position by position instead; it is the reference that tests compare with.

Coordinates: (x, y) as fractions of the image, x right and y down.
Shape letters: B batch, L keypoints, D layers, H heads, G head groups (H for multi-head, else 1), K buckets,
N queries of a grid, W windows, n positions of a window, R bucket tables (grids of rows and columns: cross).
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Literal, NamedTuple, get_args, overload

import torch
from torch import Tensor, nn

from common.keypoints.transforms import check_fractions
from common.rpe.buckets import DistanceMethod, bucket_ids, num_buckets
from common.rpe.grids import Window, grid_centres, window_centres

__all__ = ["KeypointRPE", "KeypointRPEForm", "LayerBiases"]

KeypointRPEForm = Literal["absolute", "relative", "multihead"]

# Above this many entries the one-hot matrix of the affine form would cost more memory than it saves time.
_LARGEST_BASIS = 32 * 1024 * 1024


class _Place(NamedTuple):
    """Everything that positions and buckets follow from; tables of it are shared by layers and modules."""

    grid_hw: tuple[int, int]
    method: DistanceMethod
    ratio: float
    window: Window | None
    dtype: torch.dtype
    device: torch.device

    def geometry(self) -> tuple[Tensor, Tensor]:
        """Query centres [W, n, 2] and bucket ids [R, n, n]; W is 1 at image level."""
        if self.window is None:
            centres = grid_centres(self.grid_hw, self.dtype, self.device)[None]
            return centres, bucket_ids(self.grid_hw, self.method, self.ratio, self.device)
        centres = window_centres(self.grid_hw, self.window, self.dtype, self.device)
        return centres, bucket_ids(self.window.size_hw, self.method, self.ratio, self.device)


@lru_cache(maxsize=32)
@torch.inference_mode(False)  # what is first built while evaluating must serve training too
def _bucket_basis(place: _Place) -> Tensor:
    """[3, K, W * n * n]: one-hot buckets times the query's x, its y, and 1.

    A look-up written as a product with it has a product as its backward too, instead of a scatter.
    """
    centres, ids = place.geometry()
    one_hot = nn.functional.one_hot(ids, num_buckets(place.method, place.ratio)).sum(0).to(place.dtype)  # [n, n, K]
    weights = torch.cat([centres, torch.ones_like(centres[..., :1])], dim=-1)  # [W, n, 3]
    basis = torch.einsum("wnc,nmk->ckwnm", weights, one_hot)
    return basis.reshape(3, one_hot.shape[-1], -1)


def _look_up(table: Tensor, ids: Tensor) -> Tensor:
    """out[..., i, j] = sum over tables r of table[..., i, ids[r, i, j]]; table is [..., n, K], ids [R, n, n]."""
    index = ids.expand(*table.shape[:-2], *ids.shape) if table.ndim > 2 else ids
    # [..., R, n, K] gathered along K; expand does not copy.
    spread = table.unsqueeze(-3).expand(*table.shape[:-2], ids.shape[0], *table.shape[-2:])
    return spread.gather(-1, index).sum(-3)


class LayerBiases(Sequence[Tensor]):
    """The biases of all layers, each computed when it is asked for, so that no more than one need exist at a time.

    Item d is the bias of layer d, float32 (float64 where the module's weight is): [B, H, N, N] at image level and for
    a grid of the window's size, [B, W, H, n, n] where the image's grid is cut into windows.
    """

    def __init__(self, rpe: "KeypointRPE", features: Tensor, place: "list[tuple[tuple[int, int], Window | None]]"):
        self._rpe = rpe
        self._features = features
        self._place = place

    def __len__(self) -> int:
        return len(self._place)

    @overload
    def __getitem__(self, layer: int) -> Tensor: ...
    @overload
    def __getitem__(self, layer: slice) -> Sequence[Tensor]: ...
    def __getitem__(self, layer: int | slice) -> Tensor | Sequence[Tensor]:
        if isinstance(layer, slice):
            return [self[index] for index in range(*layer.indices(len(self)))]
        if not -len(self) <= layer < len(self):
            raise IndexError(f"layer {layer} of {len(self)}")
        layer %= len(self)
        return self._rpe._layer_bias(layer, self._features, *self._place[layer])


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
        self.num_buckets = num_buckets(method, ratio)
        self.head_groups = num_heads if form == "multihead" else 1
        self.weight_layers = 1 if shared else num_layers
        outputs = self.weight_layers * self.head_groups * self.num_buckets
        self.weight = nn.Parameter(torch.zeros(outputs, 2 * num_keypoints))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def extra_repr(self) -> str:
        return (
            f"num_keypoints={self.num_keypoints}, num_heads={self.num_heads}, num_layers={self.num_layers}, "
            f"form={self.form}, shared={self.shared}, method={self.method}, ratio={self.ratio}"
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
                features = self._affine_features(points, weights)
            else:
                features = torch.cat(
                    [points, (torch.ones_like(points[..., 0]) if weights is None else weights)[..., None]], -1
                )
        grid_hw = (int(grid_hw[0]), int(grid_hw[1]))
        place = [(grid_hw, None if windows is None else windows[layer]) for layer in range(self.num_layers)]
        return LayerBiases(self, features, place)

    def _check(self, keypoints: Tensor, visibility: Tensor | None, windows: Sequence[Window] | None) -> None:
        if keypoints.ndim != 3 or keypoints.shape[1:] != (self.num_keypoints, 2):
            raise ValueError(f"keypoints must have shape [B, {self.num_keypoints}, 2], got {list(keypoints.shape)}")
        if not keypoints.is_floating_point():
            raise ValueError(f"keypoints must be floating point fractions of the image, got {keypoints.dtype}")
        if visibility is not None and visibility.shape != keypoints.shape[:2]:
            raise ValueError(f"visibility must have shape {list(keypoints.shape[:2])}, got {list(visibility.shape)}")
        if windows is not None and len(windows) != self.num_layers:
            raise ValueError(f"windows must name one window for each of {self.num_layers} layers, got {len(windows)}")
        if keypoints.device.type == "cpu" and not torch.compiler.is_compiling():
            if visibility is not None and not bool(((visibility >= 0) & (visibility <= 1)).all()):
                low, high = (float(v) for v in visibility.detach().aminmax())
                raise ValueError(f"visibility must be within 0 and 1, got {low:g} to {high:g}")
            check_fractions(keypoints.detach(), None if visibility is None else visibility.detach())

    def _weight_view(self) -> Tensor:
        """[D, G, K, L, 2]"""
        return self.weight.view(self.weight_layers, self.head_groups, self.num_buckets, self.num_keypoints, 2)

    def _affine_features(self, points: Tensor, visibility: Tensor | None) -> Tensor:
        """[B, 3, D, G, K]: x slope, y slope and intercept of f(P) in the query's position."""
        weight = self._weight_view().to(points.dtype)
        batch = len(points)
        seen = points if visibility is None else points * visibility[..., None]
        sign = 1.0 if self.form == "absolute" else -1.0
        moved = sign * (seen.flatten(1) @ weight.flatten(3).flatten(0, 2).T)
        intercept = (self.bias.to(points.dtype) + moved).view(batch, *weight.shape[:3])
        if self.form == "absolute":
            slopes = torch.zeros_like(intercept)[:, None].expand(-1, 2, *[-1] * 3)
        elif visibility is None:
            slopes = weight.sum(3).permute(3, 0, 1, 2).expand(batch, -1, -1, -1, -1)
        else:
            slopes = torch.einsum("bl,dgklc->bcdgk", visibility, weight)
        return torch.cat([slopes, intercept[:, None]], dim=1)

    def _layer_bias(self, layer: int, features: Tensor, grid_hw: tuple[int, int], window: Window | None) -> Tensor:
        layer = 0 if self.shared else layer
        with torch.autocast(features.device.type, enabled=False):
            place = _Place(grid_hw, self.method, self.ratio, window, features.dtype, features.device)
            if self.implementation == "direct":
                bias = self._direct_bias(layer, features, *place.geometry())
            else:
                bias = self._affine_bias(features[:, :, layer], place)
        bias = bias.expand(-1, -1, self.num_heads, -1, -1)
        return bias if window is not None else bias[:, 0]

    def _affine_bias(self, features: Tensor, place: _Place) -> Tensor:
        """features [B, 3, G, K] of one layer to [B, W, G, n, n]."""
        centres, ids = place.geometry()
        windows, queries = centres.shape[:2]
        if 3 * self.num_buckets * windows * queries**2 <= _LARGEST_BASIS:
            basis = _bucket_basis(place)
            flat = features.permute(0, 2, 1, 3).flatten(2) @ basis.flatten(0, 1)  # [B, G, W n n]
            return flat.unflatten(-1, (windows, queries, queries)).transpose(1, 2)
        slope_x, slope_y, intercept = features[:, None, :, :, None, :].unbind(2)  # each [B, 1, G, 1, K]
        table = slope_x * centres[None, :, None, :, :1] + slope_y * centres[None, :, None, :, 1:] + intercept
        return _look_up(table, ids)

    def _direct_bias(self, layer: int, features: Tensor, centres: Tensor, ids: Tensor) -> Tensor:
        """The definition: f(P) for every query, then the look-up. Returns [B, W, G, n, n]."""
        weight = self._weight_view()[layer].to(features.dtype)  # [G, K, L, 2]
        offset = self.bias.view(self.weight_layers, self.head_groups, self.num_buckets)[layer]
        points, visibility = features[..., :2], features[..., 2]  # [B, L, 2], [B, L]
        if self.form == "absolute":
            seen = (points * visibility[..., None])[:, None, None].expand(-1, *centres.shape[:2], -1, -1)
        else:
            seen = (centres[None, :, :, None] - points[:, None, None]) * visibility[:, None, None, :, None]
        table = torch.einsum("bwnlc,gklc->bwgnk", seen, weight) + offset[:, None].to(features.dtype)
        return _look_up(table, ids)
