"""Crops cut from their photographs once and kept, so that training does not decode whole photographs.

    folder/train.rec, train.idx, property   the crops as JPEG, in CVLface's convention of RecordIO
    folder/crops.npz                        where in each crop its square, its box and its landmarks are
    folder/crops.json                       of which annotations, with which settings

A crop is kept with more of the photograph around it than its square, so that an augmentation can move, turn and shrink
it, and in whole pixels of the photograph, so that the one interpolation is still to come. Only where it is larger than
`max_side` has it been shrunk. A folder takes its name when all of it is there; until then it is in a hidden one beside
it, which the next run clears should this one be killed.

Crops without a face are squares in which, with all that is kept around them, no annotated face has a part, those that
were left out for their size included.
"""

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from common.runtime.files import write_text
from common.runtime.progress import progress_bar
from common.runtime.run_folder import held_folder
from common.runtime.workers import work_all
from face.data.images import ImageError, decode_image
from face.data.records import RecordSource, RecordWriter
from face.data.records.labels import LABEL_FILE
from face.dfa.annotations import FaceAnnotations
from face.dfa.crops import FACE, FACE_WITHOUT_LANDMARKS, NO_FACE, Crop, square_frames

__all__ = ["CropCache", "CropSettings", "StaleCropsError", "cached_crops", "make_crops"]

STAMP_FILE, TABLE_FILE = "crops.json", "crops.npz"
_MADE_BY, _VERSION = "face.dfa.crop_cache", 1
_CHUNK = 16  # photographs that a worker process does at once
_TRIES = 20
_NO_LANDMARKS = np.full((5, 2), np.nan)


class StaleCropsError(ValueError):
    """A folder of crops is of other annotations or settings than were asked for."""


@dataclass(frozen=True, kw_only=True)
class CropSettings:
    """How crops are cut. Everything that changes them is in here.

    Raises:
        ValueError: naming the field, what was expected and what was found.
    """

    padding: float = 0.1
    """About the box, as a share of its longer side."""

    context: float = 0.3
    """More of the photograph that is kept on each side of that square, as a share of its side: 0.3 is what the smallest
    scale and the largest shift of `AugmentationSettings` uncover; a rotation may uncover more."""

    max_side: int = 320
    """Largest height and width of what is kept, in pixels, context included; what is larger is shrunk."""

    quality: int = 95
    """Of JPEG, 1 to 100."""

    background_share: float = 0.0
    """Crops without a face for each face, on average; fewer where photographs have no room for them."""

    background_side: tuple[float, float] = (32.0, 256.0)
    """Smallest and largest side of such a square in pixels, context not included; log-uniform."""

    seed: int = 0
    """Of the places of crops without a face."""

    skip_broken: bool = False
    """Whether faces of photographs that do not decode are left out; else the first one is an error."""

    def __post_init__(self) -> None:
        for name, low, high in (("padding", 0.0, 4.0), ("context", 0.0, 4.0), ("background_share", 0.0, 10.0)):
            value = getattr(self, name)
            if not isinstance(value, (int, float)) or isinstance(value, bool) or not low <= value <= high:
                raise ValueError(f"{name} must be a number from {low:g} to {high:g}, got {value!r}")
        for name, low, high in (("max_side", 16, 4096), ("quality", 1, 100), ("seed", 0, 2**63)):
            value = getattr(self, name)
            if type(value) is not int or not low <= value <= high:
                raise ValueError(f"{name} must be a whole number from {low} to {high}, got {value!r}")
        sides = self.background_side
        if not isinstance(sides, tuple) or len(sides) != 2 or not 4 <= sides[0] <= sides[1]:
            raise ValueError(f"background_side must be two numbers, 4 <= smallest <= largest, got {sides!r}")


