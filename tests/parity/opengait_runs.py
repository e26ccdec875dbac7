"""What real OpenGait does with the plugin's models on a tiny data set, as arrays.

    python tests/parity/opengait_runs.py CHECKOUT DATA OUT.npz [--checkpoint FILE ...]

DATA is a folder as `write_data` makes it. Recorded are, for each model: losses and weights of one training step from
given weights and a given batch; a short training run's checkpoint, its embeddings and metrics; those of other
checkpoints; and what OpenGait's samplers and collation draw. tests/plugin/opengait compares them with the embedded
runtime, from tests/parity/opengait_runs.npz where no checkout is at hand: to write that,

    OPENGAIT_ROOT=path/to/OpenGait python tests/parity/opengait_runs.py

Nothing of the checkout is changed; see opengait_cpu.py for how it runs on a CPU.
"""

import argparse
import importlib
import json
import os
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
import yaml

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

import opengait_cpu  # noqa: E402

from common.runtime.arrays import save_array  # noqa: E402
from common.runtime.settings import merge  # noqa: E402
from plugin.conditions import TestCondition  # noqa: E402
from plugin.opengait.run import effective_settings, register, work_folder  # noqa: E402

STORED = Path(__file__).with_name("opengait_runs.npz")
MODELS = ("swingait2d", "swingait2d_kprpe", "swingait3d_kprpe")
TRAIN, TEST = ["0001", "0002", "0003", "0004", "0005"], ["0006", "0007", "0008", "0009", "0010", "0011"]
SEQUENCES = [("camid0_videoid1", "seq0"), ("camid0_videoid1", "seq1"), ("camid1_videoid2", "seq0")]
# For the one step: parameters that the loss does not depend on (the keys' bias, the last norm's) have a gradient that
# is rounding alone, which AdamW would blow up to full steps.
STEP = {"optimizer_cfg": {"solver": "SGD", "lr": 0.1, "momentum": 0.9}}
# Of the weights: one with which no triplet is so near its margin that rounding decides whether it counts.
SEED = 21
LENGTHS = (3, 6, 7, 9, 20)  # of sequences that frames are picked from: 5 of 5 + 2
DRAWS = 400

TINY: dict[str, Any] = {
    "data_cfg": {"dataset_name": "tiny", "num_workers": 0},
    "evaluator_cfg": {"enable_float16": False, "restore_hint": 3},
    "model_cfg": {
        "backbone_cfg": {
            "channels": [4, 8],
            "layers": [1, 1, 2, 1],
            "feature_size": [12, 20],
            "embed_dim": 8,
            "num_heads": [2, 4],
            "drop_path_rate": 0.0,
        },
        "SeparateFCs": {"in_channels": 16, "out_channels": 8, "parts_num": 7},
        "SeparateBNNecks": {"in_channels": 8, "class_num": 5, "parts_num": 7},
        "bin_num": [6],
    },
    "optimizer_cfg": {"lr": 0.01},
    "scheduler_cfg": {"T_0": 4},
    "trainer_cfg": {
        "enable_float16": False,
        "sync_BN": False,
        "total_iter": 3,
        "save_iter": 3,
        "log_iter": 1,
        "sampler": {"batch_size": [4, 2], "frames_num_fixed": 5, "frames_skip_num": 2},
        "transform": [{"type": "PairedCompose", "trf_cfg": [{"type": "BaseSilCuttingTransform"}]}],
    },
}


def tiny(name: str, data: Path) -> dict[str, Any]:
    """The YAML of one tiny run, as a mapping."""
    mapping = yaml.safe_load((ROOT / "configs" / f"{name}.yaml").read_text())
    paths = {"dataset_root": str(data / "paired"), "dataset_partition": str(data / "partition.json")}
    names = {"evaluator_cfg": {"save_name": name}, "trainer_cfg": {"save_name": name}}
    return merge(merge(merge(mapping, TINY), names), {"data_cfg": paths})


