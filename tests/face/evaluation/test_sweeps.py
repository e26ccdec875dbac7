"""Sweeps over a small set: ends equal plain evaluation, what changes and what does not, noise by its formulas."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from face.data import write_landmarks
from face.evaluation.sets import EvaluationSetSettings, measure, open_set
from face.evaluation.sweep_pictures import HeatMap, draw_curves, draw_heat_maps, draw_steps
from face.evaluation.sweep_report import draw_sweep, draw_sweep_steps, format_sweep
from face.evaluation.sweep_settings import SweepSettings, sweep_steps
from face.evaluation.sweeps import Sweep, metric_of
from face.models.registry import create_model
from face.pipelines import RecognitionPipeline


@pytest.fixture
def photos_set(tmp_path, dots, dot_points):
    """24 pairs of 24 images of dots, with their landmarks; also as gallery and probes."""
    random = np.random.default_rng(0)
    points = dot_points + random.uniform(-0.08, 0.08, (24, 5, 2))
    for number, each in enumerate(points):
        assert cv2.imwrite(str(tmp_path / f"{number}.png"), dots((24, 20), each, radius=0.08)[..., ::-1])
    names = [f"{number}.png" for number in range(24)]
    write_landmarks(tmp_path / "landmarks.csv", names, points)
    rows = [f"{k}.png,{(k + 5 + k % 7) % 24}.png,{k % 2}" for k in range(24)]
    (tmp_path / "pairs.csv").write_text("\n".join(["image1,image2,same", *rows]) + "\n")
    for table, numbers in (("gallery", range(12)), ("probe", range(12, 24))):
        rows = [f"{number}.png,person{number % 12}" for number in numbers]
        (tmp_path / f"{table}.csv").write_text("\n".join(["image,identity", *rows]) + "\n")

    def opened(kind="pairs", needs_keypoints=True):
        settings = EvaluationSetSettings(name="dots", path=tmp_path, kind=kind)
        return open_set(settings, needs_keypoints=needs_keypoints)

    return opened


@pytest.fixture
def pipelines(toy):
    return {"plain": RecognitionPipeline(toy()).eval(), "points": RecognitionPipeline(toy(needs_keypoints=True)).eval()}


def test_the_frame_is_plain_evaluation_and_the_aligned_end_is_that_of_aligned_files(
    photos_set, toy, tmp_path, tmp_path_factory
):
    from face.align import main as align

    opened = photos_set()
    models = {
        "plain": RecognitionPipeline(toy(image_hw=(16, 16))).eval(),
        "points": RecognitionPipeline(toy(image_hw=(16, 16), needs_keypoints=True)).eval(),
    }
    result = Sweep(SweepSettings(kind="alignment", steps=(0, 0.5, 1)), opened).run(models)
    out = tmp_path_factory.mktemp("files") / "aligned"
    arguments = (tmp_path, out, "--landmarks", tmp_path / "landmarks.csv", "--workers", 0, "--size", 16)
    assert align(list(map(str, arguments))) == 0
    (out / "pairs.csv").write_text((tmp_path / "pairs.csv").read_text())
    aligned = open_set(EvaluationSetSettings(name="dots", path=out), needs_keypoints=True)
    for name, model in models.items():
        rows = [row for row in result.rows if row.model == name]
        assert [row.step.values for row in rows] == [{"alignment": 0}, {"alignment": 0.5}, {"alignment": 1}]
        assert rows[0].metrics == measure(opened, model).metrics
        assert rows[2].metrics == pytest.approx(measure(aligned, model).metrics, abs=1e-9)
        assert len({tuple(row.metrics.values()) for row in rows}) == 3


@pytest.mark.parametrize("kind", ["noise", "keypoints", "affine"])
def test_what_changes_nothing_is_plain_evaluation(photos_set, pipelines, kind):
    opened = photos_set("identification" if kind == "noise" else "pairs")
    settings = {
        "noise": SweepSettings(kind="noise", steps=(0, 0.1)),
        "keypoints": SweepSettings(kind="keypoints", steps=(0, 5)),
        "affine": SweepSettings(kind="affine", rotations=(0, 90), scales=(1,), shifts=(0,)),
    }[kind]
    result = Sweep(settings, opened).run(pipelines)
    clear = {"noise": {"noise": 0}, "keypoints": {"keypoints": 5}, "affine": {"rotation": 0, "scale": 1}}[kind]
    for name, model in pipelines.items():
        expected = measure(opened, model).metrics
        rows = [row for row in result.rows if row.model == name]
        assert [row.metrics for row in rows if row.step.values == clear] == [expected]
        changed = [
            row.metrics != expected for row in rows if row.step.values != clear and "shift_x" not in row.step.values
        ]
        takes_part = kind == "affine" or name == "points"
        assert changed == [takes_part]
    assert metric_of(result.rows) == ("rank-1" if kind == "noise" else "accuracy")
    assert metric_of(result.rows, "map" if kind == "noise" else "auc")
    with pytest.raises(ValueError, match="no metric nothing; this set has "):
        metric_of(result.rows, "nothing")


def test_noise_by_its_formulas(photos_set):
    opened = photos_set()
    before = opened.content.landmarks.points

    def points(a, noise="gaussian", seed=0, draw=0):
        settings = SweepSettings(kind="noise", steps=(0, a), noise=noise, seed=seed, repeats=2)
        sweep = Sweep(settings, opened)
        step = [step for step in sweep_steps(settings) if step.values["noise"] == a][draw]
        view = sweep.view(step, (12, 10))
        assert view.content.images is opened.content.images
        return view.content.landmarks.points

    np.testing.assert_allclose(points(0.1, "printed"), before * 1.1, rtol=1e-6)
    gaussian = points(0.05) - before
    assert gaussian.std() == pytest.approx(0.05, rel=0.15)
    np.testing.assert_allclose((points(0.1) - before) / gaussian, 2, rtol=1e-3)  # the same draw at every step
    np.testing.assert_allclose(points(0.05, "proportional") - before, gaussian * before, atol=1e-6)
    np.testing.assert_array_equal(points(0.05), points(0.05))
    assert abs(points(0.05, seed=1) - points(0.05)).max() > 0.02
    assert abs(points(0.05, draw=1) - points(0.05)).max() > 0.02
    assert len(np.unique(np.round(gaussian, 7))) > 200  # of each image, point and axis its own


def test_noise_is_repeated_and_measured(photos_set, pipelines):
    settings = SweepSettings(kind="noise", steps=(0, 0.02, 0.1), repeats=3)
    first, again = (Sweep(settings, photos_set()).run(pipelines) for _ in range(2))
    assert first == again
    rows = [row for row in first.rows if row.model == "points"]
    assert [(row.step.values["noise"], row.step.variant) for row in rows] == [
        (0, ""), *((a, f"draw {draw}") for a in (0.02, 0.1) for draw in range(3))
    ]  # fmt: skip
    assert rows[0].mean_shift == 0
    assert rows[1].mean_shift == pytest.approx(0.02 * 1.2533, rel=0.15)
    steps, values = first.curve("points", "auc")
    assert steps.tolist() == [0, 0.02, 0.1]
    assert np.isnan(values).tolist() == [[False, True, True], [False] * 3, [False] * 3]
    assert first.notes == ["plain takes no keypoints: it is evaluated once, and its line is flat"]
    flat = {tuple(row.metrics.values()) for row in first.rows if row.model == "plain"}
    assert len(flat) == 1
    assert len(pipelines["plain"].model.calls) == 2 * 2  # two runs, an image and its mirror


def test_hidden_keypoints_are_those_of_the_face_in_the_mirror_too(photos_set, pipelines):
    """Both halves of the flip test, as the model gets them: hiding is by the point, not by its name in the mirror."""
    pipeline = pipelines["points"]
    settings = SweepSettings(kind="keypoints", steps=(1,))
    result = Sweep(settings, photos_set()).run({"points": pipeline})
    (row,) = result.rows
    assert (row.step.variant, row.step.shown) == ("left_eye", (True, False, False, False, False))
    (_, plain, seen), (_, mirrored, seen_mirrored) = pipeline.model.calls
    assert seen.tolist() == [[1, 0, 0, 0, 0]] * 24
    assert seen_mirrored.tolist() == [[0, 1, 0, 0, 0]] * 24
    torch.testing.assert_close(mirrored[:, 1, 0], 1 - plain[:, 0, 0])


def test_all_choices_of_keypoints():
    steps = sweep_steps(SweepSettings(kind="keypoints", subsets="all"))
    assert [sum(step.values["keypoints"] == k for step in steps) for k in range(6)] == [1, 5, 10, 10, 5, 1]
    assert len({step.shown for step in steps}) == 32
    assert all(sum(step.shown) == step.values["keypoints"] for step in steps)
    first = sweep_steps(SweepSettings(kind="keypoints"))
    assert [step.variant for step in first][:4] == ["", "left_eye", "left_eye, right_eye", "left_eye, right_eye, nose"]


def test_models_of_fewer_keypoints_are_evaluated_up_to_their_own(photos_set):
    """Two points: the eyes, whatever the other three are; in the mirror too."""
    torch.manual_seed(0)
    model = create_model(
        "vit_tiny", position_bias="kprpe", num_keypoints=2, image_hw=(16, 16), patch_hw=(8, 8), depth=1, embed_dim=8,
        num_heads=1, num_features=8,
    ).eval()  # fmt: skip
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "kprpe" in name:
                value.normal_()
    opened = photos_set()
    models = {"two": RecognitionPipeline(model).eval()}
    result = Sweep(SweepSettings(kind="keypoints"), opened).run(models)
    assert [row.step.values["keypoints"] for row in result.rows] == [0, 1, 2]
    expected = Sweep(SweepSettings(kind="noise", steps=(0,)), opened).run(models).rows[0].metrics
    assert result.rows[2].metrics == pytest.approx(expected)
    assert "| 3 " not in format_sweep(result, "accuracy")
    opened.content.landmarks.points[:, 2:] = np.random.default_rng(0).random((24, 3, 2))
    again = Sweep(SweepSettings(kind="keypoints"), opened).run(models)
    assert [row.metrics for row in again.rows] == [row.metrics for row in result.rows]


def test_an_aligner_finds_landmarks_at_each_step(photos_set, toy, dot_aligner):
    pipeline = RecognitionPipeline(toy(image_hw=(16, 16), needs_keypoints=True), "dfa", dot_aligner(out_hw=(16, 16)))
    result = Sweep(SweepSettings(kind="affine", rotations=(0, 30), scales=(1,), shifts=(0,)), photos_set()).run(
        {"dfa": pipeline.eval()}
    )
    assert [row.step.values for row in result.rows][1] == {"rotation": 30, "scale": 1}
    points = [keypoints for _, keypoints, _ in pipeline.model.calls]
    assert abs(points[0] - points[2]).mean() > 0.03  # turned with the image
    for kind in ("noise", "keypoints"):
        with pytest.raises(ValueError, match=f"dfa: {kind} is about landmarks that are given, and not of kind dfa"):
            Sweep(SweepSettings(kind=kind), photos_set()).run({"dfa": pipeline})


def test_sets_without_landmarks(photos_set, pipelines, tmp_path):
    opened = photos_set(needs_keypoints=False)
    with pytest.raises(ValueError, match="evaluation set dots: there is no table of landmarks to align its images by"):
        Sweep(SweepSettings(kind="alignment"), opened)
    settings = SweepSettings(kind="affine", rotations=(0, 90), scales=(1,), shifts=(0,))
    found = Sweep(settings, opened).run({"plain": pipelines["plain"]})
    assert found.rows == Sweep(settings, photos_set()).run({"plain": pipelines["plain"]}).rows


def test_sets_whose_images_are_not_moved(photos_set):
    opened = photos_set()
    other = replace(opened, content=object(), settings=replace(opened.settings, kind="ijbs"))
    with pytest.raises(ValueError, match="dots: sweeps are over pairs, identification and tinyface, got ijbs"):
        Sweep(SweepSettings(kind="noise"), other)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"kind": "blur"}, "kind must be one of alignment, noise, keypoints, affine, got 'blur'"),
        ({"kind": "alignment", "steps": (0, 1.5)}, "steps must rise within 0 and 1, got 0 1.5"),
        ({"kind": "noise", "steps": (0.1, 0.05)}, "steps must rise within 0 and 1, got 0.1 0.05"),
        ({"kind": "noise", "steps": (float("nan"),)}, "steps must rise within 0 and 1, got nan"),
        ({"kind": "keypoints", "steps": (1.5,)}, "steps of keypoints must be whole numbers, got 1.5"),
        ({"kind": "affine", "steps": (1,)}, "affine has rotations, scales and shifts, and no steps"),
        ({"kind": "affine", "scales": (0, 1)}, "scales must rise within 0.1 and 10, got 0 1"),
        ({"kind": "affine", "rotations": ()}, "rotations must rise within -180 and 180, got none"),
        ({"kind": "noise", "repeats": 0}, "repeats must be >= 1 and seed >= 0, got 0 and 0"),
        ({"kind": "noise", "noise": "salt"}, "noise must be one of gaussian, proportional, printed, got 'salt'"),
        ({"kind": "keypoints", "subsets": "some"}, "subsets must be first or all, got 'some'"),
    ],
    ids=range(11),
)
def test_settings(settings, said):
    with pytest.raises(ValueError, match=said):
        SweepSettings(**settings)


@pytest.mark.parametrize("kind", ["alignment", "noise", "keypoints", "affine"])
def test_pictures_and_tables(photos_set, pipelines, tmp_path, kind):
    few = {"rotations": (0, 90), "scales": (1,), "shifts": (0,)} if kind == "affine" else {}
    sweep = Sweep(SweepSettings(kind=kind, **few, **({} if kind == "affine" else {"steps": (0, 1)})), photos_set())
    result = sweep.run(pipelines)
    draw_sweep(tmp_path / "sweep.png", result, "auc", "dots")
    draw_sweep_steps(tmp_path / "steps.png", sweep, (12, 10))
    pictures = [cv2.imread(str(tmp_path / name)) for name in ("sweep.png", "steps.png")]
    assert all(picture.std() > 5 for picture in pictures)
    text = format_sweep(result, "auc")
    assert "plain" in text
    assert f"{measure(photos_set(), pipelines['points']).metrics['auc']:.2f}" in text or kind == "keypoints"


def test_grids_have_their_values_in_place(photos_set, pipelines):
    settings = SweepSettings(kind="affine", rotations=(-90, 0, 90), scales=(0.8, 1), shifts=(-0.2, 0))
    result = Sweep(settings, photos_set()).run(pipelines)
    grid = result.grid("points", "auc", ("rotation", "scale"))
    assert grid.shape == (2, 3)
    for row in result.rows:
        if row.model == "points" and row.step.values == {"rotation": 90, "scale": 0.8}:
            assert grid[0, 2] == row.metrics["auc"]
    shifts = result.grid("points", "auc", ("shift_x", "shift_y"))
    assert shifts[1, 1] == grid[1, 1]  # nothing moved, in both
    assert not np.isnan(grid).any()
    assert not np.isnan(shifts).any()


def test_pictures_of_nothing(tmp_path):
    for draw in (
        lambda: draw_curves(tmp_path / "x.png", {}, xlabel="", ylabel=""),
        lambda: draw_heat_maps(tmp_path / "x.png", [HeatMap({}, (1,), (1,), "", "")]),
        lambda: draw_steps(tmp_path / "x.png", [[]]),
    ):
        with pytest.raises(ValueError, match="need at least one"):
            draw()
