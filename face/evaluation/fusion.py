"""How much each frame of a template counts: equally, by the length of its embedding, or by its landmarks.

Source: Kim et al., "KeyPoint Relative Position Encoding for Face Recognition", CVPR 2024, supplementary 4:

* average: the mean of the embeddings' directions;
* norm: the mean of embeddings as they are, that is of directions weighted by lengths (eq. 16);
* landmark: directions weighted by d times the aligner's face score (eq. 18), with
  d = (h - min(|L - L_ref|, h)) / h (eq. 17), h = 0.2. |L - L_ref| is the mean over the five landmarks of their
  distances in fractions of the image, as mk-minchul/CVLface@d3d09c9
  (pipelines/infer_aligner_keypoint_model_nmescore_pipeline.py) has it; the equation leaves that open.

And the detector's score of deepinsight/insightface@7fadd42 (recognition/arcface_torch/eval_ijbc.py), a factor on top.
Deliberate differences from CVLface's pipeline: it adds 1e-6 to weights, so that a template of frames with no weight is
an average; here such templates get equal weights and are named. Its reference divides pixel indices by 112, half a
pixel off; ours is in fractions of the image (see face.reference).

Coordinates: landmarks are (x, y) as fractions of the aligned image.
Shape letters: n images, T templates, E embedding channels.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from face.evaluation.templates import pool_templates
from face.reference import reference_landmarks

__all__ = [
    "INSIGHTFACE_FUSIONS",
    "FusedTemplates",
    "FusionKind",
    "FusionSettings",
    "frame_weights",
    "fuse_templates",
    "landmark_closeness",
]

FusionKind = Literal["average", "norm", "landmark"]

_BLOCK = 2**13  # embeddings whose lengths are taken at one time


@dataclass(frozen=True, kw_only=True)
class FusionSettings:
    """What the weight of a frame is."""

    kind: FusionKind = "norm"
    """See above."""

    h: float = 0.2
    """For landmark: distance to the reference, in fractions of the image, from which on a frame does not count."""

    detector_score: bool = False
    """For average and norm: whether the detector's score of a face is a factor. Landmark has the face score anyway."""

    def __post_init__(self) -> None:
        wrong = []
        if self.kind not in ("average", "norm", "landmark"):
            wrong.append(f"kind must be average, norm or landmark, got {self.kind!r}")
        if not 0 < self.h < float("inf"):
            wrong.append(f"h must be > 0, got {self.h}")
        if self.kind == "landmark" and self.detector_score:
            wrong.append("kind landmark has the face score as a factor already: leave detector_score off")
        if wrong:
            raise ValueError("; ".join(wrong))


INSIGHTFACE_FUSIONS = {
    "N1D1": FusionSettings(kind="norm", detector_score=True),
    "N1D0": FusionSettings(kind="norm"),
    "N0D1": FusionSettings(kind="average", detector_score=True),
    "N0D0": FusionSettings(kind="average"),
}
"""By insightface's names of its switches use_norm_score and use_detector_score. CVLface gives the first three as
Norm:True_Det:True, Norm:True_Det:False and Norm:False_Det:True; insightface's own numbers are of N1D1."""


@dataclass(frozen=True, kw_only=True, eq=False)
class FusedTemplates:
    """Templates, and what was met on the way."""

    values: np.ndarray
    """[T, E] float64 of length 1 (zero where a sum is zero)."""

    ids: np.ndarray
    """[T] rising."""

    equally_weighted: np.ndarray
    """Ids of templates whose frames all had weight 0, and were given equal weights instead."""


