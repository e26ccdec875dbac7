"""Paired transforms: one geometry for the silhouettes and the joints of a sequence.

OpenGait transforms each input stream alone, which would move the silhouettes and leave the joints behind. Here every
geometric transform yields one matrix (or one a frame) that moves both; matrices are multiplied and the silhouettes
interpolated once at the end. A mirror also swaps left and right joints.

Names and ranges are those of OpenGait's recipe (ShiqiYu/OpenGait@0efafd4, opengait/data/transform.py). Deliberate
differences: the geometry of several transforms is composed before the one interpolation, rotation is about the
centre of the silhouette (OpenGait passes the centre as (y, x)), and the affine's corners are the frame's (OpenGait
exchanges height and width). `CropMisalignment`, `JointDropout` and `JointNoise` are ours.

Coordinates: while transforms run, keypoints are in pixel-index coordinates of the silhouette ((0, 0) is the centre of
the first pixel, as cv2 has it); `PairedCompose` returns them as fractions of the silhouette it returns.
Shape letters: T frames, h x w pixels, L joints.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import cv2
import numpy as np

from common.keypoints import COCO_17, flip_keypoints, pixels_to_fractions, transform_keypoints
from common.runtime.settings import build_settings

__all__ = [
    "BaseSilCuttingTransform",
    "BaseSilTransform",
    "CropMisalignment",
    "JointDropout",
    "JointNoise",
    "PairedCompose",
    "PairedSample",
    "RandomAffine",
    "RandomHorizontalFlip",
    "RandomPerspective",
    "RandomRotate",
    "TransformSettings",
]


class PairedSample:
    """One sequence on its way through the transforms: joints move at once, silhouettes when it is finished.

    Args:
        silhouettes: [T, h, w] uint8.
        keypoints: [T, L, 3] in pixels with confidences, or None where a model takes silhouettes alone.

    Raises:
        ValueError: wrong shapes or dtype, or streams of different length.
    """

    def __init__(self, silhouettes: np.ndarray, keypoints: np.ndarray | None) -> None:
        if silhouettes.ndim != 3 or silhouettes.dtype != np.uint8:
            raise ValueError(
                f"silhouettes must be uint8 of shape [T, h, w], got {silhouettes.dtype} {list(silhouettes.shape)}"
            )
        if keypoints is not None and keypoints.shape != (len(silhouettes), len(COCO_17), 3):
            raise ValueError(
                f"keypoints must have shape [{len(silhouettes)}, {len(COCO_17)}, 3] (frames, joints, "
                f"x y confidence), got {list(keypoints.shape)}"
            )
        self._silhouettes = silhouettes
        self._matrices = np.eye(3)[None]
        self.keypoints = None if keypoints is None else keypoints.astype(np.float64)
        self.size_hw: tuple[int, int] = (silhouettes.shape[1], silhouettes.shape[2])

    def __len__(self) -> int:
        return len(self._silhouettes)

    def move(self, matrix: np.ndarray, size_hw: tuple[int, int] | None = None, mirror: bool = False) -> None:
        """Move silhouettes and joints by [3, 3], or [T, 3, 3] for one matrix a frame: old pixels to new ones.

        Args:
            matrix: homography in pixel-index coordinates; without the mirror, if there is one.
            size_hw: of the silhouettes afterwards; None: as before.
            mirror: mirror left to right first, and swap left and right joints.
        """
        if mirror:
            width = self.size_hw[1]
            if self.keypoints is not None:
                self.keypoints = flip_keypoints(self.keypoints, COCO_17, width - 1)
            flip = np.array([[-1.0, 0, width - 1], [0, 1, 0], [0, 0, 1]])
            self._matrices = flip @ self._matrices
        if self.keypoints is not None:
            self.keypoints = transform_keypoints(self.keypoints, matrix)
        self._matrices = matrix @ self._matrices
        self.size_hw = size_hw or self.size_hw

    def hide_outside(self) -> None:
        """Joints outside the silhouettes' frame become missing (confidence 0)."""
        if self.keypoints is not None:
            x, y = self.keypoints[..., 0], self.keypoints[..., 1]
            height, width = self.size_hw
            inside = (x >= -0.5) & (x <= width - 0.5) & (y >= -0.5) & (y <= height - 0.5)
            self.keypoints[..., 2] *= inside

    def finish(self) -> tuple[np.ndarray, np.ndarray | None]:
        """Silhouettes [T, h, w] float32 in [0, 1], and keypoints [T, L, 3] float32 with (x, y) as fractions."""
        keypoints = None
        if self.keypoints is not None:
            keypoints = pixels_to_fractions(self.keypoints, self.size_hw).astype(np.float32)
        return _warp(self._silhouettes, self._matrices, self.size_hw), keypoints


