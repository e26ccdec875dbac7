"""A run does what its settings say, leaves what it promises, and goes on as if it had never stopped."""

import json
import shutil
import signal

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.testing import assert_close

from common.runtime.checkpoint import CheckpointError, load_checkpoint
from common.runtime.run_folder import held_folder
from face.models import load_pretrained
from face.training import trainer
from face.training.trainer import RunOptions, train


def options(config, name="output", **settings):
    return RunOptions(output=config.folder / name, **settings)


def final(config, name="output"):
    """Everything that a run's last checkpoint holds, shares of the classes too."""
    folder = config.folder / name / "tiny" / "checkpoints"
    path = sorted(path for path in folder.glob("tiny-?????.pt"))[-1]
    content = load_checkpoint(path)
    content["shares"] = [load_checkpoint(folder / share) for share in content.pop("class_shares")]
    return content


def assert_same_run(one, two, **tolerance):
    assert_close(two["model"], one["model"], **tolerance)
    assert_close(two["optimizer"]["state"], one["optimizer"]["state"], **tolerance)
    assert_close(
        [share["weight"] for share in two["shares"]], [share["weight"] for share in one["shares"]], **tolerance
    )
    assert [share["margin"] for share in one["shares"]] == [share["margin"] for share in two["shares"]]
    assert (one["iteration"], one["best"]) == (two["iteration"], two["best"])


def scalars(config, name="output"):
    accumulator = EventAccumulator(str(config.folder / name / "tiny" / "summary"))
    accumulator.Reload()
    tags = accumulator.Tags()
    return {tag: [(p.step, p.value) for p in accumulator.Scalars(tag)] for tag in tags["scalars"]}, tags["images"]


def test_a_run_learns_and_leaves_its_files(config):
    easy = {"randaug_ops": 0, "cutout_prob": 0.0, "blur_prob": 0.0, "scale_range": [1.0, 1.0], "rotation_prob": 0.0}
    longer = config.settings({"schedule": {"epochs": 6}, "trainer": {"log_steps": 6}, "augmentation": easy})
    assert train(longer, options(config)) is None
    folder = config.folder / "output" / "tiny"

    points, pictures = scalars(config)
    losses = [value for _, value in points["loss"]]
    assert losses[-1] < 0.7 * losses[0]
    assert [step for step, _ in points["loss"]] == [6, 12, 18, 24, 30, 36]
    expected = {
        "loss", "embedding_norm", "gradient_norm", "learning_rate", "epoch", "images_per_second", "skipped_steps",
        "norm_mean", "norm_std", "test_pairs/accuracy", "test/score",
    }  # fmt: skip
    assert expected <= set(points)
    assert pictures == ["batch"]
    assert points["skipped_steps"][-1] == (36, 0.0)

    results = [json.loads(path.read_text()) for path in sorted((folder / "results").iterdir())]
    assert [result["step"] for result in results] == [6, 12, 18, 24, 30, 36]
    scores = [result["sets"]["pairs"]["accuracy"] for result in results]
    assert [result["score"] for result in results] == scores
    assert final(config)["best"] == max(scores)
    log = next((folder / "logs").iterdir()).read_text()
    assert "48 images of 6 identities" in log
    assert "name: tiny" in (folder / "settings.yaml").read_text()

    last = load_pretrained(folder / "weights" / "last")
    assert_close(last.state_dict(), final(config)["model"], rtol=0, atol=0)
    best = load_pretrained(folder / "weights" / "best")
    step = results[scores.index(max(scores))]["step"]
    assert_close(best.state_dict(), load_checkpoint(folder / "checkpoints" / f"tiny-{step:05d}.pt")["model"])


def test_a_resumed_run_is_the_run_that_was_not_stopped(config):
    settings = config.settings({"data": {"repeat_probability": 0.5}, "loss": {"sampling_rate": 0.5}})
    train(settings, options(config))
    own = config.folder / "output" / "tiny" / "checkpoints"
    for step in (3, 6):  # within an epoch, and between two
        other = config.folder / f"from-{step}" / "tiny" / "checkpoints"
        other.mkdir(parents=True)
        for path in own.glob(f"tiny-{step:05d}*.pt"):
            shutil.copy(path, other)
        assert train(settings, options(config, f"from-{step}", resume=True)) is None
        assert_same_run(final(config), final(config, f"from-{step}"), rtol=0, atol=0)


