"""The experiment: test sets that are the same for all, a record that is taken up again, and a small one end to end."""

import json

import cv2
import numpy as np
import pytest
import torch

from common.affnist import experiment
from common.affnist.__main__ import main
from common.affnist.digits import SIDE, Digits
from common.affnist.experiment import (
    ExperimentSettings,
    Frames,
    Record,
    Run,
    evaluate,
    make_test_frames,
    make_training_frames,
    run_experiment,
    train,
)
from common.affnist.frames import box_keypoints
from common.affnist.models import MODELS, ModelSettings, build_model
from common.rpe.stored import find_keypoint_rpe, read_state
from common.runtime.checkpoint import load_checkpoint

CPU = torch.device("cpu")
SMALL = ModelSettings(patch=10, dim=16, depth=2, heads=2)


def bars(count, seed):
    """Two kinds of "digits", upright and lying bars, which anything learns."""
    rng = np.random.default_rng(seed)
    images = np.zeros((count, SIDE, SIDE), np.uint8)
    labels = np.arange(count) % 2
    for image, label in zip(images, labels, strict=True):
        image[6:22, 12:15] = rng.integers(150, 256)
        if label:
            image[:] = image.T
    return images, labels


@pytest.fixture
def digits():
    (train_images, train_labels), (test_images, test_labels) = bars(60, 0), bars(10, 1)
    return Digits(
        name="bars",
        train_images=train_images,
        train_labels=train_labels,
        test_images=test_images,
        test_labels=test_labels,
    )


@pytest.fixture
def settings():
    return ExperimentSettings(epochs=2, copies=2, batch_size=25, model=SMALL)


def run_of(model="absolute", seed=0, clean=90.0, affine=80.0):
    return Run(model=model, seed=seed, clean=clean, affine=affine, parameters=100, seconds=1.0, device="cpu")


def test_test_sets_are_the_same_every_time(digits, settings):
    first, again = (make_test_frames(digits, settings) for _ in range(2))
    assert list(first) == ["clean", "affine"]
    for part in first:
        np.testing.assert_array_equal(first[part].images, again[part].images)
        np.testing.assert_array_equal(first[part].keypoints, box_keypoints(first[part].images))
        np.testing.assert_array_equal(first[part].labels, np.tile(digits.test_labels, 2))
    copies = first["affine"].images.reshape(2, 10, 40, 40)
    assert (copies[0] != copies[1]).any(axis=(1, 2)).all()
    other = make_test_frames(digits, ExperimentSettings(epochs=2, copies=2, test_seed=1, model=SMALL))
    assert (other["affine"].images != first["affine"].images).any()


def test_digit_too_large_for_its_frame_is_named(digits, settings):
    digits.test_images[3] = 255
    with pytest.raises(ValueError, match=r"bars, test images: digit 1?3 is too large"):
        make_test_frames(digits, settings)


def test_training_places_follow_from_seed_and_epoch(digits):
    first, again, later = (make_training_frames(digits, np.random.default_rng((0, epoch))) for epoch in (0, 0, 1))
    np.testing.assert_array_equal(first.images, again.images)
    assert (first.images != later.images).any()


def test_batches_cover_the_order(digits):
    frames = make_training_frames(digits, np.random.default_rng(0))
    order = np.random.default_rng(1).permutation(60)
    batches = list(frames.batches(order, 25, CPU))
    assert [len(labels) for _, _, labels in batches] == [25, 25, 10]
    images, keypoints, labels = (torch.cat(parts).numpy() for parts in zip(*batches, strict=True))
    np.testing.assert_allclose(images * 255, frames.images[order], atol=1e-4)
    np.testing.assert_array_equal(keypoints, frames.keypoints[order])
    np.testing.assert_array_equal(labels, frames.labels[order])


def test_accuracy_is_the_share_of_right_answers(digits):
    frames = make_training_frames(digits, np.random.default_rng(0))

    class Constant(torch.nn.Module):
        def forward(self, images, keypoints):
            return torch.nn.functional.one_hot(torch.ones(len(images), dtype=torch.long), 10).float()

    assert evaluate(Constant(), frames, CPU) == 50.0
    ones = Frames(frames.images[1:2], frames.keypoints[1:2], frames.labels[1:2])
    assert evaluate(Constant(), ones, CPU) == 100.0


