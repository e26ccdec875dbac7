"""Faces of a folder aligned into another one, which is then a source of images for training.

    out/<path of the image>.png     aligned images, in the tree that they came in
    out/landmarks.csv               landmarks of the aligned images, fractions of them, with the aligner's score
    out/report.csv                  every image that was given: what became of it, score, landmarks in fractions of the
                                    image as it came, and why it was not aligned
    out/.align/                     only until all is done: what the run was begun with, and a line for each image that
                                    is done, by which the same call goes on after an interruption

A line is written when its image is there whole. What follows the last whole line is dropped, and made again.

Quality: alignment samples the image as it came, in its own size; where that shrinks it, several times for each pixel,
as one bilinear sample would pass over pixels and alias.

Coordinates: landmarks are (x, y) as fractions of the image that they belong to.
Shape letters: b images of one size, h x w pixels.
"""

import csv
import json
import shutil
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import cv2
import numpy as np
import torch
from torch import Tensor

from common.runtime.files import whole_file, write_bytes, write_text
from common.runtime.progress import progress_bar
from common.runtime.run_folder import held_folder
from face.alignment import Alignment, align_faces, warp_images
from face.data.landmarks import Landmarks, check_names, write_landmarks
from face.data.loading import SizedImages, load_batches
from face.dfa.image_files import ImageFiles
from face.dfa.predict import differences
from face.models.base import pixels_to_input
from face.pictures import draw_landmarks
from face.reference import REFERENCE_SIZE

__all__ = [
    "AlignFileSettings",
    "AlignReport",
    "FindLandmarks",
    "Format",
    "Status",
    "align_files",
    "given_landmarks",
    "table_checksum",
]

STATE, REPORT, LANDMARKS = ".align", "report.csv", "landmarks.csv"
Format = Literal["png", "jpg", "same"]
Status = Literal["aligned", "degenerate", "low score", "no landmarks", "unreadable"]

FindLandmarks = Callable[[Tensor, np.ndarray], tuple[Tensor, Tensor]]
"""From images [b, 3, h, w] in [-1, 1] and their numbers [b] to landmarks [b, 5, 2] (NaN where there are none) and
scores [b]."""

_MOST_SAMPLES = 32
_OVERLAY_HEIGHT, _OVERLAY_SCALE = 160, 2
_OVERLAY_WIDTH = 1600  # JPEG has a limit


@dataclass(frozen=True, kw_only=True)
class AlignFileSettings:
    """What is made of the images."""

    size: int = REFERENCE_SIZE
    """Height and width of aligned images."""

    format: Format = "png"
    """Of aligned images; "same" takes that of the image."""

    quality: int = 95
    """Of JPEG and WebP."""

    min_score: float = 0.0
    """Images of a lower score are reported instead of aligned."""

    batch_size: int = 64
    """Images at a time. Only those of one size go through the network together."""

    num_workers: int = 4
    """Processes that decode images; 0: this one does."""

    overlays: Path | None = None
    """Folder for a picture of each image with its landmarks beside what it became."""

    def __post_init__(self) -> None:
        wrong = []
        for name, low, high in (("size", 8, 4096), ("quality", 1, 100), ("min_score", 0, 1)):
            if not low <= getattr(self, name) <= high:
                wrong.append(f"{name} must be from {low} to {high}, got {getattr(self, name)}")
        if self.format not in get_args(Format):
            wrong.append(f"format must be png, jpg or same, got {self.format!r}")
        if self.batch_size < 1 or self.num_workers < 0:
            wrong.append(f"batch_size must be >= 1 and num_workers >= 0, got {self.batch_size} and {self.num_workers}")
        if wrong:
            raise ValueError("; ".join(wrong))


class AlignReport(NamedTuple):
    """What became of the images."""

    counts: dict[Status, int]
    """By status, those that came up."""
    examples: dict[Status, list[str]]
    """The first names of each, with the reason."""

    @property
    def aligned(self) -> int:
        """Images that were aligned."""
        return self.counts.get("aligned", 0)


