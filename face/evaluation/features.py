"""Features of an evaluation set's images: in memory, or in a folder on disk, where later runs find them.

    folder/<key>/embeddings.npy             [n, E] float32, read as a memory map
    folder/<key>/landmarks.npy, scores.npy, valid.npy   where the pipeline finds landmarks
    folder/<key>/features.json              what the key is made of, see `feature_keys`
    folder/.<key>.partial/                  the same while it is made

A run that ends early leaves what it has done, and the next one with the same key goes on from there, whatever its
number of processes. Batches are the same stretches of the list for any number of processes: with one batch size the
numbers are those of one process to the bit, with others the same but for rounding.

Shape letters: n images, E embedding channels.
"""

import itertools
import json
import os
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
import torch.distributed as dist
from numpy.lib.format import open_memmap

from common.runtime.distribution import Precision, gather_lists, share_problem, world_size
from common.runtime.files import whole_file, write_text
from common.runtime.progress import progress_bar
from common.runtime.run_folder import held_folder
from face.data.landmarks import Landmarks
from face.evaluation.embed import EmbeddedBatch, embed_batches, embed_parts, image_keypoints, stretches
from face.evaluation.feature_keys import features_key
from face.evaluation.images import ImageList
from face.evaluation.inputs import KeypointInputs, MissingLandmarks
from face.evaluation.processes import in_first_process
from face.models.base import FaceModel
from face.pipelines import RecognitionPipeline

__all__ = ["BLOCK", "Features", "cached_features", "check_cache_folder"]

BLOCK = 4096
"""Images after which a process makes sure that what it has done is on the disk."""

_RECORD = "features.json"
_ARRAYS = {"embeddings": "values", "landmarks": "placed", "scores": "scores", "valid": "valid"}


@dataclass(frozen=True, kw_only=True, eq=False)
class Features:
    """What a network made of n images, and where it had their landmarks."""

    embeddings: np.ndarray
    """[n, E] float32, not normalised; with the flip test the sum of two. From a folder: a read-only memory map."""

    landmarks: np.ndarray | None
    """[n, 5, 2] float32, fractions of what the MODEL got (the aligned image where one was made), which eq. 17 of the
    paper compares with the template; NaN where a table has none. None where nobody knows any."""

    scores: np.ndarray | None
    """[n] float32: of the aligner where the pipeline has one, else those that came with the landmarks; None where
    there are none."""

    valid: np.ndarray | None
    """[n] bool: with an aligner, whether its landmarks give an alignment; else whether there are landmarks."""

    without_landmarks: int
    """Images that had none; 0 for a network that needs no keypoints."""

    degenerate: int
    """Images whose landmarks give no alignment; 0 without an aligner."""

    reused: bool
    """Whether all was read from the folder."""


def cached_features(
    model: FaceModel | RecognitionPipeline,
    images: ImageList,
    landmarks: Landmarks | None = None,
    folder: str | Path | None = None,
    *,
    batch_size: int = 64,
    device: torch.device | str = "cpu",
    flip_test: bool = True,
    precision: Precision = "fp32",
    missing_landmarks: MissingLandmarks = "error",
    num_workers: int = 0,
    progress: str | None = None,
) -> Features:
    """Embed images as `embed_images` does, or take what an earlier run left in `folder`.

    Sets and models can share a folder: each has a folder of its own in it. Embeddings go to the disk batch by batch, so
    that memory stays at a batch, however many images there are. Where processes share a run, all of them must call
    this, `folder` must be one that all see, and all get the whole.

    Args:
        model: see `embed_images`, as are all that are not named here.
        images: n.
        landmarks: of the images; of `UnalignedImages` None takes those that come with each image.
        folder: made if missing; None keeps everything in memory.
        batch_size: images of a forward pass.
        device: of the model.
        flip_test: whether the embedding of the mirrored image is added.
        precision: of what autocast covers.
        missing_landmarks: what becomes of images without, if the model needs keypoints.
        num_workers: processes that decode images.
        progress: title of a progress bar, or None for no bar.

    Raises:
        ImageError, ValueError: as `embed_images`; also NaN or infinity (images are named), features on the disk that
            are damaged, another run that makes the same ones just now, or a folder that not all processes see.
        OSError: the folder cannot be written, or an image cannot be read. All processes raise what one meets.
    """
    pipeline = model if isinstance(model, RecognitionPipeline) else RecognitionPipeline(model)
    keypoints = image_keypoints(pipeline, images, landmarks, missing_landmarks)
    how: dict[str, Any] = {
        "device": device,
        "flip_test": flip_test,
        "precision": precision,
        "num_workers": num_workers,
    }
    if folder is None:
        parts = embed_parts(pipeline, images, keypoints, batch_size=batch_size, progress=progress, **how)
        arrays = {name: getattr(parts, field) for name, field in _ARRAYS.items()}
        return _features(arrays, keypoints, landmarks, pipeline, reused=False)
    batches = stretches(len(images), batch_size)
    key, identity = in_first_process(
        lambda: _identify(Path(folder), pipeline, images, keypoints, flip_test=flip_test, precision=precision)
    )
    whole = Path(folder) / key
    reused = in_first_process(lambda: (whole / _RECORD).is_file())
    if not reused:
        _Extraction(pipeline, images, keypoints, whole, identity, progress).run(batches, how)
    return _features(_read(whole, len(images)), keypoints, landmarks, pipeline, reused)