def _warp(silhouettes: np.ndarray, matrices: np.ndarray, size_hw: tuple[int, int]) -> np.ndarray:
    """[T, h, w] uint8 to [T, *size_hw] float32 in [0, 1]; what comes from outside is 0."""
    height, width = size_hw
    if len(matrices) == 1:
        sliced = _slice(silhouettes, matrices[0], size_hw)
        if sliced is not None:
            return sliced.astype(np.float32) / 255
    frames = silhouettes.astype(np.float32) / 255
    out = np.empty((len(frames), height, width), np.float32)
    if len(matrices) > 1:
        for target, frame, matrix in zip(out, frames, matrices, strict=True):
            cv2.warpPerspective(frame, matrix, (width, height), dst=target)
        return out
    # OpenCV warps up to four channels at once in every version.
    for first in range(0, len(frames), 4):
        stack = np.ascontiguousarray(frames[first : first + 4].transpose(1, 2, 0))
        moved = cv2.warpPerspective(stack, matrices[0], (width, height))
        out[first : first + 4] = moved.reshape(height, width, -1).transpose(2, 0, 1)
    return out


def _slice(silhouettes: np.ndarray, matrix: np.ndarray, size_hw: tuple[int, int]) -> np.ndarray | None:
    """The warp as a mere (mirrored) crop inside the frame; None if it is more than that."""
    sign, shift_x, shift_y = matrix[0, 0], matrix[0, 2], matrix[1, 2]
    plain = np.array([[sign, 0, shift_x], [0, 1, shift_y], [0, 0, 1]])
    if abs(sign) != 1 or not np.array_equal(matrix, plain) or shift_x % 1 or shift_y % 1:
        return None
    (height, width), (old_height, old_width) = size_hw, silhouettes.shape[1:]
    if sign < 0:
        # x' = shift - x: mirror the whole frame (x -> old_width - 1 - x), then crop.
        silhouettes, shift_x = silhouettes[:, :, ::-1], shift_x - (old_width - 1)
    left, top = int(-shift_x), int(-shift_y)
    if left < 0 or top < 0 or left + width > old_width or top + height > old_height:
        return None
    return silhouettes[:, top : top + height, left : left + width]


def _check_prob(prob: float) -> None:
    if not 0 <= prob <= 1:
        raise ValueError(f"prob must be within 0 and 1, got {prob}")


@dataclass(frozen=True, kw_only=True)
class BaseSilTransform:
    """Silhouettes as they are. (Scaling to [0, 1] is part of every chain.)"""

    type: Literal["BaseSilTransform"] = "BaseSilTransform"

    def __call__(self, sample: PairedSample, geometry: np.random.Generator, joints: np.random.Generator) -> None:
        """Nothing to move."""


@dataclass(frozen=True, kw_only=True)
class BaseSilCuttingTransform:
    """Cut columns off both sides: 64 x 64 to 64 x 44."""

    type: Literal["BaseSilCuttingTransform"] = "BaseSilCuttingTransform"

    cutting: int | None = None
    """Columns on each side; None: 10 for every whole 64 of the width, so that 64 x 44 stays as it is."""

    def __post_init__(self) -> None:
        if self.cutting is not None and self.cutting < 0:
            raise ValueError(f"cutting must be >= 0, got {self.cutting}")

    def __call__(self, sample: PairedSample, geometry: np.random.Generator, joints: np.random.Generator) -> None:
        """Cut both streams."""
        height, width = sample.size_hw
        cutting = width // 64 * 10 if self.cutting is None else self.cutting
        if 2 * cutting >= width:
            raise ValueError(f"cutting {cutting} columns on each side leaves nothing of a width of {width}")
        matrix = np.eye(3)
        matrix[0, 2] = -cutting
        sample.move(matrix, (height, width - 2 * cutting))


