"""benchmark_face_augment.py on a few images, and the authors' draws beside ours where their checkout is at hand."""

import importlib.util
import json
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision import tv_tensors

from face.augment import AugmentationSettings
from face.augment.photometric import OPERATIONS, rand_augment

PATH = Path(__file__).parents[2] / "scripts" / "benchmark_face_augment.py"
SIZE = ["--images", "3", "--repeats", "2"]

spec = importlib.util.spec_from_file_location("benchmark_face_augment", PATH)
script = importlib.util.module_from_spec(spec)
spec.loader.exec_module(script)

live = pytest.mark.skipif(not os.environ.get("CVLFACE_ROOT"), reason="CVLFACE_ROOT names no CVLface checkout")


@pytest.fixture
def one_thread():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def no_checkout(monkeypatch, one_thread):
    monkeypatch.delenv("CVLFACE_ROOT", raising=False)


def test_beside_torchvision(no_checkout, tmp_path, capsys):
    assert script.main([*SIZE, "--out", str(tmp_path / "augment.json")]) == 0
    report = json.loads((tmp_path / "augment.json").read_text())
    assert json.loads(capsys.readouterr().out) == report
    assert report["threads"] == report["cv2_threads"] == 1
    assert set(report["cases"]) == set(script.cases())
    for name, row in report["cases"].items():
        alone = {"ours without keypoints"} if name in script.CONFIGS else set()
        assert set(row["images_per_second"]) == {"ours", "torchvision"} | alone
        assert row["torchvision_over_ours"]["min"] > 0
        assert 0 < row["share_of_a_core"] < 1.5
        assert row["images_per_second"]["ours"] == pytest.approx(1e6 / row["microseconds_an_image"]["ours"]["median"])


@pytest.mark.parametrize("name", script.cases())
def test_torchvision_does_something_of_the_kind(name):
    """Not a step is missing: over many images something changes, and sizes and keypoints come out right."""
    tensor = torch.from_numpy(script.draw_images(1)[0]).permute(2, 0, 1)
    augment = script.theirs(script.cases()[name], [tensor])
    changed = 0
    for _ in range(30):
        image, points = augment(0)
        assert image.shape == (3, 112, 112)
        assert image.dtype == torch.uint8
        changed += not torch.equal(image, tensor)
        if script.moves_keypoints():
            assert isinstance(points, tv_tensors.KeyPoints)
    assert changed >= 1


def test_wrong_input(no_checkout, monkeypatch, tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        script.main(["--images", "0"])
    monkeypatch.setenv("CVLFACE_ROOT", str(tmp_path))
    assert script.main(SIZE) == 2
    assert "data_augs does not exist or has no augmenter" in capsys.readouterr().err


@live
def test_beside_the_authors(one_thread, capsys):
    assert script.main(SIZE) == 0
    cases = json.loads(capsys.readouterr().out)["cases"]
    for name, row in cases.items():
        assert ("authors_over_ours" in row) == (name in script.CONFIGS)


@live
def test_randaug_draws_as_the_authors_does(monkeypatch):
    """Operations and strengths of many draws have the same frequencies."""
    package = script.load_authors(Path(os.environ["CVLFACE_ROOT"]))
    np.random.seed(0)
    torch.manual_seed(0)
    authors = package.gridsample_augmenter.PhotometricRandAugment(2, 14, 9, 31)
    translate = {"Saturate": "saturation"}
    theirs = Counter()
    for _ in range(4000):
        for name, magnitude in authors.sample_param():
            name = translate.get(name, name.lower())
            theirs[name, magnitude and round(1 + magnitude, 4)] += 1
    ours = Counter()
    plain = ("identity", "equalize", "grayscale")
    for name in OPERATIONS:
        monkeypatch.setitem(
            OPERATIONS,
            name,
            lambda image, factor, name=name: (
                ours.update([(name, 0.0 if name in plain else round(factor, 4))]),
                image,
            )[1],
        )
    rng, image = np.random.default_rng(0), np.zeros((2, 2, 3), np.uint8)
    for _ in range(4000):
        rand_augment(image, AugmentationSettings(), rng)
    assert set(ours) == set(theirs)
    for key, count in theirs.items():
        assert abs(ours[key] - count) < 5 * np.sqrt(2 * count), key
