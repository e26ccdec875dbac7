"""Whole runs of a tiny model: files, resuming bit for bit, signals and kills, tests, and refusals before training."""

import json
import multiprocessing
import os
import random
import re
import shutil
import signal
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.testing import assert_close

from common.runtime import stop
from common.runtime.checkpoint import CheckpointError, latest_checkpoint, load_checkpoint, save_checkpoint
from common.runtime.distribution import make_accelerator
from common.runtime.settings import to_mapping
from plugin.__main__ import main
from plugin.conditions import TestCondition
from plugin.evaluation import Protocol
from plugin.runtime import runner
from plugin.runtime.runner import RunOptions, train
from plugin.runtime.settings import load_gait_settings

METRICS = {"Rank-1", "Rank-5", "Rank-10", "mAP", "mINP"}


def options(config, name="output", **changes):
    return RunOptions(output=config.folder / name, **changes)


def folder(config, name="output", save_name="tiny"):
    return config.folder / name / "tiny" / "SwinGait2D" / save_name


def checkpoint(config, iteration, name="output", save_name="tiny"):
    return folder(config, name, save_name) / "checkpoints" / f"{save_name}-{iteration:05d}.pt"


def until(iteration, **more):
    return {"trainer_cfg": {"total_iter": iteration, **more}}


def assert_same(first, second):
    """Bit for bit, through dicts and lists."""
    assert type(first) is type(second)
    if isinstance(first, dict):
        assert list(first) == list(second)
        for key in first:
            assert_same(first[key], second[key])
    elif isinstance(first, list):
        assert len(first) == len(second)
        for one, other in zip(first, second, strict=True):
            assert_same(one, other)
    elif isinstance(first, torch.Tensor):
        assert torch.equal(first, second)
    else:
        assert first == second


def events(config, **place):
    accumulator = EventAccumulator(str(folder(config, **place) / "summary"))
    accumulator.Reload()
    return accumulator


# --- training and its files ---


def test_training_writes_opengaits_files(config):
    settings = config.settings(until(4, save_iter=2))
    assert train(settings, options(config, log_to_file=True)) is None
    saved = sorted(path.name for path in (folder(config) / "checkpoints").iterdir())
    assert saved == ["tiny-00002.pt", "tiny-00004.pt"]
    content = torch.load(checkpoint(config, 4), weights_only=True)
    assert {"model", "optimizer", "scheduler", "iteration"} <= set(content)
    assert content["iteration"] == 4
    assert content["scheduler"]["last_epoch"] == 4
    assert not any(name.startswith("module.") for name in content["model"])
    assert content["model"]["Backbone.transformer.layers.0.position_bias.kprpe.weight"].any()  # it has learnt
    logs = list((folder(config) / "logs").iterdir())
    assert len(logs) == 1
    text = logs[0].read_text()
    for expected in (
        "Training set: 15 sequences of 5 subjects",
        "Iteration 00002",
        "Iteration 00004",
        "Parameters Count",
    ):
        assert expected in text
    assert "Iteration 00003" not in text


def test_tensorboard_has_the_scalars(config):
    train(config.settings(until(4)), options(config))
    log = events(config)
    names = {"loss", "learning_rate", "triplet/loss", "triplet/hard_loss", "triplet/loss_num", "triplet/mean_dist"}
    assert set(log.Tags()["scalars"]) == names | {"softmax/loss", "softmax/accuracy"}
    assert [point.step for point in log.Scalars("loss")] == [2, 4]
    assert log.Tags()["images"] == ["sils"]
    total = [point.value for point in log.Scalars("loss")]
    parts = [
        sum(v) for v in zip(*([p.value for p in log.Scalars(n)] for n in ("triplet/loss", "softmax/loss")), strict=True)
    ]
    assert total == pytest.approx(parts, rel=1e-5)


@pytest.mark.parametrize("channels", [[3, 8], [8, 8], [16, 16]])
def test_any_width_trains(config, channels):
    """Narrow maps in channels-last order crash oneDNN."""
    train(config.settings({**until(3), "model_cfg": {"backbone_cfg": {"channels": channels}}}), options(config))
    assert checkpoint(config, 3).exists()


