"""Draw a view: the silhouette in a crop, and what is seen of each joint there.

The links are painted from the farthest to the nearest on a finer grid, each in the label of its body part; the
silhouette is what is covered by any of them, and a joint is seen when the label at its place is of its own part.
Occluders are painted last. Coordinates: pixel-index, of the view for boxes and outlines, of the crop for results.
Shape letters: T frames, N nodes, K points of an outline, w and h crop width and height.
"""

from enum import IntEnum

import cv2
import numpy as np
from numpy.typing import NDArray

from common.keypoints import COCO_17
from plugin.synthesize.camera import View
from plugin.synthesize.walker import FACE, LINKS, NODES

__all__ = ["Seen", "draw", "joints_seen"]

FINER = 4
FRACTION_BITS = 4
COVER = 255  # label of an occluder
PARTS = ("trunk", "head", "left_arm", "right_arm", "left_leg", "right_leg")
LABELS = {part: 1 + index for index, part in enumerate(PARTS)}

_LINK_NODES = np.array([[NODES.index(first), NODES.index(second)] for first, second, _ in LINKS])
_LINK_LABELS = [LABELS[part] for *_, part in LINKS]
_SKULL = NODES.index("skull")


class Seen(IntEnum):
    """What is seen of a joint."""

    CLEARLY = 0
    THROUGH_BODY = 1
    """Another part of the body, or the head itself, is in front of it."""
    NOT_AT_ALL = 2
    """Behind an occluder or outside of the crop."""


def _own_labels(joint: str) -> set[int]:
    """Labels that do not hide a joint."""
    if joint in FACE:
        return {LABELS["head"]}
    side, place = joint.split("_")
    limb = LABELS[f"{side}_{'arm' if place in ('shoulder', 'elbow', 'wrist') else 'leg'}"]
    return {limb, LABELS["trunk"]} if place in ("shoulder", "hip") else {limb}


_OWN = np.zeros((len(COCO_17), 256), dtype=bool)
for _index, _name in enumerate(COCO_17.names):
    _OWN[_index, list(_own_labels(_name))] = True
_IS_FACE = np.array([name in FACE for name in COCO_17.names])


def _fill(labels: NDArray[np.uint8], polygon: NDArray[np.floating], corner: NDArray, value: int) -> None:
    """Fill a convex polygon [K, 2] given in view pixels on the finer grid of the crop at `corner` (x, y)."""
    finer = (polygon - corner + 0.5) * FINER - 0.5
    fixed = np.rint(finer * (1 << FRACTION_BITS)).astype(np.int32)
    cv2.fillConvexPoly(labels, cv2.convexHull(fixed), value, cv2.LINE_8, FRACTION_BITS)


def draw(
    view: View, frame: int, box: NDArray[np.int64], occluder: NDArray[np.float64] | None = None
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Paint one frame.

    Args:
        view: the walk as a camera sees it.
        frame: index on axis T.
        box: [4] left, top, width, height of the crop in view pixels.
        occluder: [K, 2] convex polygon in view pixels that hides what is behind it.

    Returns:
        silhouette [h, w] of 0 and 255, and the part labels on the finer grid, [h * FINER, w * FINER].
    """
    corner, (width, height) = box[:2], box[2:]
    labels = np.zeros((height * FINER, width * FINER), dtype=np.uint8)
    outlines, depths = view.outlines[frame], view.node_depths[frame]
    far_to_near = np.argsort(-depths[_LINK_NODES].mean(axis=1), kind="stable")
    for link in far_to_near:
        first, second = _LINK_NODES[link]
        _fill(labels, np.concatenate([outlines[first], outlines[second]]), corner, _LINK_LABELS[link])
    if occluder is not None:
        _fill(labels, occluder, corner, COVER)
    body = np.where((labels > 0) & (labels < COVER), np.uint8(255), np.uint8(0))
    share = cv2.resize(body, (int(width), int(height)), interpolation=cv2.INTER_AREA)
    return np.where(share > 127, np.uint8(255), np.uint8(0)), labels


def joints_seen(view: View, frame: int, box: NDArray[np.int64], labels: NDArray[np.uint8]) -> NDArray[np.int64]:
    """What is seen of each joint of a frame that `draw` painted, [17] values of `Seen`."""
    finer = np.rint((view.joints[frame] - box[:2] + 0.5) * FINER - 0.5).astype(np.int64)
    inside = ((finer >= 0) & (finer < np.array(labels.shape[::-1]))).all(axis=1)
    column, row = np.where(inside[:, None], finer, 0).T
    label = labels[row, column]
    behind_head = _IS_FACE & (view.joint_depths[frame] > view.node_depths[frame, _SKULL] + 0.02)
    through_body = ~_OWN[np.arange(len(label)), label] | behind_head
    seen = np.where(through_body, Seen.THROUGH_BODY, Seen.CLEARLY)
    return np.where(inside & (label != COVER), seen, Seen.NOT_AT_ALL).astype(np.int64)
