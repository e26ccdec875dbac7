"""Evaluation sets as settings name them: opened and checked before a run, evaluated as often as it wants.

Nothing of a run's length is met in the middle of it: `open_set` reads every list and table, looks for every image and
decodes the first one.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from common.runtime.distribution import Precision
from face.data.landmarks import Landmarks
from face.evaluation.features import Features, cached_features
from face.evaluation.fusion import FusionSettings
from face.evaluation.galleries import GallerySet, open_gallery
from face.evaluation.identification import IdentificationResult, identify
from face.evaluation.ijb import IJBSet, open_ijb
from face.evaluation.ijbs import PROTOCOLS, IJBSSet, open_ijbs
from face.evaluation.images import ImageList
from face.evaluation.inputs import MissingLandmarks, choose_keypoints
from face.evaluation.pairs import PairSet, open_pairs
from face.evaluation.processes import in_first_process
from face.evaluation.protocols import (
    Measured,
    TemplateDetails,
    check_fusion,
    measure_ijb,
    measure_ijbs,
    measure_tinyface,
    short_rate,
)
from face.evaluation.tinyface import TinyFaceSet, open_tinyface
from face.evaluation.verification import VAL_FAR, VerificationResult, verify
from face.models.base import FaceModel
from face.pipelines import RecognitionPipeline

__all__ = ["DEFAULT_FUSIONS", "EvaluationSet", "EvaluationSetSettings", "SetResult", "evaluate", "measure", "open_set"]


SetKind = Literal["pairs", "identification", "ijb", "tinyface", "ijbs"]

DEFAULT_FUSIONS = {
    "ijb": FusionSettings(kind="norm", detector_score=True),
    "ijbs": FusionSettings(kind="average"),
}
"""By kind of set: how templates are pooled where nothing else is said, as public numbers are."""

Content = PairSet | GallerySet | IJBSet | TinyFaceSet | IJBSSet

_PROTOCOLS: dict[str, tuple[str, ...]] = {
    "ijb": ("verification", "search"),
    "ijbs": PROTOCOLS,
}


@dataclass(frozen=True, kw_only=True)
class EvaluationSetSettings:
    """One set that a network is evaluated on."""

    name: str
    """What results call it, such as lfw."""

    path: Path
    """pairs: a `.bin` file, a folder with `pairs.csv` or LFW's `pairs.txt`, or such a list itself; identification: a
    folder with `gallery.csv` and `probe.csv`; ijb: insightface's folder of IJB-B or IJB-C; tinyface: the release's
    folder; ijbs: a folder of CSV files (see `face.evaluation.ijbs`)."""

    kind: SetKind = "pairs"
    """Same person or not, who it is, or one of the benchmarks whose layout is its own."""

    landmarks: Path | None = None
    """Table of landmarks; None takes `<file>.bin.csv` beside a `.bin` file, `landmarks.csv` in a folder. Read for
    networks that need keypoints. ijb and ijbs have theirs in their lists."""

    missing_landmarks: MissingLandmarks = "error"
    """What becomes of images without landmarks: an error, the places of the alignment template, or hidden keypoints."""

    align: Literal["landmarks", "none"] = "landmarks"
    """Of ijb: whether its crops are aligned by their landmarks first, as the public scripts do, or go as they are into
    the pipeline (which may align them by those that it finds)."""

    protocols: tuple[str, ...] = ()
    """Of ijb, some of verification (1:1) and search (1:N); of ijbs, some of its three. Empty: all that the folder
    has."""

    def __post_init__(self) -> None:
        wrong = []
        if not self.name.strip() or "/" in self.name:
            wrong.append(f"name must be text without '/', got {self.name!r}")
        if self.align != "landmarks" and self.kind != "ijb":
            wrong.append(f"align is for kind ijb, got {self.align} for {self.kind}")
        if self.landmarks is not None and self.kind in ("ijb", "ijbs"):
            wrong.append(f"landmarks of kind {self.kind} are in its own lists, got {self.landmarks}")
        known = _PROTOCOLS.get(self.kind, ())
        if unknown := [name for name in self.protocols if name not in known]:
            offered = f"some of {', '.join(known)}" if known else f"empty for kind {self.kind}"
            wrong.append(f"protocols must be {offered}, got {', '.join(unknown)}")
        if wrong:
            raise ValueError("; ".join(wrong))


@dataclass(frozen=True, kw_only=True, eq=False)
class EvaluationSet:
    """An opened set."""

    settings: EvaluationSetSettings

    content: Content


@dataclass(frozen=True, kw_only=True, eq=False)
class SetResult:
    """What a network does on a set."""

    metrics: dict[str, float]
    """In percent, by name; the first is the one that the set is known by. See `evaluate` for the names."""

    details: VerificationResult | IdentificationResult | TemplateDetails
    """Curves, folds, and what else there is."""

    images: int
    """Different images."""

    without_landmarks: int
    """Images that had none; 0 for a network that needs no keypoints."""

    degenerate: int = 0
    """Images in which a pipeline's aligner found landmarks that give no alignment; 0 without an aligner."""

    templates: int = 0
    """Of ijb and ijbs: templates that images were pooled to."""

    weightless_templates: int = 0
    """Of these, those whose images all had a weight of 0, and were given equal weights instead."""

    fusion: FusionSettings | None = None
    """How they were pooled; None where nothing is."""

    reused: bool = False
    """Whether the features were read from the cache."""


