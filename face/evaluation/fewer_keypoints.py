"""Models that see fewer keypoints than there are: some hidden, or the first ones alone.

Shape letters: B batch, L = 5 keypoints.
"""

from typing import Any

import torch
from torch import Tensor

from common.keypoints import FIVE_POINT_FACE
from face.models.base import FaceModel
from face.pipelines import ModelInputs, RecognitionPipeline

__all__ = ["HidingPipeline", "first_keypoints", "num_keypoints"]

_ALL = len(FIVE_POINT_FACE)


class HidingPipeline(RecognitionPipeline):
    """A pipeline of kind given whose model sees some of the keypoints.

    What is hidden is a point of the face: in the mirror of the flip test it is the same one, under its other name.
    """

    def __init__(self, pipeline: RecognitionPipeline, shown: tuple[bool, ...]) -> None:
        super().__init__(pipeline.model, source_size=pipeline.source_size)
        self._shown = torch.tensor(shown)

    def prepare(self, *arguments: Any, **options: Any) -> ModelInputs:
        """As that of the pipeline, with some keypoints hidden."""
        inputs = super().prepare(*arguments, **options)
        if inputs.keypoints is None:
            return inputs
        seen = inputs.keypoints.new_ones(inputs.keypoints.shape[:2]) if inputs.visibility is None else inputs.visibility
        return inputs._replace(visibility=seen * self._shown.to(seen))


class _FirstKeypoints(FaceModel):
    """A model of fewer than five keypoints that is given all five: it gets the first ones."""

    def __init__(self, model: FaceModel, count: int) -> None:
        super().__init__()
        self._model, self._count = model, count
        self.image_hw, self.num_features, self.needs_keypoints = model.image_hw, model.num_features, True

    def forward(self, images: Tensor, keypoints: Tensor | None = None, visibility: Tensor | None = None) -> Tensor:
        few, seen = (None if each is None else each[:, : self._count] for each in (keypoints, visibility))
        return self._model(images, few, seen)


def num_keypoints(model: FaceModel) -> int:
    """How many keypoints a model takes; five where it takes none or does not say."""
    config = getattr(model, "config", None)
    if config is None or not model.needs_keypoints:
        return _ALL
    return int(config.settings.get("num_keypoints", _ALL))


def first_keypoints(pipeline: RecognitionPipeline) -> RecognitionPipeline:
    """A pipeline that gives a model of fewer than five keypoints the first ones; one of five as it is."""
    count = num_keypoints(pipeline.model)
    if count >= _ALL or pipeline.kind != "given":
        return pipeline
    return RecognitionPipeline(_FirstKeypoints(pipeline.model, count), source_size=pipeline.source_size)
