"""What features are worth on IJB-B and IJB-C, IJB-S, and TinyFace: metrics in percent, and curves for pictures.

Sources of the numbers are named in `pair_scores` and `template_search`, those of pooling in `templates` and `fusion`.
1:1 of IJB is insightface's (TAR at the nearest FAR). 1:N of IJB is given twice: as insightface has it, both galleries
as one, where every probe has a mate; and for each gallery by itself, as IJB's own protocol has it, where probes of the
other one are those without a mate (TPIR at FPIR, of mates found at rank 1), with the mean of the two.
On IJB-S and TinyFace ranks count gallery entries (templates, images), not persons, as mk-minchul/CVLface@d3d09c9 does.
Where no threshold can tell anything, as where all scores are equal, metrics are what that threshold gives: a TAR and a
TPIR of 0, no hit at any rank below the gallery's size.

Shape letters: n images, F frames, E embedding channels.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from face.evaluation.features import Features
from face.evaluation.fusion import FusedTemplates, FusionSettings, fuse_templates
from face.evaluation.ijb import IJBSearch, IJBSet
from face.evaluation.ijbs import IJBSProtocol, IJBSSet
from face.evaluation.pair_scores import measure_scores, score_pairs
from face.evaluation.roc import RocCurve
from face.evaluation.self_search import search_others
from face.evaluation.template_search import (
    FPIRS,
    SearchResult,
    closed_set_tpir,
    rank_rates,
    search,
    tpir_at_fpir,
)
from face.evaluation.templates import template_rows
from face.evaluation.tinyface import TinyFaceSet

__all__ = [
    "Measured",
    "TemplateDetails",
    "check_fusion",
    "measure_ijb",
    "measure_ijbs",
    "measure_tinyface",
    "short_rate",
]

_KNOWN_BY = 1e-4  # the FAR that IJB is mostly quoted at
_RANKS = (1, 5, 10)


@dataclass(frozen=True, kw_only=True, eq=False)
class TemplateDetails:
    """Curves of the protocols of a set, for pictures."""

    rocs: dict[str, RocCurve]
    """1:1, by protocol: "verification" of ijb. Thresholds are minus cosines."""

    searches: dict[str, SearchResult]
    """1:N, by protocol: of ijb "search" (both galleries as one), and each by itself, "g1" and "g2"; of ijbs its three;
    of tinyface "search". `SearchResult.cmc` is the CMC curve."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Measured:
    """What was found on a set."""

    metrics: dict[str, float]
    """Percent, by name."""

    details: TemplateDetails
    """Curves."""

    templates: int = 0
    """That images were pooled to."""

    weightless: int = 0
    """Templates whose images all had a weight of 0, and were given equal weights instead."""


def check_fusion(fusion: FusionSettings, *, landmarks: bool, scores: bool, where: str) -> None:
    """Find out before the long part whether there is what fusion needs.

    Args:
        fusion: how templates are pooled.
        landmarks: whether there are landmarks, in the set or from an aligner.
        scores: whether there are scores, likewise.
        where: the set, for the message.

    Raises:
        ValueError: there is not.
    """
    lacking = [
        name
        for name, needed, there in (
            ("landmarks", fusion.kind == "landmark", landmarks),
            ("scores of faces", fusion.kind == "landmark" or fusion.detector_score, scores),
        )
        if needed and not there
    ]
    if lacking:
        how = "kind landmark" if fusion.kind == "landmark" else "detector_score"
        raise ValueError(
            f"{where}: fusion with {how} needs {' and '.join(lacking)}, which the set's lists do not have and no "
            "aligner finds; take another fusion, or a pipeline with an aligner"
        )


