"""Training every model with every seed, and testing each under every condition, through the embedded runtime.

    OUT/settings.json                         what the folder was begun with
    OUT/runs/MODEL[-augmented]/seedN/...      a run as `python -m plugin` leaves it: checkpoints/, results/

A checkpoint of the last iteration and the result of a test are what makes that part done: a run that was stopped goes
on from its last checkpoint. A folder of other settings is refused and left as it is.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from common.runtime.files import write_text
from common.runtime.settings import to_mapping
from plugin.conditions import TestCondition
from plugin.demo import MODELS
from plugin.inference import find_checkpoint
from plugin.layout import find_sequences
from plugin.misalignment.sweeps import as_met, describe
from plugin.partition import read_partition
from plugin.runtime import runner
from plugin.runtime.data import GaitDataset
from plugin.runtime.settings import GaitSettings, load_gait_settings
from plugin.transforms import CropMisalignment, JointDropout, JointNoise

__all__ = [
    "AUGMENTATION",
    "METRICS",
    "Augment",
    "Candidate",
    "Run",
    "check_data",
    "claim_folder",
    "describe_data",
    "load_candidates",
    "run_seed",
]

METRICS = ("Rank-1", "mAP")

Augment = Literal["no", "only", "both"]

AUGMENTATION = (
    CropMisalignment(prob=0.5, shift=0.2, scale=0.2),
    JointNoise(std=0.02),
    JointDropout(prob=0.1),
)
"""Comes before a config's own training transforms, as the conditions of a test come before its test transforms."""

# What a figure does not depend on: places, speed, how often something is written, and a checkpoint named otherwise.
_IRRELEVANT = {
    "data_cfg": ("dataset_root", "dataset_partition", "num_workers", "cache"),
    "evaluator_cfg": ("restore_hint",),
    "trainer_cfg": ("log_iter", "save_iter"),
}


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A model and how it is trained."""

    title: str
    """As tables and pictures call the model."""

    name: str
    """Its folder below `runs`."""

    augmented: bool
    """Whether training meets misaligned crops and wrong joints."""

    settings: GaitSettings

    @property
    def takes_joints(self) -> bool:
        """Whether a test's joints make a difference to it."""
        return self.settings.model_cfg.needs_keypoints


@dataclass(frozen=True, kw_only=True)
class Run:
    """What one test gave."""

    model: str
    """Title of the candidate."""

    augmented: bool
    takes_joints: bool
    seed: int
    condition: TestCondition
    """As the model met it, see `as_met`."""

    metrics: dict[str, float]
    """Rank-1, Rank-5, Rank-10, mAP and mINP in percent."""


def load_candidates(configs: Sequence[Path], overrides: dict[str, Any], augment: Augment) -> list[Candidate]:
    """One candidate a config, trained on crops as prepared or with augmentation, or two candidates, trained either way.

    Raises:
        ConfigError: a config is wrong.
        ValueError: no configs, two of one name, or one that cannot be compared so.
    """
    names = [path.stem for path in configs]
    if not names or len(set(names)) < len(names):
        raise ValueError(f"--cfgs: expected files of different names, got {', '.join(map(str, configs)) or 'none'}")
    titles = {file: title for title, file in MODELS.items()}
    plain = []
    for path in configs:
        settings = load_gait_settings(path, overrides)
        evaluator, trainer = settings.evaluator_cfg, settings.trainer_cfg
        if evaluator.eval_func != "evaluate_Gait3D":
            raise ValueError(f"{path}: evaluator_cfg.eval_func must be evaluate_Gait3D, got {evaluator.eval_func}")
        if evaluator.save_name != trainer.save_name:
            raise ValueError(
                f"{path}: what is trained is tested, so evaluator_cfg.save_name ({evaluator.save_name}) must be "
                f"trainer_cfg.save_name ({trainer.save_name})"
            )
        title = titles.get(path.name, path.stem)
        plain.append(Candidate(title=title, name=path.stem, augmented=False, settings=settings))
    if augment == "no":
        return plain
    return [*(plain if augment == "both" else []), *map(_augmented, plain)]


def _augmented(candidate: Candidate) -> Candidate:
    trainer = candidate.settings.trainer_cfg
    chain = replace(trainer.transform[0], trf_cfg=[*AUGMENTATION, *trainer.transform[0].trf_cfg])
    settings = replace(candidate.settings, trainer_cfg=replace(trainer, transform=[chain]))
    return replace(candidate, name=f"{candidate.name}-augmented", augmented=True, settings=settings)


def check_data(candidates: Sequence[Candidate]) -> None:
    """Look at every sequence that the candidates need, before the first of them is trained.

    Raises:
        ValueError, FileNotFoundError: data that cannot be trained on or tested on, see `GaitDataset`.
    """
    seen = []
    for candidate in candidates:
        data = candidate.settings.data_cfg
        if (data, candidate.takes_joints) in seen:
            continue
        seen.append((data, candidate.takes_joints))
        GaitDataset(data, training=True, needs_keypoints=candidate.takes_joints)
        test_set = GaitDataset(data, training=False, needs_keypoints=candidate.takes_joints)
        test_set.gallery_check(data.remove_no_gallery)


