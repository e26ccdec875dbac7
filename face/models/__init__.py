"""Models that turn face images into embeddings."""

from face.models.vit import FaceViT, vit_base, vit_small

__all__ = ["FaceViT", "vit_base", "vit_small"]