def test_a_run_that_a_signal_stopped_goes_on_where_it_was(config, monkeypatch):
    train(config.settings(), options(config, "whole"))
    real = trainer._Trainer._step

    def stop_after_four(self, batches):
        real(self, batches)
        if self._parts.iteration == 4:
            signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(trainer._Trainer, "_step", stop_after_four)
        assert train(config.settings(), options(config, "stopped")) == signal.SIGTERM
    assert final(config, "stopped")["iteration"] == 4
    assert train(config.settings(), options(config, "stopped", resume=True)) is None
    assert_same_run(final(config, "whole"), final(config, "stopped"), rtol=0, atol=0)


def test_loader_processes_change_nothing(config):
    train(config.settings(), options(config, "alone"))
    train(config.settings({"data": {"num_workers": 2}}), options(config, "helped"))
    assert_same_run(final(config, "alone"), final(config, "helped"), rtol=0, atol=0)


def test_seeds_differ(config):
    train(config.settings(), options(config, "zero"))
    train(config.settings(), options(config, "one", seed=1))
    weight = "patch_embed.proj.weight"
    assert not torch.equal(final(config, "zero")["model"][weight], final(config, "one")["model"][weight])


def test_accumulated_parts_make_one_batch(config, plain_model):
    """With what sees one image at a time alone; batch norm and AdaFace's statistics see the part."""
    plain = {"model": {"name": plain_model, "settings": {}}, "loss": {"margin": {"type": "cosface"}}}
    del config.content["model"]["settings"]
    del config.content["loss"]["margin"]["scale"]
    for parts in (1, 4):
        train(config.settings({**plain, "trainer": {"accumulate": parts}}), options(config, f"parts-{parts}"))
    assert_same_run(final(config, "parts-1"), final(config, "parts-4"), rtol=1e-4, atol=1e-6)


def test_gradients_are_clipped(config):
    """With SGD, a step is as long as the clipped gradient of the network, times the learning rate."""
    sgd = {"optimizer": None, "schedule": {"epochs": 1, "warmup_epochs": 0}, "trainer": {"save_epochs": 0.01}}
    config.content.pop("optimizer")
    sgd["optimizer"] = {"type": "SGD", "lr": 0.1, "momentum": 0.0, "weight_decay": 0.0}
    sgd["trainer"]["max_grad_norm"] = 0.01
    train(config.settings(sgd), options(config))
    folder = config.folder / "output" / "tiny" / "checkpoints"
    states = [load_checkpoint(folder / f"tiny-{step:05d}.pt")["model"] for step in (1, 2)]
    learned = [name for name in states[0] if not name.endswith(("running_mean", "running_var", "num_batches_tracked"))]
    length = torch.stack([(states[1][name] - states[0][name]).square().sum() for name in learned]).sum().sqrt()
    rate = 0.1 * 0.5 * (1 + np.cos(np.pi * 1 / 6))
    assert float(length) == pytest.approx(0.01 * rate, rel=1e-3)


def break_steps(monkeypatch, broken):
    """Make an input of some steps (from 0) infinite."""
    real_embed, real_input = trainer._Trainer._embed, trainer.pixels_to_input
    step = [0]

    def embed(self, batch):
        step[0] = self._parts.iteration
        return real_embed(self, batch)

    def pixels_to_input(images, device):
        """One pixel of the batch, so that all that a batch passes through sees it."""
        inputs = real_input(images, device)
        if step[0] in broken:
            inputs[0, 0, 0, 0] = float("inf")
        return inputs

    monkeypatch.setattr(trainer._Trainer, "_embed", embed)
    monkeypatch.setattr(trainer, "pixels_to_input", pixels_to_input)


