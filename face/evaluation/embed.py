"""Embeddings of the images of an evaluation set, with the flip test, in one process or shared by several.

Source: the flip test as deepinsight/insightface@7fadd42 and mk-minchul/CVLface@d3d09c9 have it: the embeddings of an
image and of its mirror are added up.
Deliberate differences: keypoints are mirrored with their image; images that are in several pairs are embedded once.

Shape letters: n images, B images of a batch, E embedding channels.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from common.keypoints import FIVE_POINT_FACE, flip_keypoints
from common.runtime.distribution import Precision, gather_lists, world_size
from common.runtime.progress import progress_bar
from common.runtime.workers import loader_processes
from face.data.images import resize_image
from face.data.landmarks import Landmarks
from face.evaluation.images import ImageList
from face.evaluation.inputs import KeypointInputs, MissingLandmarks, choose_keypoints
from face.models.base import FaceModel, pixels_to_input

__all__ = ["ImageEmbeddings", "embed_images"]

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class ImageEmbeddings(NamedTuple):
    """What a network made of images."""

    values: np.ndarray
    """[n, E] float32, not normalised; with the flip test the sum of two."""

    without_landmarks: int
    """Images that had none; 0 for a network that needs no keypoints."""


def embed_images(
    model: FaceModel,
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
        model: on `device`, not wrapped for training.
        images: n.
        landmarks: of the images, or None.
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
    keypoints = None
    if model.needs_keypoints:
        keypoints = choose_keypoints(images, landmarks, missing_landmarks, model.image_hw)
    rank = dist.get_rank() if world_size() > 1 else 0
    part = np.arange(rank, len(images), world_size())
    loader = DataLoader(
        _Decoded(images, part, model.image_hw),
        batch_size=batch_size,
        collate_fn=_join,
        **loader_processes(num_workers),
        pin_memory=torch.device(device).type == "cuda",
    )
    outcome: Any
    try:
        with (
            _evaluation_mode(model),
            progress_bar(total=len(part), desc=progress, unit="image", disable=progress is None or rank > 0) as bar,
        ):
            rows: list[np.ndarray] = []
            begin = 0
            for pixels in loader:
                if isinstance(pixels, Exception):
                    raise pixels
                places = part[begin : begin + len(pixels)]
                begin += len(pixels)
                rows.append(_embed_batch(model, pixels, keypoints, places, torch.device(device), flip_test, precision))
                bar.update(len(pixels))
        outcome = (part, np.concatenate(rows)) if rows else None
    except (ValueError, OSError) as error:  # told to all processes: those that went on would wait for this one
        outcome = error
    outcomes = gather_lists([outcome])
    for found in outcomes:
        if isinstance(found, Exception):
            raise found
    parts = [found for found in outcomes if found is not None]
    values = np.empty((len(images), parts[0][1].shape[1]), dtype=np.float32)
    for places, embedded in parts:
        values[places] = embedded
    return ImageEmbeddings(values, 0 if keypoints is None else keypoints.without_landmarks)


def _embed_batch(
    model: nn.Module,
    pixels: Tensor,
    keypoints: KeypointInputs | None,
    places: np.ndarray,
    device: torch.device,
    flip_test: bool,
    precision: Precision,
) -> np.ndarray:
    """[B, 3, h, w] uint8 to [B, E] float32; `places` are the numbers of the images, for their keypoints."""
    x = pixels_to_input(pixels, device)
    points, visibility = None, None
    if keypoints is not None:
        points = torch.from_numpy(keypoints.points[places]).to(device)
        if keypoints.visibility is not None:
            visibility = torch.from_numpy(keypoints.visibility[places]).to(device)
    with torch.no_grad(), torch.autocast(device.type, _DTYPES[precision], enabled=precision != "fp32"):
        embeddings = _call(model, x, points, visibility)
        if flip_test:
            if points is not None:
                points = flip_keypoints(points, FIVE_POINT_FACE)
            if visibility is not None:
                visibility = visibility[:, FIVE_POINT_FACE.flip_order]
            embeddings = embeddings + _call(model, x.flip(-1), points, visibility)
    return embeddings.cpu().numpy()


def _call(model: nn.Module, images: Tensor, keypoints: Tensor | None, visibility: Tensor | None) -> Tensor:
    out = model(images) if keypoints is None else model(images, keypoints, visibility)
    return out.float()


class _Decoded(Dataset):
    """Some images of a list, as [3, h, w] uint8 of one size; one that cannot be read comes as the error."""

    def __init__(self, images: ImageList, places: Sequence[int] | np.ndarray, size_hw: tuple[int, int]) -> None:
        self._images = images
        self._places = places
        self._size_hw = size_hw

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> Tensor | Exception:
        try:
            image = self._images.read(int(self._places[index]))
        except (ValueError, OSError) as error:  # a worker process would wrap it in its traceback
            return error
        return torch.from_numpy(np.ascontiguousarray(resize_image(image, self._size_hw).transpose(2, 0, 1)))


def _join(batch: list[Tensor | Exception]) -> Tensor | Exception:
    for item in batch:
        if isinstance(item, Exception):
            return item
    return torch.stack(batch)  # type: ignore[arg-type]


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
