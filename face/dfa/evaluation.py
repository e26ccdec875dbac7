"""Landmarks of annotated faces, predicted by a network or listed in another detector's table, and their errors.

A network sees each face in its crop, as in training. Crops are square, so that fractions of them are the same unit
along both axes. Where processes share a run each takes a part of the faces, and all have the whole result.
Coordinates: landmarks and boxes are fractions of the crops.
Shape letters: n faces with landmarks, B images of a batch, h x w pixels.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.data import Dataset

from common.runtime.curves import Name, curve_title
from common.runtime.distribution import Precision, gather_lists, world_size
from common.runtime.progress import progress_bar
from face.data.images import ImageError
from face.data.landmarks import read_landmarks
from face.data.sources import ImageSource
from face.dfa.anchors import decode_boxes, decode_landmarks
from face.dfa.annotations import FaceAnnotations
from face.dfa.crops import FACE, PhotographCrops
from face.dfa.dataset import CropSet, DFABatch, make_crop_loader
from face.dfa.landmark_errors import LandmarkMetricSettings, LandmarkResult, point_errors
from face.dfa.network import DFANetwork, DFAPrediction
from face.models.base import pixels_to_input
from face.training.loading import make_loader

__all__ = [
    "AGGREGATED",
    "BEST_ANCHOR",
    "PredictLandmarks",
    "both_predictions",
    "evaluate_landmarks",
    "evaluate_table",
]

AGGREGATED, BEST_ANCHOR = "aggregated", "best anchor"

PredictLandmarks = Callable[[Tensor], Mapping[Name, DFAPrediction]]
"""From images [B, 3, h, w], RGB in [-1, 1], to one or more predictions by their names."""

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def both_predictions(network: DFANetwork, images: Tensor) -> dict[str, DFAPrediction]:
    """What `DFANetwork.predict` gives with and without aggregator, of one forward pass.

    Args:
        network: one without an aggregator has but the best anchor.
        images: [B, 3, *image_hw], RGB in [-1, 1].
    """
    output = network(images)
    found = {}
    if output.landmarks is not None and output.face_logits is not None and output.boxes is not None:
        found[AGGREGATED] = DFAPrediction(output.landmarks, output.face_logits.softmax(-1)[:, 1], output.boxes)
    score, place = output.logits.softmax(-1)[..., 1].max(dim=1)
    rows = torch.arange(len(place), device=place.device)
    anchors = network.anchors[place]
    found[BEST_ANCHOR] = DFAPrediction(
        decode_landmarks(output.landmark_offsets[rows, place], anchors),
        score,
        decode_boxes(output.box_offsets[rows, place], anchors),
    )
    return found


def evaluate_landmarks(
    model: DFANetwork | PredictLandmarks,
    crops: CropSet,
    settings: LandmarkMetricSettings | None = None,
    *,
    batch_size: int = 256,
    device: torch.device | str = "cpu",
    precision: Precision = "fp32",
    num_workers: int = 0,
    progress: str | None = None,
) -> dict[Name, LandmarkResult]:
    """Predict the landmarks of every annotated face and measure their errors.

    Where processes share a run, all of them must call this; each predicts a part, and all return the whole.

    Args:
        model: a network on `device`, evaluated with and without its aggregator in one pass, in evaluation mode
            (afterwards it is in the modes it was in); or a function.
        crops: without augmentation; faces without landmarks are passed over.
        settings: of the errors.
        batch_size: B, of each process.
        device: of the model.
        precision: of what autocast covers.
        num_workers: processes that load crops, beside each process; 0: this one does.
        progress: title of a progress bar, or None for no bar.

    Returns:
        By the names of predictions; of a network AGGREGATED, if it has an aggregator, and BEST_ANCHOR.

    Raises:
        ImageError: an image does not decode; it is named. All processes raise it, as the following.
        ValueError: no face with landmarks, crops with augmentation, a batch size below 1, or a prediction that is not
            finite; its image is named.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be >= 1, got {batch_size}")
    if crops.augment is not None:
        raise ValueError("crops to evaluate on must have no augmentation")
    part = _part(_annotated(crops.crops.kinds))
    loader = make_crop_loader(
        crops,
        [part[begin : begin + batch_size].tolist() for begin in range(0, len(part), batch_size)],
        num_workers,
        pin_memory=torch.device(device).type == "cuda",
    )
    outcome: list[Any]
    try:
        with (
            _evaluation_mode(model),
            progress_bar(total=len(part), desc=progress, unit="face", disable=progress is None or _rank() > 0) as bar,
        ):
            outcome = []
            for batch in loader:
                outcome.append(_predict_batch(model, batch, crops, device, precision))
                bar.update(len(batch.indices))
    except (ValueError, OSError) as error:  # told to all processes: those that went on would wait for this one
        outcome = [error]
    whole = _whole(outcome)
    return {
        name: _result(
            whole.indices, predicted, whole.scores[name], whole.truth, whole.boxes, settings, crops.crops.name_of
        )
        for name, predicted in whole.predicted.items()
    }


