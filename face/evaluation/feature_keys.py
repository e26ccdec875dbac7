"""What the features of images follow from, as a key: features under one key are the same but for rounding.

The key is a hash of the weights (every tensor of the state dict), settings and kinds of model, aligner and pipeline; of
the images; of the keypoints that the model is given; of flip test and precision. Images of files count by their names
below their root, sizes and times of change, so that no file is read to find features again: a set may be moved, but not
touched. Images in memory count by their bytes. Landmarks that images are aligned by count, too. What only rounds
otherwise does not count: batch size, device, number of processes.
"""

import hashlib
import json
import os
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import nn

from common.runtime.distribution import Precision
from face.evaluation.images import FolderImages, ImageList
from face.evaluation.inputs import KeypointInputs
from face.evaluation.marked_images import AlignedImages, UnalignedImages
from face.models.base import FaceModel
from face.pipelines import RecognitionPipeline

__all__ = ["features_key"]

_FORMAT = 1


def features_key(
    model: FaceModel | RecognitionPipeline,
    images: ImageList,
    keypoints: KeypointInputs | None,
    *,
    flip_test: bool,
    precision: Precision,
) -> tuple[str, dict[str, Any]]:
    """The name of a folder of features, and what it is a hash of.

    Args:
        model: or a pipeline with it.
        images: n.
        keypoints: that the model is given, from `image_keypoints`.
        flip_test: see `cached_features`.
        precision: likewise.
    """
    pipeline = model if isinstance(model, RecognitionPipeline) else RecognitionPipeline(model)
    given = None
    if keypoints is not None:
        given = _array_hash(keypoints.points, keypoints.visibility)
    identity = {
        "format": _FORMAT,
        "model": _describe(pipeline.model, getattr(pipeline.model, "config", None)),
        "image_hw": list(pipeline.image_hw),
        "pipeline": pipeline.kind,
        "aligner": None,
        "images": {"count": len(images), **_describe_images(images)},
        "keypoints": given,
        "flip_test": flip_test,
        "precision": precision,
    }
    if pipeline.aligner is not None:
        aligner = pipeline.aligner
        network_settings = getattr(aligner.network, "settings", None)
        identity["aligner"] = _describe(aligner.network, network_settings)
        identity["alignment"] = asdict(aligner.settings)
        identity["source_size"] = pipeline.source_size
    text = json.dumps(identity, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:24], json.loads(text)


def _describe(module: nn.Module, settings: Any) -> dict[str, Any]:
    """A network by its weights, and by settings that may change what it does without a weight of their own."""
    found = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        content = value.detach().cpu().contiguous()
        found.update(f"{name} {content.dtype} {list(content.shape)};".encode())
        found.update(content.reshape(-1).view(torch.uint8).numpy())
    known = None if settings is None else asdict(settings)
    return {"class": type(module).__name__, "settings": known, "weights_sha256": found.hexdigest()}


def _describe_images(images: ImageList) -> dict[str, Any]:
    if isinstance(images, UnalignedImages):
        inner = _describe_images(images.images)
        view = {"aligned_to": list(images.out_hw)} if isinstance(images, AlignedImages) else {"aligned_to": None}
        return {**inner, **view, "landmarks_sha256": _array_hash(images.landmarks_px)}
    found = hashlib.sha256()
    if isinstance(images, FolderImages):
        for name in images.names:
            entry = os.stat(images.root / name)
            found.update(f"{name}\0{entry.st_size}\0{entry.st_mtime_ns}\n".encode("utf-8", "surrogateescape"))
        return {"files_sha256": found.hexdigest()}
    for index in range(len(images)):
        content = images.read_bytes(index)
        found.update(f"{len(content)};".encode())
        found.update(content)
    return {"content_sha256": found.hexdigest()}


def _array_hash(*arrays: np.ndarray | None) -> str:
    found = hashlib.sha256()
    for array in arrays:
        found.update(b"none;" if array is None else f"{array.dtype} {array.shape};".encode())
        if array is not None:
            found.update(np.ascontiguousarray(array).data)
    return found.hexdigest()
