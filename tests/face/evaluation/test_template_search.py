"""Searches against their definition as a loop, open and closed, with ties, several entries of a person, and limits."""

import math

import numpy as np
import pytest

from face.evaluation import template_search as module
from face.evaluation.template_search import (
    closed_set_tpir,
    dir_at_far,
    mean_tpir,
    rank_rates,
    search,
    tpir_at_fpir,
)


def example(seed=0, n=60, m=80, persons=30, strangers=12, levels=None):
    """Some probes are of persons that the gallery lacks; persons have one to a few entries."""
    random = np.random.default_rng(seed)
    centres = random.standard_normal((persons + strangers, 6))
    wanted = random.integers(0, persons + strangers, n)
    offered = np.append(np.arange(persons), random.integers(0, persons, m - persons))
    probe, gallery = (centres[labels] + 0.8 * random.standard_normal((len(labels), 6)) for labels in (wanted, offered))
    if levels:
        probe, gallery = (np.rint(x * levels) + 0.5 for x in (probe, gallery))
    return probe, gallery, wanted * 3, offered * 3


def searched_by_loop(probe, gallery, wanted, offered, counted):
    """[(rank, own best, best other, average precision, all others)], entries of others before equal own ones."""
    rows = []
    for x, label in zip(probe, wanted, strict=True):
        similar = gallery @ x / np.linalg.norm(x) / np.linalg.norm(gallery, axis=1)
        labels = offered
        if counted == "identities":
            labels = np.unique(offered)
            similar = np.array([similar[offered == one].max() for one in labels])
        order = sorted((-round(s, 10), other == label) for s, other in zip(similar, labels, strict=True))
        places = [place for place, (_, match) in enumerate(order, start=1) if match]
        own, others = similar[labels == label], similar[labels != label]
        precision = 100 * np.mean([found / place for found, place in enumerate(places, start=1)]) if places else np.nan
        rows.append((places[0] if places else 0, own.max(initial=-np.inf), others.max(initial=-np.inf), precision))
        rows[-1] += (others,)
    return rows


@pytest.mark.parametrize("counted", ["entries", "identities"])
@pytest.mark.parametrize(("persons", "levels"), [(30, None), (80, None), (3, None), (30, 1)])  # 3: many entries each
@pytest.mark.parametrize("cells", [1, 500, 2**22])
def test_matches_definition(counted, persons, levels, cells, monkeypatch):
    monkeypatch.setattr(module, "_CELLS", cells)
    monkeypatch.setattr(module, "_ENTRIES", 17)
    arguments = example(persons, persons=persons, levels=levels)
    result = search(*arguments, counted=counted, keep=25)
    first, own, other, precision, others = zip(*searched_by_loop(*arguments, counted), strict=True)
    np.testing.assert_array_equal(result.first_match, first)
    np.testing.assert_array_equal(result.mated, np.array(first) > 0)
    np.testing.assert_allclose(result.own_best, own, rtol=0, atol=1e-14)
    np.testing.assert_allclose(result.best_other, other, rtol=0, atol=1e-14)
    np.testing.assert_allclose(result.average_precision, precision, rtol=0, atol=1e-10)
    everything = np.sort(np.concatenate(others))[::-1]
    assert result.other_pairs == len(everything)
    np.testing.assert_allclose(result.highest_others, everything[:25], rtol=0, atol=1e-14)
    assert 0 < result.mated.sum() < len(result.mated)
    mated = np.array(first)[result.mated]
    ranks = range(1, min(50, result.candidates) + 1)
    np.testing.assert_allclose(result.cmc, [100 * np.mean(mated <= k) for k in ranks])


def test_entries_and_identities_differ_where_a_person_has_several():
    gallery = np.array([[1, 0.1], [1, 0.2], [1, 0.4], [0, 1]])
    arguments = (np.array([[1.0, 0]]), gallery, ["c"], ["a", "a", "c", "d"])
    assert search(*arguments).first_match.tolist() == [3]
    identities = search(*arguments, counted="identities")
    assert (identities.first_match.tolist(), identities.candidates, identities.other_pairs) == ([2], 3, 2)


@pytest.mark.parametrize("keep", [0, 1, 4000, 10**6])
def test_highest_cosines(keep, monkeypatch):
    monkeypatch.setattr(module, "_CELLS", 300)
    arguments = example(1, levels=1)  # many equal ones
    everything = np.sort(np.concatenate([row[-1] for row in searched_by_loop(*arguments, "entries")]))[::-1]
    found = search(*arguments, keep=keep).highest_others
    np.testing.assert_allclose(found, everything[:keep], atol=1e-14)


def test_tpir_matches_definition():
    result = search(*example(2, n=400))
    rates = tpir_at_fpir(result, (0.01, 0.05, 0.3, 1.0), (1, 3, 500))
    unmated, mated = result.best_other[~result.mated], result.mated
    assert {rank for _, rank in rates} == {1, 3}  # the gallery has fewer than 500
    assert {fpir for fpir, _ in rates} == {0.01, 0.05, 0.3, 1.0}
    for (fpir, rank), rate in rates.items():
        cuts = [cut for cut in [*unmated, *result.own_best[mated], 9] if np.mean(unmated >= cut) <= fpir]
        best = max(np.mean((result.own_best >= cut)[mated] & (result.first_match <= rank)[mated]) for cut in cuts)
        assert rate == pytest.approx(100 * best)


def test_fpir_that_the_probes_cannot_tell_is_absent():
    result = search(*example(3, n=60))
    assert (~result.mated).sum() < 100
    assert list(tpir_at_fpir(result)) == [(0.1, 1)]
    assert list(dir_at_far(result, ranks=(1, 500))) == [(0.01, 1), (0.1, 1)]  # there a threshold above all


