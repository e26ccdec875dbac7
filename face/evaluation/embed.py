"""Embeddings of the images of an evaluation set, with the flip test, in one process or shared by several.

Source: the flip test as deepinsight/insightface@7fadd42 and mk-minchul/CVLface@d3d09c9 have it: the embeddings of an
image and of its mirror are added up.
Deliberate differences: keypoints are mirrored with their image, also those that an aligner finds (the authors let it
look at the mirrored image anew); images that are in several pairs are embedded once.

Shape letters: n images, B images of a batch, E embedding channels.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

from common.runtime.distribution import Precision, gather_lists, world_size
from common.runtime.progress import progress_bar
from face.data.images import resize_image
from face.data.landmarks import Landmarks
from face.data.loading import DecodedBatch, SizedImages, load_batches
from face.evaluation.images import ImageList
from face.evaluation.inputs import KeypointInputs, MissingLandmarks, choose_keypoints
from face.models.base import FaceModel, pixels_to_input
from face.pipelines import ModelInputs, RecognitionPipeline, join_inputs, reduced_size

__all__ = ["ImageEmbeddings", "embed_images"]

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class ImageEmbeddings(NamedTuple):
    """What a network made of images."""

    values: np.ndarray
    """[n, E] float32, not normalised; with the flip test the sum of two."""

    without_landmarks: int
    """Images that had none; 0 for a network that needs no keypoints."""

    landmarks: np.ndarray | None = None
    """[n, 5, 2] float32 that a pipeline's aligner found, fractions of the images; None without one."""

    scores: np.ndarray | None = None
    """[n] float32 in [0, 1], how sure it is of a face; None without one."""

    valid: np.ndarray | None = None
    """[n] bool, whether these landmarks give an alignment (see `face.pipelines.ModelInputs`); None without one."""

    @property
    def degenerate(self) -> int:
        """Images whose landmarks give no alignment; 0 without an aligner."""
        return 0 if self.valid is None else int((~self.valid).sum())


def embed_images(
    model: FaceModel | RecognitionPipeline,
    images: ImageList,
    landmarks: Landmarks | None = None,
    *,
    batch_size: int = 64,
    device: torch.device | str = "cpu",
    flip_test: bool = True,
    precision: Precision = "fp32",
    missing_landmarks: MissingLandmarks = "error",
    num_workers: int = 0,
    progress: str | None = None,
) -> ImageEmbeddings:
    """Embed every image of a list, in evaluation mode; afterwards the network is in the modes it was in.

    Where processes share a run, all of them must call this; each embeds a part, and all return the whole.

    Args:
        model: on `device`, not wrapped for training; or a pipeline with it, which may find landmarks by itself.
        images: n.
        landmarks: of the images, or None; a pipeline with an aligner does not look at them.
        batch_size: B.
        device: of the model.
        flip_test: whether the embedding of the mirrored image is added.
        precision: of what autocast covers; embeddings are added up in float32.
        missing_landmarks: what becomes of images without, if the model needs keypoints.
        num_workers: processes that decode images; 0: this one does.
        progress: title of a progress bar, or None for no bar.

    Raises:
        ImageError: an image does not decode; it is named. All processes raise it.
        ValueError: no images, a batch size below 1, or images without landmarks (see `choose_keypoints`).
    """
    if not len(images) or batch_size < 1:
        raise ValueError(f"need images and a batch_size >= 1, got {len(images)} and {batch_size}")
    pipeline = model if isinstance(model, RecognitionPipeline) else RecognitionPipeline(model)
    keypoints = None
    if pipeline.needs_keypoints:
        keypoints = choose_keypoints(images, landmarks, missing_landmarks, pipeline.image_hw)
    rank = dist.get_rank() if world_size() > 1 else 0
    part = np.arange(rank, len(images), world_size())
    loader = load_batches(
        _Reader(images, pipeline),
        [part[begin : begin + batch_size] for begin in range(0, len(part), batch_size)],
        num_workers,
        pin_memory=torch.device(device).type == "cuda",
    )
    outcome: Any
    try:
        with (
            _evaluation_mode(pipeline),
            progress_bar(total=len(part), desc=progress, unit="image", disable=progress is None or rank > 0) as bar,
        ):
            rows: list[_Rows] = []
            for batch in loader:
                if batch.errors:
                    raise next(iter(batch.errors.values()))
                rows.append(_embed_batch(pipeline, batch, keypoints, device, flip_test, precision))
                bar.update(len(batch.indices))
        outcome = rows
    except (ValueError, OSError) as error:  # told to all processes: those that went on would wait for this one
        outcome = [error]
    outcomes = gather_lists(outcome)
    for found in outcomes:
        if isinstance(found, Exception):
            raise found
    order = np.argsort(np.concatenate([found.indices for found in outcomes]))

    def joined(name: str) -> Any:
        parts = [getattr(found, name) for found in outcomes]
        return None if parts[0] is None else np.concatenate(parts)[order]

    return ImageEmbeddings(
        values=joined("values"),
        without_landmarks=0 if keypoints is None else keypoints.without_landmarks,
        landmarks=joined("landmarks"),
        scores=joined("scores"),
        valid=joined("valid"),
    )


class _Rows(NamedTuple):
    """Results of some images."""

    indices: np.ndarray
    values: np.ndarray
    landmarks: np.ndarray | None
    scores: np.ndarray | None
    valid: np.ndarray | None


def _embed_batch(
    pipeline: RecognitionPipeline,
    batch: DecodedBatch,
    keypoints: KeypointInputs | None,
    device: torch.device | str,
    flip_test: bool,
    precision: Precision,
) -> _Rows:
    device = torch.device(device)
    with torch.no_grad(), torch.autocast(device.type, _DTYPES[precision], enabled=precision != "fp32"):
        parts = [_prepare(pipeline, group, batch.indices[group.places], keypoints, device) for group in batch.groups]
        inputs = join_inputs(parts)
        embeddings = pipeline.embed(inputs, flip_test).float().cpu()
    indices = batch.indices[np.concatenate([group.places for group in batch.groups])]
    found = (inputs.landmarks, inputs.score, inputs.valid)
    return _Rows(indices, embeddings.numpy(), *(None if each is None else each.cpu().numpy() for each in found))


def _prepare(
    pipeline: RecognitionPipeline,
    group: SizedImages,
    indices: np.ndarray,
    keypoints: KeypointInputs | None,
    device: torch.device,
) -> ModelInputs:
    """`indices` [b] are the numbers of the images, for their keypoints."""
    points, visibility = None, None
    if keypoints is not None:
        points = torch.from_numpy(keypoints.points[indices]).to(device)
        if keypoints.visibility is not None:
            visibility = torch.from_numpy(keypoints.visibility[indices]).to(device)
    return pipeline.prepare(pixels_to_input(torch.as_tensor(group.pixels), device), points, visibility)


class _Reader:
    """Images of a list in the size that a pipeline wants them in.

    For a model alone that is the model's; for an aligner, which is to see the original pixels, their own unless it is
    above the pipeline's `source_size`.
    """

    def __init__(self, images: ImageList, pipeline: RecognitionPipeline) -> None:
        self._images = images
        self._size_hw = pipeline.image_hw if pipeline.aligner is None else None
        self._longest = pipeline.source_size

    def __call__(self, index: int) -> np.ndarray:
        image = self._images.read(index)
        height, width = image.shape[:2]
        return resize_image(image, self._size_hw or reduced_size((height, width), self._longest))


@contextmanager
def _evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Evaluation mode for all modules, and for each the mode it had before afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
