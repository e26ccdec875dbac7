"""A contact sheet of one face, augmented again and again, its landmarks drawn over it.

Shape letters: S picture pixels per image pixel.
"""

from pathlib import Path

import numpy as np

from common.runtime.figures import check_picture_path
from face.augment.augmentation import FaceAugmentation
from face.augment.settings import AugmentationSettings
from face.pictures import face_grid, write_sheet

__all__ = ["draw_augmented"]


def draw_augmented(
    path: str | Path,
    image: np.ndarray,
    keypoints: np.ndarray | None,
    settings: AugmentationSettings | None = None,
    *,
    seed: int = 0,
    count: int = 23,
    columns: int = 8,
    out_hw: tuple[int, int] = (112, 112),
    scale: int = 2,
) -> None:
    """The image as it is, merely resized, then `count` augmentations of it, row by row.

    Args:
        path: picture file; the suffix names the format.
        image: [h, w, 3] uint8 RGB.
        keypoints: [5, 2] fractions of the image, or None: then none are drawn.
        settings: of the augmentation; by default those of the KP-RPE paper.
        seed: of the random numbers.
        count: augmentations, >= 1.
        columns: tiles in a row, >= 1.
        out_hw: of an augmented image.
        scale: S, whole picture pixels per image pixel.

    Raises:
        ValueError: what `FaceAugmentation` refuses; a suffix that no format has; a count, columns or scale below 1.
    """
    check_picture_path(path)
    if min(count, columns, scale) < 1:
        raise ValueError(f"count, columns and scale must be >= 1, got {count}, {columns} and {scale}")
    augment = FaceAugmentation(settings, out_hw)
    rng = np.random.default_rng(seed)
    samples = [augment.plain(image, keypoints), *(augment(image, keypoints, rng) for _ in range(count))]
    points = None if keypoints is None else np.stack([moved for _, moved in samples if moved is not None])
    sheet = face_grid(np.stack([sample[0] for sample in samples]), points, columns, scale)
    write_sheet(sheet, path, with_legend=keypoints is not None)