class CropCache:
    """A folder that `make_crops` wrote (the interface of face.dfa.crops.CropSource).

    Args:
        folder: the folder.

    Raises:
        FileNotFoundError: it is not there, or is none of crops.
        ValueError: its files do not fit each other.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.stamp = _read_stamp(self.folder)
        if self.stamp is None:
            raise FileNotFoundError(f"{self.folder / STAMP_FILE}: no such file, or none of crops of faces")
        self._records = RecordSource(self.folder)
        with np.load(self.folder / TABLE_FILE) as table:
            self._images: np.ndarray = table["images"]
            self._rows = _Rows(*(table[name] for name in _Rows._fields))
        self.kinds = self._rows.kinds
        if not len(self._records) == len(self.kinds) == self.stamp["crops"]:
            found = f"{len(self._records)}, {len(self.kinds)} and {self.stamp['crops']}"
            raise ValueError(f"{self.folder}: records, table and stamp have {found} crops: it is damaged, remove it")

    def __len__(self) -> int:
        return len(self.kinds)

    @property
    def faces(self) -> np.ndarray:
        """int64 [n], which face of the annotations a crop is of; -1 for crops without a face."""
        return self._rows.faces

    def name_of(self, index: int) -> str:
        """The photograph it was cut from."""
        return f"{self._images[self._rows.image_of[index]]} ({self.folder}, crop {index})"

    def read(self, index: int) -> Crop:
        """One crop.

        Raises:
            ImageError: it does not decode.
        """
        image = self._records.read(index)
        rows = self._rows
        return Crop(image, rows.frames[index], rows.boxes[index], rows.landmarks[index], int(rows.kinds[index]))

    def describe(self) -> str:
        """A line for logs."""
        left_out = ", ".join(f"{count} {what}" for what, count in (self.stamp or {})["left_out"].items())
        counts = [int((self.kinds == kind).sum()) for kind in (FACE, FACE_WITHOUT_LANDMARKS, NO_FACE)]
        return (
            f"{self.folder}: {counts[0]} crops of faces with landmarks, {counts[1]} without, {counts[2]} of no face; "
            f"left out: {left_out or 'nothing'}"
        )


class _Rows(NamedTuple):
    """Of all crops of some photographs."""

    frames: np.ndarray
    """float32 [n, 4], fractions of the crop's image, as are the next two"""
    boxes: np.ndarray
    """float32 [n, 4]"""
    landmarks: np.ndarray
    """float32 [n, 5, 2]"""
    kinds: np.ndarray
    """int64 [n]"""
    faces: np.ndarray
    """int64 [n]"""
    image_of: np.ndarray
    """int64 [n]"""


def cached_crops(
    annotations: FaceAnnotations,
    folder: str | Path,
    settings: CropSettings | None = None,
    workers: int = 1,
    remake: bool = False,
) -> CropCache:
    """The crops in a folder if they are of these annotations and settings; they are made where there is no folder.

    Args:
        annotations, folder, settings, workers: see `make_crops`.
        remake: whether crops of other annotations or settings are made anew; else they are an error.

    Raises:
        StaleCropsError: they are, and are not to be made anew: what differs.
        FileExistsError: the folder holds something else.
        OSError, ValueError: see `make_crops`.
    """
    folder, settings = Path(folder), settings or CropSettings()
    stamp = _read_stamp(folder)
    if stamp is not None:
        different = _differences(stamp, _stamp_of(annotations, settings))
        if not different:
            return CropCache(folder)
        if not remake:
            raise StaleCropsError(
                f"{folder}: was made with other {' and '.join(different)}; remove it, or name another folder"
            )
        _remove(folder)
    return make_crops(annotations, folder, settings, workers)