def check_cache_folder(folder: str | Path) -> None:
    """Find out whether features can be kept in a folder, which is made if missing.

    Raises:
        OSError: they cannot; the folder is named.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        trial = folder / f".writable.{uuid.uuid4().hex}"
        trial.touch()
        trial.unlink()
    except OSError as error:
        raise OSError(f"{folder}: features cannot be kept there ({error.strerror or error})") from error


def _identify(folder: Path, *arguments: Any, **options: Any) -> tuple[str, dict[str, Any]]:
    check_cache_folder(folder)
    key, identity = features_key(*arguments, **options)
    if (folder / key).exists() and not (folder / key / _RECORD).is_file():
        raise ValueError(f"{folder / key}: damaged features, without {_RECORD}; remove the folder to make them again")
    return key, identity


def _features(
    arrays: dict[str, np.ndarray | None],
    keypoints: KeypointInputs | None,
    landmarks: Landmarks | None,
    pipeline: RecognitionPipeline,
    reused: bool,
) -> Features:
    embeddings, points, scores, valid = (arrays[name] for name in _ARRAYS)
    assert embeddings is not None
    degenerate = 0 if valid is None else int((~valid).sum())
    if pipeline.aligner is None and landmarks is not None:
        points, scores, valid = landmarks.points, landmarks.scores, landmarks.found
    elif pipeline.aligner is None and points is not None:
        valid = np.ones(len(points), bool)
    return Features(
        embeddings=embeddings,
        landmarks=points,
        scores=scores,
        valid=valid,
        without_landmarks=0 if keypoints is None else keypoints.without_landmarks,
        degenerate=degenerate,
        reused=reused,
    )


def _read(folder: Path, count: int) -> dict[str, np.ndarray | None]:
    """The arrays of a whole folder; the small ones in memory."""
    arrays: dict[str, np.ndarray | None] = dict.fromkeys(_ARRAYS)
    try:
        for name in json.loads((folder / _RECORD).read_text())["arrays"]:
            arrays[name] = np.load(folder / f"{name}.npy", mmap_mode="r" if name == "embeddings" else None)
        embeddings = arrays["embeddings"]
        if embeddings is None or any(array is not None and len(array) != count for array in arrays.values()):
            raise ValueError(f"not features of {count} images")
    except (ValueError, KeyError, TypeError, EOFError, FileNotFoundError) as error:
        raise ValueError(f"{folder}: damaged features ({error}); remove the folder to make them again") from error
    return arrays


class _Extraction:
    """Features of images on their way to the disk."""

    def __init__(
        self,
        pipeline: RecognitionPipeline,
        images: ImageList,
        keypoints: KeypointInputs | None,
        whole: Path,
        identity: dict[str, Any],
        progress: str | None,
    ) -> None:
        self._pipeline, self._images, self._keypoints = pipeline, images, keypoints
        self._whole, self._identity, self._progress = whole, identity, progress
        self._partial = whole.with_name(f".{whole.name}.partial")
        self._rank = dist.get_rank() if world_size() > 1 else 0

    def run(self, batches: list[np.ndarray], how: dict[str, Any]) -> None:
        with self._held():
            if in_first_process(lambda: (self._whole / _RECORD).is_file()):
                return  # another run was quicker
            done = in_first_process(self._done)
            remaining = [batch for batch in batches if not done[batch].all()]
            mine = remaining[self._rank :: world_size()]
            with closing(embed_batches(self._pipeline, self._images, self._keypoints, mine, **how)) as embedded:
                self._write(embedded, int(done.sum()))
            in_first_process(self._finish)

    @contextmanager
    def _held(self) -> Iterator[None]:
        """The first process holds the folder; that it cannot is everybody's error."""
        with ExitStack() as stack:
            in_first_process(lambda: self._partial.mkdir(exist_ok=True))
            in_first_process(lambda: stack.enter_context(held_folder(self._partial)))
            seen = gather_lists([self._partial.is_dir()])
            if not all(seen):
                raise ValueError(
                    f"{self._whole.parent}: process {seen.index(False)} does not see what the first one makes there; "
                    "features must be kept on a disk that all processes share"
                )
            yield

    def _done(self) -> np.ndarray:
        """[n] bool: which images an earlier run has embedded."""
        done = np.zeros(len(self._images), bool)
        for stale in self._partial.glob(".*.tmp"):
            stale.unlink()
        for path in self._partial.glob("done.*.txt"):
            for line in path.read_text().splitlines(keepends=True):
                begin, _, end = line.partition(" ")
                if line.endswith("\n"):  # else it was cut off
                    done[int(begin) : int(end)] = True
        return done

    def _write(self, embedded: Iterator[EmbeddedBatch], before: int) -> None:
        first: EmbeddedBatch | None = None
        problem: Exception | None = None
        try:  # the first batch says what arrays there are
            first = next(embedded, None)
            if self._rank == 0 and first is not None:
                self._make_arrays(first)
        except (ValueError, OSError) as error:
            problem = error
        share_problem(problem)
        try:
            if first is not None:
                self._fill(itertools.chain([first], embedded), before)
        except (ValueError, OSError) as error:
            problem = error
        share_problem(problem)

    def _make_arrays(self, batch: EmbeddedBatch) -> None:
        for name, rows in _rows(batch).items():
            path = self._partial / f"{name}.npy"
            if not path.is_file():
                with whole_file(path) as partial:
                    open_memmap(partial, "w+", rows.dtype, (len(self._images), *rows.shape[1:])).flush()

    def _fill(self, embedded: Iterator[EmbeddedBatch], before: int) -> None:
        quiet = self._progress is None or self._rank > 0
        with (
            _Writer(self._partial) as writer,
            progress_bar(
                total=len(self._images), initial=before, desc=self._progress, unit="image", disable=quiet
            ) as bar,
        ):
            for batch in embedded:
                writer.add(batch)
                bar.update(min(len(batch.indices) * world_size(), len(self._images) - bar.n))

    def _finish(self) -> None:
        arrays = [name for name in _ARRAYS if (self._partial / f"{name}.npy").is_file()]
        record = {"made_of": self._identity, "root": str(self._images.root), "arrays": arrays}
        write_text(self._partial / _RECORD, json.dumps(record, indent=1) + "\n")
        os.replace(self._partial, self._whole)
        for path in (*self._whole.glob("done.*.txt"), self._whole / ".lock"):
            path.unlink(missing_ok=True)


