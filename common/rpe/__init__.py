"""Relative position encodings: KP-RPE at image and window level, its buckets and grids, and the plain table."""

from common.rpe.attention import attention
from common.rpe.buckets import DistanceMethod, bucket_ids, num_buckets
from common.rpe.grids import Window, grid_centres, window_centres, window_partition
from common.rpe.keypoint_rpe import KeypointRPE, KeypointRPEForm, LayerBiases
from common.rpe.table_rpe import TableRPE

__all__ = [
    "DistanceMethod",
    "KeypointRPE",
    "KeypointRPEForm",
    "LayerBiases",
    "TableRPE",
    "Window",
    "attention",
    "bucket_ids",
    "grid_centres",
    "num_buckets",
    "window_centres",
    "window_partition",
]
