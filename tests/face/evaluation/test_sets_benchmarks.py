"""IJB, TinyFace and IJB-S as evaluation sets: metrics against protocols spelled out, settings, errors, processes."""

import json
import math

import cv2
import numpy as np
import pytest
import torch

from common.geometry import fit_similarity
from face.evaluation.features import cached_features
from face.evaluation.fusion import FusionSettings
from face.evaluation.pairs import open_pairs
from face.evaluation.protocols import short_rate
from face.evaluation.roc import area_under, equal_error_rate
from face.evaluation.self_search import search_others
from face.evaluation.sets import EvaluationSetSettings, evaluate, measure, open_set
from face.pipelines import RecognitionPipeline
from face.reference import reference_landmarks

HW = (12, 10)
SUBJECTS = 8
POINTS_SEED = 7


def picture(draw, person, photo, size_hw):
    return cv2.resize(draw(person, photo), size_hw[::-1], interpolation=cv2.INTER_NEAREST)


@pytest.fixture
def draw():
    """A person's pattern with noise, as the other sets of these tests have it."""

    def make(person, photo):
        random = np.random.default_rng([person, photo])
        pattern = np.random.default_rng(person).integers(40, 216, (4, 4, 3))
        image = cv2.resize(pattern.astype(np.uint8), HW[::-1], interpolation=cv2.INTER_LINEAR)
        return (image + random.integers(-45, 46, image.shape)).clip(0, 255).astype(np.uint8)

    return make


def save(path, image):
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), image[..., ::-1])


@pytest.fixture
def ijb(tmp_path, draw):
    """IJB-C's layout: each subject with one template in a gallery and two probes, of a still and a video of two frames;
    subjects 0 to 3 in the first gallery. All probes are compared with all gallery templates."""
    root = tmp_path / "IJBC"
    members, marks = [], []
    random = np.random.default_rng(POINTS_SEED)
    for template in range(3 * SUBJECTS):
        for frame in range(3):
            size_hw = (40 + 4 * (template % 3), 44)
            name = f"{template}_{frame}.png"
            save(root / "loose_crop" / name, picture(draw, template % SUBJECTS, 10 * template + frame, size_hw))
            members.append(f"{name} {template + 100} {2 * template + (frame > 0)}")
            # Nearly the places that bring the whole image to HW.
            points = (reference_landmarks(HW, pixels=False) + random.normal(0, 0.01, (5, 2))) * size_hw[::-1] - 0.5
            score = 0.5 + 0.5 * random.random()
            marks.append(f"{name} {' '.join(f'{value:.4f}' for value in points.ravel())} {score:.4f}")
    pairs = [
        f"{gallery + 100} {probe + 100} {int(gallery == probe % SUBJECTS)}"
        for gallery in range(SUBJECTS)
        for probe in range(SUBJECTS, 3 * SUBJECTS)
    ]
    lists = {"gallery_G1": range(4), "gallery_G2": range(4, SUBJECTS), "probe_mixed": range(SUBJECTS, 3 * SUBJECTS)}
    (root / "meta").mkdir()
    for name, rows in {"face_tid_mid": members, "name_5pts_score": marks, "template_pair_label": pairs}.items():
        (root / f"meta/ijbc_{name}.txt").write_text("\n".join(rows) + "\n")
    for name, templates in lists.items():
        rows = [f"{template + 100},{template % SUBJECTS}" for template in templates]
        (root / f"meta/ijbc_1N_{name}.csv").write_text("\n".join(["TEMPLATE_ID,SUBJECT_ID", *rows]) + "\n")
    return root


def opened(path, kind, needs_keypoints=False, **settings):
    settings = EvaluationSetSettings(name="toy", path=path, kind=kind, **settings)
    return open_set(settings, needs_keypoints=needs_keypoints)


def template_of(embeddings, scores, medias, by_norm=True):
    """One template, spelled out."""
    total = 0
    for medium in np.unique(medias):
        frames = []
        for row in np.flatnonzero(medias == medium):
            value = embeddings[row].astype(np.float64)
            frames.append(
                (value if by_norm else value / np.linalg.norm(value)) * (1 if scores is None else scores[row])
            )
        total = total + np.mean(frames, axis=0)
    return total / np.linalg.norm(total)


