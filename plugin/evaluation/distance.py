"""Part-wise distances between gait embeddings, exact, in blocks, on any device.

Source: OpenGait's definition (`cuda_dist`): the mean over the parts of the distances between the parts' embeddings.
Deliberate differences: embeddings with NaN or infinity are refused instead of ranked; no reduced precision, whatever a
training run allowed for speed; a matrix that does not fit into memory comes in strips.

Shape letters: n probes, m gallery sequences, c channels, p parts.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from plugin.evaluation.messages import refuse_non_finite

__all__ = ["Metric", "distance_strips", "part_distance"]

Metric = Literal["euc", "cos"]

# Columns of the blocks that distances are computed in, and values of a block, all parts of it together: few and large
# enough that threads which share their cores with other work seldom wait for each other.
_CPU_BLOCK, _GPU_BLOCK = (1024, 2**23), (8192, 2**27)

_STRIP_VALUES = 2**26


def part_distance(probe: Tensor, gallery: Tensor, metric: Metric = "euc") -> Tensor:
    """Mean over the parts of the distances between part embeddings.

    `euc` is the Euclidean distance, `cos` one minus the cosine. Products run in float32 whatever autocast or the
    matmul precision allow (float64 for float64 input), in blocks: beside the result and a copy of the input in
    another order, memory does not grow with n and m.

    Args:
        probe: [n, c, p] floating point.
        gallery: [m, c, p] on the same device.
        metric: "euc" or "cos".

    Returns:
        [n, m] float32 or float64, on the device of the input, without a gradient.

    Raises:
        ValueError: other shapes, dtypes or metric; NaN or infinity in an embedding (the first rows are named).
    """
    ((_, distances),) = distance_strips(probe, gallery, metric, rows=len(probe))
    return distances


def distance_strips(
    probe: Tensor, gallery: Tensor, metric: Metric = "euc", rows: int | None = None
) -> Iterator[tuple[slice, Tensor]]:
    """`part_distance` a few probes at a time, for what does not fit into memory (OUM-MVLP: 72,000 x 72,000).

    Args:
        probe, gallery, metric: as for `part_distance`.
        rows: probes at a time; None: as many as make 2^26 distances, 256 MB in float32.

    Returns:
        Which probes, and their distances [rows, m], one strip after another.

    Raises:
        ValueError: as `part_distance`, at the call.
    """
    if metric not in get_args(Metric):
        raise ValueError(f"metric must be one of {', '.join(get_args(Metric))}, got {metric!r}")
    for name, embeddings in (("probe", probe), ("gallery", gallery)):
        if embeddings.ndim != 3 or 0 in embeddings.shape or not embeddings.is_floating_point():
            shape = list(embeddings.shape)
            raise ValueError(f"{name} must be floating point of shape [n, c, p], got {embeddings.dtype} {shape}")
        refuse_non_finite(embeddings.detach().flatten(1).isfinite().all(1).cpu().numpy(), f"{name} embeddings")
    if probe.shape[1:] != gallery.shape[1:]:
        raise ValueError(f"probe and gallery differ in [c, p]: {list(probe.shape)} and {list(gallery.shape)}")
    dtype = torch.promote_types(torch.promote_types(probe.dtype, gallery.dtype), torch.float32)
    with _exact(probe.device.type):
        to_gallery = (_cosine_to if metric == "cos" else _euclidean_to)(_parts_first(gallery, dtype))
    step = rows or max(1, _STRIP_VALUES // len(gallery))

    def strip(picked: slice) -> Tensor:
        with _exact(probe.device.type):
            return to_gallery(_parts_first(probe[picked], dtype))

    strips = (slice(first, min(first + step, len(probe))) for first in range(0, len(probe), step))
    return ((picked, strip(picked)) for picked in strips)


def _parts_first(embeddings: Tensor, dtype: torch.dtype) -> Tensor:
    return embeddings.to(dtype).permute(2, 0, 1).contiguous()


@contextlib.contextmanager
def _exact(device_type: str) -> Iterator[None]:
    """No gradients and no half precision; no TF32 or bfloat16 inside float32 products."""
    with torch.no_grad(), torch.autocast(device_type, enabled=False), _full_precision_products():
        yield


@contextlib.contextmanager
def _full_precision_products() -> Iterator[None]:
    if hasattr(torch.backends.cuda.matmul, "fp32_precision"):
        backends: list[Any] = [torch.backends.cuda.matmul, getattr(torch.backends.mkldnn, "matmul")]  # noqa: B009
        allowed = [backend.fp32_precision for backend in backends]
        try:
            for backend in backends:
                backend.fp32_precision = "ieee"
            yield
        finally:
            for backend, precision in zip(backends, allowed, strict=True):
                backend.fp32_precision = precision
    else:  # PyTorch up to 2.8
        allowed_everywhere = torch.get_float32_matmul_precision()
        try:
            torch.set_float32_matmul_precision("highest")
            yield
        finally:
            torch.set_float32_matmul_precision(allowed_everywhere)


def _cosine_to(gallery_PMC: Tensor) -> Callable[[Tensor], Tensor]:
    # The mean of the parts' cosines is one product of the parts laid end to end.
    def end_to_end(x_PNC: Tensor) -> Tensor:
        return F.normalize(x_PNC, dim=2).transpose(0, 1).flatten(1)

    gallery_MX = end_to_end(gallery_PMC)
    return lambda probe_PNC: 1 - end_to_end(probe_PNC) @ gallery_MX.T / len(gallery_PMC)


def _euclidean_to(gallery_PMC: Tensor) -> Callable[[Tensor], Tensor]:
    parts, m = gallery_PMC.shape[:2]
    width, values = _GPU_BLOCK if gallery_PMC.is_cuda else _CPU_BLOCK
    height = max(1, values // (parts * width))
    gallery_norms = gallery_PMC.square().sum(2)  # [p, m]

    def distances(probe_PNC: Tensor) -> Tensor:
        n = probe_PNC.shape[1]
        probe_norms = probe_PNC.square().sum(2)
        total = probe_PNC.new_empty(n, m)
        for row in range(0, n, height):
            rows = slice(row, row + height)
            for column in range(0, m, width):
                columns = slice(column, column + width)
                own, others_PCM = probe_PNC[:, rows], gallery_PMC[:, columns].transpose(1, 2)
                # |x - y|^2 = |x|^2 + |y|^2 - 2 x.y, which rounding can take below zero for x near y
                squares = torch.baddbmm(gallery_norms[:, None, columns], own, others_PCM, alpha=-2)
                squares.add_(probe_norms[:, rows, None]).relu_().sqrt_()
                total[rows, columns] = squares.sum(0)
        return total.div_(parts)

    return distances
