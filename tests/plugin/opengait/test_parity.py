"""The embedded runtime does what OpenGait does: one step, sampling, collation, checkpoints and tests."""

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from torch.testing import assert_close

from common.runtime.checkpoint import load_checkpoint, restore_weights
from common.runtime.log import RunLog
from common.runtime.settings import to_mapping
from plugin.runtime.data import (
    Batch,
    Collate,
    Draw,
    GaitDataset,
    GaitSequence,
    InferenceSampler,
    Loaded,
    TripletSampler,
)
from plugin.runtime.host import MODELS
from plugin.runtime.runner import RunOptions, _Tester, _Trainer, test
from plugin.runtime.settings import EvaluatorSampler, TrainerSampler
from plugin.transforms import BaseSilCuttingTransform, PairedCompose

run_test = test
del test  # pytest would take it for one

NAMES = ["swingait2d", "swingait2d_kprpe", "swingait3d_kprpe"]


@pytest.mark.parametrize("name", NAMES)
def test_same_losses_and_weights_after_one_step(name, recorded, runs, settings, tmp_path):
    log = RunLog(tmp_path, False, active=False)
    trainer = _Trainer(settings(name, **runs.STEP), RunOptions(output=tmp_path), Accelerator(cpu=True), tmp_path, log)
    trainer._model.load_state_dict(runs.weights(trainer._model.state_dict(), runs.SEED), strict=False)
    summaries = []
    log.collect = summaries.append
    trainer._network.train()
    assert trainer._step(batch_of(runs, keypoints=name != "swingait2d"))

    prefix = f"{name}/step/"
    (summary,) = summaries
    losses = {key.removeprefix(prefix + "loss/"): value for key, value in recorded.items() if prefix + "loss/" in key}
    assert set(losses) <= set(summary)
    assert len(losses) >= 6
    for key, expected in losses.items():
        # An anchor is a positive of itself too, at the root of a rounding error: 1e-4 of a typical distance, by chance.
        tolerance = 2e-3 if "triplet" in key else 1e-5
        assert_close(
            summary[key].detach(),
            torch.from_numpy(expected),
            rtol=tolerance,
            atol=1e-5,
            msg=lambda text, k=key: f"{k}: {text}",
        )
    assert float(summary["scalar/loss"]) == pytest.approx(float(recorded[prefix + "loss"]), rel=1e-3)

    state = trainer._model.state_dict()
    weights = {
        key.removeprefix(prefix + "weights/"): value for key, value in recorded.items() if prefix + "weights/" in key
    }
    assert set(weights) == set(state)
    before = runs.weights(state, runs.SEED)
    for key, expected in weights.items():
        wanted = torch.from_numpy(expected)
        step = (wanted - before[key]).abs().max() if key in before else 0.0
        difference = (state[key] - wanted).abs().max()
        assert difference <= 5e-3 * step + 2e-6, f"{key}: {difference:.3g} off, the step was {step:.3g}"
    moved = [key for key in before if not np.allclose(before[key].numpy(), weights[key], rtol=0, atol=1e-4)]
    assert len(moved) > 0.9 * len(before)


def batch_of(runs, keypoints):
    """The recorded batch as the loader would give it."""
    streams, labels = runs.batch()
    transform = PairedCompose([BaseSilCuttingTransform()])
    pairs = [transform(sils, joints if keypoints else None, 0) for sils, joints in zip(*streams, strict=True)]
    tensors = [torch.from_numpy(np.stack(stream)) for stream in zip(*pairs, strict=True) if stream[0] is not None]
    return Batch(tensors, torch.tensor(labels), ["t"] * 8, ["v"] * 8, None, [""] * 8)


@pytest.mark.parametrize("sample_type", ["fixed_ordered", "fixed_unordered"])
def test_collation_takes_frames_as_often(sample_type, recorded, runs):
    """Each frame is as likely as in OpenGait's draws, in each place, and no draw breaks the order that theirs keep."""
    sampler = TrainerSampler(batch_size=(4, 2), sample_type=sample_type, frames_num_fixed=5, frames_skip_num=2)
    collate = Collate(sampler, PairedCompose([]))
    rng = np.random.default_rng(0)
    for length in runs.LENGTHS:
        theirs = recorded[f"picks/{sample_type}/{length}"]
        ours = np.array([collate.frame_indices(length, rng) for _ in range(runs.DRAWS)])
        assert ours.shape == theirs.shape
        for place in range(theirs.shape[1]):
            counts = [np.bincount(draws[:, place], minlength=length) / runs.DRAWS for draws in (ours, theirs)]
            # Two shares of 400 draws differ by more than 0.15 once in 20,000 times.
            assert np.abs(counts[0] - counts[1]).max() < 0.15, (length, place)
        steps = [np.diff(draws, axis=1) % length for draws in (ours, theirs)]
        if sample_type == "fixed_ordered":
            # Frames of one stretch: they never go back, but for the wrap of a sequence that is repeated.
            assert steps[0].sum(1).max() == steps[1].sum(1).max()
        assert {len(set(row)) for row in ours.tolist()} == {len(set(row)) for row in theirs.tolist()}