def test_rate_rises_then_falls_to_zero():
    rates = [experiment._rate(step, 100, 10.0) for step in range(101)]
    assert rates[0] == pytest.approx(1 / 11)
    assert max(rates) == rates[10] == 1.0
    assert rates[:11] == sorted(rates[:11])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[55] == pytest.approx(0.5)
    assert rates[100] == pytest.approx(0, abs=1e-12)


def test_training_follows_from_the_seed(digits, settings):
    states = []
    for seed in (0, 0, 1):
        model = build_model("kprpe", settings.model, 0)
        train(model, digits, settings, seed, CPU)
        states.append(model.state_dict()["head.weight"])
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])


def test_training_calls_back(digits, settings):
    steps, epochs = [], []
    train(
        build_model("absolute", settings.model, 0),
        digits,
        settings,
        0,
        CPU,
        lambda: steps.append(1),
        lambda epoch, loss: epochs.append((epoch, loss)),
    )
    assert len(steps) == settings.steps(60) == 6
    assert [epoch for epoch, _ in epochs] == [1, 2]
    assert 0 < epochs[-1][1] < np.log(10) + 0.5


def test_divergence_is_an_error(digits, settings):
    model = build_model("absolute", settings.model, 0)
    torch.nn.init.constant_(model.head.weight, float("nan"))
    with pytest.raises(FloatingPointError, match="loss is nan in epoch 1"):
        train(model, digits, settings, 0, CPU)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 0}, "epochs must be >= 1"),
        ({"copies": 0}, "copies must be >= 1"),
        ({"learning_rate": 0.0}, "learning_rate must be > 0"),
        ({"warmup": 1.0}, r"warmup must be in \[0, 1\)"),
    ],
)
def test_bad_settings(change, message):
    with pytest.raises(ValueError, match=message):
        ExperimentSettings(**{"epochs": 1, **change})


def test_finished_runs_are_not_run_again(digits, settings, tmp_path, monkeypatch):
    first = run_experiment(tmp_path, digits, settings, ["absolute", "kprpe"], 1, CPU)
    trained = []
    monkeypatch.setattr(experiment, "train", lambda *arguments: trained.append(arguments[3]))
    assert run_experiment(tmp_path, digits, settings, ["kprpe", "absolute"], 1, CPU) == first[::-1]
    assert not trained
    more = run_experiment(tmp_path, digits, settings, ["absolute", "kprpe"], 2, CPU)
    assert trained == [1, 1]
    assert [(run.model, run.seed) for run in more] == [("absolute", 0), ("kprpe", 0), ("absolute", 1), ("kprpe", 1)]


def test_a_stop_loses_nothing_that_is_done(digits, settings, tmp_path, monkeypatch):
    real = experiment.train

    def interrupted(model, *arguments):
        if model.drawn:
            raise KeyboardInterrupt
        real(model, *arguments)

    monkeypatch.setattr(experiment, "train", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_experiment(tmp_path, digits, settings, ["absolute", "drawn", "table"], 1, CPU)
    stored = json.loads((tmp_path / "results.json").read_text())
    assert [run["model"] for run in stored["runs"]] == ["absolute"]
    monkeypatch.setattr(experiment, "train", real)
    runs = run_experiment(tmp_path, digits, settings, ["absolute", "drawn", "table"], 1, CPU)
    assert [run.model for run in runs] == ["absolute", "drawn", "table"]
    assert vars(runs[0]) == stored["runs"][0]


def test_record_of_other_settings_or_digits_is_left_alone(digits, settings, tmp_path):
    path = tmp_path / "results.json"
    Record(path, settings, digits).add(run_of())
    before = path.read_bytes()
    assert Record(path, settings, digits).find("absolute", 0) == run_of()
    other = ExperimentSettings(
        epochs=3, copies=2, batch_size=25, model=ModelSettings(patch=10, dim=16, depth=1, heads=2)
    )
    with pytest.raises(ValueError, match=r"of other settings: epochs 2 \(now 3\), model\.depth 2 \(now 1\); choose"):
        run_experiment(tmp_path, digits, other, ["absolute"], 1, CPU)
    digits.test_labels[0] = 7
    with pytest.raises(ValueError, match=r"of other settings: data\.fingerprint"):
        Record(path, settings, digits)
    assert path.read_bytes() == before


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"settings": {}, "runs": [{"model": "kprpe"}]}'])
def test_damaged_record(digits, settings, tmp_path, content):
    (tmp_path / "results.json").write_text(content)
    with pytest.raises(ValueError, match=r"results\.json: not a record of this experiment"):
        Record(tmp_path / "results.json", settings, digits)