@dataclass(frozen=True, kw_only=True)
class _Row:
    """An image that is done."""

    image: str
    status: Status
    score: float | None = None
    landmarks: list[float] = field(default_factory=list)
    """10 numbers, fractions of the image as it came."""
    aligned: list[float] = field(default_factory=list)
    """10 numbers, fractions of the aligned image."""
    why: str = ""


def given_landmarks(landmarks: Landmarks) -> FindLandmarks:
    """Landmarks from a table in the place of a network."""

    def find(images: Tensor, indices: np.ndarray) -> tuple[Tensor, Tensor]:
        chosen = landmarks.take(indices)
        return torch.from_numpy(chosen.points).to(images), torch.from_numpy(chosen.scores).to(images)

    return find


def table_checksum(landmarks: Landmarks) -> int:
    """CRC-32 of points and scores: tables of different landmarks differ in it."""
    return zlib.crc32(landmarks.scores.tobytes(), zlib.crc32(landmarks.points.tobytes()))


def align_files(
    images: ImageFiles,
    out: str | Path,
    find: FindLandmarks,
    origin: dict[str, object],
    settings: AlignFileSettings,
    device: torch.device | str = "cpu",
) -> AlignReport:
    """Align images into a folder.

    Args:
        images: any sizes.
        out: new or empty folder, or one that an interrupted call of the same arguments left; not within the folder
            whose images are aligned.
        find: landmarks of the images.
        origin: what `find` goes by, as JSON: a run that goes on must have the same.
        settings: see `AlignFileSettings`.
        device: that images are aligned on and `find` is given them on.

    Raises:
        FileExistsError: `out`, or the folder for overlays, holds something else.
        ValueError: `out` in a place where it would be in the way; two images that would have one name; a name or
            landmarks that no table may have; what an interrupted run was begun with is not what is asked for, or it is
            still going.
        OSError: something cannot be written.
    """
    out = Path(out)
    for folder in (out, settings.overlays):
        if folder is not None and images.whole:
            _check_apart(folder, images.root)
    if settings.overlays is not None:
        _check_apart(settings.overlays, out)
    names = _out_names(images.names, settings.format)
    state = out / STATE
    _check_place(out, state)
    with held_folder(state):
        run = _Run(images, names, out, find, settings, torch.device(device))
        run.take_over({**origin, **_identity(images, settings)})
        run.work()
        report = run.finish()
    shutil.rmtree(state)
    return report


def _check_apart(folder: Path, other: Path) -> None:
    inner, outer = folder.resolve(), other.resolve()
    if inner == outer or outer in inner.parents:
        raise ValueError(f"{folder}: lies in {other}, which holds images of its own; give a folder apart from it")


def _check_place(out: Path, state: Path) -> None:
    if out.exists() and not out.is_dir():
        raise FileExistsError(f"{out}: expected a folder, found a file")
    if not out.is_dir() or state.is_dir():
        return
    found = next(out.iterdir(), None)
    if (out / REPORT).is_file():
        raise FileExistsError(f"{out}: holds aligned images already, see {out / REPORT}; give a new folder")
    if found is not None:
        raise FileExistsError(f"{out}: expected a new or empty folder, or an interrupted run, found {found.name} in it")


def _identity(images: ImageFiles, settings: AlignFileSettings) -> dict[str, object]:
    kept = {name: value for name, value in asdict(settings).items() if name not in ("batch_size", "num_workers")}
    kept["overlays"] = None if settings.overlays is None else str(settings.overlays.resolve())
    return {"images": str(images.root.resolve()), **kept}


def _out_names(names: Sequence[str], kind: Format) -> list[str]:
    check_names(names)
    if kind == "same":
        return list(names)
    made = [f"{name.rpartition('.')[0]}.{kind}" for name in names]
    name, times = Counter(made).most_common(1)[0]
    if times > 1:
        both = [given for given, result in zip(names, made, strict=True) if result == name]
        raise ValueError(f"{' and '.join(both[:3])} would both become {name}; use --format same")
    return made


