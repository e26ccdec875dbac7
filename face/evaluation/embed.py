"""Embeddings of the images of an evaluation set, with the flip test, in one process or shared by several.

Source: the flip test as deepinsight/insightface@7fadd42 and mk-minchul/CVLface@d3d09c9 have it: the embeddings of an
image and of its mirror are added up.
Deliberate differences: keypoints are mirrored with their image, also those that an aligner finds (the authors let it
look at the mirrored image anew); images that are in several pairs are embedded once.

Batches are stretches of the list of images. Processes take them in turn, so that the numbers of one process and of
several are the same to the bit.

Shape letters: n images, B images of a batch, b of them of one size, E embedding channels.
"""

from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple, TypeGuard

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

from common.keypoints import pixels_to_fractions
from common.runtime.distribution import Precision, gather_lists, share_problem, world_size
from common.runtime.progress import progress_bar
from face.data.images import resize_image
from face.data.landmarks import Landmarks
from face.data.loading import DecodedBatch, SizedImages, load_batches
from face.evaluation.checks import check_embeddings
from face.evaluation.images import ImageList
from face.evaluation.inputs import KeypointInputs, MissingLandmarks, choose_keypoints
from face.evaluation.marked_images import AlignedImages, UnalignedImages
from face.models.base import FaceModel, pixels_to_input
from face.pipelines import RecognitionPipeline, join_inputs, reduced_size

__all__ = [
    "EmbeddedBatch",
    "ImageEmbeddings",
    "embed_batches",
    "embed_images",
    "embed_parts",
    "image_keypoints",
    "stretches",
]

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
        ValueError: no images, a batch size below 1, images without landmarks (see `choose_keypoints`), or embeddings
            that are NaN or infinite (their images are named).
    """
    keypoints = image_keypoints(model, images, landmarks, missing_landmarks)
    parts = embed_parts(
        model,
        images,
        keypoints,
        batch_size=batch_size,
        device=device,
        flip_test=flip_test,
        precision=precision,
        num_workers=num_workers,
        progress=progress,
    )
    return ImageEmbeddings(
        values=parts.values,
        without_landmarks=0 if keypoints is None else keypoints.without_landmarks,
        landmarks=parts.found,
        scores=parts.scores,
        valid=parts.valid,
    )


class EmbeddedBatch(NamedTuple):
    """What a pipeline made of some images."""

    indices: np.ndarray
    """[B] int64, rising: which ones of the list."""

    values: np.ndarray
    """[B, E] float32, embeddings."""

    found: np.ndarray | None
    """[B, 5, 2] float32 landmarks that the aligner found, fractions of the images; None without one."""

    placed: np.ndarray | None
    """[B, 5, 2] float32 landmarks as fractions of what the model got: the aligner's, or those that came with images
    when they were read. None where there is neither."""

    scores: np.ndarray | None
    """[B] float32 of the aligner; None without one."""

    valid: np.ndarray | None
    """[B] bool, whether the aligner's landmarks give an alignment; None without one."""


def image_keypoints(
    model: FaceModel | RecognitionPipeline,
    images: ImageList,
    landmarks: Landmarks | None,
    missing_landmarks: MissingLandmarks,
) -> KeypointInputs | None:
    """Keypoints for a model that must be given some before images are read; None for others.

    Raises:
        ValueError: images without landmarks (see `choose_keypoints`).
    """
    pipeline = model if isinstance(model, RecognitionPipeline) else RecognitionPipeline(model)
    if not pipeline.needs_keypoints or (landmarks is None and _comes_with_landmarks(images)):
        return None
    return choose_keypoints(images, landmarks, missing_landmarks, pipeline.image_hw)