def open_set(settings: EvaluationSetSettings, *, needs_keypoints: bool, progress: bool = False) -> EvaluationSet:
    """Read a set's lists, look for its images and landmarks, decode its first image.

    Args:
        settings: of the set.
        needs_keypoints: of the network, or of a pipeline with it (those that find landmarks need none); False leaves
            tables of landmarks alone.
        progress: whether bars are shown over lists that are long.

    Raises:
        FileNotFoundError: the path, a list, or a table of landmarks that was named is not there; of a folder that
            should have some layout, what is missing.
        ValueError: damaged or contradictory content, images that are not there, a first image that does not decode
            (ImageError), protocols that the folder does not have, or images without landmarks where that is an error.
            File and set are named.
    """
    try:
        content = _open(settings, needs_keypoints, progress)
        size = content.images.read(0).shape[:2]
        if isinstance(content, IJBSet):
            if settings.align == "landmarks":
                content.aligned()  # refuses landmarks without an alignment
        elif needs_keypoints:
            choose_keypoints(content.images, content.landmarks, settings.missing_landmarks, size)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"evaluation set {settings.name}: {error}") from error
    except ValueError as error:
        raise ValueError(f"evaluation set {settings.name}: {error}") from error
    return EvaluationSet(settings=settings, content=content)


def _open(settings: EvaluationSetSettings, with_landmarks: bool, progress: bool) -> Content:
    if settings.kind == "ijb":
        ijb = open_ijb(settings.path, progress=progress)
        there = _PROTOCOLS["ijb"] if ijb.search is not None else ("verification",)
        _check_protocols(settings, there)
        return ijb
    if settings.kind == "ijbs":
        ijbs = open_ijbs(settings.path, progress=progress)
        _check_protocols(settings, tuple(ijbs.protocols))
        return ijbs
    if settings.kind == "tinyface":
        return open_tinyface(settings.path, landmarks=settings.landmarks, with_landmarks=with_landmarks)
    reader = open_pairs if settings.kind == "pairs" else open_gallery
    return reader(settings.path, name=settings.name, landmarks=settings.landmarks, with_landmarks=with_landmarks)


def _check_protocols(settings: EvaluationSetSettings, there: tuple[str, ...]) -> None:
    if missing := [name for name in settings.protocols if name not in there]:
        raise ValueError(f"{settings.path}: has lists for {', '.join(there)}, none for {', '.join(missing)}")


