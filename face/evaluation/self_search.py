"""Searches whose probes are in the gallery themselves, as templates of IJB-S's surveillance-to-surveillance protocol.

A probe must not find itself: its own entry is left out of its ranking, and of that ranking alone. What `search` finds
is put together of searches in which own entries have other labels: one for the best entries of other persons, and then,
as a person may be looked for by several entries, in rounds with one probe of a person each. A probe's own entry, the
most similar there is, is before all others there, and is taken off its rank.

Shape letters: n probes, m gallery entries, E embedding channels.
"""

from collections.abc import Callable

import numpy as np

from face.evaluation.template_search import SearchResult, search

__all__ = ["search_others"]


def search_others(
    probe: np.ndarray,
    gallery: np.ndarray,
    probe_labels: np.ndarray,
    gallery_labels: np.ndarray,
    own_rows: np.ndarray,
    *,
    name_of_probe: Callable[[int], str] = "probe row {}".format,
    name_of_gallery: Callable[[int], str] = "gallery row {}".format,
) -> SearchResult:
    """`search` without the entries that are the probes themselves; ranks count entries.

    Args:
        probe: [n, E].
        gallery: [m, E].
        probe_labels: [n] integers; of a probe that is in the gallery its entry's label, or one that the gallery lacks.
            Where that person has no other entry the probe has no mate.
        gallery_labels: [m] integers >= 0.
        own_rows: [n] the gallery row that is the probe itself, -1 for none. A row is that of one probe at most.
        name_of_probe: what an error calls a row.
        name_of_gallery: likewise.

    Returns:
        What `search` would; `average_precision` is NaN for probes that are in the gallery.

    Raises:
        ValueError: as `search`.
    """
    inside = own_rows >= 0
    persons = np.where(inside, gallery_labels[own_rows], probe_labels)

    def found(rows: np.ndarray, labels: np.ndarray, entries: np.ndarray) -> SearchResult:
        return search(
            probe[rows],
            gallery,
            labels,
            entries,
            name_of_probe=lambda row: name_of_probe(int(rows[row])),
            name_of_gallery=name_of_gallery,
        )

    everybody = np.arange(len(probe))
    result = found(everybody, persons, gallery_labels)  # of those inside, all but the entries of other persons is wrong
    sizes = np.bincount(gallery_labels)
    mated = np.where(inside, (probe_labels == persons) & (sizes[persons.clip(0, len(sizes) - 1)] > 1), result.mated)
    first_match = np.where(inside, 0, result.first_match)
    own_best = np.where(inside, -np.inf, result.own_best)
    for rows in _rounds(np.flatnonzero(inside & mated), persons):
        entries = gallery_labels.copy()
        entries[own_rows[rows]] = -1  # nobody's
        others = found(rows, persons[rows], entries)
        first_match[rows], own_best[rows] = others.first_match - 1, others.own_best
    return SearchResult(
        mated=mated,
        first_match=first_match,
        own_best=own_best,
        best_other=result.best_other,
        average_precision=np.where(inside, np.nan, result.average_precision),
        highest_others=result.highest_others,
        other_pairs=result.other_pairs,
        candidates=result.candidates,
    )


def _rounds(rows: np.ndarray, persons: np.ndarray) -> list[np.ndarray]:
    """Rows of probes in groups that have no person twice."""
    order = rows[np.argsort(persons[rows], kind="stable")]
    ordered = persons[order]
    turn = np.arange(len(order)) - np.searchsorted(ordered, ordered)
    return [order[turn == number] for number in range(int(turn.max(initial=-1)) + 1)]
