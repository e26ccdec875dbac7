"""Faces in photographs: boxes and five landmarks, from the label files that are in use.

* RetinaFace's labels of WIDER FACE (insightface, detection/retinaface), `train/label.txt` and `val/label.txt`: a line
  `# 0--Parade/0_Parade_marchingband_1_849.jpg`, then a line for each face of that image,
  `x y w h  x1 y1 f1 ... x5 y5 f5  blur`, with -1 for landmarks that nobody could place, or `x y w h` alone.
* WFLW's `list_98pt_rect_attr_{train,test}.txt`: 98 points, a box, six attributes, the image. Five of the points are
  kept, those of Kim et al., CVPR 2024, https://arxiv.org/abs/2403.14852, supplementary 6: 96 is the pupil in the eye
  that points 60 to 67 go round, at the left of the image, 97 the other, 57 below the tip of the nose, 76 and 82 the
  corners of the mouth. That is the order of `common.FIVE_POINT_FACE`.

Deliberate differences from the readers of RetinaFace: -1 tells of missing landmarks only together with its flag, so
that a point left of the image is none; a face that lacks one landmark has none.
Coordinates: pixels of the photograph. Landmarks are pixel-index (the centre of the first pixel is (0, 0)), the edges of
a box lie between pixels: a box of x = 3, w = 2 covers the pixels 3 and 4, its left is 3.0, its right 5.0.
Shape letters: n faces, m other faces.
"""

import hashlib
import os
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from common.keypoints import FIVE_POINT_FACE

__all__ = [
    "WFLW_FIVE_POINTS",
    "FaceAnnotations",
    "Layout",
    "read_annotations",
    "read_retinaface_labels",
    "read_wflw",
]

Layout = Literal["widerface", "wflw"]
"""Of a label file: RetinaFace's of WIDER FACE, or WFLW's."""

WFLW_FIVE_POINTS = (96, 97, 57, 76, 82)
"""Of WFLW's 98 points, those that are kept."""

_POINTS = len(FIVE_POINT_FACE)
_BOX, _BOX_AND_LANDMARKS = 4, 4 + 3 * _POINTS + 1
_WFLW_POINTS, _WFLW_NUMBERS = 98, 2 * 98 + 4 + 6

# A landmark so many sides of its box outside of it is an error of the file, of which WIDER FACE has a few; where they
# are more than a share, the file is of another format.
_FAR_SIDES, _MOST_FAR = 1.0, 0.02


@dataclass(frozen=True, kw_only=True, eq=False)
class FaceAnnotations:
    """Faces of photographs, in the order of their file."""

    path: Path
    """The label file."""

    root: Path
    """The folder that the images' paths begin at."""

    images: tuple[str, ...]
    """Path of each photograph below `root`, with '/'; some may have no face."""

    image_of: np.ndarray
    """int64 [n], which of `images` the face is in."""

    boxes_px: np.ndarray
    """float32 [n, 4]: left, top, right, bottom; edges, which may lie outside the photograph."""

    landmarks_px: np.ndarray
    """float32 [n, 5, 2], pixel-index; NaN where there are none."""

    has_landmarks: np.ndarray
    """bool [n]"""

    blur: np.ndarray
    """float32 [n], RetinaFace's last number; NaN where there is none."""

    lines: np.ndarray
    """int64 [n], of the label file, from 1 on."""

    others_px: np.ndarray
    """float32 [m, 4]: boxes of faces that were left out for their size."""

    others_of: np.ndarray
    """int64 [m], which of `images` those are in."""

    counts: dict[str, int] = field(default_factory=dict)
    """What was left out, and how often."""

    def __len__(self) -> int:
        return len(self.image_of)

    def name_of(self, index: int) -> str:
        """What messages call a face."""
        return f"{self.images[self.image_of[index]]} ({self.path}, line {self.lines[index]})"

    def image_path(self, image: int) -> Path:
        """The file of a photograph."""
        return self.root / self.images[image]

    @property
    def digest(self) -> str:
        """Hexadecimal SHA-256 of all that crops depend on; the place of the files is not in it."""
        whole = hashlib.sha256("\n".join(self.images).encode("utf-8", "surrogateescape"))
        for array in (self.image_of, self.boxes_px, self.landmarks_px, self.others_px, self.others_of):
            whole.update(repr((array.shape, array.dtype.str)).encode())
            whole.update(np.ascontiguousarray(array).tobytes())
        return whole.hexdigest()

    def at_least(self, min_side_px: float) -> "FaceAnnotations":
        """Without faces whose box is narrower or lower than so many pixels; they are counted and become `others_px`.

        Raises:
            ValueError: none is left.
        """
        sides = self.boxes_px[:, 2:] - self.boxes_px[:, :2]
        small = sides.min(axis=1, initial=np.inf) < min_side_px
        if len(self) and small.all():
            raise ValueError(f"{self.path}: none of its {len(self)} faces has min_side_px {min_side_px:g}")
        key = f"boxes below {min_side_px:g} px"
        counts = {**self.counts, key: self.counts.get(key, 0) + int(small.sum())} if small.any() else self.counts
        return FaceAnnotations(
            path=self.path,
            root=self.root,
            images=self.images,
            others_px=np.concatenate([self.others_px, self.boxes_px[small]]),
            others_of=np.concatenate([self.others_of, self.image_of[small]]),
            counts=counts,
            **{name: getattr(self, name)[~small] for name in _OF_FACES},
        )

    def describe(self) -> str:
        """A line for logs."""
        left_out = ", ".join(f"{count} {what}" for what, count in self.counts.items())
        return (
            f"{self.path}: {len(self)} faces in {len(self.images)} photographs, {int(self.has_landmarks.sum())} with "
            f"landmarks; left out: {left_out or 'nothing'}"
        )