@pytest.mark.parametrize(("above", "rate"), [(-1e-4, 0), (0, 0), (5e-6, 0), (2e-5, 100)])
def test_no_false_alarm_allowed(above, rate):
    """The threshold is then 1e-5 above what the best unmated probe found."""
    angle = np.arccos([0.5 + above, 0.5])
    probe = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    result = search(probe, np.array([[1.0, 0]]), [0, 1], [0])
    assert dir_at_far(result, (0.01,), (1,)) == {(0.01, 1): rate}


def test_mean_over_galleries():
    rates = [{(0.01, 1): 10.0, (0.1, 1): 50.0}, {(0.1, 1): 70.0}]
    assert mean_tpir(rates) == {(0.1, 1): 60.0}


def closed_example():
    probe, gallery, wanted, _ = example(4, n=200, m=30, persons=30, strangers=0)
    return probe, gallery, wanted, np.arange(30) * 3


def test_closed_set_matches_definition():
    arguments = closed_example()
    result = search(*arguments, keep=20)
    rows = searched_by_loop(*arguments, "entries")
    everything = np.sort(np.concatenate([row[-1] for row in rows]))[::-1]
    for fpir, rate in closed_set_tpir(result).items():
        threshold = everything[math.ceil(200 * fpir) - 1]
        assert rate == pytest.approx(100 * np.mean([row[1] > threshold for row in rows]))
    assert rank_rates(result, (1, 5, 31)).keys() == {1, 5}


def test_closed_set_refuses():
    result = search(*closed_example(), keep=19)
    with pytest.raises(ValueError, match="needs the 20 highest cosines, got 19: search with keep"):
        closed_set_tpir(result)
    with pytest.raises(ValueError, match="of 60 probes have no mate: this is no closed set"):
        closed_set_tpir(search(*example(), keep=100))
    alone = search(np.ones((3, 2)), np.ones((1, 2)), [1, 1, 1], [1], keep=5)
    assert closed_set_tpir(alone) == {}
    assert alone.best_other.tolist() == [-np.inf] * 3


def test_no_mates_or_only_mates():
    strangers = search(np.ones((2, 3)), np.ones((2, 3)), [1, 2], [3, 4])
    assert strangers.first_match.tolist() == [0, 0]
    assert np.isnan(strangers.average_precision).all()
    for function in (rank_rates, lambda result: result.cmc):
        with pytest.raises(ValueError, match="no probe has a mate in the gallery"):
            function(strangers)
    for result, counts in ((strangers, "0 and 2"), (search(*closed_example()), "200 and 0")):
        for rates in (tpir_at_fpir, dir_at_far):
            with pytest.raises(ValueError, match=f"with and without a mate in the gallery, got {counts}"):
                rates(result)


@pytest.mark.parametrize("counted", ["entries", "identities"])
def test_all_equal_is_no_hit(counted):
    labels = np.arange(40)
    ones = np.full((40, 33), 0.3, np.float32)
    result = search(ones, ones[:30], labels, labels[:30], counted=counted, keep=40)
    assert set(result.first_match[:30]) == {30}
    assert tpir_at_fpir(result, (0.1,), (1, 30)) == {(0.1, 1): 0, (0.1, 30): 0}
    closed = search(ones[:30], ones[:30], labels[:30], labels[:30], counted=counted, keep=40)
    assert closed_set_tpir(closed) == {0.01: 0, 0.1: 0}


def test_an_entry_that_is_there_twice_is_a_tie_wherever_it_stands(monkeypatch):
    gallery = np.random.default_rng(0).standard_normal((301, 33)).astype(np.float32)
    gallery[300] = gallery[0]
    for entries in (3, 64, 2**12):
        monkeypatch.setattr(module, "_ENTRIES", entries)
        result = search(gallery[:1], gallery, [0], np.arange(301))
        assert result.first_match.tolist() == [2]


def test_results_depend_on_no_order():
    probe, gallery, wanted, offered = example(5, levels=1)
    whole = search(probe, gallery, wanted, offered)
    order = np.random.default_rng(0).permutation(len(gallery))
    other = search(probe, gallery[order], wanted, offered[order])
    np.testing.assert_array_equal(other.first_match, whole.first_match)
    np.testing.assert_allclose(other.average_precision, whole.average_precision)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"probe": np.ones(3)}, r"embeddings must be float32 or float64 \[n, E\], got float64 \[3\]"),
        ({"gallery": np.ones((3, 5))}, "differ in length: 4 and 5"),
        ({"probe": np.array([[1, np.nan, 0, 0]] * 2)}, "2 of 2 embeddings hold NaN .* first: probe row 0, probe row 1"),
        ({"gallery": np.array([[1.0] * 4] * 2 + [[np.inf] * 4])}, "1 of 3 embeddings .* first: gallery row 2"),
        ({"probe_labels": [1]}, r"probe_labels must be 2 strings or integers, got int64 \[1\]"),
        ({"gallery_labels": [1.0, 2.0, 3.0]}, "gallery_labels must be 3 strings or integers, got float64"),
        ({"gallery_labels": ["1", "2", "3"]}, "labels must be all strings or all integers, got int64 and <U1"),
        ({"counted": "rows"}, "counted must be entries or identities, got 'rows'"),
        ({"keep": -1}, "keep must be >= 0, got -1"),
    ],
)
def test_refuses(change, match):
    arguments = {
        "probe": np.ones((2, 4)), "gallery": np.ones((3, 4)), "probe_labels": [1, 2], "gallery_labels": [1, 2, 3]
    } | change  # fmt: skip
    with pytest.raises(ValueError, match=match):
        search(**arguments)