def test_training_learns(config):
    changes = {"model_cfg": {"backbone_cfg": {"drop_path_rate": 0.0}}, "scheduler_cfg": {"T_0": 100}}
    settings = config.settings({**until(30, log_iter=10), **changes, "optimizer_cfg": {"lr": 0.01}})
    train(settings, options(config))
    losses = [point.value for point in events(config).Scalars("softmax/loss")]
    assert losses[-1] < 0.8 * losses[0]


def test_sgd_and_multistep(config):
    changes = {
        "optimizer_cfg": {"solver": "SGD", "lr": 0.1, "lr_scale_cnn": 0.5},
        "scheduler_cfg": {"scheduler": "MultiStepLR", "milestones": [2, 3], "gamma": 0.1},
    }
    mapping = config.mapping(until(4))
    mapping["optimizer_cfg"], mapping["scheduler_cfg"] = changes["optimizer_cfg"], changes["scheduler_cfg"]
    path = config.folder / "sgd.yaml"
    path.write_text(yaml.safe_dump(mapping))
    assert main(["--cfgs", str(path), "--output", str(config.folder / "output")]) == 0
    content = torch.load(checkpoint(config, 4), weights_only=True)
    rates = [group["lr"] for group in content["optimizer"]["param_groups"]]
    assert rates == pytest.approx([0.001, 0.001, *[0.0005] * 5])
    assert [group["momentum"] for group in content["optimizer"]["param_groups"]] == [0.9] * 7
    assert (
        main(["--cfgs", str(path), "--output", str(config.folder / "output"), "--resume", "trainer_cfg.total_iter=5"])
        == 0
    )
    assert checkpoint(config, 5).exists()


def test_learning_rate_follows_warm_restarts(config):
    mapping = until(6, log_iter=1)
    settings = config.settings(
        {**mapping, "scheduler_cfg": {"T_0": 2, "T_mult": 2, "eta_min": 0.0}, "optimizer_cfg": {"lr": 0.01}}
    )
    train(settings, options(config))
    rates = [point.value for point in events(config).Scalars("learning_rate")]
    # After iteration i: place i % 2 of the first period, then (i - 2) of 4.
    expected = [0.005 * (1 + np.cos(np.pi * place)) for place in (1 / 2, 0, 1 / 4, 2 / 4, 3 / 4, 0)]
    assert rates == pytest.approx(expected, rel=1e-5)


# --- going on ---


def test_resumed_run_equals_a_straight_one_bit_for_bit(config):
    train(config.settings(until(6)), options(config, "straight"))
    train(config.settings(until(3)), options(config, "broken"))
    settings = config.settings({**until(6), "data_cfg": {"num_workers": 2}})
    train(settings, options(config, "broken", resume=True))
    straight, broken = (torch.load(checkpoint(config, 6, name), weights_only=True) for name in ("straight", "broken"))
    assert_same(broken, straight)


def test_seed_decides(config):
    finals = []
    for number, seed in enumerate((1, 1, 2)):
        train(config.settings(until(2)), options(config, str(number), seed=seed))
        finals.append(torch.load(checkpoint(config, 2, str(number)), weights_only=True)["model"])
    assert_same(finals[0], finals[1])
    assert not torch.equal(finals[0]["FCs.fc_bin"], finals[2]["FCs.fc_bin"])


def test_restore_by_number_goes_on_from_there(config):
    train(config.settings(until(4, save_iter=2)), options(config))
    before = torch.load(checkpoint(config, 4), weights_only=True)
    checkpoint(config, 4).unlink()
    train(config.settings(until(4)), options(config, iteration=2))
    assert_same(torch.load(checkpoint(config, 4), weights_only=True), before)
    checkpoint(config, 4).unlink()
    train(config.settings(until(4, restore_hint=2)), options(config))
    assert_same(torch.load(checkpoint(config, 4), weights_only=True), before)


def test_restore_by_path_starts_a_new_run(config):
    train(config.settings(until(3)), options(config))
    path = str(checkpoint(config, 3))
    settings = config.settings(until(2, restore_hint=path, scheduler_reset=True))
    train(settings, options(config, "second"))
    content = torch.load(checkpoint(config, 2, "second"), weights_only=True)
    assert content["iteration"] == 2
    assert content["scheduler"]["last_epoch"] == 2  # afresh
    steps = {int(state["step"]) for state in content["optimizer"]["state"].values()}
    assert steps == {5}  # not afresh


