"""Templates, pairs of them and searches beside insightface's and CVLface's code, live and as recorded."""

import importlib.util
import math
import os
from pathlib import Path

import numpy as np
import pytest

from face.evaluation.fusion import INSIGHTFACE_FUSIONS, FusionSettings, frame_weights, fuse_templates
from face.evaluation.pair_scores import nearest_point, score_pairs, score_roc
from face.evaluation.template_search import closed_set_tpir, dir_at_far, rank_rates, search
from face.evaluation.templates import pool_templates, template_rows


def _harness():
    path = Path(__file__).parents[2] / "parity" / "face_templates.py"
    spec = importlib.util.spec_from_file_location("parity_face_templates", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


theirs = _harness()
VERIFICATION, SEARCH, OPEN = theirs.verification_cases(), theirs.search_cases(), theirs.open_cases()
CONFIGURATIONS = {"Norm:True_Det:True": "N1D1", "Norm:True_Det:False": "N1D0", "Norm:False_Det:True": "N0D1"}
needs_insightface = pytest.mark.skipif(
    "INSIGHTFACE_ROOT" not in os.environ, reason="INSIGHTFACE_ROOT names no checkout"
)
needs_cvlface = pytest.mark.skipif("CVLFACE_ROOT" not in os.environ, reason="CVLFACE_ROOT names no checkout of CVLface")


@pytest.fixture(scope="module")
def stored():
    with np.load(theirs.STORED) as found:
        return dict(found)


def scores_of(case, name):
    fused = fuse_templates(
        case.embeddings, case.templates, case.medias, settings=INSIGHTFACE_FUSIONS[name], scores=case.scores
    )
    return score_pairs(fused.values, template_rows(fused.ids, case.p1), template_rows(fused.ids, case.p2))


def table(case, score):
    curve = score_roc(score, case.label == 1)
    return [f"{100 * curve.tar[nearest_point(curve, far)]:.2f}" for far in theirs.FARS]


def cvlface_numbers(case):
    """Under their names."""
    numbers = {}
    for method, name in CONFIGURATIONS.items():
        curve = score_roc(scores_of(case, name), case.label == 1)
        for far in theirs.FARS:
            point = nearest_point(curve, far)
            numbers[f"{method}_tpr_at_fpr_{far}"] = 100 * curve.tar[point]
            numbers[f"{method}_thresh_at_fpr_{far}"] = -curve.thresholds[point]
    return numbers


def search_lines(case):
    """As ijb_1n.py prints them."""
    n = len(case.probe)
    result = search(case.probe, case.gallery, case.probe_labels, case.gallery_labels, keep=math.ceil(0.1 * n))
    ranks, tpir = rank_rates(result, (1, 5, 10)), closed_set_tpir(result)
    thresholds = {fpir: result.highest_others[math.ceil(fpir * n) - 1] for fpir in tpir}
    lines = [f"top{k} = {rate / 100:.10f}" for k, rate in ranks.items()]
    return lines + [
        f"far = {fpir:.10f} pr = {rate / 100:.10f} th = {thresholds[fpir]:.10f}" for fpir, rate in tpir.items()
    ]


def with_ten_digits(lines):
    """Theirs prints ranks with as many digits as it takes."""
    return [
        f"{line.split(' = ')[0]} = {float(line.split(' = ')[1]):.10f}" if "far" not in line else line for line in lines
    ]


def open_rates(case):
    """Fractions in their layout."""
    result = search(case.probe, case.gallery, case.probe_labels, case.gallery_labels)
    rates = dir_at_far(result, theirs.OPEN_FARS, theirs.OPEN_RANKS)
    return np.array([[rates[far, rank] / 100 for rank in theirs.OPEN_RANKS] for far in theirs.OPEN_FARS])


def tiny_ranks(case):
    result = search(case.probe, case.gallery, case.probe_labels, case.gallery_labels)
    return [rate / 100 for rate in rank_rates(result, theirs.TINY_RANKS).values()]


@pytest.mark.parametrize("name", VERIFICATION)
def test_recorded_verification(name, stored):
    case = VERIFICATION[name]
    assert table(case, scores_of(case, "N1D1")) == stored[f"{name}|table"].tolist()
    found = cvlface_numbers(case)
    assert list(found) == stored[f"{name}|keys"].tolist()
    np.testing.assert_allclose(list(found.values()), stored[f"{name}|values"], rtol=1e-14, atol=0)


@pytest.mark.parametrize("name", SEARCH)
def test_recorded_search(name, stored):
    assert search_lines(SEARCH[name]) == with_ten_digits(stored[f"{name}|search"].tolist())


@pytest.mark.parametrize("name", OPEN)
def test_recorded_open_set(name, stored):
    np.testing.assert_allclose(open_rates(OPEN[name]), stored[f"{name}|open"], rtol=0, atol=1e-7)  # theirs: float32


def test_recorded_tinyface(stored):
    np.testing.assert_allclose(tiny_ranks(theirs.tiny_case()), stored["tiny"], rtol=0, atol=1e-7)


@needs_insightface
@pytest.mark.parametrize("name", VERIFICATION)
def test_insightface_templates_and_cosines_to_the_bit(name):
    case = VERIFICATION[name]
    values, ids = pool_templates(case.embeddings, case.templates, case.medias)
    expected, expected_ids = theirs.insightface_templates(case)
    np.testing.assert_array_equal(ids, expected_ids)
    np.testing.assert_array_equal(values, expected)
    scores = score_pairs(values, template_rows(ids, case.p1), template_rows(ids, case.p2))
    np.testing.assert_array_equal(scores, theirs.insightface_scores(case, expected, ids))
    assert table(case, scores) == theirs.insightface_table(case.label, scores)


@needs_insightface
@pytest.mark.parametrize("decimals", [1, 2, 3, 16])  # ties of all sizes
@pytest.mark.parametrize("block", [7, 10**6])
def test_insightface_table_of_scores(decimals, block, monkeypatch):
    monkeypatch.setattr("face.evaluation.pair_scores._STEPS", block)
    random = np.random.default_rng(decimals)
    label = (random.random(5000) < 0.1).astype(int)
    score = np.round(random.standard_normal(5000) + label, decimals)
    case = VERIFICATION["random"]._replace(label=label)
    assert table(case, score) == theirs.insightface_table(label, score)


@needs_insightface
@pytest.mark.parametrize("seed", range(3))
def test_insightface_search(seed):
    case = theirs.search_case(30 + seed, 400 + seed, 30 * (1 + seed), 20, 0.5 * (1 + seed))
    assert search_lines(case) == with_ten_digits(theirs.insightface_search(case))


@needs_cvlface
@pytest.mark.parametrize("seed", range(2))
def test_cvlface_verification(seed):
    case = theirs.verification_case(40 + seed, 90, 500, 20, 7000, 0.8 + seed, [None, 2][seed])
    found, expected = cvlface_numbers(case), theirs.cvlface_verification(case)
    assert list(found) == list(expected)
    np.testing.assert_allclose(list(found.values()), list(expected.values()), rtol=1e-14, atol=0)


@needs_cvlface
@pytest.mark.parametrize("seed", range(2))
def test_cvlface_open_set_and_tinyface(seed):
    case = theirs.search_case(50 + seed, 500, 60, 16, 0.7, unmated=30)
    expected = theirs.cvlface_search(case, theirs.OPEN_RANKS, theirs.OPEN_FARS)
    np.testing.assert_allclose(open_rates(case), expected, rtol=0, atol=1e-7)
    tiny = theirs.tiny_case(60 + seed)
    np.testing.assert_allclose(
        tiny_ranks(tiny), theirs.cvlface_search(tiny, theirs.TINY_RANKS, (1.0,)), rtol=0, atol=1e-7
    )


@needs_cvlface
def test_cvlface_landmark_weights():
    """But for the 1e-6 that it adds, and the half pixel that its reference is off."""
    random = np.random.default_rng(0)
    spread = random.uniform(0, 0.25, (200, 1, 1))
    landmarks = theirs_reference() + spread * random.standard_normal((200, 5, 2))
    scores = random.uniform(0, 1, 200)
    half_pixel = landmarks + 0.5 / 112
    found = frame_weights(np.ones((200, 3)), half_pixel, scores, FusionSettings(kind="landmark"))
    np.testing.assert_allclose(found, theirs.cvlface_weights(landmarks, scores), rtol=0, atol=2.5e-6)
    assert 0 < np.count_nonzero(found == 0) < 150


def theirs_reference():
    from face.reference import REFERENCE_LANDMARKS

    return REFERENCE_LANDMARKS / 112