_OF_FACES = ("image_of", "boxes_px", "landmarks_px", "has_landmarks", "blur", "lines")


def read_annotations(
    layout: Layout, path: str | Path, images_root: str | Path, min_side_px: float = 0.0
) -> FaceAnnotations:
    """Read a label file of either layout; arguments and errors are those of its reader."""
    reader = {"widerface": read_retinaface_labels, "wflw": read_wflw}[layout]
    return reader(path, images_root, min_side_px=min_side_px)


def read_retinaface_labels(
    path: str | Path, images_root: str | Path, min_side_px: float = 0.0, check_images: bool = True
) -> FaceAnnotations:
    """Read a `label.txt` of RetinaFace's.

    Args:
        path: the label file.
        images_root: folder that its images' paths begin at: `WIDER_train/images`.
        min_side_px: faces whose box is narrower or lower are left out and counted.
        check_images: whether all images must be there; they are looked for, not opened.

    Raises:
        FileNotFoundError: no such file or folder, or images are missing: how many, and the first of them.
        ValueError: a line of other than 4 or 20 numbers, NaN, a face before the first image, an image twice, no face
            at all, landmarks that fit the boxes of too few faces. The file is named, and the line.
    """
    faces = _Faces(Path(path), Path(images_root))
    named = False
    for line, text in _lines(faces.path):
        if text.startswith("#"):
            name, named = text[1:].strip(), True
            if not name:
                raise ValueError(f"{faces.path}, line {line}: no image after the #")
            if name in faces.places:
                raise ValueError(f"{faces.path}, line {line}: image {name} comes twice")
            faces.image(name)
            continue
        if not named:
            raise ValueError(
                f"{faces.path}, line {line}: expected '# image' before the first face, found {text[:60]!r}"
            )
        values = _numbers(text.split(), f"{faces.path}, line {line}")
        if len(values) not in (_BOX, _BOX_AND_LANDMARKS):
            raise ValueError(
                f"{faces.path}, line {line}: expected {_BOX} or {_BOX_AND_LANDMARKS} numbers (box, five landmarks of "
                f"x, y, flag, blur), found {len(values)}"
            )
        x, y, width, height = values[:_BOX]
        landmarks, blur = None, np.nan
        if len(values) == _BOX_AND_LANDMARKS:
            table, blur = values[_BOX:-1].reshape(_POINTS, 3), values[-1]
            absent = (table == -1).all(axis=1)
            faces.count("faces with some of the landmarks only", bool(absent.any() and not absent.all()))
            landmarks = None if absent.any() else table[:, :2]
        faces.add(len(faces.images) - 1, line, np.array([x, y, x + width, y + height]), landmarks, blur)
    return faces.finished(min_side_px, check_images)


