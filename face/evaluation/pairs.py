"""Verification sets: pairs of images and whether the two are of the same person.

Three forms are read:

* a `.bin` file (see `bins`), with landmarks in `<file>.bin.csv`, where an image is its place in the file from 0;
* a folder with `pairs.csv`, rows `image1,image2,same` (same: 1 or 0), images by their paths below the folder;
* a folder with LFW's `pairs.txt`: a line with the numbers of folds and of pairs of each kind in one, then
  `name n1 n2` or `name1 n1 name2 n2` for each pair, where image n of a name is `name/name_000n.jpg` (or .png, .jpeg).

Landmarks of a folder are in its `landmarks.csv`.

Shape letters: n pairs, m different images.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from face.data.landmarks import Landmarks
from face.evaluation.bins import read_bin
from face.evaluation.images import EncodedImages, FolderImages, ImageList, image_landmarks
from face.evaluation.tables import read_table
from face.evaluation.verification import check_folds

__all__ = ["PairSet", "open_pairs"]

_FOLDS = 10
_SUFFIXES = (".jpg", ".png", ".jpeg")
_ANSWERS = {"1": True, "true": True, "0": False, "false": False}


@dataclass(frozen=True, kw_only=True, eq=False)
class PairSet:
    """Pairs of images."""

    name: str
    """What results call the set."""

    images: ImageList
    """m, each of them once, decoded when it is asked for."""

    pairs: np.ndarray
    """[n, 2] int64, numbers of images."""

    same: np.ndarray
    """[n] bool: whether a pair is of one person."""

    landmarks: Landmarks | None
    """Of the images, or None if there is no table of them."""

    folds: int = _FOLDS
    """Stretches of the list of pairs that accuracy is taken over."""


def open_pairs(
    path: str | Path, *, name: str | None = None, landmarks: str | Path | None = None, with_landmarks: bool = True
) -> PairSet:
    """Read what a set consists of. Images are not decoded, but all of them must be there.

    Args:
        path: a `.bin` file, a folder, or the `pairs.csv` or `pairs.txt` (by any name of that suffix) in one.
        name: of the set; None takes the one of the path.
        landmarks: a table of landmarks; None takes the one that belongs there, if it is there.
        with_landmarks: False leaves landmarks alone, for networks that need none.

    Raises:
        FileNotFoundError: the path, or a table of landmarks that was named, is not there.
        ValueError: content that is not as shown above, images that are not there, or a fold without pairs of both
            kinds. The file is named.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file or folder")
    table = Path(landmarks) if landmarks is not None else None
    if path.suffix == ".bin":
        opened = _open_bin(path, name or path.stem, table, with_landmarks)
        source = path
    else:
        source = _pair_list(path) if path.is_dir() else path
        title = name or (path.name if path.is_dir() else path.parent.name)
        opened = _open_folder(source, title, table, with_landmarks)
    try:
        check_folds(opened.same, opened.folds)
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from None
    return opened


def _pair_list(folder: Path) -> Path:
    """The one list of pairs in a folder."""
    found = [folder / name for name in ("pairs.csv", "pairs.txt") if (folder / name).is_file()]
    if len(found) != 1:
        state = "both are" if found else "neither is"
        advice = "; name the one that is meant" if found else ""
        raise ValueError(f"{folder}: expected pairs.csv or pairs.txt in it, {state} there{advice}")
    return found[0]


def _open_bin(path: Path, name: str, table: Path | None, with_landmarks: bool) -> PairSet:
    content = read_bin(path)
    everything = range(len(content.images))
    landmarks = None
    if with_landmarks:
        beside = path.with_name(f"{path.name}.csv")
        landmarks = image_landmarks(table, beside, EncodedImages(path, content.images, everything))
    # The same bytes with the same landmarks are one image.
    points: Iterable[bytes] = (
        [b""] * len(content.images) if landmarks is None else (p.tobytes() for p in landmarks.points)
    )
    numbers, first = _number(zip(content.images, points, strict=True))
    return PairSet(
        name=name,
        images=EncodedImages(path, [content.images[position] for position in first], first),
        pairs=numbers.reshape(-1, 2),
        same=content.same,
        landmarks=None if landmarks is None else landmarks.take(np.array(first)),
    )


