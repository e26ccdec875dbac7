"""Poses of everybody in an image, one JSON file a frame, and which of them is the walker.

Source: OU-MVLP's poses, `{"people": [{"pose_keypoints_2d": [x, y, confidence, ...]}, ...]}` as OpenPose writes them:
18 joints (or COCO's 17), pixels of the image that the silhouette is of. Where several people are seen, OpenGait's
`datasets/OUMVLP/pose_index_extractor.py` takes the one under whose joints the silhouette is brightest, and none with a
joint outside of the image; its pretreatment leaves frames without anybody out.
Deliberate differences: joints that were not found (confidence 0, at (0, 0)) say nothing for or against a person, and
a joint outside of the image only is no hit; a frame without anybody is kept, with every joint missing.

Coordinates: (x, y) in pixels of the whole image, the centre of the top-left pixel at (0, 0).
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from common.keypoints import COCO_17, OPENPOSE_18, matching_order
from plugin.prepare.raw import NUM_JOINTS, DroppedFrame, read_bytes

__all__ = ["choose_person", "read_people", "to_coco"]

_FROM_OPENPOSE = matching_order(OPENPOSE_18, COCO_17)


def to_coco(keypoints: np.ndarray) -> np.ndarray:
    """[..., 18, 3] in OpenPose's order to [..., 17, 3] in COCO's; 17 joints stay as they are."""
    return keypoints[..., _FROM_OPENPOSE, :] if keypoints.shape[-2] == len(OPENPOSE_18) else keypoints


def read_people(path: str | Path) -> list[np.ndarray]:
    """Read one JSON file.

    Returns:
        [17, 3] float64 for each person, in the file's order; values may be non-finite.

    Raises:
        DroppedFrame: "bad_pose" for what is no JSON of this form.
    """
    try:
        content = json.loads(read_bytes(path))
    except (OSError, ValueError, RecursionError) as error:
        raise DroppedFrame("bad_pose", f"{path}: {error}") from None
    people = content.get("people") if isinstance(content, dict) else None
    if not isinstance(people, list):
        raise DroppedFrame("bad_pose", f'{path}: expected an object with a list "people"')
    return [_joints(person, f"{path}: person {index}") for index, person in enumerate(people)]


def _joints(person: Any, where: str) -> np.ndarray:
    values = person.get("pose_keypoints_2d") if isinstance(person, dict) else None
    if not isinstance(values, list):
        raise DroppedFrame("bad_pose", f'{where}: expected a list "pose_keypoints_2d"')
    lengths = (3 * NUM_JOINTS, 3 * len(OPENPOSE_18))
    if len(values) not in lengths:
        raise DroppedFrame("bad_pose", f"{where}: expected {lengths[0]} or {lengths[1]} values, found {len(values)}")
    strange = next((value for value in values if type(value) not in (int, float)), None)
    if strange is not None or None in values:
        raise DroppedFrame("bad_pose", f"{where}: expected numbers, found {json.dumps(strange)}")
    try:
        return to_coco(np.array(values, np.float64).reshape(-1, 3))
    except OverflowError as error:  # JSON's whole numbers have no end
        raise DroppedFrame("bad_pose", f"{where}: {error}") from None


def choose_person(people: list[np.ndarray], image: np.ndarray | None) -> np.ndarray:
    """The person whose joints lie on the silhouette.

    Args:
        people: [17, 3] each, in pixels of `image`.
        image: [rows, columns] uint8, the silhouette in the image; None where that is lost, and the most confident
            person is taken.

    Returns:
        [17, 3]: the person with the most joints whose nearest pixel is not zero, of equals the more confident one;
        all joints missing (zero) when there is nobody.
    """
    if not people:
        return np.zeros((NUM_JOINTS, 3))
    if len(people) == 1:
        return people[0]
    return max(people, key=lambda person: (_hits(person, image), float(np.nansum(person[:, 2]))))


def _hits(person: np.ndarray, image: np.ndarray | None) -> int:
    if image is None:
        return 0
    found = np.isfinite(person).all(axis=1) & (person[:, 2] > 0)
    nearest = np.rint(person[found, :2])
    inside = ((nearest >= 0) & (nearest < image.shape[::-1])).all(axis=1)
    column, row = nearest[inside].astype(np.int64).T
    return int(np.count_nonzero(image[row, column]))