def evaluate(opened: EvaluationSet, model: FaceModel | RecognitionPipeline, **options: Any) -> dict[str, float]:
    """Metrics of a network on a set, in percent, by name; arguments and errors are those of `measure`.

    * pairs: accuracy, accuracy_std, auc, eer, tar@far=1e-1 and so on as far down as the set can tell, and val@far=1e-3
      (insightface's) if it can tell that.
    * identification, tinyface: rank-1, rank-5, rank-10, rank-20 where the gallery has so many images, and map.
    * ijb: 1:1: tar@far=1e-4, then those of 1e-6 to 1e-1 that the set can tell, auc, eer. 1:N, both galleries as one, as
      the public script has it: rank-1, rank-5, rank-10, tpir@fpir=1e-2, tpir@fpir=1e-1; each gallery by itself, where a
      probe whose subject is in the other one has no mate: g1/rank-1 and so on, g2/...; means of the two: mean/...
    * ijbs: for each protocol rank-1, rank-5, rank-10, and tpir@fpir=1e-2 and 1e-1 where there are probes of nobody in
      the gallery, as surveillance_to_single/rank-1.
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
    flip_test: bool = True,
    fusion: FusionSettings | None = None,
    cache: str | Path | None = None,
) -> SetResult:
    """Embed a set's images and measure.

    Where processes share a run, all of them must call this and all get the result.

    Args:
        opened: the set.
        model: or a pipeline with it, see `embed_images`; it comes back in the modes it was in.
        batch_size: images of a forward pass.
        device: of the model.
        precision: of what autocast covers.
        num_workers: processes that decode images; 0: this one does.
        progress: whether a bar is shown.
        flip_test: whether the embedding of the mirrored image is added.
        fusion: how the images of a template are pooled, for ijb and ijbs; others do not look at it. None: as the
            public scripts, by norm and detector score for ijb, the average for ijbs.
        cache: folder that features are kept in, see `cached_features`; None keeps none.

    Raises:
        ValueError: an image does not decode, embeddings are NaN or infinite (images are named), landmarks are
            missing where that is an error, or fusion needs landmarks or scores that nobody has. The set is named.
        OSError: the cache cannot be written.
    """
    settings, content = opened.settings, opened.content
    pipeline = model if isinstance(model, RecognitionPipeline) else RecognitionPipeline(model)
    try:
        pooling = _fusion(content, settings, pipeline, fusion)
        images, landmarks = _inputs(content, settings, pipeline)
        features = cached_features(
            pipeline,
            images,
            landmarks,
            cache,
            batch_size=batch_size,
            device=device,
            flip_test=flip_test,
            precision=precision,
            missing_landmarks=settings.missing_landmarks,
            num_workers=num_workers,
            progress=f"evaluating {settings.name}" if progress else None,
        )
        return in_first_process(lambda: _result(content, settings, features, pooling))
    except ValueError as error:
        raise ValueError(f"evaluation set {settings.name}: {error}") from error


def _fusion(
    content: Content,
    settings: EvaluationSetSettings,
    pipeline: RecognitionPipeline,
    fusion: FusionSettings | None,
) -> FusionSettings | None:
    """How templates are pooled; None where there are none."""
    if not isinstance(content, IJBSet | IJBSSet):
        return None
    pooling = fusion or DEFAULT_FUSIONS[settings.kind]
    known = isinstance(content, IJBSet) or content.landmarks is not None or pipeline.aligner is not None
    check_fusion(pooling, landmarks=known, scores=known, where=str(settings.path))
    return pooling


def _inputs(
    content: Content, settings: EvaluationSetSettings, pipeline: RecognitionPipeline
) -> tuple[ImageList, Landmarks | None]:
    """Images as the pipeline gets them, and landmarks of these; those of unaligned images of IJB come with each."""
    if not isinstance(content, IJBSet):
        return content.images, content.landmarks
    if settings.align == "none":
        return content.unaligned(), None
    aligned = content.aligned(pipeline.image_hw)
    return aligned, replace(aligned.landmarks, scores=content.scores)


def _result(
    content: Content, settings: EvaluationSetSettings, features: Features, fusion: FusionSettings | None
) -> SetResult:
    counts: dict[str, Any] = {
        "images": len(content.images),
        "without_landmarks": features.without_landmarks,
        "degenerate": features.degenerate,
        "reused": features.reused,
    }
    measured: Measured
    if isinstance(content, TinyFaceSet):
        measured = measure_tinyface(content, features)
    elif isinstance(content, IJBSet | IJBSSet):
        assert fusion is not None
        if isinstance(content, IJBSet):
            measured = measure_ijb(content, features, fusion, settings.protocols)
        else:
            measured = measure_ijbs(content, features, fusion, settings.protocols)
        counts |= {"templates": measured.templates, "weightless_templates": measured.weightless, "fusion": fusion}
    else:
        details, metrics = _score(content, features.embeddings)
        return SetResult(metrics=metrics, details=details, **counts)
    return SetResult(metrics=measured.metrics, details=measured.details, **counts)


def _score(
    content: PairSet | GallerySet, embeddings: np.ndarray
) -> tuple[VerificationResult | IdentificationResult, dict[str, float]]:
    name_of = content.images.name_of
    if isinstance(content, PairSet):
        pairs = verify(embeddings, content.pairs, content.same, folds=content.folds, name_of=name_of)
        tars = {f"tar@far={short_rate(far)}": tar for far, tar in pairs.tar_at_far.items()}
        vals = {f"val@far={short_rate(VAL_FAR)}": pairs.val} if VAL_FAR in pairs.tar_at_far else {}
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