def ijb_templates(content, embeddings, scores, by_norm=True):
    found = {}
    for template in np.unique(content.templates):
        rows = content.templates == template
        some = None if scores is None else scores[rows]
        found[template] = template_of(embeddings[rows], some, content.medias[rows], by_norm)
    return found


def ranks_of(probes, gallery):
    """Rank of each probe's own subject among (subject, template) pairs; None where it has none."""
    ranks = []
    for subject, probe in probes:
        cosines = {other: float(probe @ value) for other, value in gallery}
        mine = cosines.pop(subject, None)
        ranks.append(None if mine is None else 1 + sum(cosine >= mine for cosine in cosines.values()))
    return ranks


def test_ijb_by_its_protocol(ijb, toy):
    found = opened(ijb, "ijb")
    content = found.content
    model = toy(HW)
    result = measure(found, model, batch_size=16)
    aligned = content.aligned(HW)
    embeddings = cached_features(model, aligned).embeddings
    templates = ijb_templates(content, embeddings, content.scores)
    pairs = content.pairs
    scores = np.array([templates[a] @ templates[b] for a, b in zip(pairs.a, pairs.b, strict=True)])
    from sklearn.metrics import roc_auc_score, roc_curve

    far, tar, _ = roc_curve(pairs.same, scores)
    nearest = {target: 100 * tar[::-1][np.abs(far[::-1] - target).argmin()] for target in (1e-2, 1e-1)}
    assert list(result.metrics)[:4] == ["tar@far=1e-2", "tar@far=1e-1", "auc", "eer"]  # of 112 impostors
    for target, expected in nearest.items():
        assert result.metrics[f"tar@far={short_rate(target)}"] == pytest.approx(expected)
    assert result.metrics["auc"] == pytest.approx(100 * roc_auc_score(pairs.same, scores))
    assert 60 < result.metrics["auc"] < 100

    subjects = {template: (template - 100) % SUBJECTS for template in templates}
    probes = [(subjects[template], templates[template]) for template in content.search.probes.templates]
    everyone = [(subjects[template], templates[template]) for template in range(100, 100 + SUBJECTS)]
    halves = {"g1": everyone[:4], "g2": everyone[4:]}
    ranks = np.array(ranks_of(probes, everyone))
    for k in (1, 5):
        assert result.metrics[f"rank-{k}"] == pytest.approx(100 * np.mean(ranks <= k))
    for name, gallery in halves.items():
        of_it = [rank for rank in ranks_of(probes, gallery) if rank is not None]
        assert len(of_it) == 8
        assert result.metrics[f"{name}/rank-1"] == pytest.approx(100 * np.mean(np.array(of_it) <= 1))
        assert f"{name}/rank-5" not in result.metrics  # of four
    ones = [result.metrics[f"{name}/rank-1"] for name in halves]
    assert result.metrics["mean/rank-1"] == pytest.approx(np.mean(ones))

    # ijb_1n.py: the cosine at place ceil(far * n) of all with others; 16 probes
    own = [float(probe @ dict(everyone)[subject]) for subject, probe in probes]
    others = sorted(
        (float(probe @ value) for subject, probe in probes for other, value in everyone if other != subject)
    )
    for target in (0.01, 0.1):
        threshold = others[-math.ceil(target * 16)]
        assert result.metrics[f"tpir@fpir={short_rate(target)}"] == pytest.approx(
            100 * np.mean(np.array(own) > threshold)
        )

    assert (result.images, result.templates, result.weightless_templates) == (72, 24, 0)
    assert (result.without_landmarks, result.degenerate, result.reused) == (0, 0, False)
    assert result.fusion == FusionSettings(kind="norm", detector_score=True)
    curve = result.details.rocs["verification"]
    assert curve.different == 112
    assert 100 * area_under(curve) == result.metrics["auc"]  # what pictures say of it
    assert 100 * equal_error_rate(curve) == result.metrics["eer"]
    assert set(result.details.searches) == {"search", "g1", "g2"}
    assert result.details.searches["search"].cmc[0] == pytest.approx(result.metrics["rank-1"])