@dataclass(frozen=True, kw_only=True)
class _Sometimes(ABC):
    """A geometric transform that a sequence undergoes or not."""

    prob: float = 0.5
    """Of a sequence being moved."""

    def __post_init__(self) -> None:
        _check_prob(self.prob)

    def __call__(self, sample: PairedSample, geometry: np.random.Generator, joints: np.random.Generator) -> None:
        """Move both streams, or not."""
        if geometry.uniform() < self.prob:
            self.move(sample, geometry)

    @abstractmethod
    def move(self, sample: PairedSample, geometry: np.random.Generator) -> None:
        """Move both streams."""


@dataclass(frozen=True, kw_only=True)
class RandomHorizontalFlip(_Sometimes):
    """Mirror a sequence, and swap its left and right joints."""

    type: Literal["RandomHorizontalFlip"] = "RandomHorizontalFlip"

    def move(self, sample: PairedSample, geometry: np.random.Generator) -> None:
        """Mirror."""
        sample.move(np.eye(3), mirror=True)


@dataclass(frozen=True, kw_only=True)
class RandomRotate(_Sometimes):
    """Rotate a sequence about the centre of its frame."""

    type: Literal["RandomRotate"] = "RandomRotate"

    degree: float = 10.0
    """Largest angle, in degrees, either way."""

    def move(self, sample: PairedSample, geometry: np.random.Generator) -> None:
        """Rotate by a random angle."""
        angle = geometry.uniform(-self.degree, self.degree)
        sample.move(_about_centre(sample.size_hw, angle, 1.0, (0.0, 0.0)))


@dataclass(frozen=True, kw_only=True)
class RandomPerspective(_Sometimes):
    """Stretch a sequence from a trapezium as high as the frame, whose corners lie within its side margins."""

    type: Literal["RandomPerspective"] = "RandomPerspective"

    def move(self, sample: PairedSample, geometry: np.random.Generator) -> None:
        """Stretch."""
        height, width = sample.size_hw
        margin = width // 44 * 10
        if not margin:
            raise ValueError(f"RandomPerspective needs silhouettes at least 44 wide, got {width}")
        left, right = geometry.integers(0, margin, 2), width - 1 - geometry.integers(0, margin, 2)
        source = np.array([[left[0], 0], [right[0], 0], [right[1], height], [left[1], height]], np.float32)
        target = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float32)
        sample.move(cv2.getPerspectiveTransform(source, target))


@dataclass(frozen=True, kw_only=True)
class RandomAffine(_Sometimes):
    """Move three corners of the frame by a few pixels."""

    type: Literal["RandomAffine"] = "RandomAffine"

    def move(self, sample: PairedSample, geometry: np.random.Generator) -> None:
        """Move the corners."""
        height, width = sample.size_hw
        most = height // 64 * 10
        if not most:
            raise ValueError(f"RandomAffine needs silhouettes at least 64 high, got {height}")
        corners = np.array([[0, 0], [width, 0], [0, height]])
        inwards = np.array([[1, 1], [-1, 1], [1, -1]])
        source, target = (corners + inwards * geometry.integers(0, most, (3, 2)) for _ in range(2))
        affine = cv2.getAffineTransform(source.astype(np.float32), target.astype(np.float32))
        sample.move(np.vstack([affine, [0, 0, 1]]))