def describe_data(root: Path, partition: Path) -> dict[str, Any]:
    """What a prepared data set is known by: its partition, and names and sizes of the partition's sequences' files.

    Raises:
        ValueError: no such folder, or a partition that cannot be read.
    """
    subjects = read_partition(partition).subjects
    if not root.is_dir():
        raise ValueError(f"--data {root}: no such folder")
    digest = hashlib.sha256(partition.read_bytes())
    sequences = find_sequences(root, subjects)
    for sequence in sequences:
        files = sorted((file.name, file.stat().st_size) for file in root.joinpath(*sequence).glob("*.pkl"))
        digest.update(json.dumps([sequence, files]).encode())
    return {"sequences": len(sequences), "sha256": digest.hexdigest()}


def claim_folder(out: Path, data: Mapping[str, Any], candidates: Sequence[Candidate]) -> None:
    """Enter data and settings in OUT/settings.json, or compare them with what is there; new models are added.

    As long as nothing was made with them, other settings take the place of the former ones.

    Raises:
        ValueError: the folder is of other data or settings, which are named, or not of this experiment.
    """
    path = out / "settings.json"
    models = {candidate.name: _relevant(candidate.settings) for candidate in candidates}
    now = json.loads(json.dumps({"data": data, "models": models}))  # through JSON, to be compared with what is read
    if path.exists():
        before = _read_json(path, ("data", "models"), "no record of this experiment; choose another --out")
        trained = {file.relative_to(out / "runs").parts[0] for file in (out / "runs").rglob("*.pt")}
        differing = [
            difference
            for name in models
            if name in trained
            for difference in _differences(before["models"].get(name), now["models"][name], f"models.{name}")
        ]
        if trained or (out / "raw").exists():
            differing += _differences(before["data"], now["data"], "data")
        if differing:
            raise ValueError(
                f"{out} is of other settings: {'; '.join(differing)}. "
                "Choose another --out, or go on with those settings"
            )
        now["models"] = {**before["models"], **now["models"]}
    elif out.exists() and any(out.iterdir()):
        raise ValueError(f"{out} exists and holds something else: choose another --out")
    out.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(now, indent=1) + "\n")


def _relevant(settings: GaitSettings) -> dict[str, Any]:
    mapping = to_mapping(settings)
    for part, keys in _IRRELEVANT.items():
        for key in keys:
            del mapping[part][key]
    return mapping


def _differences(before: Any, now: Any, key: str = "") -> Iterator[str]:
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        for name in dict.fromkeys([*before, *now]):
            yield from _differences(before.get(name), now.get(name), f"{key}.{name}" if key else name)
    elif before != now:
        yield f"{key} was {before}, now {now}"


def _read_json(path: Path, parts: Sequence[str], otherwise: str) -> dict[str, Any]:
    """A file of mappings under the names of `parts`."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: {otherwise} ({error})") from error
    if not isinstance(content, dict) or not all(isinstance(content.get(part), dict) for part in parts):
        raise ValueError(f"{path}: {otherwise} (expected {' and '.join(parts)} in it)")
    return content


def run_seed(out: Path, candidates: Sequence[Candidate], seed: int, conditions: Sequence[TestCondition]) -> list[Run]:
    """Train and test all candidates with one seed; what is done already is read.

    Args:
        out: folder of the experiment, claimed.
        candidates: in this order.
        seed: of start and batches in training, and of what conditions draw: the same for all candidates.
        conditions: each candidate meets those that differ to it.

    Returns:
        A run for each candidate and condition that it meets.

    Raises:
        KeyboardInterrupt: a signal stopped training; it goes on from there when it is started again.
        ValueError, FileNotFoundError, FloatingPointError: see `plugin.runtime.runner`.
    """
    runs = []
    for candidate in candidates:
        settings = candidate.settings
        last = settings.trainer_cfg.total_iter
        output = out / "runs" / candidate.name / f"seed{seed}"
        checkpoint = find_checkpoint(settings, None, last, output)
        what = f"{candidate.title}, {'augmented, ' if candidate.augmented else ''}seed {seed}"
        if not checkpoint.exists():
            print(f"\n== Train {what}", flush=True)
            stopped = runner.train(settings, runner.RunOptions(seed=seed, output=output, resume=True, log_to_file=True))
            if stopped is not None:
                raise KeyboardInterrupt(stopped)
        met = list(dict.fromkeys(as_met(condition, candidate.takes_joints) for condition in conditions))
        for number, condition in enumerate(met, start=1):
            result = checkpoint.parents[1] / "results" / f"{checkpoint.stem}-{condition.name}.json"
            if not result.exists():
                print(f"\n== Test {what}: {describe(condition)} ({number} of {len(met)})", flush=True)
                options = runner.RunOptions(seed=seed, output=output, iteration=last, condition=condition)
                result = runner.test(settings, options).path
            runs.append(
                Run(
                    model=candidate.title,
                    augmented=candidate.augmented,
                    takes_joints=candidate.takes_joints,
                    seed=seed,
                    condition=condition,
                    metrics=_read_metrics(result),
                )
            )
    return runs


def _read_metrics(path: Path) -> dict[str, float]:
    otherwise = "not the result of a test; remove it to have it tested again"
    metrics = _read_json(path, ("metrics",), otherwise)["metrics"]
    lacking = [name for name in METRICS if name not in metrics]
    if lacking:
        raise ValueError(f"{path}: {otherwise} ({' and '.join(lacking)} missing)")
    return {name: float(value) for name, value in metrics.items()}