def test_fusion_of_ijb(ijb, toy, tmp_path):
    """Each kind against templates spelled out; features are embedded once."""
    found = opened(ijb, "ijb", protocols=("search",))
    content, model, cache = found.content, toy(HW), tmp_path / "cache"
    embeddings = cached_features(model, content.aligned(HW)).embeddings
    offsets = content.aligned(HW).landmarks.points - reference_landmarks(pixels=False)
    closeness = 1 - np.minimum(np.linalg.norm(offsets, axis=2).mean(axis=1), 0.1) / 0.1
    assert (closeness > 0).all()
    kinds = {
        "norm": (FusionSettings(), None, True),
        "average": (FusionSettings(kind="average"), None, False),
        "landmark": (FusionSettings(kind="landmark", h=0.1), closeness * content.scores, False),
    }
    for name, (fusion, weights, by_norm) in kinds.items():
        result = measure(found, model, fusion=fusion, cache=cache)
        templates = ijb_templates(content, embeddings, weights, by_norm)
        own = [templates[probe] @ templates[100 + (probe - 100) % SUBJECTS] for probe in range(108, 124)]
        np.testing.assert_allclose(result.details.searches["search"].own_best, own, atol=1e-6, err_msg=name)
        assert result.reused == (name != "norm")
        assert result.fusion == fusion
        assert not any(metric.startswith("tar") for metric in result.metrics)
    none = measure(found, model, fusion=FusionSettings(kind="landmark", h=1e-9), cache=cache)
    assert none.weightless_templates == 24
    assert none.metrics == measure(found, model, fusion=kinds["average"][0], cache=cache).metrics | {
        name: pytest.approx(value) for name, value in none.metrics.items()
    }


def test_ijb_aligned_by_its_landmarks_or_not(ijb, toy):
    """What the model gets: a crop that is moved so that its landmarks fit, or the whole crop and landmarks in it."""
    model = toy(HW, needs_keypoints=True)
    aligned = opened(ijb, "ijb", needs_keypoints=True)
    assert measure(aligned, model, batch_size=100, flip_test=False).without_landmarks == 0
    images, points, visibility = model.calls[-1]
    content = aligned.content
    fit = fit_similarity(content.landmarks_px[5:6].astype(float), reference_landmarks(HW))
    moved = content.landmarks_px[5] @ fit.matrix[0, :2, :2].T + fit.matrix[0, :2, 2]
    np.testing.assert_allclose(points[5], (moved + 0.5) / HW[::-1], atol=1e-5)
    assert visibility is None
    loose = opened(ijb, "ijb", needs_keypoints=True, align="none")
    measure(loose, model, batch_size=100, flip_test=False)
    other, points, _ = model.calls[-1]
    height, width = content.images.read(5).shape[:2]
    np.testing.assert_allclose(points[5], (content.landmarks_px[5] + 0.5) / [width, height], atol=1e-5)
    assert other.shape == images.shape == (72, 3, *HW)
    assert 0.01 < (other - images).abs().mean() < 0.5  # of one image, not the same


