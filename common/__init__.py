"""KP-RPE and what the gait and face applications need of it. Importing this loads torch and nothing heavier."""

from common.adapters import add_kprpe
from common.keypoints import COCO_17, FIVE_POINT_FACE, KeypointSchema
from common.rpe import ImageRPE, KeypointRPE, PositionBias, PositionBiasSettings, TableRPE, Window, attention

__all__ = [
    "COCO_17",
    "FIVE_POINT_FACE",
    "ImageRPE",
    "KeypointRPE",
    "KeypointSchema",
    "PositionBias",
    "PositionBiasSettings",
    "TableRPE",
    "Window",
    "add_kprpe",
    "attention",
]
