"""Relative position encodings: KP-RPE at image and window level, its baselines, and attention that takes them."""

from common.rpe.attention import AttentionBias, attention
from common.rpe.buckets import DistanceMethod, bucket_ids, num_buckets
from common.rpe.clip_rpe import ClipKeypointRPE, TimeWindow
from common.rpe.grids import Window, grid_centres, window_centres, window_partition
from common.rpe.image_rpe import ImageRPE
from common.rpe.keypoint_rpe import KeypointBias, KeypointRPE, KeypointRPEForm, LayerBiases
from common.rpe.position_bias import KeypointGrid, PositionBias, PositionBiasName, PositionBiasSettings
from common.rpe.table_rpe import TableRPE

__all__ = [
    "AttentionBias",
    "ClipKeypointRPE",
    "DistanceMethod",
    "ImageRPE",
    "KeypointBias",
    "KeypointGrid",
    "KeypointRPE",
    "KeypointRPEForm",
    "LayerBiases",
    "PositionBias",
    "PositionBiasName",
    "PositionBiasSettings",
    "TableRPE",
    "TimeWindow",
    "Window",
    "attention",
    "bucket_ids",
    "grid_centres",
    "num_buckets",
    "window_centres",
    "window_partition",
]