def test_a_step_that_is_not_finite_changes_nothing_and_is_counted(config, monkeypatch):
    broken = {"trainer": {"save_epochs": 1 / 6, "log_steps": 1}}
    break_steps(monkeypatch, {4, 7, 8})
    assert train(config.settings(broken), options(config)) is None
    folder = config.folder / "output" / "tiny" / "checkpoints"
    before, after = (load_checkpoint(folder / f"tiny-{step:05d}.pt") for step in (4, 5))
    assert_close(after["model"], before["model"], rtol=0, atol=0)  # batch norms' statistics too
    assert_close(after["optimizer"]["state"], before["optimizer"]["state"], rtol=0, atol=0)
    shares = [load_checkpoint(folder / content["class_shares"][0]) for content in (before, after)]
    for name in ("weight", "margin"):
        assert_close(shares[1][name], shares[0][name], rtol=0, atol=0)
    kept = [{key: value for key, value in share["optimizer"].items() if key != "name"} for share in shares]
    assert_close(kept[1], kept[0], rtol=0, atol=0)
    assert (before["iteration"], after["iteration"]) == (4, 5)
    points, _ = scalars(config)
    assert points["skipped_steps"][-1] == (12, 3.0)
    assert [step for step, value in points["loss"] if np.isfinite(value)] == [1, 2, 3, 4, 6, 7, 10, 11, 12]


def test_loss_scaling_changes_nothing_but_that_steps_are_skipped(config, monkeypatch):
    """float16 needs a GPU; its scaler does not."""
    class_of = torch.amp.GradScaler
    scales = []

    def scaler(device, enabled):
        made = class_of(device, enabled=True)
        update = made.update
        monkeypatch.setattr(made, "update", lambda: (update(), scales.append(made.get_scale())))
        return made

    break_steps(monkeypatch, {2, 3})
    train(config.settings(), options(config, "plain"))
    monkeypatch.setattr(torch.amp, "GradScaler", scaler)
    train(config.settings(), options(config, "scaled"))
    one, two = final(config, "plain"), final(config, "scaled")
    assert_same_run(one, two, rtol=1e-4, atol=1e-6)
    assert scales == [65536.0] * 2 + [32768.0] + [16384.0] * 9


def test_a_test_set_that_fails_costs_nothing_that_was_trained(config):
    broken = config.folder / "broken-test"
    shutil.copytree(config.content["evaluation"]["sets"][0]["path"], broken)
    image = (broken / "pairs.csv").read_text().splitlines()[-1].split(",")[1]
    (broken / image).write_bytes(b"no image")
    config.content["evaluation"]["sets"][0]["path"] = str(broken)
    settings = config.settings({"trainer": {"save_epochs": 2.0}})
    for step in (6, 12):  # and it goes on, to the next test
        with pytest.raises(ValueError, match=f"evaluation set pairs: .*{image}"):
            train(settings, options(config, resume=True))
        assert final(config)["iteration"] == step


def test_too_many_in_a_row_stop_the_run_with_the_batch_saved(config, monkeypatch):
    break_steps(monkeypatch, {4, 5, 6, 7})
    with pytest.raises(FloatingPointError, match=r"3 steps in a row .*trainer.most_skipped_steps 2.*step 7 is in "):
        train(config.settings({"trainer": {"most_skipped_steps": 2}}), options(config))
    folder = config.folder / "output" / "tiny"
    assert final(config)["iteration"] == 6  # saved in between, as it was before the first of them
    content = load_checkpoint(folder / "broken" / "step-00007-process-0.pt")
    assert content["images"].shape == (8, 3, 32, 32)
    assert content["images"].dtype == torch.uint8
    assert len(content["files"]) == 8
    assert content["files"][0].endswith(".png")
    assert (folder / "broken" / "step-00007-process-0.png").is_file()
    assert content["labels"].tolist() == [int(name.split("id")[-1].split("/")[0]) for name in content["files"]]


def test_an_earlier_run_is_set_aside(config):
    one_epoch = config.settings({"schedule": {"epochs": 1}})
    train(one_epoch, options(config))
    before = final(config)
    train(one_epoch, options(config, seed=1))
    (aside,) = [path for path in (config.folder / "output").iterdir() if path.name != "tiny"]
    kept = load_checkpoint(aside / "checkpoints" / "tiny-00006.pt")
    assert_close(kept["model"], before["model"], rtol=0, atol=0)
    assert (aside / "weights" / "last" / "model.safetensors").is_file()


