"""Images of two sides compared with each other: which pairs there are, where their landmarks are, how alike they are.

Each image holds one face; nothing is detected. The similarity of two images is the cosine of their embeddings, from -1
to 1.

Coordinates: landmarks are (x, y) as fractions of the image.
Shape letters: m different images, A images on the first side, B on the second, E embedding channels.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from face.data.images import resize_image
from face.data.landmarks import Landmarks, read_landmarks
from face.dfa.image_files import ImageFiles, open_images
from face.evaluation.checks import check_embeddings
from face.evaluation.images import ImageList
from face.models.base import pixels_to_input
from face.pipelines import RecognitionPipeline, reduced_size

__all__ = [
    "ImageSides",
    "Match",
    "ModelView",
    "SimilarityBlock",
    "best_matches",
    "extreme_pairs",
    "keep_extremes",
    "model_view",
    "open_sides",
    "side_landmarks",
    "similarity_blocks",
]

_CELLS = 2**22  # similarities that are in memory at one time
TABLE = "landmarks.csv"


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageSides:
    """Two lists of images, and each image of them once."""

    images: ImageFiles
    """m."""

    first: np.ndarray
    """int64 [A] numbers of images."""

    second: np.ndarray
    """int64 [B]."""

    names: tuple[tuple[str, ...], tuple[str, ...]]
    """What each side calls its images: paths below what was given."""

    @property
    def pairs(self) -> int:
        """Different pairs of different images."""
        common = len(np.intersect1d(self.first, self.second))
        return len(self.first) * len(self.second) - common - common * (common - 1) // 2

    def different(self, rows: slice) -> np.ndarray:
        """[rows, B] bool: whether the two are not the same file."""
        return self.first[rows, None] != self.second

    def counted(self, rows: slice) -> np.ndarray:
        """[rows, B] bool: each pair of two files once, also where files are on both sides."""
        both = np.isin(self.first[rows], self.second)[:, None] & np.isin(self.second, self.first)
        return self.different(rows) & ~(both & (self.first[rows, None] > self.second))


def open_sides(first: str | Path, second: str | Path) -> ImageSides:
    """Images of two folders, lists or single files (see `face.dfa.image_files.open_images`), none of them decoded.

    Raises:
        FileNotFoundError: no such file or folder.
        ValueError: no images, a list that names one twice, or no two different images.
    """
    sides = [open_images(first), open_images(second)]
    paths: dict[str, int] = {}
    numbers = []
    for side in sides:
        found = [os.path.abspath(side.root / name) for name in side.names]
        numbers.append(np.array([paths.setdefault(path, len(paths)) for path in found], np.int64))
    if len(paths) < 2:
        raise ValueError(f"{first} and {second}: expected two different images, these are the same one")
    root = os.path.commonpath([os.path.dirname(path) for path in paths])
    return ImageSides(
        images=ImageFiles(Path(root), [Path(os.path.relpath(path, root)).as_posix() for path in paths]),
        first=numbers[0],
        second=numbers[1],
        names=(tuple(sides[0].names), tuple(sides[1].names)),
    )


def side_landmarks(sides: ImageSides, given: Path | None, first: str | Path, second: str | Path) -> Landmarks:
    """Landmarks of all images, from one table or from those that lie in the folders of the two sides.

    A table names an image by its path below the table's own folder.

    Args:
        sides: of `open_sides(first, second)`.
        given: the table of both; None for `landmarks.csv` in each folder, or beside each single image.

    Raises:
        FileNotFoundError: there is no such table.
        ValueError: it is damaged, or lacks images.
    """
    tables = [given] if given is not None else list(dict.fromkeys(map(_beside, (first, second))))
    for table in tables:
        if not table.is_file():
            advice = "" if given is not None else "; the model needs landmarks: give --aligner or --landmarks"
            raise FileNotFoundError(f"{table}: no such table of landmarks{advice}")
    count = len(sides.images)
    points, scores = np.full((count, 5, 2), np.nan, np.float32), np.zeros(count, np.float32)
    found = np.zeros(count, bool)
    for table in tables:
        folder = os.path.abspath(table.parent)
        paths = [os.path.abspath(sides.images.root / name) for name in sides.images.names]
        keys = [Path(os.path.relpath(path, folder)).as_posix() for path in paths]
        read = read_landmarks(table, ImageFiles(Path(folder), keys), allow_extra=True)  # type: ignore[arg-type]
        points[read.found], scores[read.found] = read.points[read.found], read.scores[read.found]
        found |= read.found
    if not found.all():
        names = [sides.images.name_of(int(index)) for index in np.flatnonzero(~found)[:5]]
        where = " and ".join(map(str, tables))
        raise ValueError(
            f"{where}: no landmarks of {(~found).sum()} of {count} images, first: {', '.join(names)}; a table names "
            "images by their paths below its own folder"
        )
    return Landmarks(points=points, scores=scores, found=found)


def _beside(path: str | Path) -> Path:
    path = Path(path)
    return (path if path.is_dir() else path.parent) / TABLE


class SimilarityBlock(NamedTuple):
    """Similarities of some images of the first side with all of the second."""

    rows: slice
    """Of the first side."""

    values: np.ndarray
    """float64 [rows, B]."""


def similarity_blocks(embeddings: np.ndarray, sides: ImageSides) -> Iterator[SimilarityBlock]:
    """Cosine similarities of the two sides, some rows at a time.

    Args:
        embeddings: [m, E], of any length; one that is all zero is like none.

    Raises:
        ValueError: NaN or infinity; the images are named.
    """
    check_embeddings(embeddings, sides.images.name_of)
    directions = embeddings.astype(np.float64)
    lengths = np.linalg.norm(directions, axis=1, keepdims=True)
    directions /= np.where(lengths == 0, 1, lengths)
    second = directions[sides.second].T
    step = max(1, _CELLS // len(sides.second))
    for begin in range(0, len(sides.first), step):
        rows = slice(begin, min(begin + step, len(sides.first)))
        yield SimilarityBlock(rows, (directions[sides.first[rows]] @ second).clip(-1, 1))


class Match(NamedTuple):
    """Two images by their places on their sides."""

    first: int
    second: int
    similarity: float


def best_matches(block: SimilarityBlock, sides: ImageSides, count: int) -> Iterator[list[Match]]:
    """For each image of the block the most similar ones of the other side, itself left out; falling."""
    others = sides.different(block.rows)
    for place, (row, usable) in enumerate(zip(block.values, others, strict=True), start=block.rows.start):
        order = np.argsort(-row[usable], kind="stable")[:count]
        columns = np.flatnonzero(usable)[order]
        yield [Match(place, int(column), float(row[column])) for column in columns]


def extreme_pairs(block: SimilarityBlock, sides: ImageSides, count: int) -> tuple[list[Match], list[Match]]:
    """The `count` most similar pairs of a block, falling, and the least similar, rising; each pair once."""
    rows, columns = np.nonzero(sides.counted(block.rows))
    values = block.values[rows, columns]
    found = []
    for order in (np.argsort(-values, kind="stable"), np.argsort(values, kind="stable")):
        found.append([Match(int(rows[k]) + block.rows.start, int(columns[k]), float(values[k])) for k in order[:count]])
    return found[0], found[1]


def keep_extremes(kept: Sequence[Match], new: Sequence[Match], count: int, falling: bool) -> list[Match]:
    """The `count` most extreme of two lists."""
    ordered = sorted([*kept, *new], key=lambda match: -match.similarity if falling else match.similarity)
    return ordered[:count]


class ModelView(NamedTuple):
    """What a recognition model gets of an image."""

    pixels: np.ndarray
    """[h, w, 3] uint8 RGB, as it came (resized) or aligned."""

    keypoints: np.ndarray | None
    """[5, 2] fractions of it; None where nobody knows any, or they give no alignment."""


def model_view(
    pipeline: RecognitionPipeline,
    images: ImageList,
    index: int,
    points: np.ndarray | None = None,
    device: torch.device | str = "cpu",
) -> ModelView:
    """An image as the pipeline's model sees it, with the landmarks in it, whether the model takes them or not.

    Args:
        points: [5, 2] known landmarks, fractions of the image, for a pipeline without an aligner.
    """
    image = images.read(index)
    alone = pipeline.aligner is None
    size = pipeline.image_hw if alone else reduced_size((image.shape[0], image.shape[1]), pipeline.source_size)
    pixels = np.ascontiguousarray(resize_image(image, size).transpose(2, 0, 1))
    inputs = pixels_to_input(torch.from_numpy(pixels)[None], device)
    with torch.no_grad():
        if alone or pipeline.aligner is None:
            known = None if points is None else torch.as_tensor(points, device=inputs.device)[None]
            seen, keypoints = pipeline.prepare(inputs, known).images, points
        else:
            found = pipeline.aligner(inputs)
            seen = pipeline.prepare(inputs).images
            aligned = pipeline.kind == "dfa_aligned"
            landmarks = found.aligned_landmarks if aligned else found.landmarks
            keypoints = landmarks[0].cpu().numpy() if bool(found.valid[0]) else None
    shown = seen[0].float().add(1).mul(127.5).round().clamp(0, 255).byte().permute(1, 2, 0).cpu().numpy()
    return ModelView(shown, keypoints)