def test_collation_of_whole_sequences(recorded):
    rng = np.random.RandomState(2)
    sampler = EvaluatorSampler(batch_size=2, frames_all_limit=4)
    batch = []
    for label, frames in ((1, 3), (0, 6)):
        streams = [rng.rand(frames, 2, 2), rng.rand(frames, 17, 3)]
        batch.append(Loaded(GaitSequence("x", "t", "v", (), frames, (2, 2)), label, streams, 0))
    out = Collate(sampler, lambda silhouettes, keypoints, seed: (silhouettes, keypoints))(batch)
    for number, stream in enumerate(out.streams):
        np.testing.assert_array_equal(stream[0].numpy(), recorded[f"whole/{number}"])
    np.testing.assert_array_equal(out.labels.numpy(), recorded["whole/labels"])
    np.testing.assert_array_equal(out.lengths.numpy(), recorded["whole/lengths"])


def test_samplers(recorded, settings):
    loaded = settings("swingait2d_kprpe")
    train_set = GaitDataset(loaded.data_cfg, training=True, needs_keypoints=True)
    labels = [label.removeprefix("tiny-") for label in recorded["sampler/labels"].tolist()]
    assert [sequence.label for sequence in train_set.sequences] == labels
    sampler = TripletSampler(train_set, loaded.trainer_cfg.sampler, seed=0)
    ours = [[draw.sequence for draw in sampler.batch(number)] for number in range(20)]
    theirs = recorded["sampler/triplets"].tolist()
    for batches in (ours, theirs):
        for batch in batches:
            assert len(set(batch)) == 8  # no sequence twice: each subject has three
            counts = np.unique([labels[index] for index in batch], return_counts=True)[1]
            assert counts.tolist() == [2] * 4
        # Shuffled: the two sequences of a subject are seldom neighbours
        assert any(labels[batch[0]] != labels[batch[1]] for batch in batches)
        assert {index for batch in batches for index in batch} == set(range(len(labels)))
    whole = InferenceSampler(range(len(labels)), 1, seed=0)
    assert [[draw.sequence for draw in batch] for batch in whole] == recorded["sampler/inference"].tolist()
    assert all(isinstance(draw, Draw) for batch in whole for draw in batch)


@pytest.mark.parametrize("source", ["trained", "embedded"])
@pytest.mark.parametrize("name", NAMES)
def test_checkpoints_are_read_by_either(name, source, live, settings, tmp_path):
    """The same embeddings and metrics from one checkpoint, whoever wrote it."""
    loaded = settings(name)
    written = {"trained": live.opengait, "embedded": live.embedded}[source]
    path = written / "tiny" / loaded.model_cfg.model / name / "checkpoints" / f"{name}-00003.pt"
    found = embed(loaded, path)
    expected = dict(zip(live.arrays[f"{name}/{source}/names"], live.arrays[f"{name}/{source}/embeddings"], strict=True))
    assert set(found) == set(expected)
    for sequence, embedding in found.items():
        np.testing.assert_allclose(embedding, expected[sequence], rtol=0, atol=1e-5 * np.abs(embedding).max())
    assert np.std(list(found.values()), axis=0).min() > 0

    changed = settings(name, evaluator_cfg={"restore_hint": str(path)})
    metrics = run_test(changed, RunOptions(output=tmp_path)).metrics
    for key, value in metrics.items():
        metric = key.rsplit("/", 1)[1]
        assert value == pytest.approx(float(live.arrays[f"{name}/{source}/metrics/{metric}"]), rel=1e-6), metric
    assert len(metrics) == 5


def embed(loaded, path):
    """ID-TYPE-VIEW to embedding [c, p] of every test sequence."""
    log = RunLog(path.parent, False, active=False)
    tester = _Tester(loaded, RunOptions(), Accelerator(cpu=True), log)
    model = MODELS[loaded.model_cfg.model](to_mapping(loaded), False, log).eval()
    restore_weights(model, path, strict=True)
    embeddings = {}
    with torch.no_grad():
        for batch in tester._loader:
            inputs = batch.streams, batch.labels, batch.types, batch.views, batch.lengths
            out = model(inputs)["inference_feat"]["embeddings"].numpy()
            embeddings |= dict(zip(batch.names, out, strict=True))
    return embeddings


@pytest.mark.parametrize("name", NAMES)
def test_embedded_runtime_goes_on_with_opengaits_training(name, live, settings, tmp_path):
    """Optimizer and scheduler too: a resumed run starts from their state."""
    loaded = settings(name, trainer_cfg={"total_iter": 4})
    place = live.opengait / "tiny" / loaded.model_cfg.model / name / "checkpoints" / f"{name}-00003.pt"
    theirs = load_checkpoint(place)
    copy = tmp_path / "tiny" / loaded.model_cfg.model / name / "checkpoints" / place.name
    copy.parent.mkdir(parents=True)
    copy.write_bytes(place.read_bytes())
    log = RunLog(tmp_path, False, active=False)
    folder = copy.parent.parent
    trainer = _Trainer(loaded, RunOptions(output=tmp_path, iteration=3), Accelerator(cpu=True), folder, log)
    assert trainer.iteration == 3
    state = trainer._plain_optimizer().state_dict()
    assert [group["lr"] for group in state["param_groups"]] == [
        group["lr"] for group in theirs["optimizer"]["param_groups"]
    ]
    for number, entry in theirs["optimizer"]["state"].items():
        assert_close(state["state"][number]["exp_avg"], entry["exp_avg"])
    assert trainer._scheduler.state_dict()["last_epoch"] == theirs["scheduler"]["last_epoch"] == 3
