"""KP-RPE and what the gait and face applications need of it. Importing this loads torch and nothing heavier."""

from common.adapters import add_kprpe
from common.keypoints import COCO_17, FIVE_POINT_FACE, KeypointSchema
from common.rpe import KeypointRPE, TableRPE, Window, attention

__all__ = [
    "COCO_17",
    "FIVE_POINT_FACE",
    "KeypointRPE",
    "KeypointSchema",
    "TableRPE",
    "Window",
    "add_kprpe",
    "attention",
]
