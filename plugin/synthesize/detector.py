"""Stand-ins for the imperfect parts of a real pipeline: person crops, things in the way, estimated joints.

Each takes its own random generator, so that switching one imperfection on leaves the rest of a data set as it was.
Coordinates: pixel-index, of the view for boxes and occluders, of the crop for estimated joints.
Shape letters: T frames, K points of an outline.
"""

import numpy as np
from numpy.typing import NDArray

from common.keypoints import COCO_17
from plugin.synthesize.camera import View
from plugin.synthesize.render import Seen

__all__ = ["crop_boxes", "estimate_joints", "occluder_polygons"]

Array = NDArray[np.float64]

NOISE_FACTOR = {Seen.CLEARLY: 1.0, Seen.THROUGH_BODY: 2.0, Seen.NOT_AT_ALL: 4.0}
CONFIDENCE = {Seen.CLEARLY: (0.7, 1.0), Seen.THROUGH_BODY: (0.35, 0.65), Seen.NOT_AT_ALL: (0.05, 0.25)}
PERSON_HEIGHT_M = 1.7
LIMB_JOINTS = ("left_elbow", "right_elbow", "left_wrist", "right_wrist", "left_knee", "right_knee")


def _extent(view: View) -> tuple[Array, Array]:
    """Lower and upper corners (x, y) of the whole body in each frame, [T, 2] each."""
    return view.outlines.min(axis=(1, 2)), view.outlines.max(axis=(1, 2))


def crop_boxes(view: View, miscrop: float, rng: np.random.Generator) -> NDArray[np.int64]:
    """Boxes that a person detector may give, [T, 4] whole numbers: left, top, width, height in view pixels.

    Args:
        view: the walk as a camera sees it.
        miscrop: 0 for a whole body with a small margin; else boxes are moved by up to this share of half their
            size and scaled by up to exp(+-miscrop), partly the same way for the whole sequence.
        rng: of the crops alone.
    """
    low, high = _extent(view)
    count = len(low)
    size = (high - low).max(axis=1, keepdims=True)
    margins = rng.uniform(0.01, 0.07, (1, 4)) + rng.normal(0.0, 0.01, (count, 4))
    margins = np.maximum(margins, 0.0) * size + 1
    low, high = low - margins[:, :2], high + margins[:, 2:]
    wrong = miscrop * (0.6 * rng.uniform(-1, 1, (1, 3)) + 0.4 * rng.uniform(-1, 1, (count, 3)))
    centre = (low + high) / 2 + wrong[:, :2] * (high - low) / 2
    half = (high - low) / 2 * np.exp(wrong[:, 2:])
    corner = np.floor(centre - half)
    return np.concatenate([corner, np.ceil(centre + half) - corner + 1], axis=1).astype(np.int64)


def occluder_polygons(view: View, occlusion: float, rng: np.random.Generator) -> list[Array | None]:
    """With probability `occlusion`, something in front of the walker for at least half of the frames.

    Returns:
        For each of the T frames None or a convex polygon [K, 2] in view pixels: over the lower body (a bench),
        a side (a pillar) or one joint of a limb (a bag).
    """
    occluded, kind = rng.random() < occlusion, rng.choice(["lower", "side", "limb"])
    share, radius = rng.uniform(0.2, 0.45), rng.uniform(0.07, 0.12)
    from_right, joint = rng.random() < 0.5, COCO_17.names.index(rng.choice(LIMB_JOINTS))
    count = len(view.joints)
    length = int(np.ceil(count * rng.uniform(0.5, 1.0)))
    start = int(rng.integers(0, count - length + 1))
    polygons: list[Array | None] = [None] * count
    if not occluded:
        return polygons
    lows, highs = _extent(view)
    circle = np.linspace(0, 2 * np.pi, 20, endpoint=False)
    for frame in range(start, start + length):
        low, high = lows[frame].copy(), highs[frame].copy()
        size = high - low
        if kind == "limb":
            disc = np.stack([np.cos(circle), np.sin(circle)], axis=1) * radius * size[1]
            polygons[frame] = view.joints[frame, joint] + disc
            continue
        if kind == "lower":
            low[1] = high[1] - share * size[1]
        elif from_right:
            low[0] = high[0] - share * size[0]
        else:
            high[0] = low[0] + share * size[0]
        low, high = low - 2, high + 2  # a body's edge must not show around the occluder
        polygons[frame] = np.array([low, (high[0], low[1]), high, (low[0], high[1])])
    return polygons


def estimate_joints(
    view: View,
    boxes: NDArray[np.int64],
    seen: NDArray[np.int64],
    noise: float,
    missed: float,
    rng: np.random.Generator,
) -> Array:
    """What a pose estimator may say of the joints.

    Args:
        view: the walk as a camera sees it.
        boxes: [T, 4] crops.
        seen: [T, 17] values of `Seen`: less is seen, larger the error and lower the confidence.
        noise: standard deviation of a clearly seen joint, as a share of the person's height.
        missed: probability of (0, 0, 0) instead of a joint.
        rng: of the joints alone.

    Returns:
        [T, 17, 3] x, y in crop pixels (never outside of the crop) and confidence.
    """
    levels = list(Seen)
    factor = np.array([NOISE_FACTOR[level] for level in levels])[seen]
    lowest, highest = np.array([CONFIDENCE[level] for level in levels])[seen].transpose(2, 0, 1)
    deviation = noise * PERSON_HEIGHT_M * view.pixels_per_m[:, None] * factor
    joints = view.joints + rng.standard_normal(view.joints.shape) * deviation[..., None]
    joints = np.clip(joints - boxes[:, None, :2], 0, boxes[:, None, 2:] - 1)
    confidence = lowest + (highest - lowest) * rng.random(seen.shape)
    pose = np.concatenate([joints, confidence[..., None]], axis=-1)
    return np.where(rng.random(seen.shape)[..., None] < missed, 0.0, pose)