class _Writer:
    """Rows into the arrays of a folder, and a note of those that are on the disk for good.

    Files instead of memory maps: a full disk is an error here, and the end of the process there.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: dict[str, tuple[BinaryIO, int]] = {}
        self._note = folder / f"done.{uuid.uuid4().hex}.txt"
        self._unsettled: list[tuple[int, int]] = []

    def __enter__(self) -> "_Writer":
        return self

    def __exit__(self, *error: object) -> None:
        try:
            self._settle()
        finally:
            for opened, _ in self._files.values():
                opened.close()

    def add(self, batch: EmbeddedBatch) -> None:
        begin, end = int(batch.indices[0]), int(batch.indices[-1]) + 1
        for name, rows in _rows(batch).items():
            if name not in self._files:
                path = self._folder / f"{name}.npy"
                self._files[name] = path.open("r+b"), np.load(path, mmap_mode="r").offset
            file, offset = self._files[name]
            content = rows.tobytes()
            file.seek(offset + begin * (len(content) // len(rows)))
            file.write(content)
        self._unsettled.append((begin, end))
        if sum(last - first for first, last in self._unsettled) >= BLOCK:
            self._settle()

    def _settle(self) -> None:
        if not self._unsettled:
            return
        for file, _ in self._files.values():
            file.flush()
            os.fsync(file.fileno())
        with self._note.open("a") as note:
            note.writelines(f"{begin} {end}\n" for begin, end in self._unsettled)
        self._unsettled = []


def _rows(batch: EmbeddedBatch) -> dict[str, np.ndarray]:
    """What is kept of a batch, by the names of its files."""
    found = {name: getattr(batch, field) for name, field in _ARRAYS.items()}
    return {name: rows for name, rows in found.items() if rows is not None}
