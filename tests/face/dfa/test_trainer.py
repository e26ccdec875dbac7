"""Runs of a tiny landmark network on a few synthetic photographs."""

import json

import numpy as np
import pytest
import yaml
from torch.testing import assert_close

from common.runtime.checkpoint import CheckpointError, load_checkpoint
from common.runtime.settings import ConfigError, build_settings, merge
from face.dfa import load_dfa, trainer
from face.dfa.settings import DFATrainSettings, load_dfa_train_settings
from face.dfa.train import main
from face.dfa.trainer import RunOptions, train
from face.synthesize import SynthesisSettings, synthesize


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photographs") / "faces"
    settings = SynthesisSettings(write="wider", photographs=5, val_photographs=2, photograph_size=320, seed=3)
    synthesize(settings, folder, workers=1)
    return folder / "wider"


@pytest.fixture
def content(photographs, tmp_path):
    """Two epochs; the smallest network whose anchors fit its images."""
    return {
        "name": "tiny",
        "model": {"settings": {"image_hw": [64, 64], "anchor_sizes": [[24, 32], [40, 48], [52, 60]]}},
        "data": {
            "images": str(photographs / "WIDER_train" / "images"),
            "labels": str(photographs / "train" / "label.txt"),
            "cache": str(tmp_path / "crops"),
            "min_side_px": 8,
            "num_workers": 0,
        },
        "optimizer": {"type": "AdamW", "lr": 2.0e-3},
        "schedule": {"epochs": 2, "warmup_epochs": 0.5},
        "trainer": {"batch_size": 6, "log_steps": 2, "save_epochs": 1, "keep_checkpoints": 0},
        "evaluation": {
            "every_epochs": 1,
            "num_workers": 0,
            "sets": [
                {
                    "name": "val",
                    "images": str(photographs / "WIDER_val" / "images"),
                    "labels": str(photographs / "val" / "label.txt"),
                    "min_side_px": 8,
                }
            ],
        },
    }


def run(content, folder, override=None, **options):
    settings = build_settings(merge(content, override or {}), DFATrainSettings)
    return train(settings, RunOptions(output=folder, **options))


def newest(folder, name="tiny"):
    return load_checkpoint(sorted((folder / name / "checkpoints").glob("*.pt"))[-1])


def test_a_run_writes_what_it_says(content, tmp_path):
    assert run(content, tmp_path) is None
    folder = tmp_path / "tiny"
    last = load_dfa(folder / "weights" / "last")
    assert_close(last.state_dict(), newest(tmp_path)["model"])
    assert (folder / "weights" / "best" / "model.safetensors").is_file()
    results = [json.loads(path.read_text()) for path in sorted((folder / "results").glob("*.json"))]
    assert len(results) == 2
    for result in results:
        figures = result["sets"]["val"]
        assert result["score"] == -figures["nme"] < 0
        assert {"nme", "nme_best_anchor", "failure_rate@10", "auc@10"} <= set(figures)
    assert newest(tmp_path)["best"] == max(result["score"] for result in results)
    log = next((folder / "logs").glob("*.txt")).read_text()
    assert "loss_aggregated_landmarks=" in log
    assert "crops of faces with landmarks" in log


def test_a_resumed_run_ends_as_one_that_was_not_stopped(content, tmp_path, monkeypatch):
    run(content, tmp_path / "whole")
    halves = tmp_path / "halves"
    with monkeypatch.context() as patch:
        real, steps = trainer._Trainer._step, newest(tmp_path / "whole")["iteration"] // 2

        def step(self, batches):
            if self._parts.iteration == steps:
                raise KeyboardInterrupt
            real(self, batches)

        patch.setattr(trainer._Trainer, "_step", step)
        with pytest.raises(KeyboardInterrupt):
            run(content, halves)
    run(content, halves, resume=True)
    one, other = newest(tmp_path / "whole"), newest(halves)
    assert one["iteration"] == other["iteration"]
    assert_close(one["model"], other["model"], rtol=0, atol=0)
    assert_close(one["optimizer"]["state"], other["optimizer"]["state"], rtol=0, atol=0)