class _Run:
    def __init__(
        self,
        images: ImageFiles,
        out_names: list[str],
        out: Path,
        find: FindLandmarks,
        settings: AlignFileSettings,
        device: torch.device,
    ) -> None:
        self._images, self._out_names, self._out = images, out_names, out
        self._find, self._settings, self._device = find, settings, device
        self._lines = out / STATE / "done.jsonl"
        self._rows: dict[str, _Row] = {}

    def take_over(self, identity: dict[str, object]) -> None:
        """What an earlier run has done, if it was of the same kind."""
        path = self._out / STATE / "run.json"
        mine = json.loads(json.dumps(identity))
        overlays = self._settings.overlays
        if not path.is_file():
            if overlays is not None and overlays.exists() and (not overlays.is_dir() or any(overlays.iterdir())):
                raise FileExistsError(f"{overlays}: expected a new or empty folder for overlays")
            write_text(path, json.dumps(identity, indent=1) + "\n")
            return
        begun = json.loads(path.read_text())
        if begun != mine:
            raise ValueError(
                f"{self._out}: what is there was begun with {differences(mine, begun)}; give the same or another folder"
            )
        for stale in self._out.rglob(".*.tmp"):
            stale.unlink()
        if not self._lines.is_file():
            return
        content = self._lines.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if len(whole) < len(content):
            with self._lines.open("r+b") as file:
                file.truncate(len(whole))
        targets = dict(zip(self._images.names, self._out_names, strict=True))
        for line in whole.decode("utf-8").splitlines():
            row = _Row(**json.loads(line))
            # Without its file an image is made again; one that is gone from the input is none of this run's.
            if row.image in targets and (row.status != "aligned" or (self._out / targets[row.image]).is_file()):
                self._rows[row.image] = row

    def work(self) -> None:
        """All images that are not done."""
        settings = self._settings
        ahead = [index for index, name in enumerate(self._images.names) if name not in self._rows]
        batches = [ahead[begin : begin + settings.batch_size] for begin in range(0, len(ahead), settings.batch_size)]
        loader = load_batches(self._images.read, batches, settings.num_workers)
        with (
            progress_bar(total=len(self._images), initial=len(self._rows), desc="Aligning", unit="image") as bar,
            self._lines.open("a", encoding="utf-8", newline="\n") as lines,
            ThreadPoolExecutor(4) as pool,
        ):
            for batch in loader:
                rows = [
                    _Row(image=self._images.names[batch.indices[place]], status="unreadable", why=str(error))
                    for place, error in batch.errors.items()
                ]
                for group in batch.groups:
                    rows += self._align(group, batch.indices[group.places], pool)
                lines.writelines(json.dumps(asdict(row)) + "\n" for row in rows)
                lines.flush()
                self._rows.update((row.image, row) for row in rows)
                bar.update(len(rows))

    def _align(self, group: SizedImages, indices: np.ndarray, pool: ThreadPoolExecutor) -> list[_Row]:
        settings = self._settings
        images = pixels_to_input(torch.as_tensor(group.pixels), self._device)
        with torch.inference_mode():
            landmarks, scores = self._find(images, indices)
            made = _align_sharply(images, landmarks, settings.size)
            pixels = made.images.add(1).mul(127.5).round().clamp(0, 255).byte().permute(0, 2, 3, 1).cpu().numpy()
        points, aligned = landmarks.float().cpu().numpy(), made.landmarks.float().cpu().numpy()
        valid, sure = made.valid.cpu().numpy(), scores.float().clamp(0, 1).cpu().numpy()

        def write(place: int) -> _Row:
            name, score = self._images.names[indices[place]], round(float(sure[place]), 6)
            found = {"image": name, "score": score, "landmarks": _numbers(points[place])}
            if not np.isfinite(points[place]).all():
                return _Row(image=name, status="no landmarks", why="there are none of this image")
            if score < settings.min_score:
                return _Row(**found, status="low score", why=f"below {settings.min_score:g}")
            if not valid[place]:
                return _Row(**found, status="degenerate", why="these landmarks give no alignment")
            self._write_image(int(indices[place]), pixels[place])
            if settings.overlays is not None:
                original = torch.as_tensor(group.pixels[place]).permute(1, 2, 0).numpy()
                self._write_overlay(int(indices[place]), original, points[place], pixels[place], aligned[place])
            return _Row(**found, status="aligned", aligned=_numbers(aligned[place]))

        return list(pool.map(write, range(len(indices))))

    def _write_image(self, index: int, image: np.ndarray) -> None:
        path = self._out / self._out_names[index]
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, _encode(image, path.suffix.lower(), self._settings.quality))

    def _write_overlay(
        self, index: int, image: np.ndarray, points: np.ndarray, made: np.ndarray, aligned: np.ndarray
    ) -> None:
        """Both at the same height (a strip is squeezed), landmarks drawn after the resizing."""
        assert self._settings.overlays is not None
        path = (self._settings.overlays / self._images.names[index]).with_suffix(".jpg")
        if self._settings.format == "same":  # or a.jpg and a.png would have one picture
            path = path.with_name(f"{Path(self._images.names[index]).name}.jpg")
        path.parent.mkdir(parents=True, exist_ok=True)
        tiles = []
        for pixels, marks in ((image, points), (made, aligned)):
            width = round(pixels.shape[1] * _OVERLAY_HEIGHT / pixels.shape[0])
            width = min(max(width, 1), _OVERLAY_WIDTH)
            how = cv2.INTER_AREA if pixels.shape[0] > _OVERLAY_HEIGHT else cv2.INTER_LINEAR
            tiles.append(
                draw_landmarks(cv2.resize(pixels, (width, _OVERLAY_HEIGHT), interpolation=how), marks, _OVERLAY_SCALE)
            )
        write_bytes(path, _encode(np.concatenate(tiles, axis=1), ".jpg", 90))

    def finish(self) -> AlignReport:
        """The two tables."""
        rows = [self._rows[name] for name in self._images.names]
        done = [(name, row) for name, row in zip(self._out_names, rows, strict=True) if row.status == "aligned"]
        if done:
            points = np.array([row.aligned for _, row in done], np.float32).reshape(-1, 5, 2)
            scores = np.array([row.score for _, row in done], np.float32)
            write_landmarks(self._out / LANDMARKS, [name for name, _ in done], points, scores)
        with (
            whole_file(self._out / REPORT) as partial,
            partial.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file,
        ):
            table = csv.writer(file, lineterminator="\n")
            table.writerow(
                ["image", "status", "score", *(f"{axis}{point}" for point in range(5) for axis in "xy"), "why"]
            )
            for row in rows:
                score = "" if row.score is None else f"{row.score:.6f}"
                numbers = [f"{value:.6f}" for value in row.landmarks] or [""] * 10
                table.writerow([row.image, row.status, score, *numbers, row.why])
        examples: dict[Status, list[str]] = {}
        for row in rows:
            if row.status != "aligned" and len(examples.setdefault(row.status, [])) < 3:
                examples[row.status].append(row.why if row.status == "unreadable" else row.image)
        return AlignReport(dict(Counter(row.status for row in rows)), examples)