def test_the_newest_checkpoints_stay(config):
    train(config.settings({"trainer": {"keep_checkpoints": 2}}), options(config))
    names = sorted(path.name for path in (config.folder / "output" / "tiny" / "checkpoints").iterdir())
    assert names == [
        f"tiny-{step:05d}{rest}.pt" for step in (9, 12) for rest in ("-classes-00000-of-00001", "")
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ({"trainer": {"batch_size": 6}}, r"its data would come in another order:\n  batch_size: 8 there, 6 now"),
        ({"data": {"repeat_probability": 0.5}}, r"repeat_probability: 0.0 there, 0.5 now"),
        ({"data": {"min_images": 8, "root": "fewer"}}, r"images: 48 there, 40 now\n  classes: 6 there, 5 now"),
        ({"model": {"settings": {"depth": 3}}}, r"does not fit the model(.|\n)*blocks.2"),
        ({"optimizer": {"type": "SGD"}}, r"its optimizer does not fit: it lacks momentum of SGD"),
    ],
)
def test_runs_that_cannot_go_on(config, override, problem):
    train(config.settings({"schedule": {"epochs": 1}}), options(config))
    if "root" in override.get("data", {}):
        shutil.copytree(config.content["data"]["root"], config.folder / "fewer")
        (config.folder / "fewer" / "id3" / "0.png").unlink()
        text = (config.folder / "fewer" / "landmarks.csv").read_text().splitlines(keepends=True)
        (config.folder / "fewer" / "landmarks.csv").write_text("".join(line for line in text if "id3/0" not in line))
        override["data"]["root"] = str(config.folder / "fewer")
    if override.get("optimizer"):
        config.content["optimizer"] = {"lr": 0.1}
    before = final(config)
    with pytest.raises(CheckpointError, match=problem):
        train(config.settings(override), options(config, resume=True))
    assert_same_run(before, final(config), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        (
            {"trainer": {"batch_size": 2, "accumulate": 2}},
            r"trainer.batch_size must be at least 2 images .* 1 process\(es\) x 2 accumulated part\(s\), got 2",
        ),
        (
            {"model": {"settings": {"num_keypoints": 17}}},
            "model.settings.num_keypoints must be 5, as landmarks, got 17",
        ),
        ({"data": {"landmarks": "none.csv"}}, "data.landmarks: .*none.csv: no such file"),
    ],
)
def test_what_would_come_up_in_the_first_step_comes_before_it(config, override, problem):
    with pytest.raises((ValueError, FileNotFoundError), match=problem):
        train(config.settings(override), options(config))
    assert not (config.folder / "output" / "tiny" / "settings.yaml").exists()


def test_weights_that_a_kill_left_behind_their_checkpoint_are_made_up_for(config):
    settings = config.settings({"schedule": {"epochs": 1}})
    train(settings, options(config))
    last = config.folder / "output" / "tiny" / "weights" / "last"
    shutil.rmtree(last)
    assert train(settings, options(config, resume=True)) is None
    assert_close(load_pretrained(last).state_dict(), final(config)["model"], rtol=0, atol=0)


def test_a_checkpoint_from_before_skipped_steps_stays(config, monkeypatch):
    break_steps(monkeypatch, {3, 4, 5, 6})
    pruned = {"trainer": {"keep_checkpoints": 1, "save_epochs": 1 / 6, "most_skipped_steps": 3}}
    with pytest.raises(FloatingPointError, match="4 steps in a row"):
        train(config.settings(pruned), options(config))
    steps = [
        path.stem[-5:] for path in sorted((config.folder / "output" / "tiny" / "checkpoints").glob("tiny-?????.pt"))
    ]
    assert steps == ["00003", "00004", "00005", "00006"]