def measure_ijb(content: IJBSet, features: Features, fusion: FusionSettings, protocols: Sequence[str] = ()) -> Measured:
    """1:1 and 1:N.

    Args:
        content: the set.
        features: of its images, n.
        fusion: how templates are pooled. `detector_score` takes the scores of the set's list.
        protocols: some of verification and search; empty for both.

    Raises:
        ValueError: see `fuse_templates`, `measure_scores`, and `search`.
    """
    scores = features.scores if fusion.kind == "landmark" and features.scores is not None else content.scores
    fused = _fuse(features, scores, content.templates, content.medias, fusion, content.images.name_of)
    metrics: dict[str, float] = {}
    rocs: dict[str, RocCurve] = {}
    searches: dict[str, SearchResult] = {}
    if not protocols or "verification" in protocols:
        pairs = content.pairs
        rows = [template_rows(fused.ids, side) for side in (pairs.a, pairs.b)]
        found = measure_scores(score_pairs(fused.values, *rows, name_of=_template_name(fused)), pairs.same)
        for far in sorted(found.tar_at_nearest_far, key=lambda far: (far != _KNOWN_BY, far)):
            metrics[f"tar@far={short_rate(far)}"] = found.tar_at_nearest_far[far]
        metrics |= {"auc": found.auc, "eer": found.eer}
        rocs["verification"] = found.roc
    if content.search is not None and (not protocols or "search" in protocols):
        searches = _search_ijb(content.search, fused)
        metrics |= _ijb_rates(searches)
    return Measured(
        metrics=metrics,
        details=TemplateDetails(rocs=rocs, searches=searches),
        templates=len(fused.ids),
        weightless=len(fused.equally_weighted),
    )


def measure_ijbs(
    content: IJBSSet, features: Features, fusion: FusionSettings, protocols: Sequence[str] = ()
) -> Measured:
    """Each protocol; arguments as of `measure_ijb`.

    `detector_score` takes the scores of the set's list where it has some, else the aligner's.
    """
    scores = features.scores
    if fusion.kind != "landmark" and content.landmarks is not None:
        scores = content.landmarks.scores
    fused = _fuse(
        features,
        scores,
        content.frame_templates,
        None,
        fusion,
        lambda frame: content.images.name_of(int(content.frame_images[frame])),
        content.frame_images,
    )
    searches: dict[str, SearchResult] = {}
    metrics: dict[str, float] = {}
    for name in [each for each in content.protocols if not protocols or each in protocols]:
        found = searches[name] = _search_ijbs(content.protocols[name], content, fused)
        rates = _rates(found, _open_set_tpir(found))
        metrics |= {f"{name}/{metric}": rate for metric, rate in rates.items()}
    return Measured(
        metrics=metrics,
        details=TemplateDetails(rocs={}, searches=searches),
        templates=len(fused.ids),
        weightless=len(fused.equally_weighted),
    )


def measure_tinyface(content: TinyFaceSet, features: Features) -> Measured:
    """Probes among all gallery images, distractors included."""
    gallery, name_of = len(content.gallery_labels), content.images.name_of
    found = search(
        features.embeddings[gallery:],
        features.embeddings[:gallery],
        content.probe_labels,
        content.gallery_labels,
        name_of_probe=lambda row: name_of(gallery + row),
        name_of_gallery=name_of,
    )
    metrics = {f"rank-{k}": rate for k, rate in rank_rates(found).items()}
    metrics["map"] = float(found.average_precision.mean())
    return Measured(metrics=metrics, details=TemplateDetails(rocs={}, searches={"search": found}))


def short_rate(rate: float) -> str:
    """1e-3 for 0.001."""
    mantissa, exponent = f"{rate:e}".split("e")
    return f"{float(mantissa):g}e{int(exponent)}"


class _Rows:
    """Rows of a table in another order, some of them several times, fetched when they are asked for."""

    def __init__(self, table: np.ndarray, rows: np.ndarray) -> None:
        self._table, self._rows = table, rows
        self.dtype, self.ndim, self.shape = table.dtype, table.ndim, (len(rows), *table.shape[1:])

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, which: Any) -> np.ndarray:
        return self._table[self._rows[which]]


