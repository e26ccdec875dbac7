"""Five landmarks of every image of a source, from a table beside it.

Two tables are read:

* ours, `image,x0,y0,...,x4,y4,score`: an image by its path below the source's root, or by its record's key; any
  order, images may be missing, and so may the column of scores.
* CVLface's `ldmk_5points.csv`, `idx,ldmk_0,...,ldmk_9`: an image by its place in the source, 0 to n - 1, all of them;
  or up to `ldmk_14`, an (x, y, score) for each point. The score of an image is then their mean.

Coordinates: (x, y) as fractions of the image, in the order of common.FIVE_POINT_FACE. Shape letters: n images.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import numpy as np

from common.keypoints import FIVE_POINT_FACE, check_fractions
from common.runtime.files import whole_file
from common.runtime.progress import progress_bar
from face.data.sources import ImageSource, SourceView

__all__ = ["Landmarks", "check_names", "read_landmarks", "write_cvlface_landmarks", "write_landmarks"]

_POINTS = len(FIVE_POINT_FACE)
_COORDINATES = [f"{axis}{point}" for point in range(_POINTS) for axis in "xy"]
_BLOCK = 1 << 17


@dataclass(frozen=True, kw_only=True, eq=False)
class Landmarks:
    """Of the images of a source, in its order."""

    points: np.ndarray
    """float32 [n, 5, 2], fractions of the image; NaN where `found` is False."""

    scores: np.ndarray
    """float32 [n] in [0, 1]: 1 where the table has none, 0 where `found` is False."""

    found: np.ndarray
    """bool [n]: whether the table has the image."""

    def __len__(self) -> int:
        return len(self.found)

    def take(self, indices: np.ndarray) -> "Landmarks":
        """Those of some images."""
        return Landmarks(points=self.points[indices], scores=self.scores[indices], found=self.found[indices])


def read_landmarks(path: str | Path, source: ImageSource, allow_extra: bool = False) -> Landmarks:
    """Read a table of landmarks; its header says of which kind it is.

    Args:
        path: CSV file.
        source: whose images it is about. For a `SourceView` it is about the images of the source behind it.
        allow_extra: whether rows of images that the source does not have are passed over.

    Raises:
        FileNotFoundError: no such file.
        ValueError: another header, a row that is not of numbers, NaN, pixels instead of fractions, scores outside
            [0, 1], an image twice, images that the source does not have; of CVLface's table also another number of
            rows than the source has images. The file is named, and the image.
    """
    if isinstance(source, SourceView):
        return read_landmarks(path, source.source, allow_extra).take(source.indices)
    path, count = Path(path), len(source)
    landmarks = Landmarks(
        points=np.full((count, _POINTS, 2), np.nan, np.float32),
        scores=np.zeros(count, np.float32),
        found=np.zeros(count, bool),
    )
    with path.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
        columns = [entry.strip() for entry in file.readline().split(",")]
        if columns in (["image", *_COORDINATES], ["image", *_COORDINATES, "score"]):
            _read_named(file, path, source, landmarks, len(columns) - 1, allow_extra)
        elif columns in ([*_cvlface_columns(2)], [*_cvlface_columns(3)]):
            _read_placed(file, path, landmarks, len(columns) - 1)
        else:
            raise ValueError(
                f"{path}: the header must be image,x0,y0,...,x4,y4,score or idx,ldmk_0,...,ldmk_9, found "
                f"{','.join(columns)[:80] or 'no line'}"
            )
    return landmarks


def _cvlface_columns(channels: int) -> list[str]:
    return ["idx", *(f"ldmk_{place}" for place in range(channels * _POINTS))]


def _read_named(
    file: TextIO, path: Path, source: ImageSource, landmarks: Landmarks, numbers: int, allow_extra: bool
) -> None:
    find = _finder(source)
    unknown: list[str] = []
    extra = 0
    for rows in _blocks(file, path, object, numbers, len(landmarks)):
        names = rows["name"].tolist()
        indices = np.fromiter(map(find, names), np.int64, len(names))
        _check(rows["numbers"], names, path)
        strange = np.flatnonzero(indices < 0)
        extra += len(strange)
        unknown += [names[row] for row in strange[: 3 - len(unknown)]] if len(unknown) < 3 else []
        known = np.flatnonzero(indices >= 0)
        _enter(landmarks, indices[known], rows["numbers"][known], [names[row] for row in known], path)
    if extra and not allow_extra:
        raise ValueError(
            f"{path}: {extra} row(s) of images that {source.root} does not have, such as {', '.join(unknown)}"
        )
    if not landmarks.found.any():
        raise ValueError(f"{path}: has no row of an image of {source.root}")


def _read_placed(file: TextIO, path: Path, landmarks: Landmarks, numbers: int) -> None:
    count, rows_read = len(landmarks), 0
    for rows in _blocks(file, path, np.int64, numbers, count):
        places = rows["name"]
        rows_read += len(places)
        _check(rows["numbers"], places, path)
        inside = (places >= 0) & (places < count)
        _enter(landmarks, places[inside], rows["numbers"][inside], places[inside], path)
    if rows_read != count or not landmarks.found.all():
        missing = "" if landmarks.found.all() else f"; idx {int((~landmarks.found).argmax())} is missing"
        raise ValueError(
            f"{path}: has {rows_read} rows, the data set has {count} images; idx must be their places 0 to "
            f"{count - 1}{missing}"
        )


def _finder(source: ImageSource) -> Callable[[str], int]:
    """From the key of an image to its index, -1 for one that there is not.

    Tables are mostly in the order of the source: the next image is tried first, and a table of all of them, which of
    millions takes gigabytes, is made only when that fails.
    """
    following = 0
    table: dict[str, int] = {}

    def find(key: str) -> int:
        nonlocal following
        index = following
        if index >= len(source) or source.key_of(index) != key:
            if not table:
                table.update((source.key_of(each), each) for each in range(len(source)))
            index = table.get(key, -1)
        if index >= 0:
            following = index + 1
        return index

    return find


def _blocks(file: TextIO, path: Path, name: type, numbers: int, expected: int) -> Iterator[np.ndarray]:
    """The rows of a table as records of `name` and float32 `numbers`, a part at a time."""
    dtype = np.dtype([("name", name), ("numbers", np.float32, (numbers,))])
    before = 0
    with progress_bar(total=expected, desc=f"reading {path}", unit="row", disable=expected <= _BLOCK) as bar:
        while lines := list(itertools.islice(file, _BLOCK)):
            if any(map(str.strip, lines)):
                try:
                    rows = np.loadtxt(lines, dtype, delimiter=",", quotechar='"', comments=None, ndmin=1)
                except ValueError as error:
                    raise ValueError(f"{path}: {_complaint(lines, before + 2, numbers) or error}") from None
                yield rows
                if not before or len(lines) == _BLOCK:  # a few rows at the end prove nothing about the unit
                    check_fractions(_split(rows["numbers"])[0], source=str(path))
            before += len(lines)
            bar.update(len(lines))


def _complaint(lines: Sequence[str], first: int, numbers: int) -> str | None:
    for number, line in enumerate(lines, start=first):
        entries = line.strip().rsplit(",", numbers)
        try:
            good = not line.strip() or len([float(entry) for entry in entries[1:]]) == numbers
        except ValueError:
            good = False
        if not good:
            return f"line {number}: expected an image and {numbers} numbers, found {line.strip()[:80]!r}"
    return None


def _check(values: np.ndarray, names: Sequence[str] | np.ndarray | range, path: Path) -> None:
    """Refuse what is neither landmarks nor a score."""
    strange = ~np.isfinite(values).all(1)
    if strange.any():
        raise ValueError(f"{path}: image {names[int(strange.argmax())]}: a number is NaN or infinite")
    scores = _split(values)[1]
    outside = (scores < 0) | (scores > 1)
    if outside.any():
        row = int(outside.argmax())
        raise ValueError(f"{path}: image {names[row]}: scores must be from 0 to 1, found {scores[row]:g}")


def _split(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Points [rows, 5, 2] and scores [rows] from the numbers of rows."""
    if values.shape[1] == 3 * _POINTS:
        triples = values.reshape(-1, _POINTS, 3)
        return triples[..., :2], triples[..., 2].mean(1)
    points = values[:, : 2 * _POINTS].reshape(-1, _POINTS, 2)
    return points, values[:, 10] if values.shape[1] > 2 * _POINTS else np.ones(len(values), np.float32)