def test_restore_by_path_from_the_runs_own_folder(config):
    """The earlier run is set aside, but not before its checkpoint is read."""
    train(config.settings(until(3)), options(config))
    settings = config.settings(until(2, restore_hint=str(checkpoint(config, 3)), optimizer_reset=True))
    train(settings, options(config))
    assert [path.name for path in (folder(config) / "checkpoints").iterdir()] == ["tiny-00002.pt"]


def test_resume_without_checkpoint_starts_a_run(config):
    train(config.settings(until(1)), options(config, resume=True))
    assert checkpoint(config, 1).exists()


def test_finished_run_is_left_alone(config):
    train(config.settings(until(2)), options(config))
    before = checkpoint(config, 2).stat().st_mtime_ns
    assert train(config.settings(until(2)), options(config, resume=True)) is None
    assert checkpoint(config, 2).stat().st_mtime_ns == before


def test_earlier_run_is_set_aside(config):
    for number in range(3):
        train(config.settings(until(number + 1)), options(config))
    assert [path.name for path in (folder(config) / "checkpoints").iterdir()] == ["tiny-00003.pt"]
    aside = [path for path in folder(config).parent.iterdir() if path.name.startswith("tiny.")]
    kept = sorted(path.name for each in aside for path in (each / "checkpoints").iterdir())
    assert kept == ["tiny-00001.pt", "tiny-00002.pt"]
    assert all((each / "summary").is_dir() for each in aside)


def test_later_checkpoints_are_set_aside_when_a_run_goes_on_from_before_them(config):
    train(config.settings(until(4, save_iter=1)), options(config))
    train(config.settings(until(3, save_iter=5)), options(config, iteration=2))
    assert sorted(path.name for path in (folder(config) / "checkpoints").iterdir()) == [
        f"tiny-0000{number}.pt" for number in (1, 2, 3)
    ]
    (aside,) = [path for path in folder(config).parent.iterdir() if path.name.startswith("tiny.")]
    assert sorted(path.name for path in (aside / "checkpoints").iterdir()) == ["tiny-00003.pt", "tiny-00004.pt"]


def test_refused_run_leaves_an_earlier_one_in_place(config):
    train(config.settings(until(1)), options(config))
    for changes in (
        {"trainer_cfg": {"sampler": {"batch_size": [9, 2]}}},
        {"trainer_cfg": {"restore_hint": "nowhere.pt"}},
        {"optimizer_cfg": {"weight_decay": -1.0}},
    ):
        with pytest.raises((ValueError, FileNotFoundError)):
            train(config.settings(changes), options(config))
        assert checkpoint(config, 1).exists()


def test_points_of_a_dropped_stretch_do_not_stay_in_tensorboard(config):
    train(config.settings(until(4, save_iter=2, log_iter=1)), options(config))
    train(config.settings(until(3, log_iter=1)), options(config, iteration=2))
    assert [point.step for point in events(config).Scalars("loss")] == [1, 2, 3]


# --- checkpoints that do not fit ---


def test_baseline_into_kprpe_reports_what_is_not_restored(config, capsys):
    train(config.settings(until(1), base="swingait2d"), options(config))
    hint = {"restore_hint": str(checkpoint(config, 1)), "restore_ckpt_strict": False, "save_name": "keyed"}
    with pytest.raises(ValueError, match=r"optimizer does not fit.*trainer_cfg\.optimizer_reset"):
        train(config.settings(until(1, **hint)), options(config))
    capsys.readouterr()
    train(config.settings(until(1, **hint, optimizer_reset=True)), options(config))
    out = capsys.readouterr().out
    assert re.search(r"restored \(\d+\):\n    FCs\.fc_bin\n", out)
    assert "missing (" in out
    assert "Backbone.transformer.layers.0.position_bias.kprpe.weight" in out
    assert "unexpected (" in out
    assert "relative_position_bias_table" in out
    assert "The optimizer's state is not restored" in out