def make_crops(
    annotations: FaceAnnotations, folder: str | Path, settings: CropSettings | None = None, workers: int = 1
) -> CropCache:
    """Cut all faces from their photographs, each of which is decoded once, and write them.

    Args:
        annotations: of the photographs.
        folder: to make; it may be there if it is empty. One process makes it, however many train.
        settings: of the crops.
        workers: processes that cut; they change the speed, not the files.

    Raises:
        FileExistsError: the folder is there and not empty.
        ImageError: a photograph does not decode, unless those are skipped.
        ValueError: workers below 1, no crop is left, or another process is making the folder.
        OSError: something cannot be read or written.
        BrokenProcessPool: a worker process died. After an error there is no folder.
    """
    folder, settings = Path(folder), settings or CropSettings()
    if workers < 1:
        raise ValueError(f"workers must be >= 1, got {workers}")
    _check_free(folder)
    order = np.argsort(annotations.image_of, kind="stable")
    photographs = np.unique(annotations.image_of)
    chunks = [photographs[begin : begin + _CHUNK] for begin in range(0, len(photographs), _CHUNK)]
    with _unfinished(folder) as (made, shards):
        tasks = [
            _Task(shards / str(number), _photographs(annotations, chunk, order)) for number, chunk in enumerate(chunks)
        ]
        results: dict[Path, _Cut] = {}
        with (
            progress_bar(total=len(photographs), desc="Crops", unit="photograph") as bar,
            closing(work_all(partial(_cut_all, settings), tasks, workers)) as done,
        ):
            for cut in done:
                results[cut.shard] = cut
                bar.update(cut.photographs)
        cuts = [results[task.shard] for task in tasks]
        _write(annotations, made, settings, cuts)
        os.replace(made, folder)
    return CropCache(folder)


def _check_free(folder: Path) -> None:
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise FileExistsError(f"{folder}: expected a new or empty folder for crops, found something else")


@contextmanager
def _unfinished(folder: Path) -> Iterator[tuple[Path, Path]]:
    """New folders for crops and for shards of them, in a hidden one that no other process has meanwhile."""
    parts = folder.with_name(f".{folder.name}.parts")
    with held_folder(parts):
        try:
            _check_free(folder)  # another process may have been faster
            made, shards = parts / "crops", parts / "shards"
            for each in (made, shards):
                shutil.rmtree(each, ignore_errors=True)  # of a run that was killed
                each.mkdir()
            yield made, shards
        finally:
            shutil.rmtree(parts, ignore_errors=True)


class _Photograph(NamedTuple):
    """What a worker process is told of one."""

    path: Path
    image: int
    faces: np.ndarray  # [k] of the annotations
    boxes_px: np.ndarray  # [k, 4]
    landmarks_px: np.ndarray  # [k, 5, 2]
    kinds: np.ndarray  # [k]
    avoid_px: np.ndarray  # [., 4] all boxes


class _Task(NamedTuple):
    shard: Path
    photographs: list[_Photograph]


class _Cut(NamedTuple):
    """What became of a task: encoded crops are in the shard, one after the other."""

    shard: Path
    sizes: list[int]
    rows: _Rows
    photographs: int
    left_out: dict[str, int]


def _photographs(annotations: FaceAnnotations, images: np.ndarray, order: np.ndarray) -> list[_Photograph]:
    """Of some images; `order` sorts faces by their image."""
    firsts = np.searchsorted(annotations.image_of, images, side="left", sorter=order)
    ends = np.searchsorted(annotations.image_of, images, side="right", sorter=order)
    found = []
    for image, first, end in zip(images.tolist(), firsts, ends, strict=True):
        faces = order[first:end]
        boxes = annotations.boxes_px[faces]
        kinds = np.where(annotations.has_landmarks[faces], FACE, FACE_WITHOUT_LANDMARKS)
        others = annotations.others_px[annotations.others_of == image]
        avoid = np.concatenate([boxes, others])
        path = annotations.image_path(image)
        found.append(_Photograph(path, image, faces, boxes, annotations.landmarks_px[faces], kinds, avoid))
    return found