def write_data(folder: Path) -> None:
    """A prepared data set of blobs, the same everywhere."""
    rng = np.random.RandomState(7)
    for number, label in enumerate(TRAIN + TEST):
        for kind, view in SEQUENCES:
            place = folder / "paired" / label / kind / view
            place.mkdir(parents=True)
            frames = rng.randint(5, 14)
            y, x = np.mgrid[:64, :64]
            centres, widths = 32 + rng.uniform(-3, 3, frames), 4 + 1.5 * number + rng.uniform(-0.5, 0.5, frames)
            inside = ((x - centres[:, None, None]) / widths[:, None, None]) ** 2 + ((y - 32) / 30) ** 2 < 1
            save_array(place / "0-silhouettes.pkl", inside.astype(np.uint8) * 255)
            joints = np.empty((frames, 17, 3), np.float32)
            joints[..., 0] = centres[:, None] + rng.uniform(-3, 3, (frames, 17))
            joints[..., 1] = np.linspace(4, 60, 17)
            joints[..., 2] = rng.uniform(0.5, 1, (frames, 17))
            save_array(place / "1-keypoints.pkl", joints)
    probes = ["-".join((label, *SEQUENCES[0])) for label in TEST]
    content = {"TRAIN_SET": TRAIN, "TEST_SET": TEST, "PROBE_SET": probes}
    (folder / "partition.json").write_text(json.dumps(content))


def weights(state: dict[str, torch.Tensor], seed: int) -> dict[str, torch.Tensor]:
    """Numbers for every floating-point entry, by sorted name."""
    rng = np.random.RandomState(seed)
    numbers = {}
    for name in sorted(name for name, value in state.items() if value.is_floating_point()):
        value = rng.standard_normal(tuple(state[name].shape)).astype(np.float32) * 0.1
        if name.endswith("running_var") or (name.endswith("weight") and value.ndim == 1):
            value = 1 + np.abs(value)
        numbers[name] = torch.from_numpy(value)
    return numbers


def batch() -> tuple[list[list[np.ndarray]], list[int]]:
    """Silhouettes [5, 64, 64] and joints [5, 17, 3] of eight sequences, and the labels of four subjects."""
    rng = np.random.RandomState(11)
    silhouettes, joints = [], []
    for _ in range(8):
        coarse = rng.rand(5, 8, 8) < 0.5
        silhouettes.append(np.kron(coarse, np.ones((1, 8, 8))).astype(np.uint8) * 255)
        points = np.concatenate([rng.uniform(12, 52, (5, 17, 2)), rng.uniform(0.3, 1, (5, 17, 1))], -1)
        points[rng.rand(5, 17) < 0.2, 2] = 0
        joints.append(points.astype(np.float32))
    return [silhouettes, joints], [0, 0, 1, 1, 2, 2, 4, 4]


def _step(model: Any) -> dict[str, np.ndarray]:
    model.load_state_dict(weights(model.state_dict(), SEED), strict=False)
    streams, labels = batch()
    streams = streams[: 2 if model._needs_keypoints else 1]
    inputs = model.inputs_pretreament((streams, labels, ["t"] * 8, ["v"] * 8, None))
    out = model(inputs)
    loss, info = model.loss_aggregator(out["training_feat"])
    assert model.train_step(loss)
    arrays = {f"step/loss/{name}": np.asarray(value.detach()) for name, value in info.items()}
    arrays["step/loss"] = np.asarray(loss.detach())
    state = {name.removeprefix("module."): value.numpy().copy() for name, value in model.state_dict().items()}
    return arrays | {f"step/weights/{name}": value for name, value in state.items()}


def _test(models: Any, cfgs: dict[str, Any], checkpoint: str | int) -> dict[str, np.ndarray]:
    cfgs["evaluator_cfg"]["restore_hint"] = checkpoint
    model = getattr(models, cfgs["model_cfg"]["model"])(cfgs, False)
    with torch.no_grad():
        embeddings = model.inference(0)["embeddings"]
        metrics = type(model).run_test(model)
    dataset = model.test_loader.dataset
    names = ["-".join(name) for name in zip(dataset.label_list, dataset.types_list, dataset.views_list, strict=True)]
    arrays = {"embeddings": embeddings, "names": np.array(names)}
    return arrays | {f"metrics/{name.rsplit('/', 1)[-1]}": np.asarray(value) for name, value in metrics.items()}


def _picks(sample_type: str) -> dict[str, np.ndarray]:
    """[DRAWS, 5] frame numbers that OpenGait's collation takes of sequences of some lengths."""
    collate = importlib.import_module("data.collate_fn").CollateFn(
        ["a"], {"sample_type": sample_type, "frames_num_fixed": 5, "frames_skip_num": 2}
    )
    drawn = {}
    for length in LENGTHS:
        sequence = ([np.arange(length)], ["a", "t", "v", []])
        drawn[f"picks/{sample_type}/{length}"] = np.array([collate([sequence])[0][0][0] for _ in range(DRAWS)])
    return drawn