def test_training_starts_from_a_deepgaitv2_checkpoint(config, capsys):
    """By restore_hint, as OpenGait's SwinGait does: convolutions are taken, later stages and other heads listed."""
    model = runner.MODELS["SwinGait2D"](to_mapping(config.settings()), True, SimpleNamespace(log_info=print))
    convolutions = {name: value for name, value in model.state_dict().items() if name.startswith("Backbone.layer")}
    old_names = {name: re.sub(r"^Backbone\.(layer\d)\.", r"\1.forward_block.", name) for name in convolutions}
    state = {old_names[name]: value + 1 for name, value in convolutions.items()}
    state |= {"layer3.0.conv1.weight": torch.zeros(4, 4, 3, 3), "FCs.fc_bin": torch.zeros(16, 512, 256)}
    path = config.folder / "DeepGaitV2-60000.pt"
    save_checkpoint(path, {"model": state, "optimizer": {}, "scheduler": {}, "iteration": 60000})
    hint = {"restore_hint": str(path), "restore_ckpt_strict": False, "optimizer_reset": True, "scheduler_reset": True}
    capsys.readouterr()
    train(config.settings(until(1, **hint, fix_BN=True) | {"optimizer_cfg": {"lr": 1e-8}}), options(config))
    out = capsys.readouterr().out
    assert f"restored {len(convolutions)} entries" in out
    for listed in (
        "Backbone.layer1.0.conv1.weight",
        "layer3.0.conv1.weight",
        "FCs.fc_bin: expected [7, 16, 8], found [",
    ):
        assert listed in out
    saved = load_checkpoint(checkpoint(config, 1))
    assert saved["iteration"] == 1
    for name, value in convolutions.items():
        assert_close(saved["model"][name], value + 1, rtol=0, atol=1e-5)


def test_strict_restore_of_another_model_is_refused(config):
    train(config.settings(until(1), base="swingait2d"), options(config))
    hint = {"restore_hint": str(checkpoint(config, 1)), "save_name": "keyed"}
    with pytest.raises(CheckpointError, match=r"does not fit the model; nothing was restored[\s\S]*kprpe\.weight"):
        train(config.settings(until(1, **hint)), options(config))
    assert not (folder(config, save_name="keyed") / "checkpoints").exists()


def test_checkpoint_of_another_shape_is_refused(config):
    train(config.settings(until(1)), options(config))
    more = {"model_cfg": {"SeparateBNNecks": {"class_num": 9}}}
    with pytest.raises(CheckpointError, match=r"BNNecks\.fc_bin: expected \[7, 8, 9\], found \[7, 8, 5\]"):
        train(config.settings({**until(2), **more}), options(config, resume=True))
    # The rest fits, but the optimizer's averages for that tensor do not.
    with pytest.raises(ValueError, match=r"exp_avg is of shape \[7, 8, 5\] for \[7, 8, 9\].*optimizer_reset"):
        train(config.settings({**until(2, restore_ckpt_strict=False), **more}), options(config, resume=True))
    changes = until(2, restore_ckpt_strict=False, optimizer_reset=True)
    assert train(config.settings({**changes, **more}), options(config, resume=True)) is None


def test_state_of_another_optimizer_or_scheduler_is_refused(config):
    train(config.settings(until(1)), options(config))
    mapping = config.mapping(until(2))
    for section, content, expected in (
        ("optimizer_cfg", {"solver": "SGD", "lr": 0.1}, "lacks momentum of SGD.*optimizer_reset"),
        (
            "scheduler_cfg",
            {"scheduler": "MultiStepLR", "milestones": [9]},
            "milestones.*of MultiStepLR.*scheduler_reset",
        ),
    ):
        path = config.folder / "other.yaml"
        path.write_text(yaml.safe_dump({**mapping, section: content}))
        with pytest.raises(ValueError, match=expected):
            train(load_gait_settings(path), options(config, resume=True))


@pytest.mark.parametrize("broken", [{"optimizer": [1]}, {"scheduler": 3}, {"optimizer": {"state": 1}}])
def test_state_that_is_none_is_refused(config, broken):
    train(config.settings(until(1)), options(config))
    path = config.folder / "broken.pt"
    torch.save({**torch.load(checkpoint(config, 1), weights_only=True), **broken}, path)
    with pytest.raises(ValueError, match=f"the checkpoint's {next(iter(broken))} does not fit"):
        train(config.settings(until(2, restore_hint=str(path))), options(config))


def test_folder_that_takes_no_checkpoint_is_found_before_training(config):
    folder(config).mkdir(parents=True)
    (folder(config) / "checkpoints").touch()
    with pytest.raises(ValueError, match=r"--output: checkpoints cannot be written to .*checkpoints: File exists"):
        train(config.settings(until(1)), options(config))


