"""The run: data, network, classifier and loss, step after step, with tests and checkpoints in between.

The order of a run is: settings, data and test sets (all looked at), model, checkpoint, and only then the long part. Its
files are in <output>/<name>: checkpoints/, weights/{best,last}/ (safetensors with a config), logs/, summary/
(TensorBoard), results/ (figures of each test) and, if it comes to that, broken/ (batches whose loss is not finite).
Shape letters: B images of a batch.
"""

import contextlib
import itertools
import json
import math
import signal
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from common.keypoints import FIVE_POINT_FACE
from common.runtime.checkpoint import latest_checkpoint, load_weights, save_checkpoint
from common.runtime.distribution import (
    agree,
    gather_lists,
    make_accelerator,
    mix_seed,
    seed_everything,
    share_buffers,
)
from common.runtime.files import write_text
from common.runtime.log import RunLog
from common.runtime.progress import progress_bar
from common.runtime.run_folder import claim_folder, earlier_run, held_folder, set_aside
from common.runtime.settings import to_mapping
from common.runtime.stop import StopSignals
from common.runtime.sync_batch_norm import synchronise_batch_norm
from common.runtime.training_state import refuse_broken_weights
from face.evaluation.sets import measure, open_set
from face.losses import PartialFC, make_margin
from face.models import create_model, load_pretrained, save_pretrained
from face.models.base import pixels_to_input
from face.pictures import face_grid, write_sheet
from face.training.checkpoints import RunIdentity, RunParts, files_of, prune_checkpoints, restore_run, save_run
from face.training.data import open_training_set
from face.training.dataset import FaceBatch, make_loader
from face.training.optimisation import learning_rate_factor, make_optimizer, set_learning_rate
from face.training.sampler import EpochBatches
from face.training.settings import TrainSettings

__all__ = ["RunOptions", "train"]

# What a run writes below its folder, and another one from the start would be in the way of.
_WRITTEN = ("checkpoints", "weights", "results", "broken")
_BESIDE = ("summary", "settings.yaml")

_PICTURED = 32  # faces
_ASK_EVERY = 5  # steps


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """What the command line says beside the YAML."""

    resume: bool = False
    """Go on from the newest checkpoint, if there is one."""

    seed: int = 0
    """Everything random follows from it."""

    output: Path = Path("output")
    """Where the runs' folders are."""


