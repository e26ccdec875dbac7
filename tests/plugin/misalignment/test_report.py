"""The table and the curves, against means and deviations formed from the runs in another way."""

from dataclasses import replace

import numpy as np
import pytest

from plugin import pictures
from plugin.conditions import TestCondition
from plugin.misalignment.experiment import Run
from plugin.misalignment.report import draw_report, format_report, runs_as_json
from plugin.misalignment.sweeps import Sweep

SEEDS = (0, 2, 5)
SWEEPS = (
    Sweep(title="crops", axis="shift", varied="misalign", strengths=(0.0, 0.2)),
    Sweep(
        title="joints", axis="lost", varied="joint_loss", strengths=(0.0, 0.5, 1.0), base=TestCondition(misalign=0.2)
    ),
)
CROPS = [TestCondition(), TestCondition(misalign=0.2)]
JOINTS = [TestCondition(misalign=0.2, joint_loss=share) for share in (0.5, 1.0)]


@pytest.fixture
def runs():
    rng = np.random.default_rng(0)

    def run(model, takes_joints, augmented, seed, condition):
        metrics = {"Rank-1": float(rng.uniform(20, 80)), "mAP": float(rng.uniform(10, 60))}
        return Run(
            model=model,
            augmented=augmented,
            takes_joints=takes_joints,
            seed=seed,
            condition=condition,
            metrics=metrics,
        )

    return [
        run(model, takes_joints, augmented, seed, condition)
        for seed in SEEDS
        for augmented in (False, True)
        for model, takes_joints in (("plain", False), ("new", True))
        for condition in (CROPS + JOINTS if takes_joints else CROPS)
    ]


def values(runs, model, augmented, condition, metric):
    """[seeds], in their order; a model without joints was tested on the crops only."""
    if model == "plain":
        condition = replace(condition, joint_loss=0.0)
    by_seed = {
        run.seed: run.metrics[metric]
        for run in runs
        if (run.model, run.augmented, run.condition) == (model, augmented, condition)
    }
    return np.array([by_seed[seed] for seed in SEEDS])


def rows(table):
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines() if line.startswith("|")]


def shown(numbers, sign=""):
    return f"{numbers.mean():{sign}.2f} ± {np.sqrt(((numbers - numbers.mean()) ** 2).sum() / (len(numbers) - 1)):.2f}"


def test_table(runs):
    text = format_report(runs, SWEEPS, "They are not people.")
    head, _, *body = rows(text)
    assert head == ["test", *(f"{m}, {what}" for m in ("Rank-1", "mAP") for what in ("plain", "new", "difference"))]
    words = ["clean", "crops misaligned 20 %", *(f"crops misaligned 20 %, joints lost {n} %" for n in (50, 100))]
    expected = []
    for augmented in (False, True):
        for word, condition in zip(words, CROPS + JOINTS, strict=True):
            row = [word]
            for metric in ("Rank-1", "mAP"):
                old, new = (values(runs, model, augmented, condition, metric) for model in ("plain", "new"))
                row += [shown(old), shown(new), shown(new - old, "+")]
            expected.append(row)
    assert [row for row in body if row[0] != "test" and not row[0].startswith("---")] == expected
    assert "seeds 0, 2, 5: mean ± standard deviation" in text
    assert "CropMisalignment (prob 0.5, shift 0.2" in text
    assert text.endswith("They are not people.")


def test_one_seed_has_no_deviation_and_one_training_no_augmentation(runs):
    few = [run for run in runs if run.seed == 2 and not run.augmented]
    text = format_report(few, SWEEPS)
    first = next(run.metrics["Rank-1"] for run in few if run.model == "plain" and run.condition == TestCondition())
    assert rows(text)[2][1] == f"{first:.2f}"
    assert "±" not in text
    assert "augment" not in text
    assert text.endswith("Percent, seed 2.")


def test_three_models_name_each_difference(runs):
    third = [replace(run, model="third") for run in runs if run.model == "new"]
    head = rows(format_report([*runs, *third], SWEEPS))[0]
    assert head[1:6] == [
        "Rank-1, plain",
        "Rank-1, new",
        "Rank-1, third",
        "Rank-1, new − plain",
        "Rank-1, third − plain",
    ]


def test_curves(runs, monkeypatch):
    figures = []
    monkeypatch.setattr(pictures, "write_figure", lambda figure, path: figures.append(figure))
    draw_report("curves.png", runs, SWEEPS)
    panels = figures[0].axes
    assert len(panels) == 8  # Rank-1 and mAP, as prepared and augmented, over two sweeps
    assert [axes.get_title() for axes in panels] == ["crops", "joints", *[""] * 6]
    assert [axes.get_xlabel() for axes in panels] == ["shift", "lost"] * 4
    rows = [("Rank-1", False), ("mAP", False), ("Rank-1", True), ("mAP", True)]
    for (metric, augmented), axes in zip(rows, panels[::2], strict=True):
        training = "trained with augmentation" if augmented else "trained on crops as prepared"
        assert axes.get_ylabel() == f"{metric} (%)\n{training}"
    for number, axes in enumerate(panels):
        metric, augmented = rows[number // 2]
        joints = number % 2
        conditions = [CROPS[1], *JOINTS] if joints else CROPS
        assert [line.get_label() for line in axes.lines] == ["plain", "new"]
        for line in axes.lines:
            expected = [values(runs, line.get_label(), augmented, each, metric).mean() for each in conditions]
            np.testing.assert_allclose(line.get_ydata(), expected)
            np.testing.assert_allclose(line.get_xdata(), [0, 50, 100] if joints else [0, 20])
        if joints:
            assert len(set(axes.lines[0].get_ydata())) == 1  # the baseline does not see the joints


def test_plain_types(runs):
    first = runs_as_json(runs)[0]
    assert first == {
        "model": "plain",
        "augmented": False,
        "takes_joints": False,
        "seed": 0,
        "condition": {"misalign": 0.0, "joint_noise": 0.0, "joint_loss": 0.0},
        "metrics": runs[0].metrics,
    }


def test_nothing_to_report():
    with pytest.raises(ValueError, match="at least one run"):
        format_report([], SWEEPS)
    with pytest.raises(ValueError, match="at least one run"):
        draw_report("a.png", [], SWEEPS)
