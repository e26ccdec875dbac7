"""Prepared sequences to batches: data set, samplers and collation, as OpenGait defines them.

Deliberate differences from OpenGait (ShiqiYu/OpenGait@0efafd4): the whole data set is checked before a run begins;
pickles are read without running what is in them; every random choice follows from (seed, batch number, place in the
batch), so that a resumed run meets the same batches whatever the number of loader processes; and both streams of a
sequence go through one `PairedCompose` in the loader's processes.
Shape letters: T frames, h x w pixels, L joints, n sequences of a batch.
"""

import math
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from common.keypoints import COCO_17, check_fractions, pixels_to_fractions
from common.runtime.arrays import load_array, peek_array
from common.runtime.distribution import mix_seed
from common.runtime.progress import progress_bar
from common.runtime.workers import loader_processes
from plugin.layout import find_sequences
from plugin.partition import read_partition
from plugin.runtime.settings import DataSettings, EvaluatorSampler, TrainerSampler
from plugin.transforms import PairedCompose

__all__ = ["Batch", "GaitDataset", "InferenceSampler", "TripletSampler", "make_loader"]

# Joints of a whole sequence that never leave the first two pixels are fractions of the image, not pixels.
_FRACTIONS_REACH = 2.0

# Pose estimators give a little more than 1 at times; the model cuts that off. Percent are another thing.
_LARGEST_CONFIDENCE = 1.5


@dataclass(frozen=True)
class GaitSequence:
    """One prepared sequence."""

    label: str
    type: str
    view: str
    paths: tuple[Path, ...]
    frames: int
    size_hw: tuple[int, int]

    @property
    def name(self) -> str:
        """ID-TYPE-VIEW, as PROBE_SET has it."""
        return f"{self.label}-{self.type}-{self.view}"


class Draw(NamedTuple):
    """What a sampler asks of the data set: a sequence, and the seed of everything random about it."""

    sequence: int
    seed: int


class Loaded(NamedTuple):
    """One sequence as the data set gives it to collation."""

    sequence: GaitSequence
    label_index: int
    streams: list[np.ndarray]
    seed: int