def train(settings: TrainSettings, options: RunOptions) -> int | None:
    """Train to the last epoch.

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
        run = _Trainer(settings, options, accelerator, folder, log)
        with held_folder(folder) if accelerator.is_main_process else contextlib.nullcontext():
            return run.run()
    finally:
        log.close()


class _Trainer:
    """One training run."""

    def __init__(
        self, settings: TrainSettings, options: RunOptions, accelerator: Accelerator, folder: Path, log: RunLog
    ) -> None:
        self._settings, self._options, self._accelerator = settings, options, accelerator
        self._folder, self._log = folder, log
        self._skipped = 0  # steps in a row
        self._skipped_of_run = 0
        self._broken_images = 0
        trainer, world = settings.trainer, accelerator.num_processes

        seed_everything(options.seed)
        model = create_model(settings.model.name, **settings.model.settings)
        self._data = open_training_set(
            settings.data, settings.augmentation, model.image_hw, model.needs_keypoints, options.seed, log
        )
        self._sets = [open_set(entry, needs_keypoints=model.needs_keypoints) for entry in settings.evaluation.sets]
        labels = self._data.source.labels
        self._identity = RunIdentity(
            images=len(labels),
            classes=self._data.source.num_classes,
            labels=zlib.crc32(labels.astype(np.int64).tobytes()),
            batch_size=trainer.batch_size,
            seed=options.seed,
            repeat_probability=settings.data.repeat_probability,
            repeat_same_image=settings.data.repeat_same_image,
        )
        self._check_sizes(model)
        if settings.model.start_from is not None:
            start = load_pretrained(settings.model.start_from)
            load_weights(model, start.state_dict(), strict=True, source=settings.model.start_from)
            log.log_info(f"Weights of {settings.model.start_from} to start from")
        if trainer.sync_batch_norm and world > 1:
            synchronise_batch_norm(model, accelerator.device)
        self._model: Any = model.to(accelerator.device)
        classifier = PartialFC(
            model.num_features,
            self._identity.classes,
            make_margin(settings.loss.margin),
            sampling_rate=settings.loss.sampling_rate,
            seed=mix_seed(options.seed, 2),
        ).to(accelerator.device)
        self._parts = RunParts(
            model=self._model,
            optimizer=make_optimizer(settings.optimizer, self._model),
            classifier=classifier,
            class_optimizer=make_optimizer(settings.optimizer, classifier),
            scaler=torch.amp.GradScaler(accelerator.device.type, enabled=trainer.precision == "fp16"),
            identity=self._identity,
        )
        batches = EpochBatches(labels, trainer.batch_size, options.seed, 0, 1, 0, world, trainer.accumulate)
        self._per_epoch = batches.batches_per_epoch
        self._total = settings.schedule.epochs * self._per_epoch
        self._is_new_run = not self._restore()
        self._network: Any = torch.compile(self._model) if trainer.compile else self._model
        if world > 1:
            on_gpu = accelerator.device.type == "cuda"
            self._network = DistributedDataParallel(self._network, [accelerator.device] if on_gpu else None)
        self._report_start(model)

    def _check_sizes(self, model: nn.Module) -> None:
        """What would otherwise come up in the first step."""
        trainer, world = self._settings.trainer, self._accelerator.num_processes
        if trainer.batch_size < 2 * world * trainer.accumulate:
            raise ValueError(
                f"trainer.batch_size must be at least 2 images (for batch norms) for each of {world} process(es) x "
                f"{trainer.accumulate} accumulated part(s), got {trainer.batch_size}"
            )
        if self._identity.classes < world:
            raise ValueError(f"{self._settings.data.root}: {self._identity.classes} identities for {world} processes")
        points = self._settings.model.settings.get("num_keypoints", len(FIVE_POINT_FACE))
        if self._data.landmarks is not None and points != len(FIVE_POINT_FACE):
            raise ValueError(f"model.settings.num_keypoints must be {len(FIVE_POINT_FACE)}, as landmarks, got {points}")

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

    def _report_start(self, model: nn.Module) -> None:
        trainer, world = self._settings.trainer, self._accelerator.num_processes
        count = sum(parameter.numel() for parameter in model.parameters())
        self._log.log_info(
            f"{self._settings.model.name}: {count / 1e6:.2f} M parameters, and {self._identity.classes} classes of "
            f"{self._model.num_features} features"
        )
        self._log.log_info(
            f"{self._total} steps of {trainer.batch_size} images, {self._per_epoch} an epoch; device "
            f"{self._accelerator.device}, {world} process(es), precision {trainer.precision}"
        )

    # --- the loop ---

    def run(self) -> int | None:
        """All steps that are left."""
        parts = self._parts
        if not self._is_new_run:
            self._save_weights("last")  # what ended the run before may have come between checkpoint and weights
        if parts.iteration >= self._total:
            self._log.log_info(f"Step {parts.iteration} is the last already")
            return None
        self._claim()
        self._log.open_summary(parts.iteration)
        settings, trainer = self._settings, self._settings.trainer
        accelerator = self._accelerator
        batches = EpochBatches(
            self._data.source.labels,
            trainer.batch_size,
            self._options.seed,
            parts.iteration,
            self._total,
            accelerator.process_index,
            accelerator.num_processes,
            trainer.accumulate,
            settings.data.repeat_probability,
            settings.data.repeat_same_image,
        )
        on_gpu = accelerator.device.type == "cuda"
        loader = make_loader(self._data, batches, settings.data.num_workers, pin_memory=on_gpu)
        bar = progress_bar(
            total=self._total * trainer.batch_size,
            initial=parts.iteration * trainer.batch_size,
            desc="Training",
            unit="img",
            disable=not self._log.active,
        )
        save_steps = max(1, round(trainer.save_epochs * self._per_epoch))
        test_steps = max(1, round(settings.evaluation.every_epochs * self._per_epoch))
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

    def _step(self, micro_batches: list[FaceBatch]) -> None:
        """One optimizer step, or none where something is not finite."""
        parts, trainer = self._parts, self._settings.trainer
        # Each process draws its own: stochastic depth, and the classes that PartialFC takes.
        seed_everything(self._options.seed, parts.iteration, self._accelerator.process_index)
        lr = self._settings.optimizer.lr * learning_rate_factor(
            self._settings.schedule, parts.iteration, self._per_epoch
        )
        for optimizer in (parts.optimizer, parts.class_optimizer):
            set_learning_rate(optimizer, lr)
            optimizer.zero_grad()
        # Statistics move as a batch passes, before it is known whether the step counts.
        buffers = [*self._model.buffers(), *parts.classifier.buffers()]
        before = [buffer.clone() for buffer in buffers]
        losses, norms = [], []
        for place, batch in enumerate(micro_batches):
            last = place == len(micro_batches) - 1
            # Gradients are averaged over the processes once, with the last part.
            at_once = last or not isinstance(self._network, DistributedDataParallel)
            with contextlib.nullcontext() if at_once else self._network.no_sync():
                embeddings = self._embed(batch)
                labels = batch.labels.to(embeddings.device, non_blocking=True)
                loss = parts.classifier(embeddings, labels, [len(labels)] * self._accelerator.num_processes)
                parts.scaler.scale(loss / len(micro_batches)).backward()
            losses.append(loss.detach())
            norms.append(embeddings.detach().float().norm(dim=1).mean())
            self._note_broken(batch)
        loss = torch.stack(losses).mean()
        gradient_norm, finite = self._finish_gradients(loss)
        parts.iteration += 1
        if finite:
            self._skipped = 0
            for optimizer in (parts.optimizer, parts.class_optimizer):
                parts.scaler.step(optimizer)
            norm = torch.stack(norms).mean()
            self._log.collect(
                {"scalar/loss": loss, "scalar/embedding_norm": norm, "scalar/gradient_norm": gradient_norm}
            )
        else:
            for buffer, value in zip(buffers, before, strict=True):
                buffer.copy_(value)
            self._skip(micro_batches, loss)
        parts.scaler.update()
        self._seen += trainer.batch_size
        self._report(lr, micro_batches[0])

    def _embed(self, batch: FaceBatch) -> Tensor:
        device = self._accelerator.device
        images = pixels_to_input(batch.images, device)
        keypoints, visibility = None, None
        if self._model.needs_keypoints:
            keypoints = batch.keypoints.to(device, non_blocking=True)
            if self._data.hides:
                visibility = batch.visibility.to(device, non_blocking=True)
        with self._accelerator.autocast():
            return self._network(images, keypoints, visibility)

    def _finish_gradients(self, loss: Tensor) -> tuple[Tensor, bool]:
        """Unscale and clip. Returns the norm of the network's gradients, and whether all is finite in all processes.

        A process's share of the classes has gradients of its own: it alone may see one that is not finite, but all
        must skip the step.
        """
        parts, limit = self._parts, self._settings.trainer.max_grad_norm
        own = [p.grad for p in parts.classifier.parameters() if p.grad is not None]
        everything = [p.grad for p in self._model.parameters() if p.grad is not None] + own
        broken = not bool(torch.isfinite(torch.nn.utils.get_total_norm(everything)) & torch.isfinite(loss))
        if agree(broken, self._accelerator.device):
            if parts.scaler.is_enabled():  # it learns of it everywhere, and lowers its scale
                for optimizer in (parts.optimizer, parts.class_optimizer):
                    for group in optimizer.param_groups:
                        for parameter in group["params"]:
                            if parameter.grad is not None:
                                parameter.grad.fill_(float("inf"))
                    parts.scaler.unscale_(optimizer)
            return loss.new_tensor(float("nan")), False
        for optimizer in (parts.optimizer, parts.class_optimizer):
            parts.scaler.unscale_(optimizer)
        norm = torch.nn.utils.clip_grad_norm_(self._model.parameters(), math.inf if limit is None else limit)
        return norm, True

    def _skip(self, micro_batches: list[FaceBatch], loss: Tensor) -> None:
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

    def _save_batch(self, micro_batches: list[FaceBatch]) -> Path:
        """Every process's images and where they are from, with a picture of the first ones."""
        rank = self._accelerator.process_index
        path = self._folder / "broken" / f"step-{self._parts.iteration:05d}-process-{rank}.pt"
        names = ("images", "keypoints", "visibility", "labels", "indices")
        content: dict[str, Any] = {name: torch.cat([getattr(batch, name) for batch in micro_batches]) for name in names}
        content["files"] = [self._data.source.name_of(int(index)) for index in content["indices"]]
        save_checkpoint(path, content)
        write_sheet(self._pictured(content["images"], content["keypoints"]), path.with_suffix(".png"))
        return path

    def _pictured(self, images: Tensor, keypoints: Tensor) -> np.ndarray:
        """The first faces of a batch, with their landmarks where the model takes any."""
        shown = images[:_PICTURED].permute(0, 2, 3, 1).numpy()
        return face_grid(shown, None if self._data.landmarks is None else keypoints[:_PICTURED].numpy())

    def _note_broken(self, batch: FaceBatch) -> None:
        for text in batch.broken:
            self._broken_images += 1
            self._log.log_warning(f"Replaced by another image: {text}")

    def _report(self, lr: float, batch: FaceBatch) -> None:
        parts, trainer = self._parts, self._settings.trainer
        if parts.iteration % trainer.log_steps == 0 or parts.iteration == self._total:
            now = time.perf_counter()
            extra = {
                "scalar/learning_rate": lr,
                "scalar/epoch": parts.iteration / self._per_epoch,
                "scalar/images_per_second": self._seen / (now - self._since),
                "scalar/skipped_steps": float(self._skipped_of_run),
            }
            extra |= {f"scalar/{name}": float(value) for name, value in parts.classifier.margin.named_buffers()}
            if parts.scaler.is_enabled():
                extra["scalar/loss_scale"] = parts.scaler.get_scale()
            self._log.report(parts.iteration, extra)
            self._since, self._seen = now, 0
        if self._log.active and (parts.iteration - 1) % trainer.picture_steps == 0:
            picture = torch.from_numpy(self._pictured(batch.images, batch.keypoints))
            self._log.images(parts.iteration, "image/batch", picture.permute(2, 0, 1)[None] / 255)

    # --- tests and files ---

    def _test(self) -> None:
        """Test on every set; the weights of the best score so far are kept."""
        if not self._sets:
            return
        evaluation, parts = self._settings.evaluation, self._parts
        began = time.perf_counter()
        share_buffers(self._model)  # each process tests its share of the images with the weights that are saved
        figures: dict[str, dict[str, float]] = {}
        for opened in self._sets:
            name = opened.settings.name
            result = measure(
                opened,
                self._model,
                batch_size=evaluation.batch_size,
                device=self._accelerator.device,
                precision=self._settings.trainer.precision,
                num_workers=evaluation.num_workers,
                progress=self._log.active,
            )
            figures[name] = result.metrics
            if result.without_landmarks:
                self._log.log_warning(
                    f"{name}: {result.without_landmarks} of {result.images} images have no landmarks "
                    f"(missing_landmarks {opened.settings.missing_landmarks})"
                )
        # The first figure of a set is the one that it is known by.
        score = float(np.mean([next(iter(found.values())) for found in figures.values()]))
        for name, found in figures.items():
            shown = ", ".join(f"{what} {value:.2f}" for what, value in found.items())
            self._log.log_info(f"Test at step {parts.iteration}: {name}: {shown}")
            self._log.scalars(parts.iteration, {f"test_{name}/{what}": value for what, value in found.items()})
        self._log.scalars(parts.iteration, {"test/score": score})
        is_best = score > parts.best
        parts.best = max(parts.best, score)
        if self._log.active:
            content = {"step": parts.iteration, "score": score, "sets": figures}
            target = self._folder / "results" / f"step-{parts.iteration:05d}.json"
            target.parent.mkdir(parents=True, exist_ok=True)
            write_text(target, json.dumps(content, indent=1) + "\n")
            if is_best:
                refuse_broken_weights(self._model, parts.iteration)
                self._save_weights("best")
                self._log.log_info(f"Best score so far, {score:.2f}: weights in {self._folder / 'weights' / 'best'}")
        # Throughput is that of training.
        self._since += time.perf_counter() - began

    def _save_weights(self, kind: str) -> None:
        if self._accelerator.is_main_process:
            save_pretrained(self._model, self._folder / "weights" / kind)

    def _save(self) -> None:
        for part in (self._model, self._parts.classifier):
            refuse_broken_weights(part, self._parts.iteration)
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


def _in_groups(batches: Iterator[FaceBatch], size: int) -> Iterator[list[FaceBatch]]:
    """`size` neighbours at a time."""
    while group := list(itertools.islice(batches, size)):
        yield group