def test_log_file_tells_settings_seed_and_checkpoints(config, capsys):
    train(config.settings(until(1)), options(config, log_to_file=True, seed=7))
    (log,) = (folder(config) / "logs").iterdir()
    text = log.read_text()
    assert "Seed 7, settings:" in text
    assert "total_iter: 1" in text
    assert f"Saved {checkpoint(config, 1)}" in text
    assert "total_iter: 1" not in capsys.readouterr().out


def test_missing_checkpoint_lists_what_exists(config):
    train(config.settings(until(2, save_iter=1)), options(config))
    for run in (train, runner.test):
        with pytest.raises(
            FileNotFoundError, match=r"tiny-00009\.pt: no such checkpoint; beside it: tiny-00001\.pt, tiny-00002"
        ):
            run(config.settings(), options(config, iteration=9))


def test_class_num_too_small_is_refused(config):
    with pytest.raises(ValueError, match=r"class_num is 4, the training set has 5 subjects"):
        train(config.settings({"model_cfg": {"SeparateBNNecks": {"class_num": 4}}}), options(config))


# --- what goes wrong on the way ---


def test_infinite_loss_stops_the_run_and_keeps_checkpoints(config, monkeypatch):
    train(config.settings(until(1)), options(config))
    settings = config.settings(until(4, save_iter=1))
    real = runner.LossAggregator.forward
    monkeypatch.setattr(runner.LossAggregator, "forward", lambda *args: (real(*args)[0] * float("nan"), {}))
    with pytest.raises(FloatingPointError, match="loss at iteration 2 is nan"):
        train(settings, options(config, resume=True))
    assert [path.name for path in (folder(config) / "checkpoints").iterdir()] == ["tiny-00001.pt"]


def test_broken_weights_are_not_saved(config, monkeypatch):
    """On a GPU the loss is not read at every iteration."""
    monkeypatch.setattr(runner._Trainer, "_report", lambda *args: None)
    real = runner.LossAggregator.forward
    monkeypatch.setattr(runner.LossAggregator, "forward", lambda *args: (real(*args)[0] * float("inf"), {}))
    with pytest.raises(FloatingPointError, match="parameters hold NaN or infinity at iteration 2"):
        train(config.settings(until(4, save_iter=2)), options(config))
    assert not any(folder(config).glob("checkpoints/*"))


def test_precision_of_an_earlier_run_in_the_same_process_does_not_matter():
    AcceleratorState._reset_state()
    Accelerator(mixed_precision="bf16")
    try:
        assert make_accelerator("fp32").mixed_precision == "no"
    finally:
        AcceleratorState._reset_state()


def test_stop_signals_save_a_checkpoint(config, start_program):
    """To the whole process group, loader processes included, as a terminal and a batch system send it."""
    path = config.file({**until(100_000, log_iter=1), "data_cfg": {"num_workers": 2}})
    numbers = (signal.SIGTERM, signal.SIGINT)
    command = (sys.executable, "-m", "plugin", "--cfgs", path, "--output")
    programs = [start_program(*command, config.folder / str(int(number))) for number in numbers]
    for program, number in zip(programs, numbers, strict=True):
        program.wait_for_line("Iteration 00003")
        program.send(number, to_group=True)
    for program, number in zip(programs, numbers, strict=True):
        out, err = program.finish()
        assert program.returncode == 128 + number, err
        assert "Traceback" not in err
        saved = latest_checkpoint(folder(config, str(int(number))) / "checkpoints", "tiny")
        assert saved is not None
        content = load_checkpoint(saved)
        assert content["iteration"] >= 3
        assert "--resume goes on from there" in out
        total = content["iteration"] + 1
        train(config.settings(until(total)), options(config, str(int(number)), resume=True))
        assert checkpoint(config, total, str(int(number))).exists()