def test_pipelines_with_an_aligner(tmp_path, dots, dot_points, toy, dot_aligner):
    """IJB-S without landmarks: fusion by those that the aligner finds; a frame without a face counts nothing."""
    root = tmp_path / "ijbs"
    rows = []
    for template in range(4):
        for frame in range(3):
            image = (
                dots((60, 60), dot_points + 0.02 * frame) if (template, frame) != (0, 1) else np.full((60, 60, 3), 128)
            )
            save(root / f"t{template}/{frame}.png", np.asarray(image, np.uint8) // (1 + template % 2))
            rows.append(f"t{template}/{frame}.png,t{template}")
    (root / "frames.csv").write_text("image,template\n" + "\n".join(rows) + "\n")
    (root / "surveillance_to_single_gallery.csv").write_text("template,identity\nt0,a\nt1,b\n")
    (root / "surveillance_to_single_probes.csv").write_text("template,identity\nt2,a\nt3,b\n")
    found = opened(root, "ijbs")
    fusion = FusionSettings(kind="landmark", h=0.5)
    with pytest.raises(
        ValueError, match=r"evaluation set toy: .*ijbs: fusion with kind landmark needs landmarks and scores of faces"
    ):
        measure(found, toy((48, 48)), fusion=fusion)
    with pytest.raises(ValueError, match=r"fusion with detector_score needs scores of faces, which"):
        measure(found, toy((48, 48)), fusion=FusionSettings(kind="average", detector_score=True))
    for kind in ("dfa", "dfa_aligned"):
        pipeline = RecognitionPipeline(toy((48, 48)), kind, dot_aligner(out_hw=(48, 48)))
        result = measure(found, pipeline, fusion=fusion, batch_size=5)
        features = cached_features(pipeline, found.content.images)
        distance = np.linalg.norm(features.landmarks - reference_landmarks(pixels=False), axis=2).mean(axis=1)
        weights = np.where(features.valid, (0.5 - np.minimum(distance, 0.5)) / 0.5 * features.scores, 0)
        assert weights[1] == 0
        templates = [
            template_of(features.embeddings[i : i + 3], weights[i : i + 3], np.arange(3), by_norm=False)
            for i in range(0, 12, 3)
        ]
        own = result.details.searches["surveillance_to_single"].own_best
        np.testing.assert_allclose(own, [templates[2] @ templates[0], templates[3] @ templates[1]], atol=1e-5)
        assert (result.degenerate, result.templates, result.weightless_templates) == (1, 4, 0)


@pytest.fixture
def ijbs(tmp_path, draw):
    """Persons 0 to 5 with two videos each in a gallery that is searched by its own videos and by those of 6 and 7, and
    photographs of 0 to 5. Every third frame has no landmarks."""
    root = tmp_path / "ijbs"
    frames = []
    for person in range(8):
        for template in ("v", "w", "photo"):
            for frame in range(3 if template != "photo" else 1):
                name = f"{template}{person}/{frame}.png"
                save(root / name, draw(person, 100 * "vwp".index(template[0]) + frame))
                points = ",".join(f"{value:.4f}" for value in reference_landmarks(HW, pixels=False).ravel())
                frames.append(f"{name},{template}{person}," + (f"{points},0.{5 + frame}" if frame != 2 else "," * 10))
    # The photograph of person 0 is in a second template too, that of person 6.
    frames.append(f"photo0/0.png,v6,{','.join(frames[6].split(',')[2:])}")
    header = "image,template," + ",".join(f"{axis}{point}" for point in range(5) for axis in "xy") + ",score"
    (root / "frames.csv").write_text("\n".join([header, *frames]) + "\n")
    tables = {
        "surveillance_to_single_gallery": [f"photo{person},{person}" for person in range(6)],
        "surveillance_to_single_probes": [f"v{person},{person if person < 6 else -1}" for person in range(8)],
        "surveillance_to_surveillance_gallery": [f"{video}{person},{person}" for person in range(6) for video in "vw"],
        "surveillance_to_surveillance_probes": [f"v{person},{person if person < 6 else ''}" for person in range(8)]
        + [f"w{person},{person}" for person in range(3)],
    }
    for name, rows in tables.items():
        (root / f"{name}.csv").write_text("\n".join(["template,identity", *rows]) + "\n")
    return root


def test_ijbs_by_its_protocols(ijbs, toy):
    found = opened(ijbs, "ijbs")
    content, model = found.content, toy(HW)
    result = measure(found, model)
    embeddings = cached_features(model, content.images).embeddings
    templates = {}
    for number, name in enumerate(content.template_names):
        some = content.frame_images[content.frame_templates == number]
        templates[name] = template_of(embeddings[some], None, np.arange(len(some)), by_norm=False)
    assert len(content.frame_images) == len(embeddings) + 1

    galleries = {
        "surveillance_to_single": [(f"photo{person}", person) for person in range(6)],
        "surveillance_to_surveillance": [(f"{video}{person}", person) for person in range(6) for video in "vw"],
    }
    probes = [(f"v{person}", person if person < 6 else -1) for person in range(8)]
    lists = {
        "surveillance_to_single": probes,
        "surveillance_to_surveillance": [*probes, ("w0", 0), ("w1", 1), ("w2", 2)],
    }
    for protocol, gallery in galleries.items():
        ranks = []
        for name, person in lists[protocol]:
            cosines = [(float(templates[name] @ templates[other]), who) for other, who in gallery if other != name]
            mine = [cosine for cosine, who in cosines if who == person]
            if mine:
                ranks.append(1 + sum(cosine >= max(mine) and who != person for cosine, who in cosines))
        for k in (1, 5):
            expected = 100 * np.mean(np.array(ranks) <= k)
            assert result.metrics[f"{protocol}/rank-{k}"] == pytest.approx(expected), (protocol, k)
        assert 0 < result.metrics[f"{protocol}/rank-1"] <= 100
        assert result.details.searches[protocol].mated.sum() == len(ranks)
    assert result.fusion == FusionSettings(kind="average")
    assert (result.images, result.templates) == (56, 24)
    one = opened(ijbs, "ijbs", protocols=("surveillance_to_single",))
    fewer = measure(one, model).metrics
    assert fewer == {name: value for name, value in result.metrics.items() if "to_single" in name}
    by_landmarks = measure(one, model, fusion=FusionSettings(kind="landmark"))
    assert by_landmarks.weightless_templates == 0
    with pytest.raises(ValueError, match=r"evaluation set toy: 16 of 56 images have no landmarks, first: v0/2\.png"):
        opened(ijbs, "ijbs", needs_keypoints=True)
    hidden = opened(ijbs, "ijbs", needs_keypoints=True, missing_landmarks="hide")
    assert measure(hidden, toy(HW, needs_keypoints=True)).without_landmarks == 16


def test_tpir_of_ijbs(ijbs, toy):
    """With 10 probes of nobody FPIR 0.1 is one of them above the threshold."""
    root, rows = ijbs, []
    frames = (root / "frames.csv").read_text().splitlines()
    for number in range(10):
        rows.append(f"x{number},-1")
        frames.append(
            f"{'vw'[number % 2]}{6 + number % 2}/{number % 3}.png,x{number},{','.join(frames[1].split(',')[2:])}"
        )
    frames = [line if line.split(",")[0] not in {f"v6/{i}.png" for i in range(3)} | {f"w7/{i}.png" for i in range(3)}
              else ",".join([*line.split(",")[:2], *frames[1].split(",")[2:]]) for line in frames]  # fmt: skip
    (root / "frames.csv").write_text("\n".join(frames) + "\n")
    path = root / "surveillance_to_single_probes.csv"
    path.write_text("\n".join([*(f"v{i},{i}" for i in range(6)), *rows]).join(["template,identity\n", "\n"]))
    result = measure(opened(root, "ijbs"), toy(HW))
    found = result.details.searches["surveillance_to_single"]
    strangers = np.sort(found.best_other[~found.mated])
    assert len(strangers) == 10
    expected = np.mean((found.own_best[found.mated] > strangers[-2] + 1e-9) & (found.first_match[found.mated] == 1))
    assert result.metrics["surveillance_to_single/tpir@fpir=1e-1"] == pytest.approx(100 * expected)
    assert "surveillance_to_single/tpir@fpir=1e-2" not in result.metrics


def test_probes_do_not_find_themselves():
    random = np.random.default_rng(0)
    gallery = random.normal(size=(30, 4))
    persons = np.repeat(np.arange(10), 3)
    persons[-3:] = [9, 10, 10]  # one with a single entry
    own = np.array([*range(0, 30, 2), 27, -1, -1, -1])
    probe = np.where(own[:, None] >= 0, gallery[own], random.normal(size=(len(own), 4)))
    labels = np.where(own >= 0, persons[own], [5] * (len(own) - 1) + [77])
    labels[own == 27] = -1
    found = search_others(probe, gallery, labels, persons, own)
    unit = gallery / np.linalg.norm(gallery, axis=1, keepdims=True)
    for row in range(len(own)):
        cosines = unit @ probe[row] / np.linalg.norm(probe[row])
        others = np.arange(30) != own[row]
        mine = cosines[others & (persons == labels[row])]
        strangers = cosines[others & (persons != labels[row])]
        assert found.best_other[row] == pytest.approx(strangers.max())
        assert found.mated[row] == (len(mine) > 0)
        if len(mine):
            assert found.own_best[row] == pytest.approx(mine.max())
            assert found.first_match[row] == 1 + (strangers >= mine.max()).sum()
        else:
            assert (found.first_match[row], found.own_best[row]) == (0, -np.inf)
    assert (~found.mated).sum() == 2


@pytest.fixture
def tinyface(tmp_path, draw):
    root = tmp_path / "tinyface"
    for person in range(6):
        for photo, part in enumerate(("Gallery_Match", "Gallery_Match", "Probe")):
            save(root / f"Testing_Set/{part}/{person}_{photo}.png", picture(draw, person, photo, (18 + photo, 16)))
    for number in range(14):
        save(root / f"Testing_Set/Gallery_Distractor/{number}.png", picture(draw, 100 + number, 0, (20, 20)))
    return root


def test_tinyface(tinyface, toy):
    found = opened(tinyface, "tinyface")
    content, model = found.content, toy(HW)
    result = measure(found, model, batch_size=7)
    embeddings = cached_features(model, content.images).embeddings.astype(np.float64)
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    first, precisions = [], []
    for label, probe in zip(content.probe_labels, embeddings[26:], strict=True):
        hits = content.gallery_labels[np.argsort(-(embeddings[:26] @ probe))] == label
        places = np.flatnonzero(hits) + 1
        first.append(places[0])
        precisions.append(np.mean(np.arange(1, len(places) + 1) / places))
    assert list(result.metrics) == ["rank-1", "rank-5", "rank-10", "rank-20", "map"]
    for k in (1, 5, 10, 20):
        assert result.metrics[f"rank-{k}"] == pytest.approx(100 * np.mean(np.array(first) <= k))
    assert result.metrics["map"] == pytest.approx(100 * np.mean(precisions))
    assert (result.images, result.templates, result.fusion) == (32, 0, None)
    with pytest.raises(ValueError, match="evaluation set toy: 32 of 32 images have no landmarks"):
        opened(tinyface, "tinyface", needs_keypoints=True)


def test_features_that_tell_nothing(ijb, tinyface, ijbs, pair_bin, toy):
    """All scores are equal: no threshold separates anything, and nothing is found."""
    model = toy(HW)
    with torch.no_grad():
        model.pixels.zero_()
        model.norm.bias.fill_(1.0)
    found = evaluate(opened(ijb, "ijb"), model, fusion=FusionSettings())  # by scores it would round in many ways
    assert {name: found[name] for name in ("tar@far=1e-1", "auc", "eer", "rank-1", "rank-5", "mean/rank-1")} == {
        "tar@far=1e-1": 0, "auc": 50, "eer": 50, "rank-1": 0, "rank-5": 0, "mean/rank-1": 0
    }  # fmt: skip
    assert all(value == 0 for name, value in found.items() if "tpir" in name)
    found = evaluate(opened(tinyface, "tinyface"), model)
    assert [found[f"rank-{k}"] for k in (1, 5, 10, 20)] == [0, 0, 0, 0]
    found = evaluate(opened(ijbs, "ijbs"), model)
    assert found["surveillance_to_single/rank-1"] == 0
    found = evaluate(opened(pair_bin(), "pairs"), model)
    assert (found["auc"], found["eer"], found["tar@far=1e-1"]) == (50, 50, 0)


def test_settings_that_contradict_each_other(tmp_path):
    for options, said in (
        ({"kind": "pairs", "align": "none"}, "align is for kind ijb, got none for pairs"),
        ({"kind": "ijbs", "landmarks": tmp_path}, "landmarks of kind ijbs are in its own lists"),
        ({"kind": "ijb", "protocols": ("1:1",)}, "protocols must be some of verification, search, got 1:1"),
        ({"kind": "tinyface", "protocols": ("search",)}, "protocols must be empty for kind tinyface, got search"),
    ):
        with pytest.raises(ValueError, match=said):
            EvaluationSetSettings(name="toy", path=tmp_path, **options)


def test_what_is_found_before_the_long_part(ijb, ijbs, tmp_path, toy):
    for kind in ("ijb", "tinyface", "ijbs"):
        (tmp_path / "other").mkdir(exist_ok=True)
        with pytest.raises(FileNotFoundError, match=r"evaluation set toy: .*other: .*expected .*, not there: "):
            opened(tmp_path / "other", kind)
    with pytest.raises(
        ValueError, match="has lists for surveillance_to_single, surveillance_to_surveillance, none for "
    ):
        opened(ijbs, "ijbs", protocols=("surveillance_to_booking",))
    model = toy(HW)
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"file: features cannot be kept there"):
        measure(opened(ijb, "ijb"), model, cache=tmp_path / "file")
    assert not model.calls
    for path in ijb.glob("meta/*1N*"):
        path.unlink()
    assert "rank-1" not in evaluate(opened(ijb, "ijb"), model)
    with pytest.raises(ValueError, match="has lists for verification, none for search"):
        opened(ijb, "ijb", protocols=("search",))
    marks = ijb / "meta/ijbc_name_5pts_score.txt"
    lines = marks.read_text().splitlines()
    marks.write_text("\n".join([lines[0], " ".join([lines[1].split()[0], *["7"] * 10, "1"]), *lines[2:]]) + "\n")
    with pytest.raises(
        ValueError, match=r"evaluation set toy: .*landmarks of 1 of 72 images give no alignment, first: 0_1"
    ):
        opened(ijb, "ijb")
    assert evaluate(opened(ijb, "ijb", align="none"), model)