def embed_parts(
    model: FaceModel | RecognitionPipeline,
    images: ImageList,
    keypoints: KeypointInputs | None,
    *,
    batch_size: int,
    device: torch.device | str,
    flip_test: bool,
    precision: Precision,
    num_workers: int,
    progress: str | None,
) -> EmbeddedBatch:
    """All images as one batch, in memory; arguments as of `embed_images`, `keypoints` from `image_keypoints`."""
    batches = stretches(len(images), batch_size)
    rank = dist.get_rank() if world_size() > 1 else 0
    mine: list[EmbeddedBatch] = []
    problem: Exception | None = None
    try:
        with progress_bar(total=len(images), desc=progress, unit="image", disable=progress is None or rank > 0) as bar:
            for batch in embed_batches(
                model,
                images,
                keypoints,
                batches[rank :: world_size()],
                device=device,
                flip_test=flip_test,
                precision=precision,
                num_workers=num_workers,
            ):
                mine.append(batch)
                bar.update(min(len(batch.indices) * world_size(), len(images) - bar.n))
    except (ValueError, OSError) as error:
        problem = error
    share_problem(problem)
    return _joined(gather_lists([_joined(mine)] if mine else []))


def stretches(count: int, batch_size: int) -> list[np.ndarray]:
    """Numbers of images, batch for batch.

    Raises:
        ValueError: no images, or a batch size below 1.
    """
    if count < 1 or batch_size < 1:
        raise ValueError(f"need images and a batch_size >= 1, got {count} and {batch_size}")
    return [np.arange(begin, min(begin + batch_size, count)) for begin in range(0, count, batch_size)]


def embed_batches(
    model: FaceModel | RecognitionPipeline,
    images: ImageList,
    keypoints: KeypointInputs | None,
    batches: Sequence[np.ndarray],
    *,
    device: torch.device | str,
    flip_test: bool,
    precision: Precision,
    num_workers: int,
) -> Generator[EmbeddedBatch, None, None]:
    """Embed batch after batch of a list, in this process, in evaluation mode; arguments as of `embed_images`.

    Raises:
        ImageError: an image does not decode; it is named.
        ValueError: embeddings are NaN or infinite; images are named.
    """
    pipeline = model if isinstance(model, RecognitionPipeline) else RecognitionPipeline(model)
    device = torch.device(device)
    # Landmarks in pixels are fractions of an image's own size: it is resized after it has come here.
    marked = images if _comes_with_landmarks(images) and keypoints is None and pipeline.aligner is None else None
    reader = _Reader(images, pipeline, as_they_are=marked is not None)
    for batch in load_batches(reader, batches, num_workers, pin_memory=device.type == "cuda"):
        if batch.errors:
            raise next(iter(batch.errors.values()))
        marks = None
        if marked is not None:
            batch, marks = _resize_marked(batch, marked, pipeline.image_hw)
        with _evaluation_mode(pipeline):
            embedded = _embed_batch(pipeline, batch, keypoints, marks, device, flip_test, precision)
        numbers = embedded.indices.tolist()
        check_embeddings(embedded.values, lambda row, numbers=numbers: images.name_of(numbers[row]))  # type: ignore[misc]
        yield embedded


def _joined(parts: Sequence[EmbeddedBatch]) -> EmbeddedBatch:
    """Rows of all, by the numbers of their images."""
    if len(parts) == 1:
        return parts[0]
    order = np.argsort(np.concatenate([part.indices for part in parts]))
    everything: list[np.ndarray | None] = []
    for column in zip(*parts, strict=True):
        whole = None if column[0] is None else np.concatenate(column)
        moves = whole is not None and (order != np.arange(len(order))).any()
        everything.append(whole[order] if whole is not None and moves else whole)
    return EmbeddedBatch(*everything)  # type: ignore[arg-type]  # the first, indices, is never None


