"""Two images, or folders of them, compared: similarities, where thresholds are from, errors, what is written."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from face.data import decode_image, read_landmarks, write_landmarks
from face.dfa.image_files import open_images
from face.evaluation.embed import embed_images
from face.evaluation.verify_images import open_sides
from face.evaluation.verify_report import Comparison, compare
from face.models.pretrained import load_pretrained, save_pretrained
from face.models.registry import create_model
from face.pipelines import RecognitionPipeline
from face.verify import main

ROOT = Path(__file__).parents[2]


def write(path, image):
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image[..., ::-1])
    return path


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Folders of a model with KP-RPE and of one without."""
    folder = tmp_path_factory.mktemp("weights")
    for name in ("kprpe", "none"):
        torch.manual_seed(0)
        model = create_model(
            "vit_tiny", position_bias=name, image_hw=(32, 32), patch_hw=(16, 16), depth=1, embed_dim=16, num_heads=2,
            num_features=8,
        ).eval()  # fmt: skip
        with torch.no_grad():  # a bias that is not zero any more, so that keypoints change embeddings
            for key, value in model.named_parameters():
                if "kprpe" in key:
                    value.normal_(std=0.2, generator=torch.Generator().manual_seed(1))
        save_pretrained(model, folder / name)
    return folder


@pytest.fixture(autouse=True)
def aligner(monkeypatch, dot_aligner):
    def load(source, settings=None, inference=True, device="cpu"):
        return dot_aligner(out_hw=settings.out_hw, padding_ratio=settings.padding_ratio)

    monkeypatch.setattr("face.dfa.aligner.load_aligner", load)


@pytest.fixture
def faces(tmp_path, dots, dot_points):
    """Three faces on one side and two on the other, moved each on its own, without and with a table of landmarks."""
    random = np.random.default_rng(0)
    names = ["a/1.png", "a/2.png", "a/more/3.png", "b/1.png", "b/2.png"]
    points = dot_points + random.uniform(-0.05, 0.05, (len(names), 1, 2))
    for name, each in zip(names, points, strict=True):
        noise = random.integers(-12, 13, (90, 90, 3))
        write(tmp_path / name, (dots((90, 90), each) + noise).clip(0, 255).astype(np.uint8))
    write_landmarks(tmp_path / "points.csv", names, points)
    return tmp_path


@pytest.fixture
def pair_folder(tmp_path, dots, dot_points):
    """30 pairs of either kind, of images with their own landmarks."""
    random = np.random.default_rng(1)
    folder, rows, names, points = tmp_path / "set", ["image1,image2,same"], [], []
    for number in range(60):
        names.append(f"{number}.png")
        points.append(dot_points + random.uniform(-0.1, 0.1, (5, 2)))
        write(folder / names[-1], dots((40, 40), points[-1], radius=0.05))
    rows += [f"{k}.png,{(k + 7 + k % 5) % 60}.png,{k % 2}" for k in range(60)]
    (folder / "pairs.csv").write_text("\n".join(rows) + "\n")
    write_landmarks(folder / "landmarks.csv", names, np.stack(points))
    return folder


def verify(*arguments):
    return main(["--workers", "0", "--device", "cpu", *map(str, arguments)])


