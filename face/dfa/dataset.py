"""Crops of faces as the landmark network sees them: augmented for training, plain for evaluation.

What is drawn for a crop follows from (seed, epoch, place) alone: see face/training/sampler.py. One interpolation takes
it from the stored pixels to the network's input, with the padding, the augmentation's geometry and the resizing in it.

Coordinates: boxes (left, top, right, bottom) and landmarks (x, y) are fractions of the image that goes with them. After
an augmentation they may reach beyond it; the box is then the bounds of the moved box.
Shape letters: B images of a batch, h x w pixels, L = 5 landmarks, n crops.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from common.keypoints import FIVE_POINT_FACE
from face.augment import AugmentationSettings, FaceAugmentation
from face.augment.geometry import Placement, draw_placement
from face.data import ImageError
from face.dfa.crops import FACE, NO_FACE, Crop, CropSource, cut_frame, frame_matrix, map_points
from face.training.loading import make_loader
from face.training.sampler import SampleKey

__all__ = ["CropSet", "DFABatch", "DFASample", "collate_crops", "make_crop_loader", "plain_batches"]

# A crop that does not decode is replaced by the next one that does; a set where so many in a row do not is broken.
_MOST_BROKEN = 100
_CORNERS = np.array([[0, 1], [2, 1], [2, 3], [0, 3]])  # of a box, the places of x and y


@dataclass(frozen=True, kw_only=True, eq=False)
class DFASample:
    """One crop, and what the network is to find in it."""

    image: np.ndarray
    """[h, w, 3] uint8 RGB"""

    box: np.ndarray
    """[4] float32; zeros where there is no face"""

    landmarks: np.ndarray
    """[L, 2] float32; zeros where there are none"""

    kind: int
    """1 a face with landmarks, -1 a face without, 0 no face"""

    place: int
    """In the epoch's order."""

    index: int
    """Of the crop in its source."""

    broken: tuple[str, ...]
    """Crops that did not decode, in whose place this one is."""


@dataclass(frozen=True, kw_only=True)
class DFABatch:
    """Samples of one process for one step (or for a part of it)."""

    images: Tensor
    """[B, 3, h, w] uint8 RGB"""

    boxes: Tensor
    """[B, 4] float32"""

    landmarks: Tensor
    """[B, L, 2] float32"""

    kinds: Tensor
    """[B] int64: 1 a face with landmarks, -1 a face without, 0 no face"""

    indices: Tensor
    """[B] int64, of the crops in their source"""

    broken: tuple[str, ...]

    def pin_memory(self) -> "DFABatch":
        """Called by a DataLoader that pins memory."""
        tensors = {name: value.pin_memory() for name, value in vars(self).items() if isinstance(value, Tensor)}
        return DFABatch(**tensors, broken=self.broken)


class CropSet(Dataset[DFASample]):
    """Crops of a source at the network's input size.

    Args:
        crops: where they come from.
        image_hw: height and width of every sample.
        augment: what is drawn; None: nothing, and a plain index is a key: evaluation samples.
        seed: of the run.
        skip_broken: a crop that does not decode is replaced by the next one that does; else it is an error.
    """

    def __init__(
        self,
        crops: CropSource,
        image_hw: tuple[int, int] = (160, 160),
        augment: AugmentationSettings | None = None,
        seed: int = 0,
        skip_broken: bool = False,
    ) -> None:
        self.crops, self.image_hw, self.seed = crops, image_hw, seed
        self.augment = None if augment is None else FaceAugmentation(augment, image_hw)
        self._skip_broken = skip_broken

    def __len__(self) -> int:
        return len(self.crops)

    def __getitem__(self, key: SampleKey | int) -> DFASample:
        if not isinstance(key, SampleKey):
            key = SampleKey(int(key), 0, int(key))
        crop, index, broken = self._read(key.image)
        image_hw = (crop.image.shape[0], crop.image.shape[1])
        placement, border = Placement(), 0
        if self.augment is not None:
            rng = np.random.default_rng(np.random.SeedSequence((self.seed, key.epoch, key.place, 1)))
            placement, border = draw_placement(self.augment.settings, rng), self.augment.settings.border
        matrix = frame_matrix(crop.frame, image_hw, self.image_hw, placement)
        image = cut_frame(crop.image, matrix, self.image_hw, border)
        if self.augment is not None:
            image = self.augment.change_pixels(image, rng)
        box, landmarks = np.zeros(4), np.zeros((len(FIVE_POINT_FACE), 2))
        if crop.kind != NO_FACE:
            corners = map_points(np.asarray(crop.box)[_CORNERS], matrix, image_hw, self.image_hw)
            box = np.concatenate([corners.min(axis=0), corners.max(axis=0)])
        if crop.kind == FACE:
            landmarks = map_points(crop.landmarks, matrix, image_hw, self.image_hw)
            landmarks = landmarks[FIVE_POINT_FACE.flip_order] if placement.mirrored else landmarks
        return DFASample(
            image=image,
            box=box.astype(np.float32),
            landmarks=landmarks.astype(np.float32),
            kind=crop.kind,
            place=key.place,
            index=index,
            broken=broken,
        )

    def _read(self, index: int) -> tuple[Crop, int, tuple[str, ...]]:
        broken: list[str] = []
        for offset in range(_MOST_BROKEN):
            candidate = (index + offset) % len(self.crops)
            try:
                return self.crops.read(candidate), candidate, tuple(broken)
            except ImageError as error:
                if not self._skip_broken:
                    raise
                broken.append(str(error))
        raise ImageError(f"{_MOST_BROKEN} crops in a row do not decode, the last: {broken[-1]}")


def collate_crops(samples: Sequence[DFASample]) -> DFABatch:
    """Samples to a batch."""
    images = torch.from_numpy(np.stack([sample.image for sample in samples]))
    return DFABatch(
        images=images.permute(0, 3, 1, 2),
        boxes=torch.from_numpy(np.stack([sample.box for sample in samples])),
        landmarks=torch.from_numpy(np.stack([sample.landmarks for sample in samples])),
        kinds=torch.tensor([sample.kind for sample in samples], dtype=torch.int64),
        indices=torch.tensor([sample.index for sample in samples], dtype=torch.int64),
        broken=tuple(name for sample in samples for name in sample.broken),
    )


def plain_batches(count: int, batch_size: int) -> list[range]:
    """Keys of all samples in their order, for evaluation; the last batch may be smaller."""
    return [range(begin, min(begin + batch_size, count)) for begin in range(0, count, batch_size)]


def make_crop_loader(
    dataset: CropSet, batches: Iterable[Sequence[Any]], num_workers: int = 0, pin_memory: bool = False
) -> "DataLoader[DFABatch]":
    """Batches in their order, loaded by `num_workers` processes; 0: by this one.

    Args:
        dataset: the crops.
        batches: keys of each: `face.training.sampler.EpochBatches`, or `plain_batches` for evaluation.
        num_workers, pin_memory: of the loader.
    """
    return make_loader(dataset, batches, num_workers, pin_memory, collate_crops)
