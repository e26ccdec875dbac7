"""Searches of probes that are in the gallery; see test_sets_benchmarks.py for the definition as a loop."""

import numpy as np
import pytest

from face.evaluation.self_search import search_others

GALLERY = np.array([[1, 0.0], [0.9, 0.1], [0.5, 0.5], [0, 1]])


@pytest.mark.parametrize("label", [7, -1])
def test_a_person_with_no_other_entry_has_no_mate(label):
    found = search_others(GALLERY[2:3], GALLERY, np.array([label]), np.array([3, 3, 7, 4]), np.array([2]))
    assert (found.mated.tolist(), found.first_match.tolist(), found.own_best.tolist()) == ([False], [0], [-np.inf])
    assert found.best_other[0] == pytest.approx(1 / np.sqrt(0.82) / np.sqrt(2))


def test_every_entry_of_a_person_looks_for_the_others():
    persons = np.array([3, 3, 4, 3])
    found = search_others(GALLERY, GALLERY, persons, persons, np.arange(4))
    assert found.mated.tolist() == [True, True, False, True]
    assert found.first_match.tolist() == [1, 1, 0, 2]
    assert found.own_best[3] == pytest.approx(0.1 / np.sqrt(0.82))
    assert np.isnan(found.average_precision).all()
