"""What every training run of this package does: step after step, with tests and checkpoints in between.

A run's files are in <output>/<name>: checkpoints/, weights/{best,last}/ (safetensors with a config), logs/, summary/
(TensorBoard), results/ (figures of each test) and, if it comes to that, broken/ (batches whose loss is not finite).
What is trained, on what, and how it is tested is a subclass's: face/training/trainer.py, face/dfa/trainer.py.
"""

import contextlib
import itertools
import json
import math
import signal
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import torch
import yaml
from accelerate import Accelerator
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from common.runtime.checkpoint import latest_checkpoint, save_checkpoint
from common.runtime.distribution import agree, gather_lists, make_accelerator, seed_everything, share_buffers
from common.runtime.files import write_text
from common.runtime.log import RunLog
from common.runtime.progress import progress_bar
from common.runtime.run_folder import claim_folder, earlier_run, held_folder, set_aside
from common.runtime.settings import to_mapping
from common.runtime.stop import StopSignals
from common.runtime.training_state import refuse_broken_weights
from face.pictures import write_sheet
from face.training.checkpoints import RunParts, files_of, prune_checkpoints, restore_run, save_run
from face.training.optimisation import (
    OptimizerSettings,
    ScheduleSettings,
    learning_rate_factor,
    set_learning_rate,
)
from face.training.sampler import EpochBatches
from face.training.settings import TrainerSettings

__all__ = ["LoopSettings", "RunOptions", "Tested", "TrainingLoop", "run_training"]

# What a run writes below its folder, and another one from the start would be in the way of.
_WRITTEN = ("checkpoints", "weights", "results", "broken")
_BESIDE = ("summary", "settings.yaml")

_ASK_EVERY = 5  # steps


class AnyBatch(Protocol):
    """What the loop itself asks of a batch."""

    @property
    def broken(self) -> tuple[str, ...]:
        """Images that did not decode, in whose place others are."""


Batch = TypeVar("Batch", bound=AnyBatch)


class _Intervals(Protocol):
    @property
    def every_epochs(self) -> float: ...


class LoopSettings(Protocol):
    """What the loop itself asks of a run's settings, which are a dataclass."""

    @property
    def name(self) -> str: ...
    @property
    def optimizer(self) -> OptimizerSettings: ...
    @property
    def schedule(self) -> ScheduleSettings: ...
    @property
    def trainer(self) -> TrainerSettings: ...
    @property
    def evaluation(self) -> _Intervals: ...


Settings = TypeVar("Settings", bound=LoopSettings)


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """What the command line says beside the YAML."""

    resume: bool = False
    """Go on from the newest checkpoint, if there is one."""

    seed: int = 0
    """Everything random follows from it."""

    output: Path = Path("output")
    """Where the runs' folders are."""


@dataclass(frozen=True, kw_only=True)
class Tested:
    """What a test found."""

    score: float
    """By which weights are kept as the best: the higher, the better."""

    sets: dict[str, dict[str, float]]
    """Figures by name, of each set."""


def run_training(
    make: "Callable[[Settings, RunOptions, Accelerator, Path, RunLog], TrainingLoop[Settings, Any]]",
    settings: Settings,
    options: RunOptions,
) -> int | None:
    """Train to the last epoch.

    Args:
        make: the kind of run; settings, data and checkpoint are looked at in it.
        settings: of the run.
        options: of the command line.

    Returns:
        None when done; the number of the signal that stopped the run, after a checkpoint was written.

    Raises:
        ValueError, OSError: anything wrong with settings, data or checkpoint, before the first step.
        FloatingPointError: more steps in a row than allowed had a loss or gradients that are not finite.
    """
    accelerator = make_accelerator(settings.trainer.precision)
    folder = options.output / settings.name
    log = RunLog(folder, to_file=True, active=accelerator.is_main_process)
    try:
        run = make(settings, options, accelerator, folder, log)
        with held_folder(folder) if accelerator.is_main_process else contextlib.nullcontext():
            return run.run()
    finally:
        log.close()


