"""Protocols against stored numbers of OpenGait, OpenGait itself, loops over small cases, and bad input."""

import re

import numpy as np
import pytest
import torch

from plugin.evaluation import Protocol, part_distance
from plugin.evaluation.conditions import CCPG, SINGLE_VIEW

TITLES = [
    "CASIA-B",
    "OUMVLP",
    "CASIA-E",
    "SUSTech1K",
    "CASIA-B cross view",
    "OUMVLP cross view",
    "GREW",
    "HID2021",
    "0001-1000",
    "0001-1000-test",
    "TTG-200",
    "GREW submission",
    "CCPG",
]
INDOOR = "evaluate_indoor_dataset"


@pytest.fixture(scope="module")
def cases(parity):
    found = parity.cases()
    assert list(found) == TITLES
    return found


@pytest.fixture(scope="module")
def stored(parity):
    """{title|metric: {key: value}}"""
    results = {}
    with np.load(parity.STORED) as arrays:
        for name, value in arrays.items():
            title, metric, key = name.split("|")
            results.setdefault(f"{title}|{metric}", {})[key] = value
    return results


def ours(case, metric="euc"):
    protocol = Protocol(case.eval_func, case.dataset, metric=metric, **case.options)
    return protocol.evaluate(case.embeddings, case.labels, case.types, case.views)


def off_diagonal_mean(value):
    """OpenGait's `de_diag` of a matrix; other results as they are."""
    return np.mean((value.sum(1) - np.diag(value)) / (len(value) - 1)) if value.ndim else value