def read_wflw(
    path: str | Path, images_root: str | Path, min_side_px: float = 0.0, check_images: bool = True
) -> FaceAnnotations:
    """Read a list of WFLW's.

    Args:
        path: `list_98pt_rect_attr_train.txt` or the like.
        images_root: folder that its images' paths begin at: `WFLW_images`.
        min_side_px, check_images: see `read_retinaface_labels`.

    Raises:
        FileNotFoundError, ValueError: see there; a line has 206 numbers and an image here.
    """
    faces = _Faces(Path(path), Path(images_root))
    for line, text in _lines(faces.path):
        entries = text.split(maxsplit=_WFLW_NUMBERS)
        if len(entries) != _WFLW_NUMBERS + 1:
            raise ValueError(
                f"{faces.path}, line {line}: expected {_WFLW_NUMBERS} numbers ({_WFLW_POINTS} points, box, six "
                f"attributes) and an image, found {len(entries)} entries"
            )
        values = _numbers(entries[:-1], f"{faces.path}, line {line}")
        points = values[: 2 * _WFLW_POINTS].reshape(_WFLW_POINTS, 2)
        box = values[2 * _WFLW_POINTS : 2 * _WFLW_POINTS + 4]
        faces.add(faces.image(entries[-1]), line, box, points[list(WFLW_FIVE_POINTS)], np.nan)
    return faces.finished(min_side_px, check_images)


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Lines that hold something, by their number from 1 on."""
    with path.open(encoding="utf-8-sig", errors="surrogateescape") as file:
        for line, text in enumerate(file, start=1):
            if stripped := text.strip():
                yield line, stripped


def _numbers(entries: list[str], where: str) -> np.ndarray:
    try:
        values = np.array([float(entry) for entry in entries])
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    if not np.isfinite(values).all():
        raise ValueError(f"{where}: expected finite numbers, found {entries[int((~np.isfinite(values)).argmax())]}")
    return values


class _Faces:
    """Faces as they are read."""

    def __init__(self, path: Path, root: Path) -> None:
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such label file")
        self.path, self.root = path, root
        self.images: list[str] = []
        self.places: dict[str, int] = {}
        self.counts: dict[str, int] = {}
        self._rows: list[tuple[int, int, float]] = []
        self._boxes: list[np.ndarray] = []
        self._landmarks: list[np.ndarray] = []
        self._none = np.full((_POINTS, 2), np.nan)
        self._far: list[int] = []

    def image(self, name: str) -> int:
        """Its place, a new one perhaps."""
        if name not in self.places:
            self.places[name] = len(self.images)
            self.images.append(name)
        return self.places[name]

    def count(self, what: str, happened: bool) -> None:
        if happened:
            self.counts[what] = self.counts.get(what, 0) + 1

    def add(self, image: int, line: int, box: np.ndarray, landmarks: np.ndarray | None, blur: float) -> None:
        sides = box[2:] - box[:2]
        if sides.min() <= 0:
            self.count("boxes without area", True)
            return
        if landmarks is not None:
            beyond = np.maximum(box[:2] - landmarks, landmarks - box[2:]).max()
            if beyond > _FAR_SIDES * sides.max():
                self._far.append(line)
                landmarks = None
        self._rows.append((image, line, blur))
        self._boxes.append(box)
        self._landmarks.append(self._none if landmarks is None else landmarks)

    def finished(self, min_side_px: float, check_images: bool) -> FaceAnnotations:
        if not self._rows:
            raise ValueError(f"{self.path}: no face in its {len(self.images)} images")
        landmarks = np.stack(self._landmarks).astype(np.float32)
        found = ~np.isnan(landmarks[:, 0, 0])
        self._check_landmarks(landmarks[found])
        if check_images:
            _check_images(self.images, self.root, self.path)
        image_of, lines, blur = zip(*self._rows, strict=True)
        annotations = FaceAnnotations(
            path=self.path,
            root=self.root,
            images=tuple(self.images),
            image_of=np.array(image_of, np.int64),
            boxes_px=np.stack(self._boxes).astype(np.float32),
            landmarks_px=landmarks,
            has_landmarks=found,
            blur=np.array(blur, np.float32),
            lines=np.array(lines, np.int64),
            others_px=np.empty((0, 4), np.float32),
            others_of=np.empty(0, np.int64),
            counts=self.counts,
        )
        return annotations.at_least(min_side_px)

    def _check_landmarks(self, landmarks: np.ndarray) -> None:
        """Of all faces that have some: they lie about their boxes, and the eye at the left comes first."""
        if self._far:
            self.counts["landmarks far outside of their box"] = len(self._far)
        if len(self._far) > _MOST_FAR * (len(landmarks) + len(self._far)) + 1:
            shown = ", ".join(map(str, self._far[:3]))
            raise ValueError(
                f"{self.path}: landmarks of {len(self._far)} of {len(landmarks) + len(self._far)} faces lie more than "
                f"the box's longer side outside of it, such as in line {shown}: are boxes x y w h, landmarks pixels?"
            )
        swapped = int((landmarks[:, 0, 0] > landmarks[:, 1, 0]).sum())
        if swapped > len(landmarks) / 2:
            raise ValueError(
                f"{self.path}: in {swapped} of {len(landmarks)} faces the first eye is at the right of the second; "
                "expected the one at the left of the image first"
            )


def _check_images(images: list[str], root: Path, path: Path) -> None:
    """A look at each folder, not at each image."""
    if not root.is_dir():
        raise FileNotFoundError(f"{root}: no such folder; expected the images of {path}")
    folders: dict[str, list[str]] = defaultdict(list)
    for name in images:
        folder, _, file = name.rpartition("/")
        folders[folder].append(file)
    missing = []
    for folder, files in folders.items():
        place = root / folder
        there = set(os.listdir(place)) if place.is_dir() else set()
        missing += [f"{folder}/{file}" if folder else file for file in files if file not in there]
    if missing:
        shown = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
        raise FileNotFoundError(f"{root}: lacks {len(missing)} of the {len(images)} images of {path}: {shown}")