def test_second_stop_signal_counts_only_after_a_while(monkeypatch):
    """torchrun and batch systems may send the same signal twice; an impatient user waits a little."""
    clock = [100.0]
    monkeypatch.setattr(stop.time, "monotonic", lambda: clock[0])
    with stop.StopSignals() as signals:
        assert signals.received is None
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGTERM)
        assert signals.received == signal.SIGTERM
        clock[0] += 5
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_kills_leave_loadable_checkpoints(config):
    """SIGKILL at random moments of a run that saves at every iteration."""
    settings = config.settings(until(100_000, save_iter=1))
    moments = random.Random(0)
    # A process forked from this one would share the lock of tqdm with it, and leave it locked forever when killed.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([runner.__name__])
    reached = 0
    for _ in range(4):
        process = context.Process(target=train, args=(settings, options(config, resume=True)))
        process.start()
        waited = time.monotonic()
        while (latest_checkpoint(folder(config) / "checkpoints", "tiny") is None) and time.monotonic() < waited + 30:
            time.sleep(0.05)
        time.sleep(moments.uniform(0.3, 0.6))
        process.kill()
        process.join(30)
        assert process.exitcode == -signal.SIGKILL
        for path in (folder(config) / "checkpoints").glob("*.pt"):
            assert load_checkpoint(path)["iteration"] == int(path.stem.rsplit("-", 1)[1])
        newest = latest_checkpoint(folder(config) / "checkpoints", "tiny")
        assert newest is not None
        assert int(newest.stem[-5:]) >= reached
        reached = int(newest.stem[-5:])
    train(config.settings(until(reached + 1)), options(config, resume=True))
    assert checkpoint(config, reached + 1).exists()


# --- testing ---


@pytest.fixture
def trained(config):
    train(config.settings(until(4)), options(config))
    return config


def test_test_phase_writes_its_figures(trained):
    result = runner.test(trained.settings(), options(trained))
    content = json.loads(result.path.read_text())
    assert result.path == folder(trained) / "results" / "tiny-00004-clean.json"
    assert content["checkpoint"] == str(checkpoint(trained, 4))
    assert (content["iteration"], content["condition"]) == (4, "clean")
    assert set(content["metrics"]) == METRICS
    for name, value in content["metrics"].items():
        assert result.metrics[f"scalar/test_accuracy/{name}"] == pytest.approx(value, abs=1e-4)
        assert 0 <= value <= 100
    assert content["cmc"][0] == content["metrics"]["Rank-1"]
    assert len(content["cmc"]) == 6  # as many as the gallery
    assert content["cmc"] == sorted(content["cmc"])
    assert content["cmc"][-1] == 100


def embeddings_of(config, monkeypatch, **changes):
    """What is evaluated, by the sequence's name."""
    seen = {}
    real = Protocol.evaluate

    def spy(self, embeddings, labels, types, views):
        seen.update(zip(["-".join(x) for x in zip(labels, types, views, strict=True)], embeddings, strict=True))
        return real(self, embeddings, labels, types, views)

    hard = TestCondition(**{name: changes.pop(name) for name in ("misalign", "joint_loss") if name in changes})
    with monkeypatch.context() as patched:
        patched.setattr(Protocol, "evaluate", spy)
        result = runner.test(config.settings(changes), options(config, condition=hard))
    return seen, result


def test_batch_size_and_workers_do_not_change_the_embeddings(trained, monkeypatch):
    first, _ = embeddings_of(trained, monkeypatch)
    assert len(first) == 9
    other = {"evaluator_cfg": {"sampler": {"batch_size": 1}}, "data_cfg": {"num_workers": 2}}
    second, _ = embeddings_of(trained, monkeypatch, **other)
    for name in first:
        assert_close(second[name], first[name], rtol=1e-4, atol=1e-5)


def test_misaligned_condition_differs_and_is_deterministic(trained, monkeypatch):
    clean, _ = embeddings_of(trained, monkeypatch)
    moved, result = embeddings_of(trained, monkeypatch, misalign=0.2)
    again, _ = embeddings_of(trained, monkeypatch, misalign=0.2, data_cfg={"num_workers": 2})
    assert result.path.name == "tiny-00004-misaligned-0.2.json"
    assert json.loads(result.path.read_text())["condition"] == "misaligned-0.2"
    for name in clean:
        assert np.array_equal(moved[name], again[name])
        assert not np.allclose(moved[name], clean[name], atol=1e-3)


def test_a_test_without_poses(trained, monkeypatch):
    """Every joint is missing: the model runs, says something else, and it does not matter how crops move the joints."""
    with_poses, _ = embeddings_of(trained, monkeypatch)
    without, result = embeddings_of(trained, monkeypatch, joint_loss=1.0)
    assert result.path.name == "tiny-00004-joint-loss-1.json"
    for name in with_poses:
        assert np.isfinite(without[name]).all()
        assert not np.allclose(without[name], with_poses[name], rtol=0, atol=1e-6)
    baseline = trained.settings(base="swingait2d")
    train(baseline, options(trained, "baseline"))
    plain = runner.test(baseline, options(trained, "baseline")).metrics
    hard = options(trained, "baseline", condition=TestCondition(joint_loss=1.0))
    assert runner.test(baseline, hard).metrics == plain


