"""Synthetic benchmarks, read back by the readers of the real ones."""

import ast
import dataclasses
import json
import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.io import loadmat

from common.keypoints import fractions_to_pixels
from face.evaluation.ijb import open_ijb
from face.evaluation.ijbs import NON_MATED, PROTOCOLS, open_ijbs
from face.evaluation.pairs import open_pairs
from face.evaluation.tinyface import DISTRACTOR, open_tinyface
from face.reference import reference_landmarks
from face.synthesize import Split, SynthesisSettings, main, render_scene, synthesize
from face.synthesize.benchmarks import BENCHMARKS
from face.synthesize.crops import aligned_crop
from face.synthesize.loose_crops import draw_loose_crops

BINS = ("lfw", "cfp_fp", "agedb_30", "calfw", "cplfw")
CHECKOUT = os.environ.get("INSIGHTFACE_ROOT")
SETTINGS = SynthesisSettings(write="benchmarks", benchmark_identities=4, benchmark_frames=3, crop_size=48, seed=1)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return synthesize(SETTINGS, tmp_path_factory.mktemp("set") / "out", workers=1)


@pytest.fixture(scope="module")
def root(written):
    return written / "benchmarks"


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_layout(written, root):
    assert {path.name for path in written.iterdir()} == {"benchmarks", "settings.json"}
    bins = {f"{name}.bin{suffix}" for name in BINS for suffix in ("", ".csv")}
    assert {path.name for path in root.iterdir()} == {*bins, "IJBB", "IJBC", "tinyface", "ijbs"}
    record = json.loads((written / "settings.json").read_text())
    assert record["complete"]
    assert record["settings"]["benchmark_identities"] == 4
    assert "photographs" not in record["settings"]


@pytest.mark.parametrize("name", BINS)
def test_pairs(root, name):
    pairs = open_pairs(root / f"{name}.bin")
    assert pairs.name == name
    assert len(pairs.pairs) == 40
    assert pairs.same.sum() == 20
    assert pairs.landmarks.found.all()
    assert pairs.images.read(0).shape == (48, 48, 3)
    found = fractions_to_pixels(pairs.landmarks.points.astype(np.float64), (48, 48))
    assert np.abs(found - reference_landmarks((48, 48))).max() < 12


def test_pairs_are_of_the_identities_they_name(root):
    pairs = open_pairs(root / "cfp_fp.bin")
    first = 1000 * BENCHMARKS.index("cfp_fp")
    crops = [
        (identity, aligned_crop(render_scene(SETTINGS, Split.BENCHMARK, identity, first + image), 48))
        for identity in range(4)
        for image in range(4)
    ]
    owners = []
    for index in range(len(pairs.images)):
        errors = [np.abs(pairs.landmarks.points[index] - crop.landmarks).max() for _, crop in crops]
        identity, crop = crops[int(np.argmin(errors))]
        assert min(errors) < 1e-5
        assert np.abs(pairs.images.read(index).astype(int) - crop.image).mean() < 6
        owners.append(identity)
    same = [owners[a] == owners[b] for a, b in pairs.pairs.tolist()]
    assert same == pairs.same.tolist()


def test_sets_have_no_scene_in_common(root):
    points = [open_pairs(root / f"{name}.bin").landmarks.points for name in BINS]
    every = np.concatenate(points)
    assert len(np.unique(every.reshape(len(every), -1), axis=0)) == len(every)


@pytest.mark.parametrize("which", ["ijbb", "ijbc"])
def test_ijb(root, which):
    found = open_ijb(root / which.upper())
    assert found.which == which
    assert len(np.unique(found.templates)) == 16
    sizes = {found.images.read(index).shape for index in range(len(found.images))}
    assert len(sizes) > 10
    assert any(height != width for height, width, _ in sizes)
    media, frames = np.unique(found.medias, return_counts=True)
    assert len(media) == 24
    assert set(frames.tolist()) == {1, 2, 3}
    for medium in media:
        assert len(set(found.templates[found.medias == medium])) == 1
    first, second = found.search.galleries
    subjects = np.concatenate([first.subjects, second.subjects])
    assert sorted(subjects) == [1, 2, 3, 4]
    assert len(first.subjects) == 2
    assert np.bincount(found.search.probes.subjects).tolist() == [0, 3, 3, 3, 3]
    enrolled = np.concatenate([first.templates, second.templates])
    owner = dict(zip(enrolled, subjects, strict=True))
    owner |= dict(zip(found.search.probes.templates, found.search.probes.subjects, strict=True))
    pairs = found.pairs
    assert len(set(zip(pairs.a.tolist(), pairs.b.tolist(), strict=True))) == len(pairs.a) == 4 * 12
    assert [owner[a] == owner[b] for a, b in zip(pairs.a, pairs.b, strict=True)] == pairs.same.tolist()
    assert set(pairs.a) == set(enrolled)


