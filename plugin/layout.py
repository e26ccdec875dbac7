"""Where the sequences of a gait data set lie, raw or prepared: ROOT/ID/type/view.

Hidden folders (a leading dot, such as those of macOS archives and of `plugin.prepare`) are passed over.
"""

import os
from collections.abc import Iterable
from pathlib import Path

__all__ = ["KEYPOINTS_FILE", "SILHOUETTES_FILE", "find_sequences"]

SILHOUETTES_FILE = "0-silhouettes.pkl"
KEYPOINTS_FILE = "1-keypoints.pkl"
"""The streams of a prepared sequence; their names order them, as OpenGait reads them."""


def find_sequences(root: Path, subjects: Iterable[str]) -> list[tuple[str, str, str]]:
    """(ID, type, view) of every folder ROOT/ID/type/view, sorted, for those subjects that lie under `root`."""
    return [
        (subject, kind, view)
        for subject in sorted(set(subjects))
        for kind in _folders(root / subject)
        for view in _folders(root / subject / kind)
    ]


def _folders(root: Path) -> list[str]:
    if not root.is_dir():
        return []
    with os.scandir(root) as entries:
        return sorted(entry.name for entry in entries if not entry.name.startswith(".") and entry.is_dir())