def _enter(
    landmarks: Landmarks, indices: np.ndarray, values: np.ndarray, names: Sequence[str] | np.ndarray, path: Path
) -> None:
    again = landmarks.found[indices]
    if not again.any() and len(np.unique(indices)) < len(indices):
        order = np.argsort(indices, kind="stable")
        again[order[1:]] = np.diff(indices[order]) == 0
    if again.any():
        raise ValueError(f"{path}: image {names[int(again.argmax())]} comes twice")
    landmarks.points[indices], landmarks.scores[indices] = _split(values)
    landmarks.found[indices] = True


def write_landmarks(
    path: str | Path, names: Sequence[str], points: np.ndarray, scores: np.ndarray | None = None
) -> None:
    """Write our table, whole or not at all.

    Args:
        path: CSV file.
        names: n keys of images (`ImageSource.key_of`).
        points: [n, 5, 2] fractions of the image.
        scores: [n] in [0, 1]; None writes 1.

    Raises:
        ValueError: shapes that do not fit, a name twice or with a line break, values that `read_landmarks` refuses.
        OSError: the folder is missing or cannot be written.
    """
    path = Path(path)
    points, scores = _writable(path, len(names), points, scores)
    if len(set(names)) < len(names):
        raise ValueError(f"{path}: {len(names) - len(set(names))} name(s) come twice")
    check_names(names, f"{path}: ")
    values = np.concatenate([points.reshape(-1, 2 * _POINTS), scores[:, None]], axis=1)
    _write(path, ["image", *_COORDINATES, "score"], names, values)


