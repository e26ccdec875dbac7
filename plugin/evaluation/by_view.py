"""Accuracies by view: CASIA-B, OU-MVLP, CASIA-E, SUSTech1K and CCPG.

Source: OpenGait's `evaluate_indoor_dataset` and `evaluate_CCPG` (ShiqiYu/OpenGait@0efafd4), whose accuracy of every
view (or pair of views) is rounded to 0.01 percent before it enters a mean; that is part of the published figures, and
done here too. Cross-view gallery: Hou et al., https://ieeexplore.ieee.org/document/9928336.

Deliberate differences: distances are computed once, not once a pair of views, and in strips; pairs of views of which
one has no probe or no gallery are left out of the means and named, where OpenGait gives NaN or stops; a condition
without any sequence is left out of the results and named; CASIA-E needs no view 270; a gallery may be smaller than the
highest rank (OpenGait's CCPG stops where fewer than 50 are left); the caller's views are not changed (OpenGait cuts
those of CCPG in place).

Shape letters: n probes, m gallery sequences, c channels, p parts, V views, R ranks.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from plugin.evaluation.conditions import Condition
from plugin.evaluation.distance import Metric, distance_strips, part_distance
from plugin.evaluation.messages import some
from plugin.evaluation.retrieval import first_match_by_group, retrieval_metrics, same_identity, score_probes

__all__ = ["EmbeddedSequences", "ccpg_evaluation", "cross_view_evaluation", "single_view_evaluation", "view_names"]

_PREFIX = "scalar/test_accuracy/"


class EmbeddedSequences(NamedTuple):
    """All sequences of a test."""

    embeddings: Tensor
    """[n, c, p]."""

    labels: np.ndarray
    types: np.ndarray
    views: np.ndarray
    """[n] strings each."""

    metric: Metric

    def pick(self, mask: np.ndarray) -> Tensor:
        """Embeddings of some sequences."""
        return self.embeddings[torch.from_numpy(mask).to(self.embeddings.device)]


def view_names(dataset_name: str, views: np.ndarray) -> list[str]:
    """The views that accuracies are told apart by, sorted. CASIA-E's 270 degrees is not one of them."""
    names = np.unique(views).tolist()
    return [name for name in names if not (dataset_name == "CASIA-E" and name == "270")]


def single_view_evaluation(
    test: EmbeddedSequences, conditions: tuple[Condition, ...], dataset_name: str
) -> tuple[dict[str, float], str]:
    """Accuracy of every pair of different views, the gallery being the sequences of one view.

    Args:
        test: all sequences.
        conditions: with the same gallery each.
        dataset_name: SUSTech1K prints Rank-1 to Rank-5, the others Rank-1.

    Returns:
        OpenGait's {condition}@R1 in percent, and its tables.
    """
    names = view_names(dataset_name, test.views)
    num_ranks = 5 if dataset_name == "SUSTech1K" else 1
    gallery = conditions[0].gallery(test.types)
    probes = np.any([condition.probes(test.types) for condition in conditions], axis=0) & np.isin(test.views, names)
    groups = _view_numbers(test.views, names)
    first_NV = np.zeros((len(test.types), len(names)), dtype=np.int64)
    first_NV[probes] = _first_matches(test, probes, gallery, groups[gallery], len(names))
    counted = gallery_views(groups[gallery], len(names))

    metrics: dict[str, float] = {}
    rows: list[str] = []
    means: list[np.ndarray] = []
    remarks: list[str] = []
    for condition in conditions:
        own = probes & condition.probes(test.types)
        accuracy_VVR = _pair_accuracy(first_NV[own], groups[own], counted, num_ranks)
        views_VR = np.stack([without_same_view(accuracy_VVR[..., rank]) for rank in range(num_ranks)], axis=-1)
        remarks += _missing(condition.name, accuracy_VVR[..., 0], names)
        if np.isnan(views_VR).all():
            continue
        mean_R = np.nanmean(views_VR, axis=0)
        metrics[f"{_PREFIX}{condition.name}@R1"] = float(mean_R[0])
        rows.append(f"{condition.name}@R1: {_row(views_VR[:, 0])}")
        means.append(mean_R)
    told = [key.removeprefix(_PREFIX).removesuffix("@R1") for key in metrics]
    lines = ["===Rank-1 (Exclude identical-view cases)===", f"views: {' '.join(names)}", *rows]
    for rank in range(num_ranks):
        lines.append("\t".join(f"{name}@R{rank + 1}: {m[rank]:.2f}%" for name, m in zip(told, means, strict=True)))
    return metrics, "\n".join(lines + remarks)