def _numbers(points: np.ndarray) -> list[float]:
    return [round(float(value), 6) for value in points.reshape(-1)]


def _encode(image: np.ndarray, suffix: str, quality: int) -> bytes:
    options = {
        ".jpg": [cv2.IMWRITE_JPEG_QUALITY, quality],
        ".jpeg": [cv2.IMWRITE_JPEG_QUALITY, quality],
        ".webp": [cv2.IMWRITE_WEBP_QUALITY, quality],
        ".png": [cv2.IMWRITE_PNG_COMPRESSION, 1],  # a tenth larger than the default, and several times as fast
    }
    return cv2.imencode(suffix, cv2.cvtColor(image, cv2.COLOR_RGB2BGR), options.get(suffix, []))[1].tobytes()


def _align_sharply(images: Tensor, landmarks: Tensor, size: int) -> Alignment:
    """Align images of one size; where they shrink, pixels are means of as many samples along each axis as it takes."""
    made = align_faces(images, landmarks, (size, size))
    shrinks = torch.linalg.vector_norm(made.matrix[:, :2, 0], dim=1).clamp(min=1e-3).reciprocal()
    samples = torch.where(made.valid, shrinks, 1).round().clamp(1, _MOST_SAMPLES).long()
    for count in samples[samples > 1].unique().tolist():
        chosen = torch.nonzero(samples == count).flatten()
        matrix = made.matrix[chosen]
        made.images[chosen] = warp_images(images[chosen], matrix, (size, size), fill=-1.0, supersample=count)
    return made
