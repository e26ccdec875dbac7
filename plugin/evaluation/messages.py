"""What errors of the evaluation say about rows of arrays."""

from collections.abc import Collection, Sequence

import numpy as np

__all__ = ["refuse_non_finite", "some"]


def refuse_non_finite(finite: np.ndarray, what: str, names: Sequence[str] | None = None) -> None:
    """Raise ValueError unless all of `finite` [n] holds; the first rows are named."""
    bad = np.nonzero(~finite)[0]
    if len(bad):
        shown = some([names[int(i)] for i in bad] if names else bad)
        raise ValueError(f"{len(bad)} of {len(finite)} {what} hold NaN or infinity, first: {shown}")


def some(items: Collection[object]) -> str:
    """The first five, in one line."""
    return ", ".join(str(item) for item in list(items)[:5]) + (", ..." if len(items) > 5 else "")
