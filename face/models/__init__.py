"""Models that turn face images into embeddings."""

from face.models.base import FaceModel, FaceModelConfig
from face.models.iresnet import IResNet
from face.models.pretrained import load_pretrained, save_pretrained
from face.models.registry import create_model, model_names, register_model
from face.models.swin import FaceSwin
from face.models.vit import FaceViT, vit_base, vit_small

__all__ = [
    "FaceModel",
    "FaceModelConfig",
    "FaceSwin",
    "FaceViT",
    "IResNet",
    "create_model",
    "load_pretrained",
    "model_names",
    "register_model",
    "save_pretrained",
    "vit_base",
    "vit_small",
]