def table(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def cosine(first, second):
    return float(first @ second / np.linalg.norm(first) / np.linalg.norm(second))


def test_two_images(faces, weights, tmp_path, capsys):
    a, b, out = faces / "a" / "1.png", faces / "b" / "2.png", tmp_path / "out"
    assert verify(a, b, "--weights", weights / "none", "--out", out) == 0
    values = embed_images(load_pretrained(weights / "none"), open_sides(a, b).images).values
    expected = cosine(*values)
    said = capsys.readouterr().out
    assert f"similarity {expected:.4f}\nno threshold, so nothing is decided" in said
    assert "decision" not in said
    record = json.loads((out / "verify.json").read_text())
    assert record["result"] == {
        "images": ["1.png", "2.png"], "similarity": pytest.approx(expected, abs=1e-6), "same": None
    }  # fmt: skip
    assert sorted(path.name for path in out.iterdir()) == ["verify.json", "verify.png"]

    below, above = expected - 1e-3, expected + 1e-3
    assert verify(a, b, "--weights", weights / "none", "--threshold", below) == 0
    assert "decision: same person" in capsys.readouterr().out
    assert verify(a, b, "--weights", weights / "none", "--threshold", above) == 0
    assert "decision: different persons" in capsys.readouterr().out
    assert verify(a, b, "--weights", weights / "none", "--no-flip") == 0
    values = embed_images(load_pretrained(weights / "none"), open_sides(a, b).images, flip_test=False).values
    assert f"similarity {cosine(*values):.4f}" in capsys.readouterr().out


def test_landmarks_are_needed_or_found(faces, weights, tmp_path, capsys, dot_aligner):
    a, b = faces / "a" / "1.png", faces / "b" / "2.png"
    model = ("--weights", weights / "kprpe")
    assert verify(a, b, *model) == 2
    assert "landmarks.csv: no such table of landmarks; the model needs landmarks: give --aligner or" in (
        capsys.readouterr().err
    )
    assert verify(a, b, *model, "--landmarks", faces / "points.csv") == 0
    images, network = open_sides(a, b).images, load_pretrained(weights / "kprpe")
    table = read_landmarks(faces / "points.csv", open_images(faces)).take(np.array([0, 4]))
    values = embed_images(network, images, table).values
    assert f"similarity {cosine(*values):.4f}" in capsys.readouterr().out
    assert verify(a, b, *model, "--aligner", "dots", "--pipeline", "dfa") == 0
    said = capsys.readouterr().out
    assert "1.png: face score 0." in said
    values = embed_images(RecognitionPipeline(network, "dfa", dot_aligner(out_hw=(32, 32))), images).values
    assert f"similarity {cosine(*values):.4f}" in said
    assert verify(a, b, *model, "--aligner", "dots", "--out", tmp_path / "out") == 0
    record = json.loads((tmp_path / "out" / "verify.json").read_text())
    assert record["pipeline"]["kind"] == "dfa_aligned"
    assert record["without_alignment"] == []

    write_landmarks(faces / "few.csv", ["a/1.png"], np.full((1, 5, 2), 0.5))
    assert verify(a, b, *model, "--landmarks", faces / "few.csv") == 2
    assert "few.csv: no landmarks of 1 of 2 images, first: b/2.png; a table names" in capsys.readouterr().err
    # A table in each folder names images by paths below that folder.
    for side, names in (("a", ["1.png", "2.png", "more/3.png"]), ("b", ["1.png", "2.png"])):
        write_landmarks(faces / side / "landmarks.csv", names, np.full((len(names), 5, 2), 0.5))
    assert verify(faces / "a", faces / "b", *model) == 0


def test_a_face_that_is_none_is_said(faces, weights, tmp_path, capsys):
    blank = write(faces / "blank.png", np.full((50, 50, 3), 128, np.uint8))
    arguments = (faces / "a" / "1.png", blank, "--weights", weights / "kprpe", "--aligner", "dots")
    assert verify(*arguments, "--out", tmp_path / "out") == 0
    assert "warning: landmarks that give no alignment in 1 image(s): blank.png" in capsys.readouterr().err
    assert json.loads((tmp_path / "out" / "verify.json").read_text())["without_alignment"] == ["blank.png"]


def test_the_picture_shows_what_the_model_sees(faces, weights, tmp_path, dot_aligner):
    """Dots of an aligned crop are where the template has them, in the picture too, below the markers."""
    from face.evaluation.verify_images import model_view
    from face.reference import reference_landmarks

    pipeline = RecognitionPipeline(
        load_pretrained(weights / "none"), "dfa_aligned", dot_aligner(out_hw=(32, 32))
    )  # it needs no keypoints: they are drawn all the same
    images = open_images(faces / "a")
    view = model_view(pipeline, images, 1)
    assert view.pixels.shape == (32, 32, 3)
    assert abs(view.keypoints - reference_landmarks((32, 32), pixels=False)).max() < 0.06
    x, y = (view.keypoints[0] * 32).astype(int)
    red, green, blue = view.pixels[y, x].astype(int)
    assert red > green + 60
    assert red > blue + 60
    plain = model_view(RecognitionPipeline(load_pretrained(weights / "none")), images, 1)
    assert plain.keypoints is None
    assert verify(faces / "a" / "1.png", faces / "b" / "1.png", "--weights", weights / "none",
                  "--landmarks", faces / "points.csv", "--out", tmp_path / "out") == 0  # fmt: skip
    picture = decode_image((tmp_path / "out" / "verify.png").read_bytes(), "picture").astype(int)
    assert (abs(picture - (0, 114, 178)).max(-1) < 30).sum() > 100


def test_folders(faces, weights, tmp_path, capsys):
    out = tmp_path / "out"
    assert verify(faces / "a", faces / "b", "--weights", weights / "none", "--threshold", 0.5, "--out", out) == 0
    said = capsys.readouterr().out
    rows = table(out / "pairs.csv")
    assert [(row["image1"], row["image2"]) for row in rows] == [
        (a, b) for a in ("1.png", "2.png", "more/3.png") for b in ("1.png", "2.png")
    ]
    model = load_pretrained(weights / "none")
    left, right = (embed_images(model, open_images(faces / side)).values for side in "ab")
    expected = np.array([[cosine(a, b) for b in right] for a in left])
    np.testing.assert_allclose([float(row["similarity"]) for row in rows], expected.ravel(), atol=2e-6)
    assert [row["same"] for row in rows] == [str(int(value >= 0.5)) for value in expected.ravel()]
    best = table(out / "best.csv")
    assert [row["match"] for row in best if row["rank"] == "1"] == [f"{k + 1}.png" for k in expected.argmax(1)]
    assert len(best) == 6
    assert f"6 pairs of 3 and 2 images, {(expected >= 0.5).sum()} of them taken for one person" in said
    assert sorted(path.name for path in out.iterdir()) == ["best.csv", "pairs.csv", "verify.json", "verify.png"]
    options = ("--weights", weights / "none", "--best-only", "--best", 1, "--out", tmp_path / "best")
    assert verify(faces / "a", faces / "b", *options) == 0
    assert not (tmp_path / "best" / "pairs.csv").exists()
    assert [row["same"] for row in table(tmp_path / "best" / "best.csv")] == [""] * 3


def test_a_folder_with_itself_has_each_pair_once(faces, tmp_path):
    """By a loop over unordered pairs of files, of sides that overlap, in blocks of one row."""
    (faces / "list.txt").write_text("a/2.png\nb/1.png\na/1.png\n")
    sides = open_sides(faces / "a", faces / "list.txt")
    values = np.random.default_rng(0).normal(size=(len(sides.images), 4)).astype(np.float32)
    paths = [[str(faces / "a" / name) for name in sides.names[0]], [str(faces / name) for name in sides.names[1]]]
    expected = {
        frozenset((a, b)): cosine(values[i].astype(float), values[j].astype(float))
        for a, i in zip(paths[0], sides.first, strict=True)
        for b, j in zip(paths[1], sides.second, strict=True)
        if a != b
    }
    assert sides.pairs == len(expected) == 6
    monkey = pytest.MonkeyPatch()
    with monkey.context() as patch:
        patch.setattr("face.evaluation.verify_images._CELLS", 3)
        found = compare(values, sides, out=tmp_path)
    rows = table(tmp_path / "pairs.csv")
    written = {
        frozenset((str(faces / "a" / row["image1"]), str(faces / row["image2"]))): float(row["similarity"])
        for row in rows
    }
    assert written.keys() == expected.keys()
    assert written == {pair: pytest.approx(value, abs=1e-6) for pair, value in expected.items()}
    assert len(rows) == found.pairs == 6
    ordered = sorted(expected.values())
    assert [match.similarity for match in found.least_similar] == pytest.approx(ordered, abs=1e-6)
    assert [match.similarity for match in found.most_similar] == pytest.approx(ordered[::-1], abs=1e-6)


def test_a_threshold_from_a_set(faces, weights, pair_folder, capsys):
    arguments = (faces / "a" / "1.png", faces / "b" / "2.png", "--weights", weights / "none", "--calibrate")
    assert verify(*arguments, pair_folder, "--far", 0.1) == 0
    said = capsys.readouterr().out
    assert "FAR 0.1 on set (3 of 30 pairs of different persons are accepted, 95 % interval 2.1 % to 27 %" in said
    assert "decision: " in said
    assert verify(*arguments, pair_folder) == 2
    assert "set: a FAR of 0.001 takes at least 1000 pairs of different persons, the set has 30; the smallest FAR" in (
        capsys.readouterr().err
    )
    assert len(list(pair_folder.glob(".pairs.scores-*.npz"))) == 1
    assert verify(*arguments, faces / "none.bin") == 2


def test_decisions_are_at_or_above():
    found = Comparison(threshold=0.25)
    assert [found.decide(value) for value in (0.2499, 0.25, 0.2501)] == [False, True, True]
    assert Comparison(threshold=None).decide(0.9) is None


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--threshold", "0.3", "--calibrate", "x.bin"], "two ways to a threshold"),
        (["--threshold", "1.2"], "a cosine, from -1 to 1, got 1.2"),
        (["--far", "1e-3"], "--far is a rate on a set of pairs: name that with --calibrate"),
        (["--far", "0", "--calibrate", "x.bin"], "--far must be between 0 and 1, got 0"),
        (["--landmarks", "x.csv", "--aligner", "dfa"], "two ways to landmarks"),
        (["--best", "0"], "--best must be >= 1, got 0"),
    ],
    ids=range(6),
)
def test_options_that_contradict(arguments, said, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["a.png", "b.png", "--weights", "w", *arguments])
    assert said in capsys.readouterr().err


