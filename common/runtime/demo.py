"""What demos share: a folder of their own, the time that each part takes, and whether a difference is one."""

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from common.runtime.files import write_text

__all__ = ["make_room", "paired_interval", "timed", "verdict"]

_MARKER = ".made-by-the-demo"


def make_room(out: Path) -> None:
    """An empty folder; an earlier demo is removed, anything else is left alone.

    Raises:
        ValueError: the folder holds something else.
    """
    if out.exists() and any(out.iterdir()):
        if not (out / _MARKER).is_file():
            raise ValueError(f"{out} exists and was not made by the demo: choose another --out")
        shutil.rmtree(out)
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / _MARKER, "The demo removes this folder when it runs again.\n")


@contextmanager
def timed(what: str, seconds: dict[str, float]) -> Iterator[None]:
    """Announce a part of a demo, and note how long it took."""
    print(f"\n== {what}", flush=True)
    begun = time.perf_counter()
    yield
    seconds[what] = time.perf_counter() - begun


def paired_interval(old: np.ndarray, new: np.ndarray, seed: int = 0) -> tuple[float, float]:
    """95 % bootstrap interval of the mean of `new - old`, drawing items [n] with replacement."""
    difference = new - old
    draws = np.random.default_rng(seed).integers(0, len(difference), (10_000, len(difference)))
    low, high = np.percentile(difference[draws].mean(1), [2.5, 97.5])
    return float(low), float(high)


def verdict(low: float, high: float) -> str:
    """What an interval of a gain says."""
    return "helps" if low > 0 else "hurts" if high < 0 else "makes no clear difference"
