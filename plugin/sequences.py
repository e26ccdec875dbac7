"""Single sequences on the disk, prepared or raw, found and read without a partition.

A sequence is a folder that holds the streams that `plugin.prepare` writes, or PNG silhouettes. Raw silhouettes may be
accompanied by poses in Gait3D's text form, frames paired by the number in their names; both go through the very crop,
resize and centring of `plugin.prepare`. Where there are no poses at all, every joint has confidence 0, which a model
with KP-RPE takes as not seen.

Coordinates: joints are (x, y) in pixels of the normalised silhouette, the centre of the top-left pixel at (0, 0).
Shape letters: T frames, W columns of the silhouette (64 or 44).
"""

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from common.runtime.arrays import load_array, peek_array
from plugin.layout import KEYPOINTS_FILE, SILHOUETTES_FILE
from plugin.prepare.normalise import Placement, clean_keypoints, normalise_silhouette, place_keypoints
from plugin.prepare.raw import NUM_JOINTS, DroppedFrame, list_frames, read_pose, read_silhouette

__all__ = ["SequenceFolder", "find_sequence_folders", "open_sequence"]


@dataclass(frozen=True, kw_only=True)
class SequenceFolder:
    """One sequence. Identity, type and view are empty where the path does not tell them."""

    folder: Path
    kind: Literal["prepared", "raw"]
    name: str
    """ID-TYPE-VIEW, or the whole path where that is not known; equal names are taken for the same sequence."""

    label: str = ""
    type: str = ""
    view: str = ""

    def check(self) -> None:
        """Look at the headers of a prepared sequence, and at the keypoints, which are small.

        Raises:
            ValueError: streams that are damaged, of another kind, or do not fit each other; the file is named.
        """
        if self.kind == "raw":
            return
        path = self.folder / SILHOUETTES_FILE
        shape, dtype = peek_array(path)
        if len(shape) != 3 or dtype != np.uint8 or 0 in shape:
            raise ValueError(f"{path}: expected silhouettes, uint8 [T, h, w], found {dtype} {list(shape)}")
        path = self.folder / KEYPOINTS_FILE
        if not path.exists():
            return
        keypoints, expected = load_array(path), (shape[0], NUM_JOINTS, 3)
        if keypoints.shape != expected or keypoints.dtype.kind != "f":
            found = f"{keypoints.dtype} {list(keypoints.shape)}"
            raise ValueError(f"{path}: expected keypoints, float {list(expected)}, found {found}")
        if not np.isfinite(keypoints).all():
            raise ValueError(f"{path}: keypoints must be finite, found NaN or infinity")

    def read(self) -> tuple[np.ndarray, np.ndarray]:
        """Silhouettes [T, 64, W] uint8, and keypoints [T, 17, 3] float32: x, y in their pixels, confidence.

        Raises:
            ValueError: as `check`; or no frame of a raw sequence is usable (what is wrong is counted).
        """
        self.check()
        if self.kind == "raw":
            return _read_raw(self.folder)
        silhouettes, path = load_array(self.folder / SILHOUETTES_FILE), self.folder / KEYPOINTS_FILE
        if not path.exists():
            return silhouettes, _nothing_seen(len(silhouettes))
        return silhouettes, load_array(path).astype(np.float32)


def open_sequence(folder: Path, below: Path | None = None) -> SequenceFolder | None:
    """The sequence that a folder holds; None if it holds none.

    Args:
        folder: with `0-silhouettes.pkl`, or PNG files.
        below: the top of a data set; a raw folder three levels below it is ID/TYPE/VIEW. A prepared folder's own
            path tells these, whatever is given.
    """
    if (folder / SILHOUETTES_FILE).is_file():
        kind: Literal["prepared", "raw"] = "prepared"
        parts = folder.resolve().parts[-3:]
    elif folder.is_dir() and _files(folder, ".png"):
        kind = "raw"
        parts = folder.relative_to(below).parts if below is not None else ()
    else:
        return None
    if len(parts) != 3:
        return SequenceFolder(folder=folder, kind=kind, name=str(folder.resolve()))
    label, type_, view = parts
    return SequenceFolder(folder=folder, kind=kind, name="-".join(parts), label=label, type=type_, view=view)


def find_sequence_folders(top: Path, subjects: Iterable[str] | None = None) -> list[SequenceFolder]:
    """The sequence that a folder is, or all that lie below it, sorted; hidden folders are passed over.

    Args:
        top: a sequence, or a data set (ROOT/ID/TYPE/VIEW) or a part of one.
        subjects: only these identities; None: all.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: no sequence in it (of those subjects); what was expected is said.
    """
    if not top.is_dir():
        raise FileNotFoundError(f"{top}: no such folder")
    wanted = None if subjects is None else frozenset(subjects)
    found: list[SequenceFolder] = []
    for path, folders, _ in os.walk(top, onerror=_unreadable):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        sequence = open_sequence(Path(path), top)
        if sequence is not None and (wanted is None or sequence.label in wanted):
            found.append(sequence)
    if not found:
        whose = "" if wanted is None else f" of the {len(wanted)} subjects asked for"
        raise ValueError(f"{top}: no sequence{whose} found: expected folders with {SILHOUETTES_FILE} or .png files")
    return found


def _unreadable(error: OSError) -> None:
    raise error


def _files(folder: Path, suffix: str) -> list[str]:
    with os.scandir(folder) as entries:
        return sorted(e.name for e in entries if e.name.lower().endswith(suffix) and not e.name.startswith("."))


def _nothing_seen(frames: int) -> np.ndarray:
    return np.zeros((frames, NUM_JOINTS, 3), np.float32)


def _read_raw(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    pictures, texts = (list_frames(folder, _files(folder, suffix)).names for suffix in (".png", ".txt"))
    silhouettes: list[np.ndarray] = []
    placements: list[Placement] = []
    poses: list[np.ndarray] = []
    dropped: Counter[str] = Counter()
    first = ""
    for number in sorted(pictures):
        if texts and number not in texts:
            dropped["no_pose"] += 1
            continue
        try:
            pixels, placement = normalise_silhouette(read_silhouette(folder / pictures[number]))
            pose = read_pose(folder / texts[number])[1] if texts else np.zeros((NUM_JOINTS, 3))
        except DroppedFrame as reason:
            dropped[reason.reason] += 1
            first = first or f"; first: {pictures[number]}: {reason}"
            continue
        silhouettes.append(pixels)
        placements.append(placement)
        poses.append(pose)
    if not silhouettes:
        counts = ", ".join(f"{count} {reason}" for reason, count in sorted(dropped.items()))
        raise ValueError(f"{folder}: no usable frame among {len(pictures)} numbered .png files ({counts}){first}")
    if not texts:
        return np.stack(silhouettes), _nothing_seen(len(silhouettes))
    return np.stack(silhouettes), clean_keypoints(place_keypoints(np.stack(poses), np.array(placements)))


def check_all(sequences: Sequence[SequenceFolder]) -> None:
    """Every sequence, before anything long.

    Raises:
        ValueError: problems of all sequences together.
    """
    problems = []
    for sequence in sequences:
        try:
            sequence.check()
        except (ValueError, OSError) as error:
            problems.append(str(error))
    if problems:
        shown = "".join(f"\n  {problem}" for problem in problems[:20])
        more = f"\n  ... and {len(problems) - 20} more" if len(problems) > 20 else ""
        raise ValueError(f"{len(problems)} of {len(sequences)} sequences cannot be used:{shown}{more}")