PROGRAM = """
import json, sys
from pathlib import Path
import torch.distributed as dist
sys.path[:0] = [sys.argv[1]]
from conftest import Toy
from face.evaluation.features import cached_features
from face.evaluation.sets import EvaluationSetSettings, measure, open_set

ijb, cache = Path(sys.argv[2]), Path(sys.argv[3])
dist.init_process_group("gloo")
found = open_set(EvaluationSetSettings(name="toy", path=ijb, kind="ijb"), needs_keypoints=False)
kept = measure(found, Toy(), batch_size=10, cache=cache)
plain = measure(found, Toy(), batch_size=10)
assert not kept.reused and plain.metrics == kept.metrics
assert measure(found, Toy(), batch_size=10, cache=cache).reused
try:
    measure(found, Toy(features=5), cache=ijb / "meta/ijbc_face_tid_mid.txt")
except OSError as error:
    assert "features cannot be kept there" in str(error)
(cache.parent / f"{dist.get_rank()}.json").write_text(json.dumps(kept.metrics))
dist.destroy_process_group()
"""


def test_two_processes_give_the_numbers_of_one(ijb, toy, tmp_path, torchrun):
    script = tmp_path / "program.py"
    script.write_text(PROGRAM)
    program = torchrun(script, __file__.rpartition("/")[0], ijb, tmp_path / "shared")
    _, err = program.finish()
    assert program.returncode == 0, err
    found = opened(ijb, "ijb")
    alone = measure(found, toy(), batch_size=10, cache=tmp_path / "alone")
    for rank in range(2):
        assert json.loads((tmp_path / f"{rank}.json").read_text()) == alone.metrics
    (one,), (two,) = ((tmp_path / name).glob("*/embeddings.npy") for name in ("alone", "shared"))
    assert one.parent.name == two.parent.name
    np.testing.assert_array_equal(np.load(one), np.load(two))


def test_pairs_and_galleries_use_the_cache_too(pair_bin, toy, tmp_path):
    found = opened(pair_bin(), "pairs")
    first = measure(found, toy(), cache=tmp_path / "cache")
    again = measure(found, toy(), cache=tmp_path / "cache")
    assert (first.reused, again.reused) == (False, True)
    assert first.metrics == again.metrics == measure(found, toy()).metrics
    assert len(open_pairs(found.settings.path).images) == first.images
