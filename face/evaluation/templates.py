"""Templates: one embedding for all images and video frames that a benchmark gives of a person at once.

Source: the IJB protocol as deepinsight/insightface@7fadd42 (recognition/arcface_torch/eval_ijbc.py,
image2template_feature; the same in recognition/_evaluation_/ijb/ijb_1n.py and in mk-minchul/CVLface@d3d09c9,
evaluations/ijbbc/evaluate.py) has it: the frames of a medium (a video, or a photograph) are averaged, the media of a
template are summed, and the sum is brought to length 1. Sums are taken in the dtype of the embeddings and in the order
of the rows, as there, so that templates are theirs to the bit.
Deliberate differences: rows are sorted once instead of searched for once a template; an embedding that is not finite is
an error with a name.

Memory stays at a block of embeddings (or at the largest template, if that is more) beside the templates themselves,
also where embeddings are a memory map: pages that were read are handed back.

Shape letters: n images, T templates, M media of templates, E embedding channels, P looked-up ids.
"""

import mmap
from collections.abc import Callable, Iterator

import numpy as np
from scipy import sparse

__all__ = ["pool_templates", "template_rows"]

_CELLS = 2**22  # embedding channels in memory at one time
_IDS = 2**20  # ids that are looked up at one time


def pool_templates(
    embeddings: np.ndarray,
    templates: np.ndarray,
    medias: np.ndarray | None = None,
    weights: np.ndarray | None = None,
    *,
    directions: bool | None = None,
    name_of: Callable[[int], str] = "row {}".format,
) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings of templates from those of their images.

    `face.evaluation.fusion.fuse_templates` does this with the weights of a kind of fusion.

    Args:
        embeddings: [n, E] float32 or float64, in memory or a memory map.
        templates: [n] integers, the template of each image.
        medias: [n] integers, its medium within the template; None sums images, as if each were a medium of its own.
        weights: [n] >= 0, as `frame_weights` gives them: of the direction of each embedding, before anything is
            averaged. None takes embeddings as they are.
        directions: whether embeddings are brought to length 1 first; None does so where there are weights.
        name_of: what an error calls the image of a row.

    Returns:
        [T, E] float64 of length 1 (zero where a sum is zero), and [T] ids of the templates, rising.

    Raises:
        ValueError: NaN or infinity (template and images are named), shapes or dtypes that do not fit, weights below 0,
            or a template whose weights are all 0 (the first ones are named).
    """
    _check(embeddings, templates, medias, weights)
    directions = weights is not None if directions is None else directions
    order = np.argsort(templates, kind="stable") if medias is None else np.lexsort((medias, templates))
    begins_medium = begins_template = _begins(templates[order])
    if medias is not None:
        begins_medium = begins_template | _begins(medias[order])
    starts = np.nonzero(begins_template)[0]
    ids = templates[order[starts]]
    if weights is not None:
        weightless = np.add.reduceat(weights[order], starts) == 0
        if weightless.any():
            shown = _some(ids[weightless].tolist())
            raise ValueError(f"{weightless.sum()} of {len(ids)} templates have weights of 0 alone, first: {shown}")

    values = np.empty((len(ids), embeddings.shape[1]))
    bounds = np.append(starts, len(order))
    for first, last in _blocks(bounds, max(1, _CELLS // embeddings.shape[1])):
        rows = order[bounds[first] : bounds[last]]
        frames = embeddings[rows]
        if directions:
            lengths = np.sqrt(np.sum(frames**2, axis=1, keepdims=True))
            frames /= np.where(lengths == 0, 1, lengths)
        if weights is not None:
            frames *= weights[rows, None].astype(frames.dtype)
        media_starts = np.nonzero(begins_medium[bounds[first] : bounds[last]])[0]
        if medias is not None:
            frames = _segment_sums(frames, media_starts)
            frames /= np.diff(media_starts, append=len(rows))[:, None].astype(frames.dtype)
        else:
            media_starts = np.arange(len(rows))
        sums = _segment_sums(frames, np.searchsorted(media_starts, bounds[first:last] - bounds[first]))
        if not np.isfinite(sums).all():
            raise _not_finite(embeddings, templates, rows, name_of)
        values[first:last] = sums
        _release(embeddings)
    lengths = np.sqrt(np.einsum("ij,ij->i", values, values))  # in this way, for the same last bit
    values /= np.where(lengths == 0, 1, lengths)[:, None]
    return values, ids


def template_rows(ids: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """int32 [P], rows of templates, from [T] ids that rise and [P] ids that are looked for, which may be a memory map.

    Raises:
        ValueError: some are not there; the first of them.
    """
    rows = np.empty(len(wanted), np.int32)
    table = None
    if len(ids) and ids[-1] - ids[0] < 2**10 * len(ids):  # quicker than searching, where it does not get too large
        table = np.full(int(ids[-1] - ids[0]) + 1, -1, np.int32)
        table[ids - ids[0]] = np.arange(len(ids))
    for start in range(0, len(wanted), _IDS):
        some = np.array(wanted[start : start + _IDS])
        if table is not None:
            inside = (some >= ids[0]) & (some <= ids[-1])
            found = np.where(inside, table[np.where(inside, some, ids[0]) - ids[0]], -1)
            missing = found < 0
        else:
            found = np.minimum(np.searchsorted(ids, some), len(ids) - 1)
            missing = ids[found] != some
        if missing.any():
            shown = _some(np.unique(some[missing]).tolist())
            raise ValueError(f"some of {len(wanted)} ids are of no template, first: {shown}")
        rows[start : start + _IDS] = found
        _release(wanted)
    return rows


def _check(
    embeddings: np.ndarray, templates: np.ndarray, medias: np.ndarray | None, weights: np.ndarray | None
) -> None:
    if embeddings.ndim != 2 or 0 in embeddings.shape or embeddings.dtype not in (np.float32, np.float64):
        found = f"{embeddings.dtype} {list(embeddings.shape)}"
        raise ValueError(f"embeddings must be float32 or float64 [n, E], got {found}")
    shape = embeddings.shape[:1]
    for name, array, kinds in (("templates", templates, "iu"), ("medias", medias, "iu"), ("weights", weights, "f")):
        if array is not None and (array.shape != shape or array.dtype.kind not in kinds):
            what = "integers" if kinds == "iu" else "floats"
            raise ValueError(f"{name} must be {shape[0]} {what}, got {array.dtype} {list(array.shape)}")
    if weights is not None and not (np.isfinite(weights) & (weights >= 0)).all():
        row = int(np.nonzero(~(np.isfinite(weights) & (weights >= 0)))[0][0])
        raise ValueError(f"weights must be finite and >= 0, got {weights[row]} in row {row}")


def _begins(values: np.ndarray) -> np.ndarray:
    """[n] bool, where a value differs from the one before it."""
    return np.append(True, values[1:] != values[:-1])


def _blocks(bounds: np.ndarray, rows: int) -> Iterator[tuple[int, int]]:
    """Stretches of templates with at most so many rows, or of one template."""
    first = 0
    while first < len(bounds) - 1:
        last = int(np.searchsorted(bounds, bounds[first] + rows, side="right")) - 1
        last = max(last, first + 1)
        yield first, last
        first = last


def _segment_sums(values: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Sums of stretches of rows, one row after the other (np.add.reduceat adds in pairs, which rounds otherwise)."""
    bounds = np.append(starts, len(values))
    ones = np.ones(len(values), values.dtype)
    return sparse.csr_array((ones, np.arange(len(values)), bounds), shape=(len(starts), len(values))) @ values


def _not_finite(
    embeddings: np.ndarray, templates: np.ndarray, rows: np.ndarray, name_of: Callable[[int], str]
) -> ValueError:
    bad = np.sort(rows[~np.isfinite(embeddings[rows]).all(axis=1)])
    if not len(bad):
        return ValueError(f"sums of embeddings overflow {embeddings.dtype}")
    shown = _some([f"{name_of(int(row))} (template {templates[row]})" for row in bad])
    return ValueError(f"{len(bad)} embeddings hold NaN or infinity, first: {shown}")


def _some(values: list) -> str:
    return ", ".join(map(str, values[:5])) + (", ..." if len(values) > 5 else "")


def _release(embeddings: np.ndarray) -> None:
    """Take the pages of a read-only memory map out of the process; they come back when they are read again."""
    if not isinstance(embeddings, np.memmap) or embeddings.mode != "r" or not hasattr(mmap, "MADV_DONTNEED"):
        return
    base: object = embeddings
    while isinstance(base, np.ndarray):
        base = base.base
    if isinstance(base, mmap.mmap):
        base.madvise(mmap.MADV_DONTNEED)