def test_a_second_run_into_the_same_folder_is_refused(config):
    settings = config.settings({"schedule": {"epochs": 1}})
    with held_folder(config.folder / "output" / "tiny"), pytest.raises(ValueError, match="another run writes to it"):
        train(settings, options(config))
    assert train(settings, options(config)) is None


def test_resuming_nothing_starts_a_run(config):
    assert train(config.settings({"schedule": {"epochs": 1}}), options(config, resume=True)) is None
    assert final(config)["iteration"] == 6


def test_a_finished_run_has_nothing_left_to_do(config):
    settings = config.settings({"schedule": {"epochs": 1}})
    train(settings, options(config))
    assert train(settings, options(config, resume=True)) is None


def test_weights_to_start_from(config):
    train(config.settings(), options(config))
    weights = config.folder / "output" / "tiny" / "weights" / "last"
    start = {"model": {"start_from": str(weights)}, "schedule": {"epochs": 1}, "trainer": {"save_epochs": 1 / 6}}
    start["optimizer"] = {"lr": 1e-12}
    train(config.settings(start), options(config, "next"))
    old, new = final(config)["model"], final(config, "next")["model"]
    assert_close(new["patch_embed.proj.weight"], old["patch_embed.proj.weight"], rtol=0, atol=1e-9)
    with pytest.raises(CheckpointError, match="does not fit the model"):
        train(config.settings({"model": {"start_from": str(weights), "settings": {"depth": 1}}}), options(config, "no"))


def test_half_precision_trains(config):
    train(config.settings({"trainer": {"precision": "bf16"}}), options(config, "half"))
    train(config.settings(), options(config, "full"))
    start = config.settings({"optimizer": {"lr": 1e-20}, "schedule": {"epochs": 1}})
    train(start, options(config, "start"))
    weight = "blocks.0.attn.qkv.weight"
    half, full, begin = (final(config, name)["model"][weight] for name in ("half", "full", "start"))
    assert not torch.equal(half, full)
    moved = [(value - begin).flatten() for value in (half, full)]
    assert torch.nn.functional.cosine_similarity(*moved, dim=0) > 0.9
    assert moved[0].norm() == pytest.approx(float(moved[1].norm()), rel=0.1)


def test_settings_of_the_optimizer_are_those_of_the_run_that_goes_on(config, monkeypatch):
    train(config.settings({"schedule": {"epochs": 1}}), options(config))
    seen = []
    real = trainer._Trainer._step

    def step(self, batches):
        for optimizer in (self._parts.optimizer, self._parts.class_optimizer):
            seen.append({(group["weight_decay"], group["betas"]) for group in optimizer.param_groups})
        real(self, batches)

    monkeypatch.setattr(trainer._Trainer, "_step", step)
    other = {"optimizer": {"weight_decay": 0.3, "betas": [0.8, 0.99]}, "schedule": {"epochs": 2}}
    train(config.settings(other), options(config, resume=True))
    assert len(seen) == 12
    assert set.union(*seen) == {(0.3, (0.8, 0.99)), (0.0, (0.8, 0.99))}


def test_float16_without_a_gpu_is_refused(config):
    if torch.cuda.is_available():
        pytest.skip("a CUDA device is there")
    with pytest.raises(ValueError, match="precision fp16 needs a CUDA device"):
        train(config.settings({"trainer": {"precision": "fp16"}}), options(config))


@pytest.mark.slow
def test_compiled_model_trains_as_the_plain_one(config):
    """SGD: AdamW makes steps of rounding where a gradient is zero in theory, as that of a bias before a batch norm."""
    config.content["optimizer"] = {"type": "SGD", "lr": 0.02}
    train(config.settings(), options(config, "plain"))
    train(config.settings({"trainer": {"compile": True}}), options(config, "compiled"))
    plain, compiled = final(config, "plain")["model"], final(config, "compiled")["model"]
    assert_close(compiled, plain, rtol=1e-3, atol=1e-4)
    kprpe = "position_bias.kprpe.weight"  # zero in the beginning, and small still
    assert plain[kprpe].abs().max() > 1e-5
    assert_close(compiled[kprpe], plain[kprpe], rtol=1e-2, atol=1e-7)