class GaitDataset(Dataset[Loaded]):
    """The train or the test subjects of a folder of prepared sequences.

    Args:
        settings: where they are.
        training: train subjects, else test subjects.
        needs_keypoints: whether the model takes joints, that is, two streams.

    Raises:
        FileNotFoundError: the folder or the partition is not there.
        ValueError: no subject of the partition in the folder, a sequence without its streams, an unreadable or
            truncated file, streams that do not fit each other. Every sequence is looked at before anything is trained.
    """

    def __init__(self, settings: DataSettings, training: bool, needs_keypoints: bool) -> None:
        partition = read_partition(settings.dataset_partition)
        self.probes = frozenset(partition.probes)
        self._partition_path = settings.dataset_partition
        root = Path(settings.dataset_root)
        if not root.is_dir():
            raise FileNotFoundError(f"dataset_root: no such folder: {root}")
        wanted = partition.train if training else partition.test
        present = {entry.name for entry in os.scandir(root) if entry.is_dir() and not entry.name.startswith(".")}
        subjects = [label for label in dict.fromkeys(wanted) if label in present]
        if not subjects:
            key = "TRAIN_SET" if training else "TEST_SET"
            raise ValueError(
                f"{settings.dataset_partition}: none of the {len(wanted)} subjects of {key} is in {root}, "
                f"which holds {len(present)} folders{': ' if present else ''}{', '.join(sorted(present)[:3])}"
                f"{', ...' if len(present) > 3 else ''}"
            )
        self._data_in_use = settings.data_in_use
        self._needs_keypoints = needs_keypoints
        self._cache: dict[int, list[np.ndarray]] | None = {} if settings.cache else None
        problems: list[str] = []
        what = "training" if training else "test"
        # The bar appears only where the look at all files takes long: network disks.
        bar = progress_bar(subjects, desc=f"Checking the {what} set", unit="subject", delay=3, leave=False)
        self.sequences = list(self._scan(root, bar, problems))
        if problems:
            shown = "".join(f"\n  {problem}" for problem in problems[:20])
            more = f"\n  ... and {len(problems) - 20} more" if len(problems) > 20 else ""
            raise ValueError(f"{root}: {len(problems)} sequence(s) cannot be used:{shown}{more}")
        if not self.sequences:
            raise ValueError(f"{root}: the {len(subjects)} subjects of the partition have no sequences")
        sizes = {sequence.size_hw: sequence for sequence in self.sequences}
        if len(sizes) > 1:
            shown = "".join(f"\n  {list(size)}: for example {s.paths[0]}" for size, s in sizes.items())
            raise ValueError(f"{root}: silhouettes of one data set must have the same size, found{shown}")
        self.label_set = sorted({sequence.label for sequence in self.sequences})
        self.label_index = {label: index for index, label in enumerate(self.label_set)}
        self.indices_dict: dict[str, list[int]] = {label: [] for label in self.label_set}
        for index, sequence in enumerate(self.sequences):
            self.indices_dict[sequence.label].append(index)

    def _scan(self, root: Path, subjects: Iterable[str], problems: list[str]) -> Iterator[GaitSequence]:
        for label in subjects:
            for _, kind, view in find_sequences(root, [label]):
                try:
                    paths = self._pick_streams(root / label / kind / view)
                    frames, height, width = self._check_streams(paths)
                except (ValueError, OSError) as error:
                    problems.append(str(error))
                    continue
                yield GaitSequence(label, kind, view, paths, frames, (height, width))

    def _pick_streams(self, folder: Path) -> tuple[Path, ...]:
        files = sorted(e for e in folder.iterdir() if e.suffix == ".pkl" and not e.name.startswith("."))
        use = self._data_in_use
        if use is None:
            picked = files
        elif all(isinstance(flag, bool) for flag in use):
            picked = [file for file, flag in zip(files, use, strict=False) if flag]
        else:
            picked = [files[index] for index in use if index < len(files)]
        names = ", ".join(file.name for file in files) or "none"
        if len(picked) < (2 if self._needs_keypoints else 1):
            what = "silhouettes and keypoints" if self._needs_keypoints else "silhouettes"
            raise ValueError(
                f"{folder}: expected .pkl files of {what}, data_in_use {use} leaves {len(picked)} of these: {names}"
            )
        if len(picked) > 2:
            raise ValueError(
                f"{folder}: expected at most 2 streams in use, data_in_use {use} takes {len(picked)}: {names}"
            )
        return tuple(picked)

    def _check_streams(self, paths: tuple[Path, ...]) -> tuple[int, ...]:
        """Frames, height and width, from the header of the silhouettes and from the keypoints, which are small."""
        shape, dtype = peek_array(paths[0])
        if len(shape) != 3 or dtype != np.uint8:
            raise ValueError(f"{paths[0]}: expected silhouettes, uint8 [T, h, w], found {dtype} {list(shape)}")
        if not shape[0]:
            raise ValueError(f"{paths[0]}: a sequence needs at least one frame, found none")
        if len(paths) == 2:
            keypoints = load_array(paths[1])
            expected = (shape[0], len(COCO_17), 3)
            if keypoints.shape != expected or keypoints.dtype.kind != "f":
                raise ValueError(
                    f"{paths[1]}: expected keypoints, float {list(expected)} (the silhouettes' frames, joints, "
                    f"x y confidence), found {keypoints.dtype} {list(keypoints.shape)}"
                )
            if not np.isfinite(keypoints).all():
                raise ValueError(f"{paths[1]}: keypoints must be finite, found NaN or infinity")
            low, high = keypoints[..., 2].min(), keypoints[..., 2].max()
            if low < 0 or high > _LARGEST_CONFIDENCE:
                raise ValueError(f"{paths[1]}: confidences must be within 0 and 1, found {low:.4g} to {high:.4g}")
            check_fractions(pixels_to_fractions(keypoints, shape[1:]), keypoints[..., 2], source=str(paths[1]))
            seen = keypoints[keypoints[..., 2] > 0][:, :2]
            if seen.size and np.abs(seen).max() <= _FRACTIONS_REACH:
                raise ValueError(
                    f"{paths[1]}: keypoints must be in pixels of the {shape[1]} x {shape[2]} silhouettes, but none is "
                    f"beyond {np.abs(seen).max():.3g}: are they fractions?"
                )
        return shape

    def __len__(self) -> int:
        return len(self.sequences)

    def __getitem__(self, draw: Draw) -> Loaded:
        sequence = self.sequences[draw.sequence]
        streams = self._cache.get(draw.sequence) if self._cache is not None else None
        if streams is None:
            streams = [load_array(path) for path in sequence.paths]
            if self._cache is not None:
                self._cache[draw.sequence] = streams
        return Loaded(sequence, self.label_index[sequence.label], streams, draw.seed)

    def gallery_check(self, remove_no_gallery: bool) -> list[int]:
        """Indices of the sequences to test on.

        Raises:
            ValueError: the test set has no probe or no gallery; or, unless `remove_no_gallery`, a probe's subject has
                no gallery sequence.
        """
        probes = [sequence.name in self.probes for sequence in self.sequences]
        gallery = Counter(sequence.label for sequence, probe in zip(self.sequences, probes, strict=True) if not probe)
        if not any(probes):
            raise ValueError(
                f"{self._partition_path}: PROBE_SET names none of the {len(self)} test sequences "
                f"(for example {self.sequences[0].name})"
            )
        alone = [
            sequence.name
            for sequence, probe in zip(self.sequences, probes, strict=True)
            if probe and not gallery[sequence.label]
        ]
        if alone and (not remove_no_gallery or len(alone) == sum(probes)):
            raise ValueError(
                f"{len(alone)} of {sum(probes)} probes have no gallery sequence of their subject: "
                f"{', '.join(alone[:5])}{', ...' if len(alone) > 5 else ''}. "
                "Set data_cfg.remove_no_gallery to leave such probes out."
            )
        left_out = set(alone)
        return [index for index, sequence in enumerate(self.sequences) if sequence.name not in left_out]