def evaluate_table(
    path: str | Path,
    crops: PhotographCrops,
    settings: LandmarkMetricSettings | None = None,
    *,
    num_workers: int = 0,
    progress: str | None = None,
) -> LandmarkResult:
    """Errors of landmarks that something else has predicted.

    Where processes share a run, all of them must call this.

    Args:
        path: table of `face.data.read_landmarks`, `image,x0,y0,...,score`. An `image` is a photograph, '#' and the
            line of the label file that the face is in (`0--Parade/0_Parade_marchingband_1_849.jpg#2`); landmarks are
            fractions of the photograph. Faces that are not in it have no prediction; rows of other faces are passed
            over.
        crops: of the faces.
        settings: of the errors.
        num_workers: processes that decode photographs, for their size; 0: this one does.
        progress: title of a progress bar, or None for no bar.

    Raises:
        FileNotFoundError: no such file.
        ImageError: a photograph does not decode.
        ValueError: see `read_landmarks`; or no face with landmarks.
    """
    indices = _annotated(crops.kinds)
    table = read_landmarks(path, cast(ImageSource, _FaceKeys(crops.annotations)), allow_extra=True)
    part = _part(indices)
    batches = [[index] for index in part.tolist()]
    loader = make_loader(_InFrame(crops, table.points), batches, num_workers, False, itemgetter(0))
    outcome: list[Any]
    try:
        bar = progress_bar(loader, total=len(part), desc=progress, unit="face", disable=progress is None or _rank() > 0)
        outcome = list(bar)
    except (ValueError, OSError) as error:
        outcome = [error]
    whole = _whole(outcome)
    return _result(
        whole.indices, whole.predicted[""], table.scores[indices], whole.truth, whole.boxes, settings, crops.name_of
    )


class _Rows(NamedTuple):
    """Some faces."""

    indices: np.ndarray
    truth: np.ndarray
    boxes: np.ndarray
    predicted: dict[Name, np.ndarray]
    scores: dict[Name, np.ndarray]


def _annotated(kinds: np.ndarray) -> np.ndarray:
    indices = np.flatnonzero(kinds == FACE)
    if not len(indices):
        raise ValueError(f"none of the {len(kinds)} faces has landmarks")
    return indices


def _part(indices: np.ndarray) -> np.ndarray:
    """This process's: neighbours, which mostly are of one photograph, stay together."""
    return np.array_split(indices, world_size())[_rank()]


def _rank() -> int:
    return dist.get_rank() if world_size() > 1 else 0


def _whole(outcome: list[Any]) -> _Rows:
    """Of all processes, in the order of the crops; what one of them met, all raise."""
    rows: list[_Rows] = []
    for found in gather_lists(outcome):
        if isinstance(found, Exception):
            raise found
        rows.append(found)
    return _Rows(
        indices=np.concatenate([each.indices for each in rows]),
        truth=np.concatenate([each.truth for each in rows]),
        boxes=np.concatenate([each.boxes for each in rows]),
        predicted={name: np.concatenate([each.predicted[name] for each in rows]) for name in rows[0].predicted},
        scores={name: np.concatenate([each.scores[name] for each in rows]) for name in rows[0].scores},
    )


def _predict_batch(
    model: DFANetwork | PredictLandmarks,
    batch: DFABatch,
    crops: CropSet,
    device: torch.device | str,
    precision: Precision,
) -> _Rows:
    if batch.broken:
        raise ImageError(batch.broken[0])
    kind = torch.device(device).type
    with torch.no_grad(), torch.autocast(kind, _DTYPES[precision], enabled=precision != "fp32"):
        images = pixels_to_input(batch.images, device)
        found: Mapping[Any, DFAPrediction]
        found = both_predictions(model, images) if isinstance(model, DFANetwork) else model(images)
    indices = batch.indices.numpy()
    predicted = {name: each.landmarks.float().cpu().numpy() for name, each in found.items()}
    for name, landmarks in predicted.items():
        wrong = ~np.isfinite(landmarks).all(axis=(1, 2))
        if wrong.any():
            face = crops.crops.name_of(int(indices[int(wrong.argmax())]))
            raise ValueError(f"{face}: its predicted landmarks ({curve_title(name)}) are not finite")
    scores = {name: each.score.float().cpu().numpy() for name, each in found.items()}
    return _Rows(indices, batch.landmarks.numpy(), batch.boxes.numpy(), predicted, scores)


def _result(
    indices: np.ndarray,
    predicted: np.ndarray,
    scores: np.ndarray,
    truth: np.ndarray,
    boxes: np.ndarray,
    settings: LandmarkMetricSettings | None,
    name_of: Callable[[int], str],
) -> LandmarkResult:
    settings = settings or LandmarkMetricSettings()
    errors = point_errors(predicted, truth, boxes, settings.normaliser, lambda row: name_of(int(indices[row])))
    return LandmarkResult(
        indices=indices, truth=truth, predicted=predicted, scores=scores, errors=errors, settings=settings
    )


class _FaceKeys:
    """What `read_landmarks` asks of a source, for faces of photographs."""

    def __init__(self, annotations: FaceAnnotations) -> None:
        self._annotations = annotations
        self.root = annotations.path

    def __len__(self) -> int:
        return len(self._annotations)

    def key_of(self, index: int) -> str:
        faces = self._annotations
        return f"{faces.images[faces.image_of[index]]}#{faces.lines[index]}"


class _InFrame(Dataset[_Rows]):
    """Landmarks in fractions of photographs, to those of the crop; a face at a time."""

    def __init__(self, crops: PhotographCrops, points: np.ndarray) -> None:
        self._crops, self._points = crops, points

    def __getitem__(self, index: int) -> _Rows:
        crop = self._crops.read(index)
        begin, size = crop.frame[:2], crop.frame[2:] - crop.frame[:2]
        box = (crop.box.reshape(2, 2) - begin) / size
        return _Rows(
            np.array([index]),
            ((crop.landmarks - begin) / size)[None].astype(np.float32),
            box.reshape(1, 4).astype(np.float32),
            {"": ((self._points[index] - begin) / size)[None].astype(np.float32)},
            {},
        )


@contextmanager
def _evaluation_mode(model: Any) -> Iterator[None]:
    """Evaluation mode for all modules, and for each the mode it had before afterwards."""
    modes = [(module, module.training) for module in model.modules()] if isinstance(model, nn.Module) else []
    if isinstance(model, nn.Module):
        model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