class TrainingLoop(ABC, Generic[Settings, Batch]):
    """One training run. A subclass opens its data and builds its network, then calls `_prepare`."""

    def __init__(
        self, settings: Settings, options: RunOptions, accelerator: Accelerator, folder: Path, log: RunLog
    ) -> None:
        self._settings, self._options, self._accelerator = settings, options, accelerator
        self._folder, self._log = folder, log
        self._skipped = 0  # steps in a row
        self._skipped_of_run = 0
        self._broken_images = 0
        trainer, world = settings.trainer, accelerator.num_processes
        if trainer.batch_size < 2 * world * trainer.accumulate:
            raise ValueError(
                f"trainer.batch_size must be at least 2 images (for batch norms) for each of {world} process(es) x "
                f"{trainer.accumulate} accumulated part(s), got {trainer.batch_size}"
            )

    # --- what a subclass says ---

    @abstractmethod
    def _batches(self, first: int, last: int, rank: int, world: int) -> EpochBatches:
        """This process's share of the batches from one to another."""

    @abstractmethod
    def _loader(self, batches: EpochBatches) -> DataLoader[Any]:
        """Those batches, loaded."""

    @abstractmethod
    def _compute(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of a batch, and figures of it for the log, detached."""

    @abstractmethod
    def _evaluate(self) -> Tested | None:
        """Test, with buffers that all processes share; None: there is nothing to test on."""

    @abstractmethod
    def _write_weights(self, folder: Path) -> None:
        """Write the network's weights, in the first process."""

    @abstractmethod
    def _pictured(self, batch: Batch) -> np.ndarray:
        """The first faces of a batch, as one picture [H, W, 3] uint8."""

    @abstractmethod
    def _describe(self, batch: Batch) -> dict[str, Any]:
        """Tensors of a batch, and under `files` the names of its images: what is saved of one that breaks a run."""

    def _figures(self) -> dict[str, float]:
        """More for the log, of this moment."""
        return {}

    # --- setting up ---

    def _prepare(self, parts: RunParts) -> None:
        """Restore what there is, and wrap the network; `parts` are on their device."""
        self._parts: RunParts = parts
        self._model: Any = parts.model
        trainer, world = self._settings.trainer, self._accelerator.num_processes
        self._per_epoch = self._batches(0, 1, 0, world).batches_per_epoch
        self._total = self._settings.schedule.epochs * self._per_epoch
        self._is_new_run = not self._restore()
        self._network: Any = torch.compile(self._model) if trainer.compile else self._model
        if world > 1:
            on_gpu = self._accelerator.device.type == "cuda"
            self._network = DistributedDataParallel(self._network, [self._accelerator.device] if on_gpu else None)
        # Tables that nothing changes are in no state dict.
        self._moving = [(module, set(module.state_dict())) for module in parts.modules()]

    def _restore(self) -> bool:
        path = latest_checkpoint(self._folder / "checkpoints", self._settings.name) if self._options.resume else None
        if path is None:
            if self._options.resume:
                self._log.log_warning(f"--resume: no checkpoint in {self._folder / 'checkpoints'}, starting afresh")
            return False
        restore_run(path, self._parts)
        steps = gather_lists([self._parts.iteration])
        if len(set(steps)) > 1:
            raise ValueError(
                f"--output: processes find checkpoints of different steps, {steps}: all machines must see one folder"
            )
        self._log.log_info(f"Going on from {path}, step {self._parts.iteration} of {self._total}")
        return True

    def _report_start(self, what: str) -> None:
        """A line about the network, and one about the run."""
        trainer, world = self._settings.trainer, self._accelerator.num_processes
        self._log.log_info(what)
        self._log.log_info(
            f"{self._total} steps of {trainer.batch_size} images, {self._per_epoch} an epoch; device "
            f"{self._accelerator.device}, {world} process(es), precision {trainer.precision}"
        )

    # --- the loop ---

    def run(self) -> int | None:
        """All steps that are left. Returns as `run_training`."""
        parts, trainer, accelerator = self._parts, self._settings.trainer, self._accelerator
        if not self._is_new_run:
            self._save_weights("last")  # what ended the run before may have come between checkpoint and weights
        if parts.iteration >= self._total:
            self._log.log_info(f"Step {parts.iteration} is the last already")
            return None
        self._claim()
        self._log.open_summary(parts.iteration)
        loader = self._loader(
            self._batches(parts.iteration, self._total, accelerator.process_index, accelerator.num_processes)
        )
        bar = progress_bar(
            total=self._total * trainer.batch_size,
            initial=parts.iteration * trainer.batch_size,
            desc="Training",
            unit="img",
            disable=not self._log.active,
        )
        save_steps = max(1, round(trainer.save_epochs * self._per_epoch))
        test_steps = max(1, round(self._settings.evaluation.every_epochs * self._per_epoch))
        saved = -1
        self._since, self._seen = time.perf_counter(), 0
        with StopSignals() as stop, bar:
            for micro_batches in _in_groups(iter(loader), trainer.accumulate):
                self._step(micro_batches)
                bar.update(trainer.batch_size)
                done = parts.iteration == self._total
                if parts.iteration % test_steps == 0 or done:
                    try:
                        self._test()
                    except (ValueError, OSError):  # of a test set; what was trained is not lost for it
                        self._save()
                        raise
                if parts.iteration % save_steps == 0 or done:
                    self._save()
                    saved = parts.iteration
                # Several processes must stop at the same step; asking each other at every one would slow them down.
                asks = accelerator.num_processes == 1 or parts.iteration % _ASK_EVERY == 0
                if asks and agree(stop.received is not None, accelerator.device):
                    break
            if saved != parts.iteration:
                self._save()
            self._log.log_info(
                f"{self._skipped_of_run} steps skipped, {self._broken_images} images replaced that did not decode"
            )
            if parts.iteration == self._total:
                return None
            self._log.log_warning(f"Stopped by a signal at step {parts.iteration}; --resume goes on from there")
        return stop.received or signal.SIGTERM

    def _claim(self) -> None:
        """Make room in the run's folder, and find out that it can be written and is the same for all processes."""
        if self._accelerator.is_main_process:
            self._make_room()
        self._accelerator.wait_for_everyone()
        path = self._folder / "settings.yaml"
        if not path.is_file() or path.read_text(encoding="utf-8") != self._settings_text():
            raise ValueError(f"--output: {path} is not what the first process wrote: all machines must see one folder")

    def _settings_text(self) -> str:
        text = yaml.safe_dump(to_mapping(self._settings), sort_keys=False)
        return f"# seed {self._options.seed}\n{text}"

    def _make_room(self) -> None:
        name, own = self._settings.name, self._folder / "checkpoints"
        names = earlier_run(self._folder, name, None if self._is_new_run else self._parts.iteration, _WRITTEN, _BESIDE)
        if not self._is_new_run:
            names = [f"checkpoints/{file.name}" for entry in names for file in files_of(own / Path(entry).name)]
        aside = set_aside(self._folder, names)
        if aside is not None:
            self._log.log_warning(
                f"{self._folder} held an earlier run: moved to {aside}. To go on with a run, pass --resume"
            )
        claim_folder(own)
        write_text(self._folder / "settings.yaml", self._settings_text())

    def _step(self, micro_batches: list[Batch]) -> None:
        """One optimizer step, or none where something is not finite."""
        parts = self._parts
        # Each process draws its own: stochastic depth, and the classes that PartialFC takes.
        seed_everything(self._options.seed, parts.iteration, self._accelerator.process_index)
        lr = self._settings.optimizer.lr * learning_rate_factor(
            self._settings.schedule, parts.iteration, self._per_epoch
        )
        for optimizer in parts.optimizers():
            set_learning_rate(optimizer, lr)
            optimizer.zero_grad()
        # Statistics move as a batch passes, before it is known whether the step counts.
        buffers = [buffer for module, kept in self._moving for name, buffer in module.named_buffers() if name in kept]
        before = [buffer.clone() for buffer in buffers]
        losses: list[Tensor] = []
        figures: list[dict[str, Tensor]] = []
        for place, batch in enumerate(micro_batches):
            last = place == len(micro_batches) - 1
            # Gradients are averaged over the processes once, with the last part.
            at_once = last or not isinstance(self._network, DistributedDataParallel)
            with contextlib.nullcontext() if at_once else self._network.no_sync():
                loss, found = self._compute(batch)
                parts.scaler.scale(loss / len(micro_batches)).backward()
            losses.append(loss.detach())
            figures.append(found)
            self._note_broken(batch)
        loss = torch.stack(losses).mean()
        gradient_norm, finite = self._finish_gradients(loss)
        parts.iteration += 1
        if finite:
            self._skipped = 0
            for optimizer in parts.optimizers():
                parts.scaler.step(optimizer)
            means = {name: torch.stack([found[name] for found in figures]).mean() for name in figures[0]}
            shown = {"loss": loss, **means, "gradient_norm": gradient_norm}
            self._log.collect({f"scalar/{name}": value for name, value in shown.items()})
        else:
            for buffer, value in zip(buffers, before, strict=True):
                buffer.copy_(value)
            self._skip(micro_batches, loss)
        parts.scaler.update()
        self._seen += self._settings.trainer.batch_size
        self._report(lr, micro_batches[0])

    def _finish_gradients(self, loss: Tensor) -> tuple[Tensor, bool]:
        """Unscale and clip. Returns the norm of the network's gradients, and whether all is finite in all processes.

        A process's share of the classes has gradients of its own: it alone may see one that is not finite, but all
        must skip the step.
        """
        parts, limit = self._parts, self._settings.trainer.max_grad_norm
        gradients = [p.grad for module in parts.modules() for p in module.parameters() if p.grad is not None]
        broken = not bool(torch.isfinite(torch.nn.utils.get_total_norm(gradients)) & torch.isfinite(loss))
        if agree(broken, self._accelerator.device):
            if parts.scaler.is_enabled():  # it learns of it everywhere, and lowers its scale
                for optimizer in parts.optimizers():
                    for group in optimizer.param_groups:
                        for parameter in group["params"]:
                            if parameter.grad is not None:
                                parameter.grad.fill_(float("inf"))
                    parts.scaler.unscale_(optimizer)
            return loss.new_tensor(float("nan")), False
        for optimizer in parts.optimizers():
            parts.scaler.unscale_(optimizer)
        norm = torch.nn.utils.clip_grad_norm_(self._model.parameters(), math.inf if limit is None else limit)
        return norm, True

    def _skip(self, micro_batches: list[Batch], loss: Tensor) -> None:
        self._skipped += 1
        self._skipped_of_run += 1
        most, step = self._settings.trainer.most_skipped_steps, self._parts.iteration
        what = "gradients are" if bool(loss.isfinite()) else f"loss is {float(loss):g}, gradients are"
        self._log.log_warning(f"Step {step} skipped: its {what} not finite ({self._skipped} in a row)")
        if self._skipped <= most:
            return
        path = self._save_batch(micro_batches)
        raise FloatingPointError(
            f"{self._skipped} steps in a row had a loss or gradients that are not finite (trainer.most_skipped_steps "
            f"{most}); the last checkpoint is unaffected, the batch of step {step} is in {path}"
        )

    def _save_batch(self, micro_batches: list[Batch]) -> Path:
        """Every process's images and where they are from, with a picture of the first ones."""
        rank = self._accelerator.process_index
        path = self._folder / "broken" / f"step-{self._parts.iteration:05d}-process-{rank}.pt"
        described = [self._describe(batch) for batch in micro_batches]
        content: dict[str, Any] = {
            name: torch.cat([each[name] for each in described]) for name in described[0] if name != "files"
        }
        content["files"] = [file for each in described for file in each["files"]]
        save_checkpoint(path, content)
        write_sheet(self._pictured(micro_batches[0]), path.with_suffix(".png"))
        return path

    def _note_broken(self, batch: Batch) -> None:
        for text in batch.broken:
            self._broken_images += 1
            self._log.log_warning(f"Replaced by another image: {text}")

    def _report(self, lr: float, batch: Batch) -> None:
        parts, trainer = self._parts, self._settings.trainer
        if parts.iteration % trainer.log_steps == 0 or parts.iteration == self._total:
            now = time.perf_counter()
            extra = {
                "learning_rate": lr,
                "epoch": parts.iteration / self._per_epoch,
                "images_per_second": self._seen / (now - self._since),
                "skipped_steps": float(self._skipped_of_run),
                **self._figures(),
            }
            if parts.scaler.is_enabled():
                extra["loss_scale"] = parts.scaler.get_scale()
            self._log.report(parts.iteration, {f"scalar/{name}": value for name, value in extra.items()})
            self._since, self._seen = now, 0
        if self._log.active and (parts.iteration - 1) % trainer.picture_steps == 0:
            picture = torch.from_numpy(self._pictured(batch))
            self._log.images(parts.iteration, "image/batch", picture.permute(2, 0, 1)[None] / 255)

    # --- tests and files ---

    def _test(self) -> None:
        """Test; the weights of the best score so far are kept."""
        parts = self._parts
        began = time.perf_counter()
        share_buffers(self._model)  # each process tests its share of the images with the weights that are saved
        tested = self._evaluate()
        if tested is None:
            return
        for name, found in tested.sets.items():
            shown = ", ".join(f"{what} {value:.2f}" for what, value in found.items())
            self._log.log_info(f"Test at step {parts.iteration}: {name}: {shown}")
            self._log.scalars(parts.iteration, {f"test_{name}/{what}": value for what, value in found.items()})
        self._log.scalars(parts.iteration, {"test/score": tested.score})
        is_best = tested.score > parts.best
        parts.best = max(parts.best, tested.score)
        if self._log.active:
            content = {"step": parts.iteration, "score": tested.score, "sets": tested.sets}
            target = self._folder / "results" / f"step-{parts.iteration:05d}.json"
            target.parent.mkdir(parents=True, exist_ok=True)
            write_text(target, json.dumps(content, indent=1) + "\n")
            if is_best:
                refuse_broken_weights(self._model, parts.iteration)
                self._save_weights("best")
                self._log.log_info(
                    f"Best score so far, {tested.score:.2f}: weights in {self._folder / 'weights' / 'best'}"
                )
        # Throughput is that of training.
        self._since += time.perf_counter() - began

    def _save_weights(self, kind: str) -> None:
        if self._accelerator.is_main_process:
            self._write_weights(self._folder / "weights" / kind)

    def _save(self) -> None:
        for module in self._parts.modules():
            refuse_broken_weights(module, self._parts.iteration)
        began, folder = time.perf_counter(), self._folder / "checkpoints"
        accelerator, name = self._accelerator, self._settings.name
        path = save_run(folder, name, self._parts, accelerator.is_main_process, accelerator.wait_for_everyone)
        self._save_weights("last")
        if accelerator.is_main_process:
            if not self._skipped:  # else an older one may be what is wanted
                prune_checkpoints(folder, name, self._settings.trainer.keep_checkpoints)
            self._log.log_info(f"Saved {path}")
        accelerator.wait_for_everyone()
        self._since += time.perf_counter() - began


def _in_groups(batches: Iterator[Batch], size: int) -> Iterator[list[Batch]]:
    """`size` neighbours at a time."""
    while group := list(itertools.islice(batches, size)):
        yield group