def test_ijb_images_are_of_their_subjects(root):
    found = open_ijb(root / "IJBC")
    search = found.search
    lists = [*search.galleries, search.probes]
    subject_of = {t: s for each in lists for t, s in zip(each.templates, each.subjects, strict=True)}
    first = 1000 * BENCHMARKS.index("ijbc")
    drawn = {}
    for identity in range(4):
        for scene in range(6):
            for crop in draw_loose_crops(SETTINGS, identity, first + scene, 3, (60, 200)):
                drawn[tuple(np.round(crop.landmarks_px[0], 3))] = identity, scene, crop
    seen = {}
    for index, template in enumerate(found.templates):
        identity, scene, crop = drawn[tuple(np.round(found.landmarks_px[index, 0].astype(float), 3))]
        assert subject_of[template] == identity + 1
        assert seen.setdefault(found.medias[index], (identity, scene)) == (identity, scene)
        np.testing.assert_allclose(found.landmarks_px[index], crop.landmarks_px, atol=6e-4)
        np.testing.assert_allclose(found.scores[index], crop.score, atol=1e-6)
        image = found.images.read(index)
        assert image.shape == crop.image.shape
        assert np.abs(image.astype(int) - crop.image).mean() < 6
    assert len(set(seen.values())) == len(seen)


@pytest.mark.skipif(CHECKOUT is None, reason="INSIGHTFACE_ROOT names no checkout of insightface")
@pytest.mark.parametrize(("which", "galleries"), [("ijbb", ("S1", "S2")), ("ijbc", ("G1", "G2"))], ids=["b", "c"])
def test_ijb_by_insightfaces_own_readers(root, which, galleries):
    source = (Path(CHECKOUT) / "recognition/_evaluation_/ijb/ijb_1n.py").read_text()
    theirs = {"np": SimpleNamespace(loadtxt=np.loadtxt, int=int)}  # NumPy has no np.int any more
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef) and (node.name.startswith("read_template") or node.name == "gen_mask"):
            exec(compile(ast.Module([node], []), "ijb_1n.py", "exec"), theirs)
    found = open_ijb(root / which.upper())
    lists = root / which.upper() / "meta" / which
    templates, medias = theirs["read_template_media_list"](f"{lists}_face_tid_mid.txt")
    np.testing.assert_array_equal(found.templates, templates)
    np.testing.assert_array_equal(found.medias, medias)
    a, b, label = theirs["read_template_pair_list"](f"{lists}_template_pair_label.txt")
    np.testing.assert_array_equal([found.pairs.a, found.pairs.b, found.pairs.same], [a, b, label])
    subjects = []
    for name, ours in zip(
        (*(f"gallery_{name}" for name in galleries), "probe_mixed"),
        (*found.search.galleries, found.search.probes),
        strict=True,
    ):
        rows = theirs["read_template_subject_id_list"](f"{lists}_1N_{name}.csv")
        templates, first = np.unique(rows[0], return_index=True)
        np.testing.assert_array_equal(ours.templates, templates)
        np.testing.assert_array_equal(ours.subjects, rows[1][first])
        subjects.append(rows[1][first])
    assert len(theirs["gen_mask"](subjects[2], np.concatenate(subjects[:2]))) == len(found.search.probes.templates)


def test_ijb_aligns(root):
    aligned = open_ijb(root / "IJBB").aligned()
    points = fractions_to_pixels(aligned.landmarks.points.astype(np.float64), (112, 112))
    assert np.abs(points - reference_landmarks()).max() < 30
    assert aligned.read(0).shape == (112, 112, 3)