def _cut_all(settings: CropSettings, task: _Task) -> _Cut:
    sizes: list[int] = []
    rows: list[tuple[Any, ...]] = []
    left_out: dict[str, int] = {}
    with task.shard.open("wb") as file:
        for photograph in task.photographs:
            try:
                pixels = decode_image(photograph.path.read_bytes(), str(photograph.path))
            except ImageError:
                if not settings.skip_broken:
                    raise
                left_out["photographs that do not decode"] = left_out.get("photographs that do not decode", 0) + 1
                continue
            for encoded, row in _cut_photograph(settings, photograph, pixels):
                if encoded is None:
                    key = "boxes outside of their photograph"
                    left_out[key] = left_out.get(key, 0) + 1
                    continue
                sizes.append(file.write(encoded))
                rows.append(row)
    return _Cut(task.shard, sizes, _stacked(rows), len(task.photographs), left_out)


def _stacked(rows: Sequence[tuple[Any, ...]]) -> _Rows:
    frames, boxes, landmarks, kinds, faces, image_of = zip(*rows, strict=True) if rows else ((),) * 6
    return _Rows(
        np.array(frames, np.float32).reshape(-1, 4),
        np.array(boxes, np.float32).reshape(-1, 4),
        np.array(landmarks, np.float32).reshape(-1, 5, 2),
        np.array(kinds, np.int64),
        np.array(faces, np.int64),
        np.array(image_of, np.int64),
    )


def _cut_photograph(
    settings: CropSettings, photograph: _Photograph, pixels: np.ndarray
) -> Iterator[tuple[bytes | None, tuple[Any, ...]]]:
    """Encoded crop and row of its table, of each face, then of places without one; None for a box outside."""
    size_hw = (pixels.shape[0], pixels.shape[1])
    squares = square_frames(photograph.boxes_px, settings.padding)
    cases = zip(squares, photograph.boxes_px, photograph.landmarks_px, photograph.kinds, photograph.faces, strict=True)
    for square, box, landmarks, kind, face in cases:
        window = _window(square, settings.context, size_hw)
        if not _meets(box, np.array([[0, 0, *size_hw[::-1]]])):
            yield None, ()
            continue
        encoded, offset, scale = _encoded(pixels, window, settings)
        frame, inside = (
            (square - np.tile(offset, 2)) / np.tile(scale, 2),
            (box - np.tile(offset, 2)) / np.tile(scale, 2),
        )
        yield encoded, (frame, inside, (landmarks + 0.5 - offset) / scale, kind, face, photograph.image)
    for square in _background(settings, photograph, size_hw):
        encoded, offset, scale = _encoded(pixels, _window(square, settings.context, size_hw), settings)
        frame = (square - np.tile(offset, 2)) / np.tile(scale, 2)
        yield encoded, (frame, np.zeros(4), _NO_LANDMARKS, NO_FACE, -1, photograph.image)


