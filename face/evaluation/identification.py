"""Closed-set identification: each probe is looked for in a gallery that has its person. Rank-k, mAP and the CMC curve.

Gallery images are ranked by cosine similarity. An image of another person that is exactly as similar as one of the
probe's own is ranked before it, so results depend on no order of rows, and embeddings that are all equal get no hit.
face.evaluation.template_search does the work, also for probes whose person the gallery lacks.

Shape letters: n probes, m gallery images, E embedding channels.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from face.evaluation.checks import check_embeddings
from face.evaluation.template_search import label_codes, rank_rates, search

__all__ = ["RANKS", "IdentificationResult", "check_closed_set", "identify"]

RANKS = (1, 5, 10, 20)


@dataclass(frozen=True, kw_only=True, eq=False)
class IdentificationResult:
    """Percentages over all probes."""

    rank: dict[int, float]
    """Rank-k for each k of RANKS: probes with an image of their person among the k most similar ones. A k beyond the
    gallery's size is left out."""

    mean_ap: float
    """Mean of `average_precision`."""

    cmc: np.ndarray
    """[min(50, m)] cumulative match curve; entry k - 1 is Rank-k."""

    first_match: np.ndarray
    """[n] rank of the most similar image of the probe's person, counted from 1."""

    average_precision: np.ndarray
    """[n] percent."""


def identify(
    probe: np.ndarray,
    gallery: np.ndarray,
    probe_labels: Sequence[str] | np.ndarray,
    gallery_labels: Sequence[str] | np.ndarray,
    *,
    name_of_probe: Callable[[int], str] = "probe row {}".format,
    name_of_gallery: Callable[[int], str] = "gallery row {}".format,
) -> IdentificationResult:
    """Metrics of probes against a gallery.

    Memory stays at a block of similarities, however many probes and gallery images there are.

    Args:
        probe: [n, E] float32 or float64, of any length.
        gallery: [m, E].
        probe_labels: [n] persons, strings or integers.
        gallery_labels: [m] persons of the same kind.
        name_of_probe: what an error calls a row's image.
        name_of_gallery: likewise.

    Raises:
        ValueError: NaN or infinity (the images are named), shapes or kinds that do not fit, or a probe whose person is
            not in the gallery.
    """
    check_embeddings(probe, name_of_probe)
    check_embeddings(gallery, name_of_gallery)
    label_codes(probe_labels, gallery_labels, len(probe), len(gallery))
    check_closed_set(probe_labels, gallery_labels, name_of_probe)
    result = search(
        probe, gallery, probe_labels, gallery_labels, name_of_probe=name_of_probe, name_of_gallery=name_of_gallery
    )
    return IdentificationResult(
        rank=rank_rates(result, RANKS),
        mean_ap=float(result.average_precision.mean()),
        cmc=result.cmc,
        first_match=result.first_match,
        average_precision=result.average_precision,
    )


def check_closed_set(
    probe_labels: Sequence[str] | np.ndarray,
    gallery_labels: Sequence[str] | np.ndarray,
    name_of_probe: Callable[[int], str] = "probe row {}".format,
) -> None:
    """Refuse probes whose person is not in the gallery.

    Raises:
        ValueError: there are some; how many, and the first of them with their persons.
    """
    known = set(np.asarray(gallery_labels).tolist())
    labels = np.asarray(probe_labels).tolist()
    strangers = [number for number, label in enumerate(labels) if label not in known]
    if strangers:
        shown = ", ".join(f"{name_of_probe(number)} ({labels[number]})" for number in strangers[:5])
        more = ", ..." if len(strangers) > 5 else ""
        raise ValueError(
            f"{len(strangers)} of {len(labels)} probes are of persons that the gallery lacks, first: {shown}{more}"
        )