def fuse_templates(
    embeddings: np.ndarray,
    templates: np.ndarray,
    medias: np.ndarray | None = None,
    *,
    settings: FusionSettings,
    landmarks: np.ndarray | None = None,
    scores: np.ndarray | None = None,
    name_of: Callable[[int], str] = "row {}".format,
) -> FusedTemplates:
    """Templates by a kind of fusion; see `pool_templates` for the first three arguments and its errors.

    Args:
        embeddings: [n, E] as a network gives them, not normalised.
        templates: [n].
        medias: [n] or None (IJB-S: all frames of a template alike).
        settings: the kind.
        landmarks: [n, 5, 2], for landmark.
        scores: [n], for landmark and detector_score.
        name_of: what an error calls the image of a row.

    Raises:
        ValueError: as `pool_templates` and `frame_weights`.
    """
    factors = _factors(len(embeddings), landmarks, scores, settings, name_of)
    weightless = np.empty(0, dtype=np.asarray(templates).dtype)
    if factors is not None and np.shape(templates) == factors.shape:
        ids, code = np.unique(templates, return_inverse=True)
        empty = np.bincount(code, weights=factors != 0) == 0
        weightless = ids[empty]
        factors = np.where(empty[code], factors.dtype.type(1), factors)
    values, ids = pool_templates(
        embeddings, templates, medias, factors, directions=settings.kind != "norm", name_of=name_of
    )
    return FusedTemplates(values=values, ids=ids, equally_weighted=weightless)


def frame_weights(
    embeddings: np.ndarray,
    landmarks: np.ndarray | None,
    scores: np.ndarray | None,
    settings: FusionSettings,
    *,
    name_of: Callable[[int], str] = "row {}".format,
) -> np.ndarray:
    """[n] weights of the directions of embeddings: what eq. 16 and 18 have before the unit-length feature.

    A frame without landmarks (NaN) must have a score of 0, and gets weight 0.

    Args:
        embeddings: [n, E] as a network gives them, not normalised; in memory or a memory map.
        landmarks: [n, 5, 2], for landmark.
        scores: [n] in [0, 1], for landmark and detector_score.
        settings: the kind.
        name_of: what an error calls the image of a row.

    Raises:
        ValueError: landmarks or scores are missing, of another shape, or not finite (images are named); scores out of
            [0, 1].
    """
    factors = _factors(len(embeddings), landmarks, scores, settings, name_of)
    weights = np.ones(len(embeddings), embeddings.dtype) if factors is None else factors
    if settings.kind == "norm":
        lengths = np.empty(len(embeddings), embeddings.dtype)
        for start in range(0, len(embeddings), _BLOCK):
            lengths[start : start + _BLOCK] = np.linalg.norm(embeddings[start : start + _BLOCK], axis=1)
        weights = weights * lengths
    return weights


def landmark_closeness(landmarks: np.ndarray, h: float = 0.2) -> np.ndarray:
    """[n] d of eq. 17, from [n, 5, 2]: 1 on the reference, 0 from a mean distance of h on. NaN stays NaN."""
    offsets = np.asarray(landmarks, dtype=np.float64) - reference_landmarks(pixels=False)
    distances = np.linalg.norm(offsets, axis=-1).mean(axis=-1)
    return (h - np.minimum(distances, h)) / h


def _factors(
    n: int,
    landmarks: np.ndarray | None,
    scores: np.ndarray | None,
    settings: FusionSettings,
    name_of: Callable[[int], str],
) -> np.ndarray | None:
    """[n] what multiplies embeddings (norm) or their directions (the others); None for 1."""
    if settings.kind != "landmark" and not settings.detector_score:
        return None
    what = "kind landmark" if settings.kind == "landmark" else "detector_score"
    if scores is None or np.shape(scores) != (n,):
        found = None if scores is None else list(np.shape(scores))
        raise ValueError(f"{what} needs a score for each of {n} images, got {found}")
    scores = np.asarray(scores)
    bad = ~((scores >= 0) & (scores <= 1))
    if bad.any():
        row = int(np.nonzero(bad)[0][0])
        raise ValueError(f"{bad.sum()} of {n} scores are not in [0, 1], first: {scores[row]} of {name_of(row)}")
    if settings.kind != "landmark":
        return scores
    if landmarks is None or np.shape(landmarks) != (n, 5, 2):
        found = None if landmarks is None else list(np.shape(landmarks))
        raise ValueError(f"{what} needs landmarks [{n}, 5, 2], got {found}")
    closeness = landmark_closeness(landmarks, settings.h)
    absent = np.isnan(closeness)
    lost = absent & (scores != 0)
    if lost.any():
        row = int(np.nonzero(lost)[0][0])
        raise ValueError(f"{lost.sum()} of {n} images have a score but no landmarks, first: {name_of(row)}")
    return np.where(absent, 0, closeness * scores)