def check_names(names: Iterable[str], where: str = "") -> None:
    """Raise a ValueError, which begins with `where`, for a name that a table of landmarks cannot have."""
    if bad := next((name for name in names if "\n" in name or "\r" in name), None):
        raise ValueError(f"{where}a name has a line break: {bad!r}")


def write_cvlface_landmarks(path: str | Path, points: np.ndarray, scores: np.ndarray | None = None) -> None:
    """Write CVLface's table of all images in their order, whole or not at all.

    Args:
        path: CSV file, `ldmk_5points.csv` by their convention.
        points: [n, 5, 2] fractions of the image.
        scores: [n] in [0, 1]. If one is below 1 the table gets (x, y, score) for each point, which CVLface reads too.

    Raises:
        ValueError: shapes that do not fit, values that `read_landmarks` refuses.
        OSError: the folder is missing or cannot be written.
    """
    path = Path(path)
    points, scores = _writable(path, len(points), points, scores)
    values = points
    if (scores < 1).any():
        values = np.concatenate([points, np.broadcast_to(scores[:, None, None], (*points.shape[:2], 1))], axis=2)
    _write(path, _cvlface_columns(values.shape[2]), range(len(points)), values.reshape(len(points), -1))


def _writable(path: Path, count: int, points: np.ndarray, scores: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    scores = np.ones(count, np.float32) if scores is None else np.asarray(scores)
    points = np.asarray(points)
    if points.shape != (count, _POINTS, 2) or scores.shape != (count,):
        raise ValueError(
            f"{path}: expected points [{count}, {_POINTS}, 2] and scores [{count}], got {list(points.shape)} and "
            f"{list(scores.shape)}"
        )
    return points, scores


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"' if any(mark in name for mark in ',"') or name != name.strip() else name


def _write(path: Path, columns: Sequence[str], names: Sequence[str] | range, values: np.ndarray) -> None:
    _check(values, names, path)
    check_fractions(_split(values)[0], source=str(path))
    form = ",".join(["%.6f"] * values.shape[1])
    with whole_file(path) as partial, partial.open("w", encoding="utf-8", errors="surrogateescape") as file:
        file.write(",".join(columns) + "\n")
        for begin in range(0, len(values), _BLOCK):
            block = slice(begin, begin + _BLOCK)
            rows = zip(names[block], values[block].tolist(), strict=True)
            file.write("".join(f"{_quoted(str(name))},{form % tuple(row)}\n" for name, row in rows))
