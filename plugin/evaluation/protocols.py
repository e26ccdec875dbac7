"""The test protocols of the gait data sets, by the names of OpenGait's evaluation functions.

Source: OpenGait's `evaluation/evaluator.py` (ShiqiYu/OpenGait@0efafd4): `evaluate_Gait3D`, `evaluate_indoor_dataset`,
`evaluate_real_scene`, `GREW_submission`, `evaluate_CCPG`; its result keys, rounding and tables.

Deliberate differences: roles and names are checked before anything is computed; equal distances are ranked by gallery
index, where OpenGait's order is open; nothing is written and no file is read here (GREW's table is handed back as
text); a gallery may be smaller than the highest rank; embeddings with NaN or infinity are refused. Those of single
protocols are in by_view.py and gait3d.py.

Shape letters: n sequences, c channels, p parts.
"""

import csv
import io
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from plugin.evaluation.by_view import (
    EmbeddedSequences,
    ccpg_evaluation,
    cross_view_evaluation,
    single_view_evaluation,
    view_names,
)
from plugin.evaluation.conditions import (
    CCPG,
    CROSS_VIEW,
    GREW_SUBMISSION,
    REAL_SCENE,
    SINGLE_VIEW,
    Condition,
    unknown_types,
)
from plugin.evaluation.distance import Metric, distance_strips, part_distance
from plugin.evaluation.gait3d import gait3d_evaluation
from plugin.evaluation.messages import refuse_non_finite, some
from plugin.evaluation.retrieval import RetrievalResult, nearest, retrieval_metrics

__all__ = ["EvalFunc", "Protocol", "ProtocolResult"]

EvalFunc = Literal[
    "evaluate_Gait3D", "evaluate_indoor_dataset", "evaluate_real_scene", "GREW_submission", "evaluate_CCPG"
]

SUBMITTED_RANKS = 20
"""Columns of the table that GREW's competition takes."""

_TABLES = {
    "evaluate_indoor_dataset": SINGLE_VIEW,
    "evaluate_real_scene": REAL_SCENE,
    "GREW_submission": GREW_SUBMISSION,
    "evaluate_CCPG": CCPG,
}


@dataclass(frozen=True, kw_only=True, eq=False)
class ProtocolResult:
    """What a test found."""

    metrics: dict[str, float]
    """OpenGait's keys (`scalar/test_accuracy/...`), percent. Empty where the truth is not known (GREW_submission)."""

    details: RetrievalResult | None = None
    """CMC and single probes where the protocol is one ranking (Gait3D, real scene). Its averages leave out probes
    without a true match; the metrics of `evaluate_real_scene` count them as missed, as OpenGait does."""

    text: str
    """What is to be printed: tables by view and condition."""

    files: dict[str, str] = field(default_factory=dict)
    """Name and content of files to be written."""


