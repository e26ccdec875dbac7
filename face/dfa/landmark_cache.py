"""The landmarks of every image of a training set, found once and kept in a table, by any number of processes.

The work is cut into blocks of neighbouring images. A block that is done is a file in a hidden folder beside the table
(hidden, or it would pass for an identity of the set), written whole; who did it does not matter, so that a run goes on
where another one, of another number of processes, was stopped. The table is written when all blocks are there.

Source: data_utils/recognition/training_data/predict_landmark.py of mk-minchul/CVLface@d3d09c9, whose padding ratio for
aligned training images is 0.215.
Deliberate differences: several processes, resuming, images that do not decode are named, and our table has the scores.

Coordinates: landmarks are (x, y) as fractions of the image as it is stored, without the padding.
Shape letters: n images of the set, m of a block.
"""

import json
import shutil
import time
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.distributed as dist

from common.runtime.distribution import gather_lists, share_problem, world_size
from common.runtime.files import whole_file, write_text
from common.runtime.log import RunLog
from common.runtime.progress import progress_bar
from common.runtime.run_folder import held_folder
from face.data.images import ImageError, resize_image
from face.data.landmarks import check_names, write_cvlface_landmarks, write_landmarks
from face.data.loading import DecodedBatch, load_batches
from face.data.sources import ImageSource
from face.dfa.aligner import FaceAligner
from face.dfa.predict import differences, find_landmarks, weights_checksum
from face.pictures import face_grid, write_sheet
from face.reference import REFERENCE_SIZE

__all__ = ["BLOCK", "CacheReport", "CacheSettings", "fill_landmark_cache", "parts_folder"]

BLOCK = 4096
"""Images of a block: some seconds on a GPU, and a minute on a core."""
_KEYS_LOOKED_AT = 10_000
_SHOWN, _LEAST_SURE = 24, 8


@dataclass(frozen=True, kw_only=True)
class CacheSettings:
    """How a table of landmarks is made. None of it changes what is found, but for rounding."""

    batch_size: int = 256
    """Images at a time, in each process."""

    num_workers: int = 4
    """Processes that decode images, beside each; 0: that one does."""

    cvlface: bool = False
    """CVLface's table, without scores, instead of ours. It needs the landmarks of all images."""

    picture: bool = True
    """Whether a picture of some images with their landmarks is drawn, beside the table."""

    block: int = BLOCK
    """Images of a part of the work."""

    def __post_init__(self) -> None:
        least = {"batch_size": 1, "num_workers": 0, "block": 1}
        wrong = [
            f"{name} must be >= {low}, got {getattr(self, name)}"
            for name, low in least.items()
            if getattr(self, name) < low
        ]
        if wrong:
            raise ValueError("; ".join(wrong))


class CacheReport(NamedTuple):
    """What was found."""

    images: int
    missing: list[str]
    """What the error said of each image that does not decode; it has no row in the table."""
    degenerate: int
    """Images whose landmarks would give no alignment."""
    seconds: float
    """Of this run; what earlier ones had done took it none."""


class _Part(NamedTuple):
    """What was found in a block."""

    points: np.ndarray
    """[m, 5, 2] float32, NaN for an image that does not decode."""
    scores: np.ndarray
    """[m] float32."""
    valid: np.ndarray
    """[m] bool."""
    places: np.ndarray
    """[k] int64, in the block, of the images that do not decode,"""
    errors: np.ndarray
    """[k] str, and what the errors said."""


def parts_folder(out: Path) -> Path:
    """Where blocks that are done stand until the table `out` is written."""
    return out.with_name(f".{out.name}.parts")


def fill_landmark_cache(
    source: ImageSource,
    out: str | Path,
    aligner: FaceAligner,
    settings: CacheSettings,
    device: torch.device | str = "cpu",
    log: RunLog | None = None,
) -> CacheReport:
    """Find the landmarks of all images of a set and write the table of them, whole or not at all.

    Where processes share a run, all of them must call this; on several machines `out` must be a path that all see.
    A run that ends early leaves its finished blocks, and the same call goes on from there.

    Args:
        source: the images.
        out: CSV file to write. Beside it there will be `<out>.json` (how it was made), `<out>.missing.txt` if images do
            not decode, and a picture.
        aligner: on `device`, for inference.
        settings: see `CacheSettings`.
        device: of the aligner.
        log: of the first process.

    Raises:
        FileExistsError: `out` is there.
        ValueError: blocks that were begun with other images, weights or padding; another run that works on them;
            damaged records; images that do not decode where the table needs all.
        OSError: something cannot be read or written. All processes raise what one meets.
    """
    run = _Run(source, Path(out), aligner, settings, torch.device(device), log)
    return run.run()


