"""Augmentation of face images together with their landmarks."""

from face.augment.augmentation import FaceAugmentation
from face.augment.settings import AugmentationSettings

__all__ = ["AugmentationSettings", "FaceAugmentation"]
