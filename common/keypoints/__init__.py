"""Keypoint schemas and the geometry that moves keypoints with their image."""

from common.keypoints.schema import COCO_17, FIVE_POINT_FACE, OPENPOSE_18, SCHEMAS, KeypointSchema, matching_order
from common.keypoints.transforms import (
    check_fractions,
    flip_keypoints,
    fractions_to_pixels,
    pixels_to_fractions,
    transform_keypoints,
)

__all__ = [
    "COCO_17",
    "FIVE_POINT_FACE",
    "OPENPOSE_18",
    "SCHEMAS",
    "KeypointSchema",
    "check_fractions",
    "flip_keypoints",
    "fractions_to_pixels",
    "matching_order",
    "pixels_to_fractions",
    "transform_keypoints",
]