def assert_equal_results(result, theirs):
    if "csv" in theirs:
        assert result.metrics == {}
        assert list(result.files.values()) == [str(theirs["csv"])]
        return
    assert list(result.metrics) == list(theirs)
    expected = [off_diagonal_mean(value) for value in theirs.values()]
    np.testing.assert_allclose(list(result.metrics.values()), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("metric", ["euc", "cos"])
@pytest.mark.parametrize("title", TITLES)
def test_gives_the_stored_numbers_of_opengait(cases, stored, title, metric):
    assert_equal_results(ours(cases[title], metric), stored[f"{title}|{metric}"])


@pytest.mark.parametrize("title", TITLES)
def test_opengait_gives_the_same(opengait, parity, cases, title):
    assert_equal_results(ours(cases[title]), parity.opengait_results(opengait, cases[title], "euc"))


def test_nothing_of_the_callers_is_changed(cases):
    case = cases["CCPG"]
    before = [list(case.labels), list(case.types), list(case.views), case.embeddings.copy()]
    ours(case)
    assert [case.labels, case.types, case.views] == before[:3]
    assert np.array_equal(case.embeddings, before[3])


def test_ccpg_as_person_reidentification(cases):
    """What OpenGait prints and does not return: probes of one condition, less their identity in their view."""
    case = cases["CCPG"]
    lines = ours(case).text.splitlines()
    views = [view.split("_")[0] for view in case.views]
    distances = part_distance(*[torch.from_numpy(case.embeddings)] * 2).numpy()
    expected = []
    for condition in CCPG["CCPG"]:
        hits, precisions, penalties = [], [], []
        for i in np.nonzero(np.isin(case.types, condition.probe_types))[0]:
            ranked = [
                case.labels[j] == case.labels[i]
                for j in np.argsort(distances[i], kind="stable")
                if case.types[j] in condition.gallery_types
                and not (case.labels[j] == case.labels[i] and views[j] == views[i])
            ]
            places = [place for place, match in enumerate(ranked, start=1) if match]
            if places:
                hits.append(places[0] == 1)
                precisions.append(np.mean([found / place for found, place in enumerate(places, start=1)]))
                penalties.append(len(places) / places[-1])
        expected.append([condition.name, *(100 * np.mean(values) for values in (hits, precisions, penalties))])
    for number, measure in enumerate(("Rank-1", "mAP", "mINP"), start=1):
        title = f"==={measure} (Exclude identical-view cases for Person Re-Identification)==="
        assert lines[lines.index(title) + 1] == ",\t".join(f"{row[0]}: {row[number]:.3f}" for row in expected)


@pytest.mark.parametrize("tied", [False, True])
def test_single_view_matches_definition(tied):
    random = np.random.default_rng(0)
    labels, types, views, embeddings = [], [], [], []
    for subject in range(5):
        for kind in ("nm-01", "nm-02", "nm-05", "bg-01", "cl-02"):
            for view in ("000", "090", "180"):
                labels.append(f"{subject}")
                types.append(kind)
                views.append(view)
                embeddings.append(random.integers(0, 2, (2, 1)) if tied else random.standard_normal((2, 1)))
    embeddings = np.stack(embeddings).astype(np.float32)
    distances = part_distance(*[torch.from_numpy(embeddings)] * 2).numpy()
    metrics = Protocol(INDOOR, "CASIA-B").evaluate(embeddings, labels, types, views).metrics
    for condition in SINGLE_VIEW["CASIA-B"]:
        pairs = []
        for v1 in ("000", "090", "180"):
            for v2 in {"000", "090", "180"} - {v1}:
                gallery = [j for j in range(75) if types[j] in condition.gallery_types and views[j] == v2]
                probes = [i for i in range(75) if types[i] in condition.probe_types and views[i] == v1]
                right = [labels[min(gallery, key=lambda j: (distances[i, j], j))] == labels[i] for i in probes]
                pairs.append(round(100 * float(np.mean(right)), 2))
        assert metrics[f"scalar/test_accuracy/{condition.name}@R1"] == pytest.approx(np.mean(pairs), abs=1e-9)


def test_absent_views_and_conditions_are_left_out_and_named(cases):
    case = cases["CASIA-B"]
    whole = ours(case)
    keep = [
        i
        for i, (kind, view) in enumerate(zip(case.types, case.views, strict=True))
        if not kind.startswith("cl") and not (kind == "bg-01" or (kind == "bg-02" and view == "090"))
    ]
    fewer = case._replace(
        labels=[case.labels[i] for i in keep],
        types=[case.types[i] for i in keep],
        views=[case.views[i] for i in keep],
        embeddings=case.embeddings[keep],
    )
    result = ours(fewer)
    assert list(result.metrics) == ["scalar/test_accuracy/NM@R1", "scalar/test_accuracy/BG@R1"]
    assert result.metrics["scalar/test_accuracy/NM@R1"] == whole.metrics["scalar/test_accuracy/NM@R1"]
    assert "BG: 2 of 6 pairs of views have no probe or no gallery: 090-000, 090-018" in result.text
    assert "CL: 6 of 6 pairs of views" in result.text
    assert np.isfinite(list(result.metrics.values())).all()
    assert "nan" not in result.text


def test_tables(cases):
    text = ours(cases["SUSTech1K"]).text
    assert re.search(r"Overall@R1: \[\d+\.\d\d \d+\.\d\d \d+\.\d\d\]", text)
    assert len(re.findall(r"Night@R5: \d+\.\d\d%", text)) == 1
    assert "views: 000 018 090" in text
    real = ours(cases["GREW"])
    assert real.details is not None
    assert set(real.details.rank) == {1, 5, 10, 20}
    assert real.text.startswith("==Rank-1==\n38.890\n")
    assert "probes have no true match and count as missed" in real.text


def test_gait3d():
    embeddings = np.array([[[0.0]], [[1.0]], [[0.4]], [[3.0]]], dtype=np.float32)
    labels, types, views = ["a", "a", "b", "b"], ["t"] * 4, ["p", "g", "p", "g"]
    protocol = Protocol("evaluate_Gait3D", "anything", {"a-t-p", "b-t-p"})
    is_probe, is_gallery = protocol.roles(labels, types, views)
    assert is_probe.tolist() == [True, False, True, False]
    assert is_gallery.tolist() == [False, True, False, True]
    with pytest.warns(UserWarning, match="the gallery has 2"):
        result = protocol.evaluate(embeddings, labels, types, views)
    assert result.metrics["scalar/test_accuracy/Rank-1"] == 50.0
    assert result.details is not None
    assert result.details.first_match.tolist() == [1, 2]
    assert result.text.startswith("Rank-1: 50.00, ")


def test_roles():
    types = ["nm-01", "nm-02", "nm-05", "cl-01"]
    args = (["1"] * 4, types, ["0"] * 4)
    single, cross = Protocol(INDOOR, "CASIA-B"), Protocol(INDOOR, "CASIA-B", cross_view_gallery=True)
    assert [x.tolist() for x in single.roles(*args)] == [[False, False, True, True], [True, True, False, False]]
    assert [x.tolist() for x in cross.roles(*args)] == [[True, False, False, True], [False, True, False, False]]
    both = Protocol("evaluate_CCPG", "CCPG").roles(["1"] * 3, ["U0_D0", "U0_D3", "U2_D2"], ["0", "1", "2"])
    assert [x.tolist() for x in both] == [[True, False, False], [True, True, True]]


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (("evaluate_HID", "HID"), "eval_func must be one of evaluate_Gait3D, .* got 'evaluate_HID'"),
        ((INDOOR, "casia-b"), "knows the data sets CASIA-B, OUMVLP, CASIA-E, SUSTech1K, got 'casia-b'"),
        (("evaluate_real_scene", "CCPG"), "knows the data sets 0001-1000, HID2021, .*, got 'CCPG'"),
        ((INDOOR, "CASIA-E", (), "euc", True), "with cross_view_gallery knows the data sets CASIA-B, OUMVLP, got"),
        (("evaluate_CCPG", "CCPG", (), "euc", True), "an option of evaluate_indoor_dataset, not of evaluate_CCPG"),
        (("evaluate_Gait3D", "Gait3D"), "needs the names of the probes .*, got none"),
        (("evaluate_CCPG", "CCPG", (), "l1"), "metric must be one of euc, cos, got 'l1'"),
    ],
)
def test_refuses_to_be_made(arguments, match):
    with pytest.raises(ValueError, match=match):
        Protocol(*arguments)