def _open_folder(listed_in: Path, name: str, table: Path | None, with_landmarks: bool) -> PairSet:
    folds = _FOLDS
    if listed_in.suffix == ".csv":
        paths, same = _read_csv(listed_in)
    elif listed_in.suffix == ".txt":
        paths, same, folds = _read_lfw(listed_in)
    else:
        raise ValueError(f"{listed_in}: expected a .bin file, a folder, or a list of pairs (.csv or .txt)")
    numbers, first = _number(paths)
    images = FolderImages(listed_in.parent, [paths[position] for position in first], listed_in)
    landmarks = None
    if with_landmarks:
        landmarks = image_landmarks(table, listed_in.with_name("landmarks.csv"), images)
    return PairSet(
        name=name,
        images=images,
        pairs=numbers.reshape(-1, 2),
        same=np.array(same, dtype=bool),
        landmarks=landmarks,
        folds=folds,
    )


def _number(items: Iterable[object]) -> tuple[np.ndarray, list[int]]:
    """The number of each item among the different ones, and the place where each of those comes first."""
    numbers: dict[object, int] = {}
    first: list[int] = []
    found = []
    for position, item in enumerate(items):
        if item not in numbers:
            numbers[item] = len(numbers)
            first.append(position)
        found.append(numbers[item])
    return np.array(found, dtype=np.int64), first


def _read_csv(path: Path) -> tuple[list[str], list[bool]]:
    """Images two by two, and answers."""
    images, same = [], []
    for line, (first, second, answer) in read_table(path, ("image1", "image2", "same")):
        if answer.lower() not in _ANSWERS:
            raise ValueError(f"{path}, line {line}: same must be 1 or 0, found {answer!r}")
        images += [first, second]
        same.append(_ANSWERS[answer.lower()])
    return images, same


def _read_lfw(path: Path) -> tuple[list[str], list[bool], int]:
    """Images two by two, answers, and the number of folds."""
    lines = [line.split() for line in path.read_text(encoding="utf-8").splitlines()]
    head, rows = (lines[0] if lines else []), lines[1:]
    if len(head) != 2 or not all(entry.isdecimal() for entry in head):
        found = " ".join(head) or "nothing"
        raise ValueError(f"{path}, line 1: expected the numbers of folds and of pairs of a kind in one, found {found}")
    folds, of_a_kind = map(int, head)
    rows = [row for row in rows if row]
    if len(rows) != 2 * folds * of_a_kind:
        expected = f"{2 * folds * of_a_kind} pairs ({folds} folds of {of_a_kind} of either kind)"
        raise ValueError(f"{path}: expected {expected}, found {len(rows)}")
    images, same = [], []
    suffixes: dict[str, str] = {}
    for number, row in enumerate(rows, start=1):
        places = (0, 1, 0, 2) if len(row) == 3 else (0, 1, 2, 3)
        if len(row) not in (3, 4) or not all(row[places[i]].isdecimal() for i in (1, 3)):
            raise ValueError(f"{path}, pair {number}: expected name n1 n2, or name1 n1 name2 n2, found {' '.join(row)}")
        name1, n1, name2, n2 = (row[place] for place in places)
        for name, n in ((name1, n1), (name2, n2)):
            stem = f"{name}/{name}_{int(n):04d}"
            if stem not in suffixes:
                suffixes[stem] = _suffix_of(path.parent / stem)
            images.append(stem + suffixes[stem])
        same.append(len(row) == 3)
    return images, same, folds


def _suffix_of(stem: Path) -> str:
    """The suffix that an image has; the first one tried if there is none, whose absence is reported with the others."""
    for suffix in _SUFFIXES:
        if stem.with_name(stem.name + suffix).is_file():
            return suffix
    return _SUFFIXES[0]