class TripletSampler(Sampler[list[Draw]]):
    """Batches of P subjects with K sequences each, without end. Batch b is a function of (seed, b) alone.

    Args:
        dataset: what is drawn from.
        settings: batch_size (P, K) and batch_shuffle.
        seed: of the run.
        first: number of the first batch, for resuming.
        rank, world: this process and how many there are; each gets its share of every batch.

    Raises:
        ValueError: fewer subjects than P, fewer than two, or a batch that cannot be shared out evenly.
    """

    def __init__(
        self, dataset: GaitDataset, settings: TrainerSampler, seed: int, first: int = 0, rank: int = 0, world: int = 1
    ) -> None:
        subjects, each = settings.batch_size
        if len(dataset.label_set) < subjects:
            raise ValueError(
                f"trainer_cfg.sampler.batch_size asks for {subjects} subjects, "
                f"the training set has {len(dataset.label_set)}"
            )
        if subjects < 2:
            raise ValueError(f"trainer_cfg.sampler.batch_size needs at least 2 subjects for triplets, got {subjects}")
        if (subjects * each) % world:
            raise ValueError(f"a batch of {subjects} x {each} sequences cannot be shared by {world} processes")
        self._dataset, self._settings = dataset, settings
        self._seed, self._first, self._rank, self._world = seed, first, rank, world

    def batch(self, number: int) -> list[Draw]:
        """All draws of one batch, before they are shared out among processes."""
        rng = np.random.default_rng((self._seed, number))
        subjects, each = self._settings.batch_size
        indices: list[int] = []
        for label in rng.choice(len(self._dataset.label_set), subjects, replace=False):
            own = self._dataset.indices_dict[self._dataset.label_set[label]]
            indices += rng.choice(own, each, replace=len(own) < each).tolist()
        if self._settings.batch_shuffle:
            rng.shuffle(indices)
        return [Draw(index, mix_seed(self._seed, number, place)) for place, index in enumerate(indices)]

    def __iter__(self) -> Iterator[list[Draw]]:
        number = self._first
        while True:
            yield self.batch(number)[self._rank :: self._world]
            number += 1