class _Run:
    def __init__(
        self,
        source: ImageSource,
        out: Path,
        aligner: FaceAligner,
        settings: CacheSettings,
        device: torch.device,
        log: RunLog | None,
    ) -> None:
        self._source, self._out, self._aligner = source, out, aligner
        self._settings, self._device, self._log = settings, device, log
        self._parts = parts_folder(out)
        self._world = world_size()
        self._rank = dist.get_rank() if self._world > 1 else 0
        self._count = -(-len(source) // settings.block)

    def run(self) -> CacheReport:
        began = time.perf_counter()
        identity: dict[str, object] = {}
        problem: Exception | None = None
        try:
            identity = self._identity()
            if self._rank == 0:
                self._check_place()
        except (ValueError, OSError) as error:
            problem = error
        share_problem(problem)
        for rank, other in enumerate(gather_lists([identity])):
            if other != identity:
                raise ValueError(f"process {rank} has {differences(identity, other)}: are all given the same?")
        with _held_by_first(self._parts, self._rank):
            remaining = self._plan(identity)
            self._work(remaining)
            report: CacheReport | None = None
            try:
                if self._rank == 0:
                    report = self._finish(identity, began)
            except (ValueError, OSError) as error:
                problem = error
            share_problem(problem)
        if self._rank == 0:
            shutil.rmtree(self._parts, ignore_errors=True)
        (shared,) = gather_lists([report] if report is not None else [])
        return shared

    def _identity(self) -> dict[str, object]:
        """What blocks of different runs must have in common to be of one table."""
        source = self._source
        looked_at = np.unique(np.linspace(0, len(source) - 1, min(_KEYS_LOOKED_AT, len(source))).astype(np.int64))
        keys = "\n".join(source.key_of(int(index)) for index in looked_at)
        return {
            "images": len(source),
            "labels_crc32": zlib.crc32(np.ascontiguousarray(source.labels, np.int64).tobytes()),
            "names_crc32": zlib.crc32(keys.encode("utf-8", "surrogateescape")),
            "weights_crc32": weights_checksum(self._aligner.network),
            "block": self._settings.block,
            "aligner": {key: value for key, value in asdict(self._aligner.settings).items() if key != "out_hw"},
        }

    def _check_place(self) -> None:
        if self._out.exists():
            raise FileExistsError(f"{self._out}: exists already; remove it, or write another file")
        if not self._out.parent.is_dir():
            raise FileNotFoundError(f"{self._out.parent}: no such folder")
        if not self._settings.cvlface:
            check_names((self._source.key_of(index) for index in range(len(self._source))), f"{self._source.root}: ")

    def _plan(self, identity: dict[str, object]) -> list[int]:
        """The blocks that are not done, as the first process sees them."""
        problem: Exception | None = None
        remaining: list[int] = []
        if self._rank == 0:
            try:
                self._take_over(identity)
                remaining = [block for block in range(self._count) if not zipfile.is_zipfile(self._path(block))]
                done = self._count - len(remaining)
                if done and self._log is not None:
                    self._log.log_info(f"{done} of {self._count} blocks are done already")
            except (ValueError, OSError) as error:
                problem = error
        share_problem(problem)
        return gather_lists(remaining)

    def _take_over(self, identity: dict[str, object]) -> None:
        path = self._parts / "run.json"
        for stale in self._parts.glob(".*.tmp"):
            stale.unlink()
        if not path.is_file():
            write_text(path, json.dumps(identity, indent=1) + "\n")
            return
        begun = json.loads(path.read_text())
        mine = json.loads(json.dumps(identity))
        if begun != mine:
            raise ValueError(
                f"{self._parts}: what is there was begun with {differences(mine, begun)}; remove it to begin anew"
            )

    def _path(self, block: int) -> Path:
        return self._parts / f"{block:07d}.npz"

    def _range(self, block: int) -> range:
        return range(block * self._settings.block, min((block + 1) * self._settings.block, len(self._source)))

    def _work(self, remaining: list[int]) -> None:
        """Blocks in turn, one for each process in a round, after which an error of one is known to all."""
        mine, size = remaining[self._rank :: self._world], self._settings.batch_size
        batches = [
            images[begin : begin + size] for images in map(self._range, mine) for begin in range(0, len(images), size)
        ]
        pin_memory = self._device.type == "cuda"
        loader = iter(load_batches(self._source.read, batches, self._settings.num_workers, pin_memory))
        total = sum(len(self._range(block)) for block in remaining)
        with progress_bar(total=total, desc="Landmarks", unit="image", disable=self._rank > 0) as bar:
            for turn in range(-(-len(remaining) // self._world)):
                problem: Exception | None = None
                done = 0
                if turn < len(mine):
                    try:
                        done = self._do_block(mine[turn], loader, bar)
                    except (ValueError, OSError) as error:
                        problem = error
                share_problem(problem)
                bar.update(sum(gather_lists([done])) - done)

    def _do_block(self, block: int, batches: Iterator[DecodedBatch], bar: Any) -> int:
        images = self._range(block)
        count = len(images)
        points, scores = np.full((count, 5, 2), np.nan, np.float32), np.zeros(count, np.float32)
        valid = np.zeros(count, bool)
        errors: dict[int, str] = {}
        done = 0
        while done < count:
            batch = next(batches)
            for place, error in batch.errors.items():
                if not isinstance(error, ImageError):
                    raise error
                errors[done + place] = str(error)
            for places, found in find_landmarks(self._aligner, batch, self._device):
                points[done + places] = found.landmarks.cpu().numpy()
                scores[done + places] = found.score.clamp(0, 1).cpu().numpy()
                valid[done + places] = found.valid.cpu().numpy()
            done += len(batch.indices)
            bar.update(len(batch.indices))
        part = _Part(points, scores, valid, np.array(list(errors), np.int64), np.array(list(errors.values()), str))
        with whole_file(self._path(block)) as partial, partial.open("wb") as file:
            np.savez(file, **part._asdict())
        return count

    def _finish(self, identity: dict[str, object], began: float) -> CacheReport:
        """All parts to the table."""
        n, parts = len(self._source), []
        for block in range(self._count):
            try:
                with np.load(self._path(block), allow_pickle=False) as content:
                    parts.append(_Part(**{name: content[name] for name in _Part._fields}))
            except (zipfile.BadZipFile, zlib.error, KeyError, EOFError, ValueError) as error:
                raise ValueError(f"{self._path(block)}: damaged ({error}); remove it and run again") from error
        places = [int(place) for block, part in enumerate(parts) for place in part.places + self._range(block).start]
        errors = [str(error) for part in parts for error in part.errors]
        points, scores, valid = (
            np.concatenate([getattr(part, name) for part in parts]) for name in ("points", "scores", "valid")
        )
        found = np.ones(n, bool)
        found[places] = False
        if not found.any():
            raise ValueError(f"{self._source.root}: none of its {n} images decodes, the first: {errors[0]}")
        if self._settings.cvlface and places:
            for block, part in enumerate(parts):
                if len(part.places):  # looked at anew, should the images have been mended
                    self._path(block).unlink()
            raise ValueError(
                f"{self._out}: CVLface's table needs all images, {len(places)} of {n} do not decode, first: "
                f"{errors[0]}; mend them, or run without --cvlface: what was found is kept"
            )
        report = CacheReport(n, errors, int((~valid & found).sum()), time.perf_counter() - began)
        if errors:
            write_text(self._out.with_name(f"{self._out.name}.missing.txt"), "".join(f"{line}\n" for line in errors))
        origin = getattr(self._aligner.network, "origin", None)
        record = {
            "made_by": "python -m face.landmarks",
            "source": str(self._source.root),
            "weights": getattr(origin, "source", None),
            **identity,
            "missing": len(errors),
            "degenerate": report.degenerate,
        }
        write_text(self._out.with_name(f"{self._out.name}.json"), json.dumps(record, indent=1) + "\n")
        if self._settings.picture:
            self._draw(points, scores, np.flatnonzero(found))
        # Last: where there is a table, all else is there too.
        if self._settings.cvlface:
            write_cvlface_landmarks(self._out, points)
        else:
            names = [self._source.key_of(int(index)) for index in np.flatnonzero(found)]
            write_landmarks(self._out, names, points[found], scores[found])
        return report

    def _draw(self, points: np.ndarray, scores: np.ndarray, found: np.ndarray) -> None:
        """Images from all over the set, and below them those of the lowest scores."""
        spread = found[np.linspace(0, len(found) - 1, min(_SHOWN, len(found))).astype(int)]
        doubtful = found[np.argsort(scores[found], kind="stable")[:_LEAST_SURE]]
        sheets = []
        for chosen in (spread, doubtful):
            images = [resize_image(self._source.read(int(i)), (REFERENCE_SIZE, REFERENCE_SIZE)) for i in chosen]
            blank = -len(images) % _LEAST_SURE
            tiles = np.stack(images + [np.full_like(images[0], 255)] * blank)
            marks = np.concatenate([points[chosen], np.full((blank, 5, 2), np.nan, np.float32)])
            sheets.append(face_grid(tiles, marks, columns=_LEAST_SURE))
        write_sheet(np.concatenate(sheets), self._out.with_name(f"{self._out.name}.png"))


@contextmanager
def _held_by_first(folder: Path, rank: int) -> Iterator[None]:
    """The first process holds a folder; that it cannot is everybody's error."""
    with ExitStack() as stack:
        problem: Exception | None = None
        try:
            if rank == 0:
                stack.enter_context(held_folder(folder))
        except (ValueError, OSError) as error:
            problem = error
        share_problem(problem)
        yield
