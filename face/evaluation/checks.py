"""What is checked of embeddings before anything is made of them."""

from collections.abc import Callable

import numpy as np

__all__ = ["check_embeddings"]


def check_embeddings(embeddings: np.ndarray, name_of: Callable[[int], str] = "row {}".format) -> None:
    """Refuse what is no table of finite embeddings.

    Args:
        embeddings: [n, E] float32 or float64.
        name_of: what an error calls the image of a row.

    Raises:
        ValueError: another shape or dtype, or NaN or infinity; the first images that have it are named.
    """
    if embeddings.ndim != 2 or 0 in embeddings.shape or embeddings.dtype not in (np.float32, np.float64):
        found = f"{embeddings.dtype} {list(embeddings.shape)}"
        raise ValueError(f"embeddings must be float32 or float64 [n, E], got {found}")
    bad = np.nonzero(~np.isfinite(embeddings).all(axis=1))[0]
    if len(bad):
        shown = ", ".join(name_of(int(row)) for row in bad[:5]) + (", ..." if len(bad) > 5 else "")
        raise ValueError(f"{len(bad)} of {len(embeddings)} embeddings hold NaN or infinity, first: {shown}")
