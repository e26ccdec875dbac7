"""The Gait3D protocol: probes by name, all other sequences are gallery.

Source: OpenGait's `evaluate_Gait3D`. Deliberate differences: the partition is the caller's, no file is read on the
way; see also distance.py and retrieval.py.
Shape letters: n sequences, c channels, p parts.
"""

import warnings
from collections.abc import Collection, Sequence

import numpy as np
import torch
from torch import Tensor

from plugin.evaluation.distance import Metric, part_distance
from plugin.evaluation.messages import refuse_non_finite, some
from plugin.evaluation.retrieval import RetrievalResult, retrieval_metrics

__all__ = ["gait3d_evaluation"]


def gait3d_evaluation(
    embeddings: Tensor | np.ndarray,
    labels: Sequence[str],
    types: Sequence[str],
    views: Sequence[str],
    probe_names: Collection[str],
    metric: Metric = "euc",
) -> tuple[dict[str, float], RetrievalResult]:
    """The Gait3D protocol: sequences named in `probe_names` against all the others.

    Args:
        embeddings: [n, c, p] of all test sequences.
        labels: identity of each sequence ("0001").
        types: its folder below the identity ("camid0_videoid2").
        views: its folder below that ("seq0").
        probe_names: "ID-TYPE-VIEW" of the probes, the `PROBE_SET` of the partition file.
        metric: as in `part_distance`.

    Returns:
        OpenGait's `scalar/test_accuracy/{Rank-1,Rank-5,Rank-10,mAP,mINP}` in percent, and all details.

    Raises:
        ValueError: lengths that differ, a sequence named twice, NaN or infinity in an embedding (sequences are
            named), no probe or no gallery, or no probe with a true match.

    Warns:
        UserWarning: probe names that no sequence has, or a gallery of fewer than 10.
    """
    features = torch.as_tensor(embeddings)
    lengths = [len(x) for x in (features, labels, types, views)]
    if len(set(lengths)) > 1:
        raise ValueError(f"embeddings, labels, types and views must have equal lengths, got {lengths}")
    names = ["-".join(parts) for parts in zip(labels, types, views, strict=True)]
    probe_names = set(probe_names)
    distinct, copies = np.unique(names, return_counts=True)
    if len(distinct) < len(names):
        raise ValueError(f"{len(names) - len(distinct)} sequence(s) come twice: {some(distinct[copies > 1])}")
    refuse_non_finite(features.flatten(1).isfinite().all(1).cpu().numpy(), "embeddings", names)
    is_probe = np.array([name in probe_names for name in names], dtype=bool)
    if is_probe.all() or not is_probe.any():
        raise ValueError(
            f"need probes and gallery, got {is_probe.sum()} probes among {len(names)} sequences "
            f"({some(names)}); probe names: {some(sorted(probe_names))}"
        )
    absent = sorted(probe_names.difference(names))
    if absent:
        warnings.warn(f"{len(absent)} probe name(s) have no sequence: {some(absent)}", stacklevel=2)
    at = torch.from_numpy(is_probe).to(features.device)
    identities = np.asarray(labels)
    distances = part_distance(features[at], features[~at], metric)
    result = retrieval_metrics(distances, identities[is_probe], identities[~is_probe])
    scores = {f"Rank-{k}": value for k, value in result.rank.items()}
    scores |= {"mAP": result.mean_ap, "mINP": result.mean_inp}
    return {f"scalar/test_accuracy/{name}": value for name, value in scores.items()}, result