class Protocol:
    """Who is probe and who is gallery, and which figures come of their distances.

    Args:
        eval_func: OpenGait's name of the protocol.
        dataset_name: OpenGait's `test_dataset_name`; evaluate_Gait3D takes any.
        probe_names: ID-TYPE-VIEW of the probes, for evaluate_Gait3D.
        metric: distance between embeddings, "euc" or "cos".
        cross_view_gallery: of evaluate_indoor_dataset: all views at once in the gallery.

    Raises:
        ValueError: a protocol, metric, data set or option that is not known (those that are, are named), or
            evaluate_Gait3D without probe names.
    """

    def __init__(
        self,
        eval_func: EvalFunc,
        dataset_name: str,
        probe_names: Collection[str] = frozenset(),
        metric: Metric = "euc",
        cross_view_gallery: bool = False,
    ) -> None:
        for name, value, known in (("eval_func", eval_func, EvalFunc), ("metric", metric, Metric)):
            if value not in get_args(known):
                raise ValueError(f"{name} must be one of {', '.join(get_args(known))}, got {value!r}")
        if cross_view_gallery and eval_func != "evaluate_indoor_dataset":
            raise ValueError(f"cross_view_gallery is an option of evaluate_indoor_dataset, not of {eval_func}")
        self.eval_func, self.dataset_name, self.metric = eval_func, dataset_name, metric
        self.cross_view_gallery, self.probe_names = cross_view_gallery, frozenset(probe_names)
        self._conditions: tuple[Condition, ...] = ()
        if eval_func == "evaluate_Gait3D":
            if not self.probe_names:
                raise ValueError("evaluate_Gait3D needs the names of the probes (PROBE_SET of the partition), got none")
            return
        table = CROSS_VIEW if cross_view_gallery else _TABLES[eval_func]
        if dataset_name not in table:
            what = f"{eval_func} with cross_view_gallery" if cross_view_gallery else eval_func
            raise ValueError(f"{what} knows the data sets {', '.join(table)}, got {dataset_name!r}")
        self._conditions = table[dataset_name]

    def roles(self, labels: Sequence[str], types: Sequence[str], views: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Whether each sequence is a probe [n], and whether it is gallery [n]; it may be both, or neither.

        Args:
            labels, types, views: identity of each sequence and its two folders below that.
        """
        if self.eval_func == "evaluate_Gait3D":
            is_probe = np.array([name in self.probe_names for name in _names(labels, types, views)], dtype=bool)
            return is_probe, ~is_probe
        kinds = np.asarray(types, dtype=np.str_)
        is_probe, is_gallery = (
            np.any([getattr(condition, role)(kinds) for condition in self._conditions], axis=0)
            for role in ("probes", "gallery")
        )
        if self.eval_func == "evaluate_indoor_dataset":
            counts = np.isin(views, view_names(self.dataset_name, np.asarray(views, dtype=np.str_)))
            return is_probe & counts, is_gallery & counts
        return is_probe, is_gallery

    def check(self, labels: Sequence[str], types: Sequence[str], views: Sequence[str]) -> None:
        """Whether these sequences can be tested at all, before any embedding is computed.

        Raises:
            ValueError: no probe or no gallery; a sequence named twice; types that the data set does not have (all
                are named); a single view where pairs of views are compared; labels of GREW's gallery that are not
                numbers, or too few of them for a submission.
        """
        lengths = [len(labels), len(types), len(views)]
        if len(set(lengths)) > 1:
            raise ValueError(f"labels, types and views must have equal lengths, got {lengths}")
        names = _names(labels, types, views)
        distinct, copies = np.unique(names, return_counts=True)
        if len(distinct) < len(names):
            raise ValueError(f"{len(names) - len(distinct)} sequence(s) come twice: {some(distinct[copies > 1])}")
        who = f"{self.eval_func} of {self.dataset_name}"
        if self.eval_func != "evaluate_Gait3D":
            unknown = unknown_types(self.dataset_name, np.asarray(types, dtype=np.str_))
            if unknown:
                raise ValueError(f"{who}: {len(unknown)} unknown sequence type(s): {', '.join(unknown)}")
        is_probe, is_gallery = self.roles(labels, types, views)
        if not (is_probe.any() and is_gallery.any()):
            expected = f"; probe names: {some(sorted(self.probe_names))}" if self.probe_names else self._expected()
            raise ValueError(
                f"{who}: need probes and gallery, got {is_probe.sum()} and {is_gallery.sum()} among "
                f"{len(names)} sequences ({some(names)}){expected}"
            )
        if self.eval_func in ("evaluate_indoor_dataset", "evaluate_CCPG") and not self.cross_view_gallery:
            own = np.asarray([view.split("_")[0] if self.eval_func == "evaluate_CCPG" else view for view in views])
            if len(set(own[is_probe]) | set(own[is_gallery])) < 2:
                raise ValueError(f"{who} compares different views, found only {own[is_probe][0]}")
        if self.eval_func == "GREW_submission":
            wrong = [label for label, gallery in zip(labels, is_gallery, strict=True) if gallery and not _number(label)]
            if wrong:
                raise ValueError(f"{who}: identities of the gallery must be numbers, got {some(wrong)}")
            if is_gallery.sum() < SUBMITTED_RANKS:
                raise ValueError(f"{who} needs {SUBMITTED_RANKS} gallery sequences, got {is_gallery.sum()}")

    def _expected(self) -> str:
        roles = (
            f"{condition.name}: {some(condition.probe_types)} against {some(condition.gallery_types)}"
            for condition in self._conditions
        )
        return f"; types of probes and gallery are {'; '.join(roles)}"

    def evaluate(
        self,
        embeddings: Tensor | np.ndarray,
        labels: Sequence[str],
        types: Sequence[str],
        views: Sequence[str],
    ) -> ProtocolResult:
        """The figures of the protocol.

        Args:
            embeddings: [n, c, p] floating point; a tensor is compared on its device.
            labels, types, views: as for `roles`.

        Raises:
            ValueError: as `check`; lengths that differ, NaN or infinity in an embedding (sequences are named), or no
                probe with a true match where one is needed.

        Warns:
            UserWarning: probe names that no sequence has, or a gallery smaller than a rank.
        """
        features = torch.as_tensor(embeddings)
        if len(features) != len(labels):
            raise ValueError(f"{len(features)} embeddings for {len(labels)} labels")
        self.check(labels, types, views)
        names = _names(labels, types, views)
        refuse_non_finite(features.flatten(1).isfinite().all(1).cpu().numpy(), "embeddings", names)
        if self.eval_func == "evaluate_Gait3D":
            metrics, details = gait3d_evaluation(features, labels, types, views, self.probe_names, self.metric)
            return ProtocolResult(metrics=metrics, details=details, text=_one_line(metrics))
        who, kinds, where = (np.asarray(values, dtype=np.str_) for values in (labels, types, views))
        test = EmbeddedSequences(features, who, kinds, where, self.metric)
        if self.eval_func == "evaluate_real_scene":
            return _real_scene(test, self._conditions[0])
        if self.eval_func == "GREW_submission":
            return _submission(test, self._conditions[0])
        if self.eval_func == "evaluate_CCPG":
            metrics, text = ccpg_evaluation(test, self._conditions)
        elif self.cross_view_gallery:
            metrics, text = cross_view_evaluation(test, self._conditions)
        else:
            metrics, text = single_view_evaluation(test, self._conditions, self.dataset_name)
        return ProtocolResult(metrics=metrics, text=text)


def _real_scene(test: EmbeddedSequences, condition: Condition) -> ProtocolResult:
    probes, gallery = condition.probes(test.types), condition.gallery(test.types)
    distances = part_distance(test.pick(probes), test.pick(gallery), test.metric)
    ranks = (1, 5, 10, 20)
    details = retrieval_metrics(distances, test.labels[probes], test.labels[gallery], ranks)
    first = details.first_match
    scores = {k: float(np.round(np.sum((first > 0) & (first <= k)) * 100 / len(first), 2)) for k in ranks}
    lines = [line for k, score in scores.items() for line in (f"==Rank-{k}==", f"{score:.3f}")]
    if details.probes_without_match:
        lines.append(f"{details.probes_without_match} probes have no true match and count as missed")
    metrics = {f"scalar/test_accuracy/Rank-{k}": scores[k] for k in (1, 5)}
    return ProtocolResult(metrics=metrics, details=details, text="\n".join(lines))


def _submission(test: EmbeddedSequences, condition: Condition) -> ProtocolResult:
    probes, gallery = condition.probes(test.types), condition.gallery(test.types)
    identities = np.array([int(label) for label in test.labels[gallery].tolist()])
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["videoId", *(f"rank{k}" for k in range(1, SUBMITTED_RANKS + 1))])
    videos = test.views[probes].tolist()
    for rows, distances in distance_strips(test.pick(probes), test.pick(gallery), test.metric):
        found = identities[nearest(distances.cpu().numpy(), SUBMITTED_RANKS)]
        writer.writerows([video, *row] for video, row in zip(videos[rows], found.tolist(), strict=True))
    text = f"{len(videos)} probes ranked against {gallery.sum()} gallery sequences; the truth is GREW's own"
    return ProtocolResult(metrics={}, text=text, files={"GREW_submission.csv": table.getvalue()})


def _names(labels: Sequence[str], types: Sequence[str], views: Sequence[str]) -> list[str]:
    return ["-".join(parts) for parts in zip(labels, types, views, strict=True)]


def _number(label: str) -> bool:
    return label.isascii() and label.isdigit()


def _one_line(metrics: dict[str, float]) -> str:
    return ", ".join(f"{name.rsplit('/', 1)[-1]}: {value:.2f}" for name, value in metrics.items())
