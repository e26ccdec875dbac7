"""Progress bars that stay whole on a terminal and do not fill a redirected log."""

import sys
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm

__all__ = ["progress_bar"]


def progress_bar(iterable: Iterable[Any] | None = None, **settings: Any) -> "tqdm[Any]":
    """tqdm with its own arguments; where stderr is no terminal it writes a line every half a minute at most."""
    if not sys.stderr.isatty():
        settings = {"mininterval": 30.0, "leave": False, **settings}
    return tqdm(iterable, **settings)
