"""A folder with a list of pairs as a `.bin` file, which insightface and CVLface read too, with landmarks beside it.

Images stay encoded as they are, and pairs in their order, which folds are made by.
"""

from pathlib import Path
from typing import NamedTuple

from common.runtime.progress import progress_bar
from face.data.images import ImageError
from face.data.landmarks import write_landmarks
from face.evaluation.bins import write_bin
from face.evaluation.pairs import open_pairs

__all__ = ["PackedBin", "pack_bin"]

_FOLDS = 10  # of every `.bin` file


class PackedBin(NamedTuple):
    """What was written."""

    pairs: int

    images: int
    """Different ones."""

    with_landmarks: int
    """Of these, those that the table of landmarks has."""


def pack_bin(
    folder: str | Path, out: str | Path, landmarks: str | Path | None = None, *, progress: bool = False
) -> PackedBin:
    """Write `out` and, where there are landmarks, `<out>.csv`.

    Args:
        folder: with `pairs.csv` or LFW's `pairs.txt`, or such a list itself.
        out: the file, which must not be there yet; it ends in .bin.
        landmarks: table of the images' landmarks; None takes the folder's `landmarks.csv` if it has one.
        progress: show a bar.

    Raises:
        FileNotFoundError: no such folder, table, or folder for `out`.
        FileExistsError: one of the files is there.
        ValueError: another suffix, content that `open_pairs` refuses, another number of folds than 10, or images that
            do not decode (how many, and the first of them).
        OSError: the disk is full, the folder not writable.
    """
    folder, out = Path(folder), Path(out)
    table = out.with_name(f"{out.name}.csv")
    if out.suffix != ".bin":
        raise ValueError(f"{out}: expected a name that ends in .bin")
    if not out.parent.is_dir():
        raise FileNotFoundError(f"{out.parent}: no such folder")
    if there := [path for path in (out, table) if path.exists()]:
        raise FileExistsError(f"{there[0]}: is there already")
    if folder.suffix == ".bin":
        raise ValueError(f"{folder}: expected a folder with pairs.csv or pairs.txt")
    found = open_pairs(folder, landmarks=landmarks)
    if found.folds != _FOLDS:
        raise ValueError(f"{folder}: pairs of .bin files are in {_FOLDS} folds, these are in {found.folds}")
    encoded, broken = [], []
    for index in progress_bar(range(len(found.images)), desc="reading", unit="image", disable=not progress):
        try:
            found.images.read(index)
        except ImageError:
            broken.append(found.images.name_of(index))
        encoded.append(found.images.read_bytes(index))
    if broken:
        shown = ", ".join(broken[:5]) + (", ..." if len(broken) > 5 else "")
        raise ValueError(f"{folder}: {len(broken)} of {len(encoded)} images do not decode, first: {shown}")
    order = found.pairs.ravel()
    if found.landmarks is not None:
        marks = found.landmarks.take(order)
        places = [str(place) for place in marks.found.nonzero()[0]]
        # First, as a `.bin` file without it would pass for a set without landmarks.
        write_landmarks(table, places, marks.points[marks.found], marks.scores[marks.found])
    try:
        write_bin(out, [encoded[index] for index in order], found.same)
    except BaseException:
        table.unlink(missing_ok=True)
        raise
    with_landmarks = 0 if found.landmarks is None else int(found.landmarks.found.sum())
    return PackedBin(len(found.same), len(encoded), with_landmarks)