def _window(square: np.ndarray, context: float, size_hw: tuple[int, int]) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of the whole pixels that are kept."""
    more = context * (square[2] - square[0])
    height, width = size_hw
    left, top = np.floor(square[:2] - more).astype(int).tolist()
    right, bottom = np.ceil(square[2:] + more).astype(int).tolist()
    return max(left, 0), max(top, 0), min(right, width), min(bottom, height)


def _encoded(
    pixels: np.ndarray, window: tuple[int, int, int, int], settings: CropSettings
) -> tuple[bytes, np.ndarray, np.ndarray]:
    """The JPEG of a window, (x, y) of its corner in the photograph and its (width, height) there."""
    left, top, right, bottom = window
    part = pixels[top:bottom, left:right]
    shrink = settings.max_side / max(part.shape[:2])
    if shrink < 1:
        size_wh = max(1, round(part.shape[1] * shrink)), max(1, round(part.shape[0] * shrink))
        part = cv2.resize(part, size_wh, interpolation=cv2.INTER_AREA)
    options = [cv2.IMWRITE_JPEG_QUALITY, settings.quality]
    encoded = cv2.imencode(".jpg", part[..., ::-1], options)[1].tobytes()
    return encoded, np.array([left, top], float), np.array([right - left, bottom - top], float)


def _background(settings: CropSettings, photograph: _Photograph, size_hw: tuple[int, int]) -> Iterator[np.ndarray]:
    """Squares that, with their context, have no part of a face. The same for a photograph whatever the others are."""
    if not settings.background_share:
        return
    rng = np.random.default_rng(np.random.SeedSequence((settings.seed, photograph.image)))
    count = int(settings.background_share * len(photograph.faces) + rng.random())
    smallest, largest = np.log(settings.background_side)
    height, width = size_hw
    for _ in range(count):
        for draws in rng.random((_TRIES, 3)):
            side = float(np.exp(smallest + (largest - smallest) * draws[0]))
            if side > min(height, width):
                continue
            corner = draws[1:] * (width - side, height - side)
            square = np.concatenate([corner, corner + side])
            if not _meets(np.array(_window(square, settings.context, size_hw)), photograph.avoid_px):
                yield square
                break


def _meets(box: np.ndarray, others: np.ndarray) -> bool:
    """Whether a box [4] overlaps one of others [., 4]."""
    return bool(((others[:, :2] < box[2:]) & (others[:, 2:] > box[:2])).all(axis=1).any())


def _write(annotations: FaceAnnotations, made: Path, settings: CropSettings, cuts: Sequence[_Cut]) -> None:
    rows = _Rows(*(np.concatenate(columns) for columns in zip(*(cut.rows for cut in cuts), strict=True)))
    if not len(rows.kinds):
        raise ValueError(f"{annotations.path}: no crop of its {len(annotations)} faces could be cut")
    labels = iter((rows.kinds != NO_FACE).astype(int).tolist())
    with RecordWriter(made, (settings.max_side, settings.max_side), header=False) as writer:
        for cut in cuts:
            with cut.shard.open("rb") as file:
                for size in cut.sizes:
                    writer.write(file.read(size), next(labels))
            cut.shard.unlink()
    np.savez(made / TABLE_FILE, images=np.array(annotations.images), **rows._asdict())
    left_out: dict[str, int] = dict(annotations.counts)
    for cut in cuts:
        for what, count in cut.left_out.items():
            left_out[what] = left_out.get(what, 0) + count
    stamp = {**_stamp_of(annotations, settings), "crops": len(rows.kinds), "left_out": left_out}
    write_text(made / STAMP_FILE, json.dumps(stamp, indent=2) + "\n")


def _stamp_of(annotations: FaceAnnotations, settings: CropSettings) -> dict[str, Any]:
    return {
        "made_by": _MADE_BY,
        "version": _VERSION,
        "labels": str(annotations.path),
        "annotations": annotations.digest,
        "settings": json.loads(json.dumps(asdict(settings))),
    }


def _read_stamp(folder: Path) -> dict[str, Any] | None:
    """What crops.json holds, if it is one of ours."""
    try:
        stamp = json.loads((folder / STAMP_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return stamp if isinstance(stamp, dict) and stamp.get("made_by") == _MADE_BY else None


def _differences(found: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
    if found.get("version") != wanted["version"]:
        return [f"version of this program ({found.get('version')} instead of {wanted['version']})"]
    different = []
    if found.get("annotations") != wanted["annotations"]:
        different.append(f"annotations (of {found.get('labels')})")
    kept = found.get("settings", {})
    for name, value in wanted["settings"].items():
        if kept.get(name) != value:
            different.append(f"{name} ({kept.get(name)} instead of {value})")
    return different


def _remove(folder: Path) -> None:
    """Only what `make_crops` writes; the stamp goes first, so that half a folder is none of crops."""
    names = (STAMP_FILE, TABLE_FILE, "train.rec", "train.idx", "property", LABEL_FILE)
    for name in names:
        (folder / name).unlink(missing_ok=True)
    folder.rmdir()