def _fuse(
    features: Features,
    scores: np.ndarray | None,
    templates: np.ndarray,
    medias: np.ndarray | None,
    fusion: FusionSettings,
    name_of: Callable[[int], str],
    frames: np.ndarray | None = None,
) -> FusedTemplates:
    """`frames` [F]: the image of each frame; None where frames are images."""
    embeddings, landmarks = features.embeddings, features.landmarks
    if fusion.kind == "landmark" and features.valid is not None:  # others get weight 0
        if landmarks is not None:
            landmarks = np.where(features.valid[:, None, None], landmarks, np.nan)
        if scores is not None:
            scores = np.where(features.valid, scores, 0)
    if frames is not None:
        if len(frames) != len(embeddings) or (frames != np.arange(len(frames))).any():
            embeddings = _Rows(embeddings, frames)  # type: ignore[assignment]  # a copy might not fit
        landmarks = None if landmarks is None else landmarks[frames]
        scores = None if scores is None else scores[frames]
    return fuse_templates(
        embeddings, templates, medias, settings=fusion, landmarks=landmarks, scores=scores, name_of=name_of
    )


def _template_name(fused: FusedTemplates) -> Callable[[int], str]:
    return lambda row: f"template {fused.ids[row]}"


def _search_ijb(content: IJBSearch, fused: FusedTemplates) -> dict[str, SearchResult]:
    probes, galleries = content.probes, content.galleries
    rows = template_rows(fused.ids, probes.templates)
    lists = {
        "search": (
            np.concatenate([gallery.templates for gallery in galleries]),
            np.concatenate([gallery.subjects for gallery in galleries]),
        ),
        **{f"g{number}": (gallery.templates, gallery.subjects) for number, gallery in enumerate(galleries, 1)},
    }
    return {
        name: search(
            fused.values[rows],
            fused.values[template_rows(fused.ids, templates)],
            probes.subjects,
            subjects,
            keep=math.ceil(max(FPIRS) * len(rows)) if name == "search" else 0,
            name_of_probe=lambda row: f"template {probes.templates[row]}",
        )
        for name, (templates, subjects) in lists.items()
    }


def _ijb_rates(searches: dict[str, SearchResult]) -> dict[str, float]:
    both = searches["search"]
    metrics = _rates(both, closed_set_tpir(both))
    single = {name: found for name, found in searches.items() if name != "search" and found.mated.any()}
    rates = {name: _rates(found, _open_set_tpir(found)) for name, found in single.items()}
    for name, found in rates.items():
        metrics |= {f"{name}/{metric}": rate for metric, rate in found.items()}
    shared = [metric for metric in rates["g1"] if "g2" in rates and metric in rates["g2"]] if "g1" in rates else []
    return metrics | {f"mean/{metric}": float(np.mean([each[metric] for each in rates.values()])) for metric in shared}


def _search_ijbs(protocol: IJBSProtocol, content: IJBSSet, fused: FusedTemplates) -> SearchResult:
    probe, gallery = (template_rows(fused.ids, each) for each in (protocol.probe_templates, protocol.gallery_templates))
    place = {int(template): row for row, template in enumerate(protocol.gallery_templates)}
    own_rows = np.array([place.get(int(template), -1) for template in protocol.probe_templates])
    arguments = fused.values[probe], fused.values[gallery], protocol.probe_labels, protocol.gallery_labels

    def name_of(templates: np.ndarray) -> Callable[[int], str]:
        return lambda row: f"template {content.template_names[templates[row]]}"

    of_probe, of_gallery = name_of(protocol.probe_templates), name_of(protocol.gallery_templates)
    if (own_rows < 0).all():
        return search(*arguments, name_of_probe=of_probe, name_of_gallery=of_gallery)
    return search_others(*arguments, own_rows, name_of_probe=of_probe, name_of_gallery=of_gallery)


def _open_set_tpir(found: SearchResult) -> dict[float, float]:
    """Empty where every probe has a mate, or none has."""
    if found.mated.all() or not found.mated.any():
        return {}
    return {fpir: rate for (fpir, _), rate in tpir_at_fpir(found).items()}


def _rates(found: SearchResult, tpir: dict[float, float]) -> dict[str, float]:
    ranks = {f"rank-{k}": rate for k, rate in rank_rates(found, _RANKS).items()}
    return ranks | {f"tpir@fpir={short_rate(fpir)}": rate for fpir, rate in tpir.items()}