def _embed_batch(
    pipeline: RecognitionPipeline,
    batch: DecodedBatch,
    keypoints: KeypointInputs | None,
    marks: np.ndarray | None,
    device: torch.device,
    flip_test: bool,
    precision: Precision,
) -> EmbeddedBatch:
    """`marks` [B, 5, 2] instead of `keypoints`, where landmarks came with the images."""
    groups, order = batch.groups, np.argsort(np.concatenate([group.places for group in batch.groups]))
    with torch.no_grad(), torch.autocast(device.type, _DTYPES[precision], enabled=precision != "fp32"):
        tensors = [pixels_to_input(torch.as_tensor(group.pixels), device) for group in groups]
        faces = pipeline.find(tensors)
        given = [_keypoints_of(group, batch, keypoints, marks, device) for group in groups]
        inputs = join_inputs(
            [
                pipeline.prepare(images, *points, None if faces is None else faces[number])
                for number, (images, points) in enumerate(zip(tensors, given, strict=True))
            ]
        )
        embeddings = pipeline.embed(inputs, flip_test).float()
    placed = marks
    if faces is not None:
        aligned = pipeline.kind == "dfa_aligned"
        placed = (
            torch.cat([face.aligned_landmarks if aligned else face.landmarks for face in faces]).cpu().numpy()[order]
        )

    def in_order(tensor: torch.Tensor | None) -> np.ndarray | None:
        return None if tensor is None else tensor.cpu().numpy()[order]

    return EmbeddedBatch(
        indices=batch.indices,
        values=embeddings.cpu().numpy()[order],
        found=in_order(inputs.landmarks),
        placed=placed,
        scores=in_order(inputs.score),
        valid=in_order(inputs.valid),
    )


def _keypoints_of(
    group: SizedImages,
    batch: DecodedBatch,
    keypoints: KeypointInputs | None,
    marks: np.ndarray | None,
    device: torch.device,
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """Keypoints and visibility of the images of a group."""
    if marks is not None:
        return torch.from_numpy(marks[group.places]).to(device), None
    if keypoints is None:
        return None, None
    indices = batch.indices[group.places]
    points = torch.from_numpy(keypoints.points[indices]).to(device)
    if keypoints.visibility is None:
        return points, None
    return points, torch.from_numpy(keypoints.visibility[indices]).to(device)


def _comes_with_landmarks(images: ImageList) -> TypeGuard[UnalignedImages]:
    """Whether landmarks are only known once an image is read, as fractions are of its size."""
    return isinstance(images, UnalignedImages) and not isinstance(images, AlignedImages)


def _resize_marked(
    batch: DecodedBatch, images: UnalignedImages, size_hw: tuple[int, int]
) -> tuple[DecodedBatch, np.ndarray]:
    """Images in one size, and their landmarks [B, 5, 2] as fractions."""
    count = len(batch.indices)
    pixels, marks = np.empty((count, 3, *size_hw), np.uint8), np.empty((count, 5, 2), np.float32)
    for group in batch.groups:
        own = np.asarray(group.pixels)
        points_px = images.landmarks_px[batch.indices[group.places]].astype(np.float64)
        marks[group.places] = pixels_to_fractions(points_px, (own.shape[2], own.shape[3]))
        for place, image in zip(group.places, own, strict=True):
            pixels[place] = resize_image(np.ascontiguousarray(image.transpose(1, 2, 0)), size_hw).transpose(2, 0, 1)
    return batch._replace(groups=[SizedImages(np.arange(count), pixels)]), marks


class _Reader:
    """Images of a list in the size that a pipeline wants them in.

    For a model alone that is the model's; for an aligner, which is to see the original pixels, their own unless it is
    above the pipeline's `source_size`. `as_they_are` leaves every image in its own size.
    """

    def __init__(self, images: ImageList, pipeline: RecognitionPipeline, as_they_are: bool) -> None:
        self._images = images
        self._size_hw = pipeline.image_hw if pipeline.aligner is None else None
        self._longest = pipeline.source_size
        self._as_they_are = as_they_are

    def __call__(self, index: int) -> np.ndarray:
        image = self._images.read(index)
        if self._as_they_are:
            return image
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
