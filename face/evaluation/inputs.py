"""What a network is given beside the images of an evaluation set: keypoints.

Coordinates: keypoints are (x, y) as fractions of the image, so they stay what they are when an image is resized.
Shape letters: n images, 5 keypoints.
"""

from typing import Literal, NamedTuple

import numpy as np

from common.keypoints import FIVE_POINT_FACE
from face.data.landmarks import Landmarks
from face.evaluation.images import ImageList
from face.reference import reference_landmarks

__all__ = ["KeypointInputs", "MissingLandmarks", "choose_keypoints"]

MissingLandmarks = Literal["error", "reference", "hide"]
"""What becomes of images without landmarks, in a network that needs keypoints: an error; the places of the alignment
template, which suits aligned faces; or keypoints of visibility 0."""


class KeypointInputs(NamedTuple):
    """Of all images of a set."""

    points: np.ndarray
    """[n, 5, 2] float32, (x, y) as fractions of the image."""

    visibility: np.ndarray | None
    """[n, 5] float32, 0 or 1; None where every keypoint is to be seen."""

    without_landmarks: int
    """Images that have none."""


def choose_keypoints(
    images: ImageList, landmarks: Landmarks | None, missing: MissingLandmarks, image_hw: tuple[int, int]
) -> KeypointInputs:
    """Keypoints of every image, by landmarks where there are some.

    Args:
        images: of the set, n.
        landmarks: of those images; None if there are none at all.
        missing: what becomes of images without landmarks.
        image_hw: (height, width) of the network's images, which the template is placed in.

    Raises:
        ValueError: images without landmarks where `missing` is "error" (how many, and the first of them), an unknown
            `missing`, or landmarks of another number of images.
    """
    if missing not in ("error", "reference", "hide"):
        raise ValueError(f"missing_landmarks must be error, reference or hide, got {missing!r}")
    count = len(images)
    if landmarks is not None and len(landmarks.points) != count:
        raise ValueError(f"expected landmarks of {count} images, got those of {len(landmarks.points)}")
    found = np.zeros(count, dtype=bool) if landmarks is None else landmarks.found
    lacking = np.nonzero(~found)[0]
    if len(lacking) and missing == "error":
        shown = ", ".join(images.name_of(int(index)) for index in lacking[:5]) + (", ..." if len(lacking) > 5 else "")
        raise ValueError(
            f"{len(lacking)} of {count} images have no landmarks, first: {shown}; missing_landmarks can be set to "
            "reference (the alignment template's) or hide (no keypoints to see)"
        )
    points = np.empty((count, len(FIVE_POINT_FACE), 2), dtype=np.float32)
    points[:] = reference_landmarks(image_hw, pixels=False)
    if landmarks is not None:
        points[found] = landmarks.points[found]
    visibility = None
    if len(lacking) and missing == "hide":
        visibility = np.repeat(found[:, None], len(FIVE_POINT_FACE), axis=1).astype(np.float32)
    return KeypointInputs(points, visibility, len(lacking))