def test_the_loss_falls(content, tmp_path):
    """From one batch seen again and again."""
    settings = build_settings(
        merge(content, {"schedule": {"epochs": 12, "warmup_epochs": 1}, "augmentation": {"flip_prob": 0.0}}),
        DFATrainSettings,
    )
    seen = []
    real = trainer._Trainer._compute

    class Watched(trainer._Trainer):
        def _compute(self, batch):
            loss, figures = real(self, batch)
            seen.append(float(loss.detach()))
            return loss, figures

    from face.training.loop import run_training

    run_training(Watched, settings, RunOptions(output=tmp_path))
    assert np.mean(seen[-4:]) < 0.7 * np.mean(seen[:4])


def test_other_annotations_are_another_run(content, photographs, tmp_path):
    run(content, tmp_path, {"schedule": {"epochs": 1}})
    other = {"data": {"min_side_px": 20, "cache": str(tmp_path / "other")}}
    with pytest.raises(CheckpointError, match=r"its data would come in another order:\n  crops: \d+ there, \d+ now"):
        run(content, tmp_path, other, resume=True)


def test_loss_that_is_not_finite_stops_with_the_batch_saved(content, tmp_path, monkeypatch):
    real = trainer._Trainer._compute

    def broken(self, batch):
        loss, figures = real(self, batch)
        return loss * float("nan"), figures

    monkeypatch.setattr(trainer._Trainer, "_compute", broken)
    with pytest.raises(FloatingPointError, match="2 steps in a row"):
        run(content, tmp_path, {"trainer": {"most_skipped_steps": 1}})
    saved = load_checkpoint(next((tmp_path / "tiny" / "broken").glob("*.pt")))
    assert saved["images"].shape == (6, 3, 64, 64)
    assert saved["landmarks"].shape == (6, 5, 2)
    assert all("crop" in name for name in saved["files"])


def test_without_an_aggregator(content, tmp_path):
    override = {"model": {"settings": {"aggregator": False}}, "schedule": {"epochs": 1, "warmup_epochs": 0}}
    assert run(content, tmp_path, override) is None
    figures = json.loads(next((tmp_path / "tiny" / "results").glob("*.json")).read_text())["sets"]["val"]
    assert figures["nme"] == figures["nme_best_anchor"]


def test_bad_input_is_named_before_anything_is_written(content, tmp_path, capsys):
    path = tmp_path / "run.yaml"

    def fails(override, message):
        path.write_text(yaml.safe_dump(merge(content, override)))
        assert main(["--cfgs", str(path), "--output", str(tmp_path / "out")]) == 2
        assert message in capsys.readouterr().err
        assert not (tmp_path / "out" / "tiny" / "checkpoints").exists()

    fails({"data": {"labels": "none.txt"}}, "none.txt")
    fails(
        {"evaluation": {"sets": [{"name": "val", "images": "nowhere", "labels": "none.txt"}]}}, "evaluation set val: "
    )
    fails({"model": {"name": "dfa_vgg"}}, "dfa_mobilenet, dfa_resnet50")
    fails({"data": {"paddin": 0.1}}, "data.paddin: unknown key; did you mean 'padding'?")
    fails({"trainer": {"batch_size": 1000}}, "batch_size 1000 is more than the")


def test_settings_that_contradict_each_other():
    with pytest.raises(ConfigError, match="padding must be >= 0, got -1"):
        build_settings(
            {"name": "x", "data": {"images": "a", "labels": "b", "cache": "c", "padding": -1.0}}, DFATrainSettings
        )


@pytest.mark.parametrize("name", ["face/dfa_mobilenet.yaml", "demo/face/dfa.yaml"])
def test_shipped_configs(name, request):
    settings = load_dfa_train_settings(request.config.rootpath / "configs" / name)
    assert settings.model.name == "dfa_mobilenet"
    assert settings.data.padding == 0.1
    if name.startswith("face"):  # what the paper says
        assert (settings.trainer.batch_size, settings.schedule.epochs) == (320, 750)


def test_weights_to_start_from(content, tmp_path):
    run(content, tmp_path, {"schedule": {"epochs": 1}})
    weights = tmp_path / "tiny" / "weights" / "last"
    again = {"name": "again", "model": {"start_from": str(weights)}, "optimizer": {"lr": 1e-12}}
    run(content, tmp_path, {**again, "schedule": {"epochs": 1}})
    one, other = load_dfa(weights), load_dfa(tmp_path / "again" / "weights" / "last")
    for (key, value), new in zip(one.named_parameters(), other.parameters(), strict=True):
        assert_close(new, value, msg=key, atol=1e-6, rtol=0)