def _samplers(dataset: Any) -> dict[str, np.ndarray]:
    samplers = importlib.import_module("data.sampler")
    triplets = iter(samplers.TripletSampler(dataset, [4, 2], True))
    whole = samplers.InferenceSampler(dataset, 1)
    return {
        "sampler/labels": np.array(dataset.label_list),
        "sampler/triplets": np.array([next(triplets) for _ in range(20)]),
        "sampler/inference": np.array(list(whole)),
    }


def _whole() -> dict[str, np.ndarray]:
    """Two sequences of two streams, collated to be tested."""
    collate = importlib.import_module("data.collate_fn").CollateFn(
        ["a", "b"], {"sample_type": "all_ordered", "frames_all_limit": 4}
    )
    rng = np.random.RandomState(2)
    sequences = [
        ([rng.rand(frames, 2, 2), rng.rand(frames, 17, 3)], [label, "t", "v", []])
        for label, frames in (("b", 3), ("a", 6))
    ]
    streams, labels, _, _, lengths = collate(sequences)
    return {
        "whole/0": streams[0][0],
        "whole/1": streams[1][0],
        "whole/labels": np.array(labels),
        "whole/lengths": lengths,
    }


def record(checkout: Path, data: Path, checkpoints: dict[str, str]) -> dict[str, np.ndarray]:
    """Everything, in this process, which cannot be used for anything else afterwards."""
    opengait_cpu.patch()
    torch.set_num_threads(1)
    sys.dont_write_bytecode = True
    sys.path.insert(0, str(checkout.resolve() / "opengait"))
    os.environ.update(RANK="0", WORLD_SIZE="1", MASTER_ADDR="127.0.0.1", MASTER_PORT="0")
    torch.distributed.init_process_group("nccl", init_method="env://")
    models = register(checkout)
    utils = importlib.import_module("utils")
    arrays: dict[str, np.ndarray] = {}
    output = data / "opengait-output"
    for name in MODELS:
        path = data / f"{name}.yaml"
        path.write_text(yaml.safe_dump(tiny(name, data)))
        settings = effective_settings(path, {}, TestCondition())
        with work_folder(checkout, settings, output) as folder:
            home = Path.cwd()
            os.chdir(folder)
            try:
                cfgs = utils.config_loader(str(folder / "run.yaml"))
                place = f"output/tiny/{cfgs['model_cfg']['model']}/{name}"
                utils.get_msg_mgr().init_manager(place, False, 1)
                utils.init_seeds(0)
                Model = getattr(models, cfgs["model_cfg"]["model"])
                model = utils.get_ddp_module(Model(merge(cfgs, STEP), True))
                arrays |= {f"{name}/{key}": value for key, value in _step(model).items()}
                utils.init_seeds(0)
                model = utils.get_ddp_module(Model(cfgs, True))
                Model.run_train(model)
                arrays |= {f"{name}/trained/{key}": value for key, value in _test(models, cfgs, 3).items()}
                if name in checkpoints:
                    found = _test(models, cfgs, os.path.abspath(checkpoints[name]))
                    arrays |= {f"{name}/embedded/{key}": value for key, value in found.items()}
            finally:
                os.chdir(home)
    arrays |= _samplers(model.train_loader.dataset)
    arrays |= _picks("fixed_ordered") | _picks("fixed_unordered") | _whole()
    return arrays


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("checkout", type=Path, nargs="?")
    parser.add_argument("data", type=Path, nargs="?")
    parser.add_argument("out", type=Path, nargs="?")
    parser.add_argument("--checkpoint", action="append", default=[], metavar="NAME=FILE")
    args = parser.parse_args()
    if args.out is not None:
        np.savez(args.out, **record(args.checkout, args.data, dict(entry.split("=", 1) for entry in args.checkpoint)))
    else:
        with TemporaryDirectory() as folder:
            write_data(Path(folder))
            found = record(Path(os.environ["OPENGAIT_ROOT"]), Path(folder), {})
        # The trained run's checkpoint is not stored: without it, its embeddings say nothing.
        np.savez_compressed(STORED, **{name: value for name, value in found.items() if "/trained/" not in name})
        print(f"{STORED}: {STORED.stat().st_size} bytes")