def cross_view_evaluation(test: EmbeddedSequences, conditions: tuple[Condition, ...]) -> tuple[dict[str, float], str]:
    """Rank-1 and mAP of the probes of each view, the gallery being all views less the probe's identity in its view.

    A probe without a true match counts as missed in Rank-1 and is left out of mAP, as OpenGait has it.

    Returns:
        OpenGait's {condition}-Rank@1 and {condition}-mAP in percent, and its tables.
    """
    names = view_names("", test.views)
    gallery = conditions[0].gallery(test.types)
    metrics: dict[str, float] = {}
    hits, precisions, remarks = [], [], []
    for condition in conditions:
        probes = condition.probes(test.types)
        first, precision = _scores_without_same_view(test, probes, gallery)
        by_view = [test.views[probes] == name for name in names]
        hit_V = np.array([np.round(np.mean(first[own] == 1) * 100, 2) if own.any() else np.nan for own in by_view])
        map_V = np.array([np.round(_mean(precision[own]), 2) for own in by_view])
        absent = [name for name, own in zip(names, by_view, strict=True) if not own.any()]
        if absent:
            remarks.append(f"{condition.name}: no probes, left out of the means, in view(s) {some(absent)}")
        if np.isnan(hit_V).all():
            continue
        rank, mean_ap = float(np.nanmean(hit_V)), _mean(map_V)
        metrics[f"{_PREFIX}{condition.name}-Rank@1"] = rank
        if not np.isnan(mean_ap):
            metrics[f"{_PREFIX}{condition.name}-mAP"] = mean_ap
        hits.append(f"{condition.name}:\t{_row(hit_V)}, mean: {rank:.2f}%")
        precisions.append(f"{condition.name}:\t{_row(map_V)}, mean: {mean_ap:.2f}%")
    lines = ["===Cross View Gallery Evaluation (Excluded identical-view cases)===", f"views: {' '.join(names)}"]
    lines += ["========= Rank@1 Acc =========", *hits, "============= mAP ============", *precisions]
    return metrics, "\n".join(lines + remarks)


def ccpg_evaluation(test: EmbeddedSequences, conditions: tuple[Condition, ...]) -> tuple[dict[str, float], str]:
    """CCPG: Rank-1, mAP and mINP as of person re-identification, and accuracies of pairs of views as of gait.

    Returns:
        {condition}: mean accuracy in percent over pairs of different views, where OpenGait returns the matrix; and
        its tables.
    """
    test = test._replace(views=np.array([view.split("_")[0] for view in test.views.tolist()]))
    names = view_names("", test.views)
    groups = _view_numbers(test.views, names)
    metrics: dict[str, float] = {}
    reid: dict[str, tuple[float, float, float]] = {}
    with_same: dict[str, float] = {}
    angles, remarks = [], []
    for condition in conditions:
        probes, gallery = condition.probes(test.types), condition.gallery(test.types)
        if not (probes.any() and gallery.any()):
            remarks.append(f"{condition.name}: left out, {probes.sum()} probes and {gallery.sum()} gallery sequences")
            continue
        distances = part_distance(test.pick(probes), test.pick(gallery), test.metric).cpu().numpy()
        same = same_identity(test.labels[probes], test.labels[gallery])
        other = ~(same & (groups[probes][:, None] == groups[gallery][None]))
        if (same & other).any():
            result = retrieval_metrics(
                distances, test.labels[probes], test.labels[gallery], ranks=(1,), gallery_mask=other
            )
            reid[condition.name] = (result.rank[1], result.mean_ap, result.mean_inp)
        first = first_match_by_group(distances, same, groups[gallery], len(names))
        counted = gallery_views(groups[gallery], len(names))
        accuracy_VV = _pair_accuracy(first, groups[probes], counted, 1)[..., 0]
        remarks += _missing(condition.name, accuracy_VV, names)
        with_same[condition.name] = float(np.nanmean(accuracy_VV))
        views_V = without_same_view(accuracy_VV)
        if not np.isnan(views_V).all():
            metrics[f"{_PREFIX}{condition.name}"] = float(np.nanmean(views_V))
            angles.append(f"{condition.name}: {_row(views_V)}")
    lines = []
    for number, name in enumerate(("Rank-1", "mAP", "mINP")):
        lines.append(f"==={name} (Exclude identical-view cases for Person Re-Identification)===")
        lines.append(_named({key: values[number] for key, values in reid.items()}))
    lines += ["===Rank-1 (Include identical-view cases)===", _named(with_same)]
    lines.append("===Rank-1 (Exclude identical-view cases)===")
    lines.append(_named({key.removeprefix(_PREFIX): value for key, value in metrics.items()}))
    lines += ["===Rank-1 of each angle (Exclude identical-view cases)===", f"views: {' '.join(names)}", *angles]
    return metrics, "\n".join(lines + remarks)


