"""Training and testing of all models on the same digits, with the same seeds and schedule, and the record of it.

Protocol: a model trains on upright digits at random places of a 40 x 40 frame, new places in every epoch, and is tested
on unseen digits, upright ("clean") and under affine transforms that it never met ("affine"). Both test sets are drawn
once and are the same for all models and seeds. A seed stands for the start of the weights, the order of the digits and
their places; models of one seed have them in common.

`results.json` is written after every model, so that a stopped run goes on with the next one when it is started again.
Shape letters: N images.
"""

import dataclasses
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from common.affnist.digits import Digits
from common.affnist.frames import AffineRanges, affine_frames, box_keypoints, upright_frames
from common.affnist.models import MODELS, DigitClassifier, ModelSettings, build_model
from common.runtime.checkpoint import save_checkpoint
from common.runtime.files import write_text
from common.runtime.log import RunLog
from common.runtime.progress import progress_bar

__all__ = [
    "ExperimentSettings",
    "Frames",
    "Record",
    "Run",
    "evaluate",
    "make_test_frames",
    "make_training_frames",
    "run_experiment",
    "train",
]

_EVALUATION_BATCH = 500


@dataclass(frozen=True, kw_only=True)
class ExperimentSettings:
    """Everything that a figure depends on but the digits, the model's name and the seed.

    Raises:
        ValueError: a setting out of range.
    """

    epochs: int
    """Passes over the training digits."""

    copies: int = 1
    """How many times each test digit is in a test set, every time at another place and under another transform."""

    batch_size: int = 64

    learning_rate: float = 2e-3
    """Highest rate of Adam: it rises linearly, then falls as a half cosine to zero."""

    warmup: float = 0.1
    """Share of the steps in which the rate rises."""

    test_seed: int = 0
    """Of the places and transforms of the test sets."""

    ranges: AffineRanges = dataclasses.field(default_factory=AffineRanges)
    """What the test transforms are drawn from."""

    model: ModelSettings = dataclasses.field(default_factory=ModelSettings)

    def __post_init__(self) -> None:
        for name in ("epochs", "copies", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be >= 1, got {getattr(self, name)}")
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate must be > 0, got {self.learning_rate}")
        if not 0 <= self.warmup < 1:
            raise ValueError(f"warmup must be in [0, 1), got {self.warmup}")

    def steps(self, images: int) -> int:
        """Optimizer steps of a run."""
        return self.epochs * math.ceil(images / self.batch_size)


@dataclass(frozen=True, eq=False)
class Frames:
    """Digits in their frames, as a model sees them."""

    images: np.ndarray
    """[N, 40, 40] uint8."""

    keypoints: np.ndarray
    """[N, 5, 2] float32, fractions of the frame."""

    labels: np.ndarray
    """[N] int64."""

    def batches(self, order: np.ndarray, size: int, device: torch.device) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Images [B, 40, 40] in [0, 1], keypoints and labels, in that order."""
        for begin in range(0, len(order), size):
            index = order[begin : begin + size]
            images = torch.from_numpy(self.images[index]).to(device)
            keypoints, labels = (torch.from_numpy(part[index]).to(device) for part in (self.keypoints, self.labels))
            yield images.float() / 255, keypoints, labels


def make_training_frames(digits: Digits, rng: np.random.Generator) -> Frames:
    """Every training digit upright, at a new place."""
    images = upright_frames(digits.train_images, rng)
    return Frames(images, box_keypoints(images), digits.train_labels)


def make_test_frames(digits: Digits, settings: ExperimentSettings) -> dict[str, Frames]:
    """The "clean" and the "affine" test set, the same in every call.

    Raises:
        ValueError: a digit does not fit in the frame under its transform.
    """
    originals = np.tile(digits.test_images, (settings.copies, 1, 1))
    labels = np.tile(digits.test_labels, settings.copies)
    rngs = [np.random.default_rng((settings.test_seed, part)) for part in range(2)]
    try:
        moved = affine_frames(originals, rngs[1], settings.ranges)
    except ValueError as error:
        raise ValueError(f"{digits.name}, test images: {error}") from error
    images = {"clean": upright_frames(originals, rngs[0]), "affine": moved}
    return {name: Frames(part, box_keypoints(part), labels) for name, part in images.items()}


def train(
    model: DigitClassifier,
    digits: Digits,
    settings: ExperimentSettings,
    seed: int,
    device: torch.device,
    on_step: Callable[[], Any] = lambda: None,
    on_epoch: Callable[[int, float], Any] = lambda epoch, loss: None,
) -> None:
    """Train a model, in place.

    Args:
        model: on `device`.
        digits: the training digits are used.
        settings: the schedule.
        seed: of order and places.
        device: what to train on.
        on_step: called after every step.
        on_epoch: called after every epoch with its number, from 1, and its mean loss.

    Raises:
        FloatingPointError: the loss is not finite any more.
    """
    model.train()
    optimizer = torch.optim.Adam(model.parameters(), lr=settings.learning_rate)
    steps = settings.steps(len(digits.train_labels))
    warmup = settings.warmup * steps
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, steps, warmup))
    for epoch in range(settings.epochs):
        rng = np.random.default_rng((seed, epoch))
        frames = make_training_frames(digits, rng)
        order = rng.permutation(len(frames.labels))
        losses = []
        for images, keypoints, labels in frames.batches(order, settings.batch_size, device):
            loss = F.cross_entropy(model(images, keypoints), labels)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            scheduler.step()
            losses.append(loss.detach())
            on_step()
        mean = float(torch.stack(losses).mean())
        if not math.isfinite(mean):
            raise FloatingPointError(f"the loss is {mean} in epoch {epoch + 1}; try a lower learning rate")
        on_epoch(epoch + 1, mean)


def _rate(step: int, steps: int, warmup: float) -> float:
    """Share of the highest learning rate, for step 0, 1, ..."""
    if step < warmup:
        return (step + 1) / (warmup + 1)
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(steps - warmup, 1)))


@torch.no_grad()
def evaluate(model: DigitClassifier, frames: Frames, device: torch.device) -> float:
    """Percent of the frames that are classified rightly."""
    model.eval()
    right = sum(
        int((model(images, keypoints).argmax(dim=1) == labels).sum())
        for images, keypoints, labels in frames.batches(np.arange(len(frames.labels)), _EVALUATION_BATCH, device)
    )
    return 100 * right / len(frames.labels)


@dataclass(frozen=True, kw_only=True)
class Run:
    """What came out of one model and seed."""

    model: str
    seed: int
    clean: float
    """Percent right on upright test digits."""

    affine: float
    """Percent right on transformed test digits."""

    parameters: int
    seconds: float
    """Of training and testing."""

    device: str


class Record:
    """The runs so far, in a file that is rewritten whole after each.

    Args:
        path: the JSON file; taken up if it is there.
        settings: what all its runs have in common.
        digits: likewise.

    Raises:
        ValueError: the file is no such record, or of other settings or digits; what differs is named.
    """

    def __init__(self, path: Path, settings: ExperimentSettings, digits: Digits) -> None:
        self.path = path
        self.runs: list[Run] = []
        counts = {"train": len(digits.train_labels), "test": len(digits.test_labels)}
        data = {"fingerprint": digits.fingerprint(), **counts}
        # Through JSON, to be compared with what is read.
        self.common: dict[str, Any] = json.loads(json.dumps({"data": data, **dataclasses.asdict(settings)}))
        self.name = digits.name
        if path.exists():
            self._read()

    def _read(self) -> None:
        try:
            stored = json.loads(self.path.read_text(encoding="utf-8"))
            common, runs = dict(stored["settings"]), [Run(**run) for run in stored["runs"]]
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"{self.path}: not a record of this experiment ({error}); choose another --out") from error
        here, there = _flat(self.common), _flat(common)
        differing = [
            f"{key} {there.get(key)} (now {here.get(key)})"
            for key in dict.fromkeys([*here, *there])
            if here.get(key) != there.get(key)
        ]
        if differing:
            raise ValueError(
                f"{self.path} is of other settings: {', '.join(differing)}; choose another --out or remove it"
            )
        self.runs = runs

    def find(self, model: str, seed: int) -> Run | None:
        """The run of that model and seed, if it is done."""
        return next((run for run in self.runs if (run.model, run.seed) == (model, seed)), None)

    def add(self, run: Run) -> None:
        """Take in one more run and write the file."""
        self.runs.append(run)
        content = {
            "data": self.name,
            "settings": self.common,
            "runs": [dataclasses.asdict(run) for run in self.runs],
        }
        write_text(self.path, json.dumps(content, indent=1) + "\n")


def _flat(mapping: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in mapping.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def run_experiment(
    out: Path,
    digits: Digits,
    settings: ExperimentSettings,
    models: Sequence[str],
    seeds: int,
    device: torch.device,
    test_frames: dict[str, Frames] | None = None,
) -> list[Run]:
    """Train and test every model with the seeds 0, 1, ...; what `out` has already is not run again.

    Written to `out`: `results.json`, `weights/MODEL-seedN.pt` (a state dict under "model") and `logs/`.

    Args:
        out: folder; made if it is missing.
        digits: training and test digits.
        settings: the same for all.
        models: names in `MODELS`.
        seeds: how many.
        device: what to train on.
        test_frames: what `make_test_frames` gives, where the caller has it already.

    Returns:
        The runs asked for, seed by seed.

    Raises:
        ValueError: unknown models or no seeds, or an `out` of other settings.
        FloatingPointError: a training diverged; earlier runs are kept.
    """
    unknown = [name for name in models if name not in MODELS]
    if unknown or not models or len(set(models)) < len(models) or seeds < 1:
        known, got = ", ".join(MODELS), ", ".join(models) or "none"
        raise ValueError(f"models must be some of {known}, each once, and seeds >= 1, got {got} and {seeds}")
    record = Record(out / "results.json", settings, digits)
    test_frames = test_frames or make_test_frames(digits, settings)
    out.mkdir(parents=True, exist_ok=True)
    wanted = [(name, seed) for seed in range(seeds) for name in models]
    steps = settings.steps(len(digits.train_labels))
    done = sum(record.find(*key) is not None for key in wanted)
    log = RunLog(out, to_file=True)
    try:
        log.log_info(f"{digits.name}: {len(digits.train_labels)} training, {len(digits.test_labels)} test digits")
        log.log_to_file_only(json.dumps(record.common))
        if done:
            log.log_info(f"{out / 'results.json'} has {done} of {len(wanted)} runs already")
        with progress_bar(total=steps * len(wanted), initial=steps * done, unit="step") as bar:
            for name, seed in wanted:
                if record.find(name, seed) is None:
                    bar.set_description(f"{MODELS[name].title}, seed {seed}", refresh=False)
                    run = _run(out, digits, settings, name, seed, device, test_frames, log, bar.update)
                    record.add(run)
                    log.log_info(
                        f"{MODELS[name].title}, seed {seed}: clean {run.clean:.2f} %, affine {run.affine:.2f} %, "
                        f"{run.seconds:.0f} s"
                    )
    finally:
        log.close()
    return [found for key in wanted if (found := record.find(*key)) is not None]


def _run(
    out: Path,
    digits: Digits,
    settings: ExperimentSettings,
    name: str,
    seed: int,
    device: torch.device,
    test_frames: dict[str, Frames],
    log: RunLog,
    on_step: Callable[[], Any],
) -> Run:
    begun = time.perf_counter()
    model = build_model(name, settings.model, seed).to(device)

    def on_epoch(epoch: int, loss: float) -> None:
        log.log_to_file_only(f"{name}, seed {seed}, epoch {epoch}: loss {loss:.4f}")

    train(model, digits, settings, seed, device, on_step, on_epoch)
    percent = {part: evaluate(model, frames, device) for part, frames in test_frames.items()}
    state = {key: value.cpu() for key, value in model.state_dict().items()}
    contents = {"model": state, "settings": dataclasses.asdict(settings), "encoding": name, "seed": seed}
    save_checkpoint(out / "weights" / f"{name}-seed{seed}.pt", contents)
    return Run(
        model=name,
        seed=seed,
        clean=percent["clean"],
        affine=percent["affine"],
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        seconds=round(time.perf_counter() - begun, 1),
        device=str(device),
    )