@pytest.mark.parametrize(
    ("protocol", "sequences", "match"),
    [
        (
            (INDOOR, "OUMVLP"),
            [("1", "00", "0"), ("1", "00", "1")],
            r"got 2 and 0 among 2 sequences .*NM: 00 against 01",
        ),
        ((INDOOR, "OUMVLP"), [("1", "02", "0"), ("1", "nm", "1")], r"2 unknown sequence type\(s\): 02, nm"),
        ((INDOOR, "OUMVLP"), [("1", "00", "0"), ("1", "01", "0")], "compares different views, found only 0"),
        (("evaluate_CCPG", "CCPG"), [("1", "U1_D0", "0_a"), ("1", "U1_D1", "0_b")], "different views, found only 0"),
        ((INDOOR, "OUMVLP"), [("1", "00", "0")] * 2, r"1 sequence\(s\) come twice: 1-00-0"),
        ((INDOOR, "CASIA-E"), [("1", "H-scene4", "0")], r"1 unknown sequence type\(s\): H-scene4"),
        (("GREW_submission", "GREW"), [("x", "01", "0"), ("probe", "03", "0")], "gallery must be numbers, got x"),
        (("GREW_submission", "GREW"), [("1", "01", "0"), ("probe", "03", "0")], "needs 20 gallery sequences, got 1"),
        (("evaluate_Gait3D", "x", {"a"}), [("1", "t", "v")], "got 0 and 1 among 1 sequences .*probe names: a"),
    ],
)
def test_check_refuses(protocol, sequences, match):
    with pytest.raises(ValueError, match=match):
        Protocol(*protocol).check(*zip(*sequences, strict=True))


def test_types_that_no_protocol_uses_are_known():
    types = ["H-scene1-bg-1", "H-scene1-nm-1", "L-scene3_s-cl-2"]
    Protocol(INDOOR, "CASIA-E").check(["1"] * 3, types, ["0", "1", "0"])


def test_evaluate_refuses():
    protocol = Protocol(INDOOR, "OUMVLP")
    names = (["1", "1"], ["00", "01"], ["0", "1"])
    with pytest.raises(ValueError, match="3 embeddings for 2 labels"):
        protocol.evaluate(np.zeros((3, 2, 1), np.float32), *names)
    with pytest.raises(ValueError, match=r"equal lengths, got \[2, 2, 1\]"):
        protocol.evaluate(np.zeros((2, 2, 1), np.float32), *names[:2], ["0"])
    with pytest.raises(ValueError, match="1 of 2 embeddings hold NaN or infinity, first: 1-01-1"):
        protocol.evaluate(np.array([[[0.0]], [[np.nan]]], np.float32), *names)