def without_same_view(accuracy_VV: np.ndarray) -> np.ndarray:
    """[V] mean over the gallery's views other than the probe's own; pairs that are NaN do not count, NaN if none do."""
    others_VV = np.where(np.eye(len(accuracy_VV), dtype=bool), 0, accuracy_VV)
    count_V = (~np.isnan(others_VV)).sum(1) - 1
    return np.where(count_V > 0, np.nansum(others_VV, axis=1) / np.maximum(count_V, 1), np.nan)


def gallery_views(groups: np.ndarray, num_views: int) -> np.ndarray:
    """[V] bool: whether the gallery has the view."""
    return np.bincount(groups[groups >= 0], minlength=num_views) > 0


def _view_numbers(views: np.ndarray, names: list[str]) -> np.ndarray:
    """[n] index of each sequence's view, -1 for one that is not in `names`."""
    numbers = {name: number for number, name in enumerate(names)}
    return np.array([numbers.get(view, -1) for view in views.tolist()])


def _first_matches(
    test: EmbeddedSequences, probes: np.ndarray, gallery: np.ndarray, groups: np.ndarray, num_views: int
) -> np.ndarray:
    """[n, V] rank of the nearest true match of each probe among the gallery of each view; 0: there is none."""
    strips = distance_strips(test.pick(probes), test.pick(gallery), test.metric)
    own, others = test.labels[probes], test.labels[gallery]
    return np.concatenate(
        [
            first_match_by_group(distances.cpu().numpy(), same_identity(own[rows], others), groups, num_views)
            for rows, distances in strips
        ]
    )


def _scores_without_same_view(
    test: EmbeddedSequences, probes: np.ndarray, gallery: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Rank of the first true match [n] and average precision [n], less the same identity in the same view."""
    if not probes.any():
        return np.zeros(0, dtype=np.int64), np.zeros(0)
    found = []
    labels, views = test.labels[probes], test.views[probes]
    for rows, strip in distance_strips(test.pick(probes), test.pick(gallery), test.metric):
        same = same_identity(labels[rows], test.labels[gallery])
        left_out = same & (views[rows][:, None] == test.views[gallery][None])
        distances = np.where(left_out, np.inf, strip.cpu().numpy())
        scores = score_probes(distances, same & ~left_out)
        found.append((scores.first_match, scores.average_precision))
    first, precision = zip(*found, strict=True)
    return np.concatenate(first), np.concatenate(precision)


def _pair_accuracy(first_NV: np.ndarray, groups: np.ndarray, counted: np.ndarray, num_ranks: int) -> np.ndarray:
    """[V, V, R] Rank-1 to Rank-R in percent for probe and gallery view, to 0.01; NaN for pairs without sequences."""
    views = len(counted)
    accuracy_VVR = np.full((views, views, num_ranks), np.nan)
    ranks = np.arange(1, num_ranks + 1)
    for view in range(views):
        own = first_NV[groups == view]
        if len(own):
            hits = ((own[..., None] > 0) & (own[..., None] <= ranks)).sum(0)
            accuracy_VVR[view] = np.where(counted[:, None], np.round(hits * 100 / len(own), 2), np.nan)
    return accuracy_VVR


def _missing(condition: str, accuracy_VV: np.ndarray, names: list[str]) -> list[str]:
    others_VV = np.where(np.eye(len(names), dtype=bool), 0, accuracy_VV)
    pairs = [f"{names[v1]}-{names[v2]}" for v1, v2 in np.argwhere(np.isnan(others_VV)).tolist()]
    total = len(names) * (len(names) - 1)
    if not pairs:
        return []
    return [f"{condition}: {len(pairs)} of {total} pairs of views have no probe or no gallery: {some(pairs)}"]


def _mean(values: np.ndarray) -> float:
    """Of those that are not NaN; NaN if none is."""
    values = values[~np.isnan(values)]
    return float(values.mean()) if len(values) else float("nan")


def _row(values: np.ndarray) -> str:
    return f"[{' '.join('-' if np.isnan(value) else f'{value:.2f}' for value in values.tolist())}]"


def _named(values: dict[str, float]) -> str:
    return ",\t".join(f"{name}: {value:.3f}" for name, value in values.items())