def test_wrong_input(faces, weights, tmp_path, capsys):
    a, b = faces / "a" / "1.png", faces / "b" / "2.png"
    model = ("--weights", weights / "none")
    for arguments, said in (
        ((a, faces / "none.png", *model), "none.png: no such file or folder"),
        ((a, a, *model), "expected two different images, these are the same one"),
        ((a, b, "--weights", tmp_path / "nowhere.pt"), "nowhere.pt: no such file"),
        ((a, b, *model, "--pipeline", "dfa"), "kind dfa needs aligner"),
        ((a, b, *model, "--aligner", "dots", "--pipeline", "given"), "kind given has no use for an aligner"),
        ((a, b, *model, "--device", "cuda:99"), "--device cuda:99"),
    ):
        assert verify(*arguments, "--out", tmp_path / "out") == 2
        assert said in capsys.readouterr().err
    (faces / "broken.jpg").write_bytes(b"no image")
    assert verify(a, faces / "broken.jpg", *model) == 2
    assert "broken.jpg: 8 bytes, beginning with b'no image', do not decode" in capsys.readouterr().err


def test_more_pairs_than_a_table_takes(faces, weights, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("face.verify._MOST_PAIRS", 5)
    arguments = (faces / "a", faces / "b", "--weights", weights / "none", "--out", tmp_path / "out")
    assert verify(*arguments) == 2
    assert "6 pairs are more than the 5 that pairs.csv takes; --best-only" in capsys.readouterr().err
    assert verify(*arguments, "--best-only") == 0


def test_help_does_not_wait_for_torch():
    code = (
        "import sys\nfrom face.verify import main\n"
        "try:\n    main(['--help'])\n"
        "finally:\n    assert not {'torch', 'numpy', 'cv2'} & set(sys.modules), sorted(sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, env=dict(os.environ)
    )
    assert done.returncode == 0, done.stderr
    assert "--calibrate SET" in done.stdout
