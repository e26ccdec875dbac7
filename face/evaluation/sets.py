"""Evaluation sets as settings name them: opened and checked before a run, evaluated as often as it wants.

Nothing of a run's length is met in the middle of it: `open_set` reads every list and table, looks for every image and
decodes the first one.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from common.runtime.distribution import Precision
from face.evaluation.embed import embed_images
from face.evaluation.galleries import GallerySet, open_gallery
from face.evaluation.identification import IdentificationResult, identify
from face.evaluation.inputs import MissingLandmarks, choose_keypoints
from face.evaluation.pairs import PairSet, open_pairs
from face.evaluation.verification import VAL_FAR, VerificationResult, verify
from face.models.base import FaceModel
from face.pipelines import RecognitionPipeline

__all__ = ["EvaluationSet", "EvaluationSetSettings", "SetResult", "evaluate", "measure", "open_set"]


@dataclass(frozen=True, kw_only=True)
class EvaluationSetSettings:
    """One set that a network is evaluated on."""

    name: str
    """What results call it, such as lfw."""

    path: Path
    """pairs: a `.bin` file, a folder with `pairs.csv` or LFW's `pairs.txt`, or such a list itself; identification: a
    folder with `gallery.csv` and `probe.csv`."""

    kind: Literal["pairs", "identification"] = "pairs"
    """Same person or not, or who it is."""

    landmarks: Path | None = None
    """Table of landmarks; None takes `<file>.bin.csv` beside a `.bin` file, `landmarks.csv` in a folder. Read for
    networks that need keypoints."""

    missing_landmarks: MissingLandmarks = "error"
    """What becomes of images without landmarks: an error, the places of the alignment template, or hidden keypoints."""

    def __post_init__(self) -> None:
        if not self.name.strip() or "/" in self.name:
            raise ValueError(f"name must be text without '/', got {self.name!r}")


@dataclass(frozen=True, kw_only=True, eq=False)
class EvaluationSet:
    """An opened set."""

    settings: EvaluationSetSettings

    content: PairSet | GallerySet


@dataclass(frozen=True, kw_only=True, eq=False)
class SetResult:
    """What a network does on a set."""

    metrics: dict[str, float]
    """In percent, by name."""

    details: VerificationResult | IdentificationResult
    """Curves, folds, and what else there is."""

    images: int
    """Different images."""

    without_landmarks: int
    """Images that had none; 0 for a network that needs no keypoints."""

    degenerate: int = 0
    """Images in which a pipeline's aligner found landmarks that give no alignment; 0 without an aligner."""


def open_set(settings: EvaluationSetSettings, *, needs_keypoints: bool) -> EvaluationSet:
    """Read a set's lists, look for its images and landmarks, decode its first image.

    Args:
        settings: of the set.
        needs_keypoints: of the network, or of a pipeline with it (those that find landmarks need none); False leaves
            tables of landmarks alone.

    Raises:
        FileNotFoundError: the path, a list, or a table of landmarks that was named is not there.
        ValueError: damaged or contradictory content, images that are not there, a first image that does not decode
            (ImageError), or images without landmarks where that is an error. File and set are named.
    """
    reader = open_pairs if settings.kind == "pairs" else open_gallery
    try:
        content = reader(
            settings.path, name=settings.name, landmarks=settings.landmarks, with_landmarks=needs_keypoints
        )
        size = content.images.read(0).shape[:2]
        if needs_keypoints:
            choose_keypoints(content.images, content.landmarks, settings.missing_landmarks, size)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"evaluation set {settings.name}: {error}") from error
    except ValueError as error:
        raise ValueError(f"evaluation set {settings.name}: {error}") from error
    return EvaluationSet(settings=settings, content=content)


def evaluate(opened: EvaluationSet, model: FaceModel | RecognitionPipeline, **options: Any) -> dict[str, float]:
    """Metrics of a network on a set, in percent, by name; arguments and errors are those of `measure`.

    Of pairs: accuracy, accuracy_std, auc, eer, tar@far=1e-1 and so on as far down as the set can tell, and val@far=1e-3
    (insightface's) if it can tell that. Of identification: rank-1, rank-5, rank-10, rank-20 where the gallery has so
    many images, and map.
    """
    return measure(opened, model, **options).metrics


def measure(
    opened: EvaluationSet,
    model: FaceModel | RecognitionPipeline,
    *,
    batch_size: int = 64,
    device: torch.device | str = "cpu",
    precision: Precision = "fp32",
    num_workers: int = 0,
    progress: bool = False,
) -> SetResult:
    """Embed a set's images, with the flip test, and measure.

    Where processes share a run, all of them must call this and all get the result.

    Args:
        opened: the set.
        model: or a pipeline with it, see `embed_images`; it comes back in the modes it was in.
        batch_size: images of a forward pass.
        device: of the model.
        precision: of what autocast covers.
        num_workers: processes that decode images; 0: this one does.
        progress: whether a bar is shown.

    Raises:
        ValueError: an image does not decode, embeddings are NaN or infinite (images are named), or landmarks are
            missing where that is an error. The set is named.
    """
    settings, content = opened.settings, opened.content
    try:
        embedded = embed_images(
            model,
            content.images,
            content.landmarks,
            batch_size=batch_size,
            device=device,
            precision=precision,
            missing_landmarks=settings.missing_landmarks,
            num_workers=num_workers,
            progress=f"evaluating {settings.name}" if progress else None,
        )
        details, metrics = _score(content, embedded.values)
    except ValueError as error:
        raise ValueError(f"evaluation set {settings.name}: {error}") from error
    return SetResult(
        metrics=metrics,
        details=details,
        images=len(content.images),
        without_landmarks=embedded.without_landmarks,
        degenerate=embedded.degenerate,
    )


def _score(
    content: PairSet | GallerySet, embeddings: np.ndarray
) -> tuple[VerificationResult | IdentificationResult, dict[str, float]]:
    name_of = content.images.name_of
    if isinstance(content, PairSet):
        pairs = verify(embeddings, content.pairs, content.same, folds=content.folds, name_of=name_of)
        tars = {f"tar@far={_short(far)}": tar for far, tar in pairs.tar_at_far.items()}
        vals = {f"val@far={_short(VAL_FAR)}": pairs.val} if VAL_FAR in pairs.tar_at_far else {}
        figures = {"accuracy": pairs.accuracy, "accuracy_std": pairs.accuracy_std, "auc": pairs.auc, "eer": pairs.eer}
        return pairs, {**figures, **tars, **vals}
    gallery = len(content.gallery_labels)
    ranks = identify(
        embeddings[gallery:],
        embeddings[:gallery],
        content.probe_labels,
        content.gallery_labels,
        name_of_probe=lambda row: name_of(gallery + row),
        name_of_gallery=name_of,
    )
    return ranks, {**{f"rank-{k}": value for k, value in ranks.rank.items()}, "map": ranks.mean_ap}


def _short(far: float) -> str:
    """1e-3 for 0.001."""
    mantissa, exponent = f"{far:e}".split("e")
    return f"{float(mantissa):g}e{int(exponent)}"