def test_tinyface(root):
    found = open_tinyface(root / "tinyface")
    assert found.gallery_labels.tolist() == [1, 1, 2, 2, 3, 3, 4, 4, *[DISTRACTOR] * 8]
    assert found.probe_labels.tolist() == [1, 1, 2, 2, 3, 3, 4, 4]
    assert found.landmarks.found.all()
    heights = [found.images.read(index).shape[0] for index in range(len(found.images))]
    assert max(heights) <= 32
    for index in range(8):  # the names say so too
        assert found.images.key_of(index).startswith(f"Gallery_Match/{found.gallery_labels[index]}_")
        assert found.images.key_of(16 + index).startswith(f"Probe/{found.probe_labels[index]}_")
    for path in (root / "tinyface/Testing_Set").glob("*.mat"):
        content = loadmat(path)
        assert b"synthetic" in content["__header__"]
        assert b"Created" not in content["__header__"]


def test_ijbs(root):
    found = open_ijbs(root / "ijbs")
    assert tuple(found.protocols) == PROTOCOLS
    assert found.landmarks.found.all()
    assert found.identity_names == tuple(f"person{who:04d}" for who in range(4))
    names = found.template_names
    assert len(names) == 4 * (2 + 3) + 2 * 3
    sizes = np.bincount(found.frame_templates)
    for template, size in zip(names, sizes, strict=True):
        kind = template.rstrip("0123456789_")
        assert size == {"single": 1, "booking": 3}[kind] if kind != "video" else size in (2, 3)
    for name, protocol in found.protocols.items():
        assert np.bincount(protocol.probe_labels + 1).tolist() == [6, 3, 3, 3, 3]
        assert np.bincount(protocol.gallery_labels).tolist() == [2 if name == PROTOCOLS[2] else 1] * 4
        for template, label in zip(protocol.probe_templates, protocol.probe_labels, strict=True):
            person = int(names[template][5:9])
            assert label == (person if person < 4 else NON_MATED)
    single = found.protocols[PROTOCOLS[0]].gallery_templates[0]
    frame = found.frame_images[found.frame_templates == single].tolist()
    assert [found.images.key_of(image) for image in frame] == ["booking0000/0000.jpg"]


def test_identities_depend_on_their_number_alone(root, tmp_path):
    fewer = dataclasses.replace(SETTINGS, benchmark_identities=2)
    before, after = contents(root), contents(synthesize(fewer, tmp_path / "out", workers=1) / "benchmarks")
    images = [name for name in after if name.startswith(("ijbs/booking", "tinyface/Testing_Set/Probe"))]
    assert len(images) == 2 * (3 + 2)
    assert all(after[name] == before[name] for name in images)


@pytest.mark.slow
def test_workers_change_nothing(written, tmp_path):
    assert contents(synthesize(SETTINGS, tmp_path / "out", workers=2)) == contents(written)


def test_the_command(tmp_path, capsys):
    out = tmp_path / "out"
    small = ["--benchmark-identities", "2", "--benchmark-frames", "1", "--crop-size", "32", "--workers", "1"]
    assert main(["--out", str(out), "--write", "benchmarks", *small]) == 0
    assert "Synthetic faces" in capsys.readouterr().out
    for name in ("IJBB", "IJBC"):
        assert open_ijb(out / "benchmarks" / name).search is not None
    open_tinyface(out / "benchmarks/tinyface")
    open_ijbs(out / "benchmarks/ijbs")
    assert len(open_pairs(out / "benchmarks/lfw.bin").pairs) == 20
    preview = ["--preview", str(tmp_path / "sheet.png")]
    assert main(["--out", str(tmp_path / "other"), "--write", "benchmarks", *small, *preview]) == 2
    assert "--preview draws training identities or photographs" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


def test_settings():
    with pytest.raises(ValueError, match="benchmark_identities must be >= 2 and <= 999, got 1"):
        SynthesisSettings(benchmark_identities=1)
    assert not SynthesisSettings(write="wider,benchmarks", identities=0, test_identities=0).writes_identities


def test_other_parts_know_nothing_of_benchmarks(tmp_path):
    settings = SynthesisSettings(write="folders", identities=1, images_per_identity=1, test_identities=0)
    out = synthesize(settings, tmp_path / "out", workers=1)
    assert not any("benchmark" in name for name in json.loads((out / "settings.json").read_text())["settings"])
    assert not (out / "benchmarks").exists()