class InferenceSampler(Sampler[list[Draw]]):
    """Every sequence of `indices` once, `batch_size` at a time, shared out among processes."""

    def __init__(self, indices: Sequence[int], batch_size: int, seed: int, rank: int = 0, world: int = 1) -> None:
        size = max(1, batch_size // world)
        own = [Draw(index, mix_seed(seed, index)) for index in indices][rank::world]
        self._batches = [own[first : first + size] for first in range(0, len(own), size)]

    def __iter__(self) -> Iterator[list[Draw]]:
        return iter(self._batches)

    def __len__(self) -> int:
        return len(self._batches)


class Batch(NamedTuple):
    """What a model's forward takes: OpenGait's five inputs, as tensors on the CPU."""

    streams: list[Tensor]
    """Silhouettes [n, T, h, w] and, if in use, keypoints [n, T, L, 3]; whole sequences are [1, sum of T, ...]."""

    labels: Tensor
    """[n] int64, indices into the data set's sorted subjects."""

    types: list[str]
    views: list[str]

    lengths: Tensor | None
    """[1, n] frames of each whole sequence; None for a fixed number of frames."""

    names: list[str]
    """ID-TYPE-VIEW of each sequence."""


class Collate:
    """Pick frames, transform both streams together, and stack.

    Args:
        sampler: says which frames.
        transform: applied to each sequence.
    """

    def __init__(self, sampler: TrainerSampler | EvaluatorSampler, transform: PairedCompose) -> None:
        self._sampler = sampler
        self._transform = transform

    def frame_indices(self, frames: int, rng: np.random.Generator) -> np.ndarray:
        """Which frames of a sequence are taken.

        fixed_ordered: a random stretch of frames_num_fixed + frames_skip_num, of which frames_num_fixed are kept in
        order; a shorter sequence is repeated first. fixed_unordered: frames_num_fixed from anywhere, repeated only
        if there are too few. all_ordered: all, or the first frames_all_limit.
        """
        sampler = self._sampler
        if isinstance(sampler, EvaluatorSampler):
            return np.arange(frames)[: sampler.frames_all_limit]
        count = sampler.frames_num_fixed
        if sampler.sample_type == "fixed_unordered":
            return rng.choice(frames, count, replace=frames < count)
        stretch = count + sampler.frames_skip_num
        available = frames * math.ceil(stretch / frames) if frames < stretch else frames
        start = rng.integers(0, available - stretch + 1)
        return (start + np.sort(rng.choice(stretch, count, replace=False))) % frames

    def __call__(self, batch: list[Loaded]) -> Batch:
        """Sequences to a batch."""
        silhouettes, keypoints = [], []
        for item in batch:
            rng = np.random.default_rng((item.seed, 0))
            picked = self.frame_indices(len(item.streams[0]), rng)
            streams = [stream[picked] for stream in item.streams]
            moved, joints = self._transform(streams[0], streams[1] if len(streams) == 2 else None, (item.seed, 1))
            silhouettes.append(moved)
            if joints is not None:
                keypoints.append(joints)
        whole = isinstance(self._sampler, EvaluatorSampler)
        join = (lambda arrays: np.concatenate(arrays)[None]) if whole else np.stack
        streams_out = [silhouettes, keypoints] if keypoints else [silhouettes]
        try:
            tensors = [torch.from_numpy(join(stream)) for stream in streams_out]
        except ValueError as error:
            shapes = {str(item.sequence.paths[0]): s.shape[1:] for item, s in zip(batch, silhouettes, strict=True)}
            raise ValueError(f"silhouettes of one batch must have the same size, found {shapes}") from error
        return Batch(
            streams=tensors,
            labels=torch.tensor([item.label_index for item in batch]),
            types=[item.sequence.type for item in batch],
            views=[item.sequence.view for item in batch],
            lengths=torch.tensor([[len(stream) for stream in silhouettes]]) if whole else None,
            names=[item.sequence.name for item in batch],
        )


def make_loader(
    dataset: GaitDataset, sampler: Sampler[list[Draw]], collate: Collate, num_workers: int
) -> "DataLoader[Loaded]":
    """The loader of one phase."""
    return DataLoader(
        dataset,
        batch_sampler=sampler,
        collate_fn=collate,
        **loader_processes(num_workers),
        pin_memory=torch.cuda.is_available(),
    )