@pytest.mark.parametrize(("models", "seeds"), [(["swin"], 1), (["table", "table"], 1), ([], 1), (["table"], 0)])
def test_nothing_to_run(digits, settings, tmp_path, models, seeds):
    with pytest.raises(ValueError, match="models must be some of absolute, drawn"):
        run_experiment(tmp_path / "out", digits, settings, models, seeds, CPU)
    assert not (tmp_path / "out").exists()


def test_weights_give_the_accuracy_again_and_the_encoding(digits, settings, tmp_path):
    (run,) = run_experiment(tmp_path, digits, settings, ["kprpe"], 1, CPU)
    path = tmp_path / "weights" / "kprpe-seed0.pt"
    model = build_model("kprpe", SMALL, 9)
    model.load_state_dict(load_checkpoint(path)["model"])
    frames = make_test_frames(digits, settings)
    assert (evaluate(model, frames["clean"], CPU), evaluate(model, frames["affine"], CPU)) == (run.clean, run.affine)
    rpe = find_keypoint_rpe(read_state(path), num_keypoints=5)
    assert (rpe.num_layers, rpe.num_heads) == (2, 2)
    assert rpe.weight.abs().max() > 0


def test_command_on_a_file(digits, tmp_path, capsys):
    np.savez(
        tmp_path / "bars.npz",
        x_train=digits.train_images,
        y_train=digits.train_labels,
        x_test=digits.test_images,
        y_test=digits.test_labels,
    )
    out = tmp_path / "out"
    command = ["--mnist", str(tmp_path / "bars.npz"), "--epochs", "1", "--seeds", "2", "--models", "absolute,kprpe"]
    command += ["--out", str(out), "--patch", "20", "--dim", "8", "--heads", "1", "--depth", "1", "--device", "cpu"]
    assert main([*command, "--pool", "class", "--no-absolute"]) == 0
    table = (out / "table.md").read_text()
    assert table in capsys.readouterr().out
    assert [line.split("|")[1].strip() for line in table.splitlines()[2:4]] == ["absolute PE", "KP-RPE"]
    for name in ("results.png", "samples.png"):
        assert cv2.imread(str(out / name)).std() > 1
    assert len(list((out / "weights").iterdir())) == 4
    assert list((out / "logs").glob("*.txt"))
    assert main(command) == 2
    assert "error: " in (error := capsys.readouterr().err)
    assert "model.pool class (now mean), model.absolute False (now True)" in error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--mnist", "nowhere.npz"], "nowhere.npz: no such file"),
        (["--epochs", "0"], "epochs must be >= 1"),
        (["--patch", "7"], "patch must divide the frame"),
        (["--seeds", "0"], "seeds >= 1"),
        (["--device", "abacus"], "--device must be auto, cpu or cuda"),
    ],
)
def test_command_errors_are_one_line(arguments, message, tmp_path, capsys):
    assert main([*arguments, "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_command_refuses_unknown_models(capsys):
    with pytest.raises(SystemExit):
        main(["--models", "absolute,swin"])
    assert "expected some of absolute,drawn,table,irpe,kprpe" in capsys.readouterr().err


@pytest.mark.slow
def test_every_model_learns_scikit_learns_digits(tmp_path, capsys):
    command = ["--seeds", "1", "--epochs", "15", "--patch", "10", "--device", "cpu", "--out", str(tmp_path)]
    assert main(command) == 0
    stored = json.loads((tmp_path / "results.json").read_text())
    assert {run["model"] for run in stored["runs"]} == set(MODELS)
    for run in stored["runs"]:
        assert run["clean"] > 40, run  # chance is 10 %
        assert 20 < run["affine"] < run["clean"] + 2, run  # unseen transforms make nothing easier
    capsys.readouterr()
    before = (tmp_path / "results.json").read_bytes()
    assert main(command) == 0
    assert (tmp_path / "results.json").read_bytes() == before
    assert (tmp_path / "table.md").read_text() in capsys.readouterr().out