def test_another_protocol(config, own_data):
    """OUMVLP's: metrics by its own names, a table by view, no curve."""
    config.data = own_data
    for folder in own_data.root.iterdir():
        old = sorted(folder.glob("*/*"))
        for sequence, new in zip(old, ("00/000", "01/000", "01/030"), strict=True):
            (folder / new).parent.mkdir(exist_ok=True)
            sequence.rename(folder / new)
        for kind in {sequence.parent for sequence in old}:
            kind.rmdir()
        shutil.copytree(folder / "01" / "030", folder / "00" / "030")
    changes = {
        "data_cfg": {"test_dataset_name": "OUMVLP"},
        "evaluator_cfg": {"eval_func": "evaluate_indoor_dataset"},
        "trainer_cfg": {"total_iter": 1},
    }
    settings = config.settings(changes)
    train(settings, options(config))
    result = runner.test(settings, options(config, iteration=1))
    assert result.details is None
    assert set(result.metrics) == {"scalar/test_accuracy/NM@R1"}
    # 000 against 030 and back; the copied sequences are each other's nearest.
    assert 50 <= result.metrics["scalar/test_accuracy/NM@R1"] <= 100
    content = json.loads(result.path.read_text())
    assert "cmc" not in content
    assert set(content["metrics"]) == {"NM@R1"}

    wrong = config.settings(changes | {"data_cfg": {"test_dataset_name": "SUSTech1K"}})
    with pytest.raises(ValueError, match="unknown sequence type"):
        runner.test(wrong, options(config, iteration=1))


def test_test_phase_finds_the_newest_checkpoint(trained):
    train(trained.settings(until(5)), options(trained, resume=True))
    assert runner.test(trained.settings(), options(trained, resume=True)).path.name == "tiny-00005-clean.json"
    assert runner.test(trained.settings(), options(trained, iteration=5)).path.name == "tiny-00005-clean.json"
    hint = {"evaluator_cfg": {"restore_hint": str(checkpoint(trained, 4))}}
    assert runner.test(trained.settings(hint), options(trained, "elsewhere")).path.name == "tiny-00004-clean.json"


def test_testing_needs_a_checkpoint(config):
    with pytest.raises(ValueError, match="restore_hint is 0: testing needs a checkpoint"):
        runner.test(config.settings({"evaluator_cfg": {"restore_hint": 0}}), options(config))


def test_with_test_tests_at_every_checkpoint_and_changes_nothing(config):
    train(config.settings(until(4, save_iter=2)), options(config, "plain"))
    train(config.settings(until(4, save_iter=2, with_test=True)), options(config, "tested"))
    log = events(config, name="tested")
    for name in METRICS:
        assert [point.step for point in log.Scalars(f"test_accuracy/{name}")] == [2, 4]
    plain, tested = (torch.load(checkpoint(config, 4, name), weights_only=True) for name in ("plain", "tested"))
    assert_same(tested, plain)
    result = runner.test(config.settings(), options(config, "tested"))
    for name in METRICS:
        point = log.Scalars(f"test_accuracy/{name}")[-1]
        assert point.value == pytest.approx(result.metrics[f"scalar/test_accuracy/{name}"], abs=1e-3)


def test_with_test_looks_at_the_test_set_before_training(config, own_data):
    config.data = own_data
    own_data.silhouettes("0007").write_bytes(b"")
    with pytest.raises(ValueError, match="empty file, expected a pickled NumPy array"):
        train(config.settings(until(1, with_test=True)), options(config))
    assert not folder(config).exists()


def test_fixed_batch_norm_keeps_its_statistics(config):
    train(config.settings(until(2, fix_BN=True, with_test=True, save_iter=1)), options(config))
    model = torch.load(checkpoint(config, 2), weights_only=True)["model"]
    for name, value in model.items():
        if name.endswith("running_mean"):
            assert not value.any(), name
        if name.endswith("num_batches_tracked"):
            assert value == 0