@dataclass(frozen=True, kw_only=True)
class CropMisalignment(_Sometimes):
    """A crop that a detector got wrong: shifted and scaled. Joints that it cuts off become missing.

    As an augmentation it makes training meet such crops; in the evaluator's transforms it is a test condition, the
    same for every model since its draws depend on the sequence and the seed alone.
    """

    type: Literal["CropMisalignment"] = "CropMisalignment"

    prob: float = 1.0
    """Of a sequence being misaligned."""

    shift: float = 0.1
    """Largest shift either way, as a fraction of width and of height."""

    scale: float = 0.1
    """Largest relative change of size either way."""

    per_frame: bool = False
    """Another shift and scale for each frame (a jittering detector) instead of one a sequence."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.shift < 0 or not 0 <= self.scale < 1:
            raise ValueError(f"shift must be >= 0 and scale within 0 and 1, got {self.shift} and {self.scale}")

    def move(self, sample: PairedSample, geometry: np.random.Generator) -> None:
        """Shift and scale."""
        draws = geometry.uniform(-1, 1, (len(sample) if self.per_frame else 1, 3))
        height, width = sample.size_hw
        moves = [
            _about_centre((height, width), 0.0, 1 + self.scale * s, (self.shift * width * x, self.shift * height * y))
            for x, y, s in draws
        ]
        sample.move(np.stack(moves))
        sample.hide_outside()


def _about_centre(size_hw: tuple[int, int], angle: float, scale: float, shift_xy: tuple[float, float]) -> np.ndarray:
    """[3, 3]: rotate (degrees, counter-clockwise as seen) and scale about the centre, then shift (pixels)."""
    height, width = size_hw
    matrix = np.vstack([cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), angle, scale), [0, 0, 1]])
    matrix[:2, 2] += shift_xy
    return matrix


@dataclass(frozen=True, kw_only=True)
class JointDropout:
    """Joints go missing (confidence 0), as a pose estimator loses them."""

    type: Literal["JointDropout"] = "JointDropout"

    prob: float = 0.1
    """Of a joint being lost."""

    per_frame: bool = True
    """Draw for each frame; otherwise a joint is lost for the whole sequence."""

    def __post_init__(self) -> None:
        _check_prob(self.prob)

    def __call__(self, sample: PairedSample, geometry: np.random.Generator, joints: np.random.Generator) -> None:
        """Lose some joints."""
        if sample.keypoints is not None:
            lost = joints.uniform(size=(len(sample) if self.per_frame else 1, len(COCO_17))) < self.prob
            sample.keypoints[..., 2] *= ~lost


@dataclass(frozen=True, kw_only=True)
class JointNoise:
    """Gaussian noise on the places of the joints, as a pose estimator errs."""

    type: Literal["JointNoise"] = "JointNoise"

    std: float = 0.02
    """Standard deviation, as a fraction of the height of the silhouette."""

    def __post_init__(self) -> None:
        if self.std < 0:
            raise ValueError(f"std must be >= 0, got {self.std}")

    def __call__(self, sample: PairedSample, geometry: np.random.Generator, joints: np.random.Generator) -> None:
        """Move each joint of each frame a little."""
        if sample.keypoints is not None:
            noise = joints.normal(0, self.std * sample.size_hw[0], (*sample.keypoints.shape[:2], 2))
            sample.keypoints[..., :2] += noise


TransformSettings = (
    BaseSilTransform
    | BaseSilCuttingTransform
    | RandomHorizontalFlip
    | RandomRotate
    | RandomPerspective
    | RandomAffine
    | CropMisalignment
    | JointDropout
    | JointNoise
)


@dataclass(frozen=True, kw_only=True)
class PairedComposeSettings:
    """The one entry of a `transform` list in the YAML: a chain for both streams together."""

    type: Literal["PairedCompose"] = "PairedCompose"

    trf_cfg: list[TransformSettings] = field(default_factory=lambda: [BaseSilCuttingTransform()])
    """Applied in this order."""


class PairedCompose:
    """A chain of paired transforms, from what the data set holds to what the model takes.

    Args:
        trf_cfg: the YAML's list of transforms, as mappings with a `type` or as settings.

    Raises:
        ConfigError: unknown transforms or settings, all of them at once.
    """

    def __init__(self, trf_cfg: Sequence[Mapping[str, Any] | TransformSettings]) -> None:
        plain = [dict(entry) if isinstance(entry, Mapping) else entry for entry in trf_cfg]
        if any(isinstance(entry, dict) for entry in plain):
            plain = list(build_settings({"trf_cfg": plain}, PairedComposeSettings, source="transform").trf_cfg)
        self.transforms: list[Any] = plain

    def __call__(
        self, silhouettes: np.ndarray, keypoints: np.ndarray | None, seed: int | Sequence[int]
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Transform one sequence.

        Args:
            silhouettes: [T, h, w] uint8.
            keypoints: [T, 17, 3] in pixels with confidences, or None.
            seed: everything random follows from it. Geometry and joints draw from two streams of it, so that models
                with and without joints meet the same silhouettes.

        Returns:
            Silhouettes [T, h', w'] float32 in [0, 1], and keypoints [T, 17, 3] float32, (x, y) as fractions.

        Raises:
            ValueError: wrong shapes, or silhouettes too small for a transform.
        """
        geometry, joints = np.random.default_rng(seed).spawn(2)
        sample = PairedSample(silhouettes, keypoints)
        for transform in self.transforms:
            transform(sample, geometry, joints)
        return sample.finish()
