"""Training images, augmented, in batches.

What is drawn for an image follows from (seed, epoch, place) alone: see sampler.py.
Shape letters: B images of a batch, h x w pixels, L = 5 landmarks.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from face.augment import FaceAugmentation
from face.data import ImageError, ImageSource, Landmarks
from face.reference import reference_landmarks
from face.training.sampler import SampleKey

__all__ = ["FaceBatch", "FaceSample", "TrainingSet", "collate"]

# An image that does not decode is replaced by the next one that does; a set where so many in a row do not is broken.
_MOST_BROKEN = 100


class FaceSample(NamedTuple):
    """One augmented image."""

    image: np.ndarray
    """[h, w, 3] uint8 RGB"""

    keypoints: np.ndarray
    """[L, 2] float32, fractions of the image"""

    visibility: np.ndarray
    """[L] float32, 0 or 1"""

    label: int

    place: int
    """Of the image in its source."""

    broken: tuple[str, ...]
    """Images that did not decode, in whose place this one is."""


@dataclass(frozen=True, kw_only=True)
class FaceBatch:
    """Samples of one process for one step (or for a part of it)."""

    images: Tensor
    """[B, 3, h, w] uint8 RGB"""

    keypoints: Tensor
    """[B, L, 2]"""

    visibility: Tensor
    """[B, L]"""

    labels: Tensor
    """[B] int64"""

    indices: Tensor
    """[B] int64, of the images in their source"""

    broken: tuple[str, ...]

    def pin_memory(self) -> "FaceBatch":
        """Called by a DataLoader that pins memory."""
        tensors = {name: value.pin_memory() for name, value in vars(self).items() if isinstance(value, Tensor)}
        return FaceBatch(**tensors, broken=self.broken)


class TrainingSet(Dataset[FaceSample]):
    """Images of a source with their landmarks, augmented.

    Args:
        source: where the images are.
        landmarks: of the same images; None: the model takes none.
        augment: to the model's input size.
        seed: of the run.
        missing: for an image without landmarks, "reference" puts the alignment template's points, "hide" gives all
            visibility 0.
        skip_broken: an image that does not decode is replaced by the next one that does; else it is an error.
    """

    def __init__(
        self,
        source: ImageSource,
        landmarks: Landmarks | None,
        augment: FaceAugmentation,
        seed: int,
        missing: str = "hide",
        skip_broken: bool = False,
    ) -> None:
        self.source, self.landmarks, self.augment, self.seed = source, landmarks, augment, seed
        self._missing, self._skip_broken = missing, skip_broken
        self.hides = landmarks is not None and missing == "hide" and not landmarks.found.all()
        """Whether some images have landmarks of visibility 0, so that a model must be told of visibilities."""
        self._template = reference_landmarks(pixels=False).astype(np.float32)

    def __len__(self) -> int:
        return len(self.source)

    def _read(self, index: int) -> tuple[np.ndarray, int, tuple[str, ...]]:
        broken: list[str] = []
        for offset in range(_MOST_BROKEN + 1):
            candidate = (index + offset) % len(self.source)
            try:
                return self.source.read(candidate), candidate, tuple(broken)
            except ImageError as error:
                if not self._skip_broken:
                    raise
                broken.append(str(error))
        raise ImageError(f"{_MOST_BROKEN} images in a row do not decode, the last: {broken[-1]}")

    def __getitem__(self, key: SampleKey) -> FaceSample:
        image, index, broken = self._read(key.image)
        found = self.landmarks is not None and bool(self.landmarks.found[index])
        points = self._template
        if found:
            assert self.landmarks is not None
            points = self.landmarks.points[index]
        rng = np.random.default_rng(np.random.SeedSequence((self.seed, key.epoch, key.place, 1)))
        image, moved = self.augment(image, points, rng)
        assert moved is not None
        visible = found or (self.landmarks is not None and self._missing == "reference")
        return FaceSample(
            image=image,
            keypoints=moved,
            visibility=np.full(len(points), float(visible), np.float32),
            label=int(self.source.labels[index]),
            place=index,
            broken=broken,
        )


def collate(samples: Sequence[FaceSample]) -> FaceBatch:
    """Samples to a batch."""
    images = torch.from_numpy(np.stack([sample.image for sample in samples]))
    return FaceBatch(
        images=images.permute(0, 3, 1, 2),
        keypoints=torch.from_numpy(np.stack([sample.keypoints for sample in samples])),
        visibility=torch.from_numpy(np.stack([sample.visibility for sample in samples])),
        labels=torch.tensor([sample.label for sample in samples], dtype=torch.int64),
        indices=torch.tensor([sample.place for sample in samples], dtype=torch.int64),
        broken=tuple(name for sample in samples for name in sample.broken),
    )
