"""Losses that train face embeddings: margins on cosines to class centres, and a softmax over classes in shards."""

from face.losses.class_shards import load_class_shards, save_class_shards
from face.losses.margins import AdaFace, ArcFace, CosFace, Margin
from face.losses.partial_fc import PartialFC, class_range
from face.losses.settings import AdaFaceSettings, ArcFaceSettings, CosFaceSettings, MarginSettings, make_margin

__all__ = [
    "AdaFace",
    "AdaFaceSettings",
    "ArcFace",
    "ArcFaceSettings",
    "CosFace",
    "CosFaceSettings",
    "Margin",
    "MarginSettings",
    "PartialFC",
    "class_range",
    "load_class_shards",
    "make_margin",
    "save_class_shards",
]
