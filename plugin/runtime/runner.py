"""Training and testing a gait model from prepared sequences.

The order of a run is: settings, data (every sequence is looked at), model, checkpoint, and only then the long part.
Files are where OpenGait has them: <output>/<dataset_name>/<model>/<save_name>/{checkpoints,logs,summary}, and the
figures of each test, with its CMC curve, as JSON in results/.
"""

import json
import math
import signal
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from accelerate import Accelerator
from torch import Tensor, nn

from common.runtime.checkpoint import (
    checkpoint_path,
    latest_checkpoint,
    restore_weights,
    save_checkpoint,
)
from common.runtime.distribution import Precision, agree, gather_lists, make_accelerator, mix_seed, seed_everything
from common.runtime.files import write_text
from common.runtime.log import RunLog
from common.runtime.progress import progress_bar
from common.runtime.run_folder import claim_folder, earlier_run, held_folder, set_aside
from common.runtime.settings import to_mapping
from common.runtime.stop import StopSignals
from common.runtime.sync_batch_norm import synchronise_batch_norm
from common.runtime.training_state import check_optimizer_state, refuse_broken_weights
from plugin.conditions import TestCondition
from plugin.evaluation import Protocol, ProtocolResult, RetrievalResult
from plugin.runtime.batches import compute_embeddings, to_device
from plugin.runtime.data import (
    Batch,
    Collate,
    GaitDataset,
    GaitSequence,
    InferenceSampler,
    TripletSampler,
    make_loader,
)
from plugin.runtime.host import MODELS, BaseModel
from plugin.runtime.losses import LossAggregator
from plugin.runtime.settings import GaitSettings
from plugin.transforms import PairedCompose

__all__ = ["RunOptions", "TestResult", "test", "train"]

# A loss scale that is still too large after this many halvings in a row is not the scale's fault.
_MOST_SKIPS = 30

_ASK_EVERY = 5  # batches


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """What the command line says beside the YAML."""

    iteration: int = 0
    """Restore this iteration's checkpoint; 0: what restore_hint says."""

    resume: bool = False
    """Restore the newest checkpoint, if there is one."""

    log_to_file: bool = False
    """Keep the text log in a file too."""

    seed: int = 0
    """Everything random follows from it."""

    output: Path = Path("output")
    """Where the output folders are."""

    condition: TestCondition = field(default_factory=TestCondition)
    """What a test does to crops and joints."""


@dataclass(frozen=True, kw_only=True)
class TestResult:
    """The figures of one test."""

    __test__ = False  # not a test case, whatever pytest makes of the name

    metrics: dict[str, float]
    """scalar/test_accuracy/{Rank-1,Rank-5,Rank-10,mAP,mINP} in percent; other names for other protocols."""

    details: RetrievalResult | None
    """CMC curve, and what single probes got, where the protocol is one ranking."""

    path: Path
    """The JSON file that holds them."""


def _precision(enable_float16: bool) -> Precision:
    """OpenGait's switch means half precision on a GPU; a CPU runs in float32 whatever it says."""
    return "fp16" if enable_float16 and torch.cuda.is_available() else "fp32"


def _build_model(settings: GaitSettings, training: bool, seed: int, log: RunLog) -> BaseModel:
    seed_everything(seed)
    model = MODELS[settings.model_cfg.model](to_mapping(settings), training, log)
    assert isinstance(model, BaseModel)
    if settings.model_cfg.backbone_cfg.channels[0] % 16 == 0:
        # A fifth faster on a CPU. Narrower maps crash there in the backward of strided 1x1 convolutions (oneDNN).
        model.to(memory_format=torch.channels_last)
    count = sum(parameter.numel() for parameter in model.parameters())
    log.log_info(f"Parameters Count: {count / 1e6:.5f}M")
    return model


def _restore(model: BaseModel, path: Path, strict: bool, log: RunLog) -> dict[str, Any]:
    translate = getattr(model, "translate_checkpoint", None)
    checkpoint, report = restore_weights(model, path, strict=strict, translate=translate)
    log.log_info(str(report))
    return checkpoint


def _restore_path(hint: int | str, folder: Path, save_name: str) -> Path | None:
    """The checkpoint that a restore_hint means: None for 0."""
    if isinstance(hint, str):
        return Path(hint)
    return checkpoint_path(folder / "checkpoints", save_name, hint) if hint else None


class _Tester:
    """The test part of a run, checked and built before anything long begins."""

    def __init__(self, settings: GaitSettings, options: RunOptions, accelerator: Accelerator, log: RunLog) -> None:
        evaluator = settings.evaluator_cfg
        self._evaluator, self._log, self._accelerator = evaluator, log, accelerator
        self._dataset = GaitDataset(
            settings.data_cfg, training=False, needs_keypoints=settings.model_cfg.needs_keypoints
        )
        self._protocol, indices = self._prepare(settings)
        self.condition = options.condition.name
        transform = PairedCompose(evaluator.transform[0].trf_cfg)
        transform.transforms[:0] = options.condition.transforms()
        rank, world = accelerator.process_index, accelerator.num_processes
        sampler = InferenceSampler(indices, evaluator.sampler.batch_size, mix_seed(options.seed, 1), rank, world)
        collate = Collate(evaluator.sampler, transform)
        self._loader = make_loader(self._dataset, sampler, collate, settings.data_cfg.num_workers)
        log.log_info(
            f"Test set: {len(indices)} sequences of {len(self._dataset.label_set)} subjects, "
            f"protocol {evaluator.eval_func}, condition: {self.condition}"
        )

    def _prepare(self, settings: GaitSettings) -> tuple[Protocol, list[int]]:
        """The protocol, and the sequences that it needs.

        Raises:
            ValueError: they cannot be tested so.
        """
        dataset, data, evaluator = self._dataset, settings.data_cfg, self._evaluator
        indices = list(range(len(dataset)))
        probes: frozenset[str] = frozenset()
        if evaluator.eval_func == "evaluate_Gait3D":
            indices = dataset.gallery_check(data.remove_no_gallery)
            if len(indices) < len(dataset):
                left_out = len(dataset) - len(indices)
                self._log.log_warning(f"{left_out} probes without gallery are left out (data_cfg.remove_no_gallery)")
            probes = dataset.probes & {dataset.sequences[index].name for index in indices}
        protocol = settings.protocol(probes)
        names = _names([dataset.sequences[index] for index in indices])
        protocol.check(*names)
        needed = np.logical_or(*protocol.roles(*names))
        if not needed.all():
            self._log.log_info(f"{(~needed).sum()} sequences are neither probe nor gallery, and are not tested")
        return protocol, [index for index, use in zip(indices, needed, strict=True) if use]

    def run(self, model: nn.Module) -> ProtocolResult:
        """What the protocol finds, the same in every process."""
        was_training = model.training
        model.eval()
        rows: list[tuple[str, np.ndarray]] = []
        device = self._accelerator.device
        bar = progress_bar(self._loader, desc="Testing", unit="batch", disable=not self._log.active, leave=False)
        for names, embeddings in compute_embeddings(model, bar, device, self._evaluator.enable_float16):
            rows += zip(names, embeddings, strict=True)
        model.train(was_training)
        by_name = dict(gather_lists(rows))
        tested = [sequence for sequence in self._dataset.sequences if sequence.name in by_name]
        with warnings.catch_warnings(record=True) as remarks:
            warnings.simplefilter("always")
            found = self._protocol.evaluate(np.stack([by_name[sequence.name] for sequence in tested]), *_names(tested))
        for remark in remarks:
            self._log.log_warning(remark.message)
        separator = "\n" if "\n" in found.text else " "
        self._log.log_info(f"{self.condition}:{separator}{found.text}")
        return found


def _names(sequences: Sequence[GaitSequence]) -> tuple[list[str], list[str], list[str]]:
    return [s.label for s in sequences], [s.type for s in sequences], [s.view for s in sequences]


@contextmanager
def _open_log(folder: Path, options: RunOptions, accelerator: Accelerator) -> Iterator[RunLog]:
    log = RunLog(folder, options.log_to_file, active=accelerator.is_main_process)
    try:
        yield log
    finally:
        log.close()


def test(settings: GaitSettings, options: RunOptions) -> TestResult:
    """Test the checkpoint that evaluator_cfg.restore_hint, or `options`, names.

    Returns:
        Metrics, CMC and where they were written.

    Raises:
        ValueError, FileNotFoundError: anything wrong with settings, data or checkpoint, before the first batch.
    """
    evaluator = settings.evaluator_cfg
    accelerator = make_accelerator(_precision(evaluator.enable_float16))
    folder = settings.run_folder(options.output, evaluator)
    with _open_log(folder, options, accelerator) as log:
        tester = _Tester(settings, options, accelerator, log)
        model = _build_model(settings, False, options.seed, log)
        hint = options.iteration or evaluator.restore_hint
        path = latest_checkpoint(folder / "checkpoints", evaluator.save_name) if options.resume else None
        path = path or _restore_path(hint, folder, evaluator.save_name)
        if path is None:
            raise ValueError("evaluator_cfg.restore_hint is 0: testing needs a checkpoint")
        checkpoint = _restore(model, path, evaluator.restore_ckpt_strict, log)
        model.to(accelerator.device)
        found = tester.run(model)
        target = folder / "results" / f"{path.stem}-{tester.condition}.json"
        if log.active:
            _write_result(target, path, checkpoint.get("iteration"), tester.condition, found)
            log.log_info(f"Results written to {target}")
    return TestResult(metrics=found.metrics, details=found.details, path=target)


def _write_result(target: Path, checkpoint: Path, iteration: int | None, condition: str, found: ProtocolResult) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    content: dict[str, Any] = {
        "checkpoint": str(checkpoint),
        "iteration": iteration,
        "condition": condition,
        "metrics": {name.rsplit("/", 1)[-1]: round(float(value), 4) for name, value in found.metrics.items()},
    }
    if found.details is not None:
        content["cmc"] = [round(float(value), 4) for value in found.details.cmc]
    for name, text in found.files.items():
        write_text(target.with_name(f"{target.stem}-{name}"), text)
    write_text(target, json.dumps(content, indent=1) + "\n")


def train(settings: GaitSettings, options: RunOptions) -> int | None:
    """Train to trainer_cfg.total_iter.

    Returns:
        None when done; the number of the signal that stopped the run, after a checkpoint was written.

    Raises:
        ValueError, FileNotFoundError: anything wrong with settings, data or checkpoint, before the first batch.
        FloatingPointError: a loss that is not finite.
    """
    trainer = settings.trainer_cfg
    accelerator = make_accelerator(_precision(trainer.enable_float16), trainer.find_unused_parameters)
    folder = settings.run_folder(options.output, trainer)
    with _open_log(folder, options, accelerator) as log:
        run = _Trainer(settings, options, accelerator, folder, log)
        with held_folder(folder) if accelerator.is_main_process else nullcontext():
            return run.run()


class _Trainer:
    """One training run."""

    def __init__(
        self, settings: GaitSettings, options: RunOptions, accelerator: Accelerator, folder: Path, log: RunLog
    ) -> None:
        trainer = settings.trainer_cfg
        self._settings, self._options, self._trainer = settings, options, trainer
        self._accelerator, self._folder, self._log = accelerator, folder, log
        self.iteration = 0
        self._skipped = 0  # steps in a row
        self._batches_drawn = 0  # more than iterations where half precision skipped a step
        dataset = GaitDataset(settings.data_cfg, training=True, needs_keypoints=settings.model_cfg.needs_keypoints)
        classes = settings.model_cfg.bnnecks.class_num
        if classes < len(dataset.label_set):
            raise ValueError(
                f"model_cfg.SeparateBNNecks.class_num is {classes}, "
                f"the training set has {len(dataset.label_set)} subjects"
            )
        self._tester = _Tester(settings, options, accelerator, log) if trainer.with_test else None
        self._model = _build_model(settings, True, options.seed, log)
        self._losses = LossAggregator(settings.loss_cfg)
        checkpoint = self._restore_model()
        if trainer.sync_BN and accelerator.num_processes > 1:
            synchronised = synchronise_batch_norm(self._model, accelerator.device)
            assert isinstance(synchronised, BaseModel)
            self._model = synchronised
        optimizer: Any = self._model.get_optimizer(to_mapping(settings.optimizer_cfg))
        self._network, self._optimizer = accelerator.prepare(self._model, optimizer)
        self._scheduler = self._model.get_scheduler(self._plain_optimizer(), to_mapping(settings.scheduler_cfg))
        self._restore_state(checkpoint)
        sampler = TripletSampler(
            dataset,
            trainer.sampler,
            options.seed,
            self._batches_drawn,
            accelerator.process_index,
            accelerator.num_processes,
        )
        collate = Collate(trainer.sampler, PairedCompose(trainer.transform[0].trf_cfg))
        self._loader = make_loader(dataset, sampler, collate, settings.data_cfg.num_workers)
        log.log_info(
            f"Training set: {len(dataset)} sequences of {len(dataset.label_set)} subjects; device "
            f"{accelerator.device}, {accelerator.num_processes} process(es), precision {accelerator.mixed_precision}"
        )

    def _plain_optimizer(self) -> torch.optim.Optimizer:
        return getattr(self._optimizer, "optimizer", self._optimizer)

    def _restore_model(self) -> dict[str, Any] | None:
        trainer, options = self._trainer, self._options
        own = self._folder / "checkpoints"
        hint: int | str = options.iteration or trainer.restore_hint
        path = latest_checkpoint(own, trainer.save_name) if options.resume else None
        goes_on = path is not None or isinstance(hint, int)
        path = path or _restore_path(hint, self._folder, trainer.save_name)
        self._is_new_run = path is None or not goes_on
        if path is None:
            return None
        checkpoint = _restore(self._model, path, trainer.restore_ckpt_strict, self._log)
        if goes_on:
            if not isinstance(checkpoint.get("iteration"), int):
                raise ValueError(f"{path}: a checkpoint to go on from needs its 'iteration'")
            self.iteration = checkpoint["iteration"]
            self._batches_drawn = int(checkpoint.get("batches_drawn", self.iteration))
        return checkpoint

    def _set_aside_earlier_run(self) -> None:
        """Keep what an earlier run wrote and this one would overwrite, or mistake for its own when it is resumed."""
        if not self._accelerator.is_main_process:
            return
        iteration = None if self._is_new_run else self.iteration
        names = earlier_run(self._folder, self._trainer.save_name, iteration, ("checkpoints", "results"), ("summary",))
        aside = set_aside(self._folder, names)
        if aside is None:
            return
        self._log.log_warning(
            f"{self._folder} held {'an earlier run' if self._is_new_run else f'checkpoints after {self.iteration}'}: "
            f"moved to {aside}. To go on with a run, pass --resume or --iter N"
        )

    def _restore_state(self, checkpoint: dict[str, Any] | None) -> None:
        if checkpoint is None:
            return
        parts = [
            ("optimizer", self._plain_optimizer(), self._trainer.optimizer_reset),
            ("scheduler", self._scheduler, self._trainer.scheduler_reset),
        ]
        if self._accelerator.scaler is not None:
            parts.append(("scaler", self._accelerator.scaler, self._trainer.optimizer_reset))
        for name, target, reset in parts:
            if reset or name not in checkpoint:
                self._log.log_warning(f"The {name}'s state is not restored, it starts afresh")
                continue
            try:
                self._check_state(name, checkpoint[name])
                target.load_state_dict(checkpoint[name])
            except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
                raise ValueError(
                    f"the checkpoint's {name} does not fit ({error}); "
                    f"set trainer_cfg.{'scheduler' if name == 'scheduler' else 'optimizer'}_reset to start it afresh"
                ) from error

    def _check_state(self, name: str, state: dict[str, Any]) -> None:
        """What load_state_dict takes without a word, and a later step stumbles over or quietly does wrong.

        Raises:
            ValueError: state of another kind of optimizer or scheduler, or of parameters of other shapes.
        """
        if name == "scheduler":
            wanted = [key for key in self._scheduler.state_dict() if not key.startswith("_")]
            lacking = [key for key in wanted if key not in state]
            if lacking:
                raise ValueError(f"it lacks {', '.join(lacking)} of {type(self._scheduler).__name__}")
        if name == "optimizer":
            check_optimizer_state(self._plain_optimizer(), state)

    def _save(self) -> Path:
        refuse_broken_weights(self._model, self.iteration)
        path = checkpoint_path(self._folder / "checkpoints", self._trainer.save_name, self.iteration)
        if self._accelerator.is_main_process:
            contents = {
                "model": self._model.state_dict(),
                "optimizer": self._plain_optimizer().state_dict(),
                "scheduler": self._scheduler.state_dict(),
                "iteration": self.iteration,
                "batches_drawn": self._batches_drawn,
            }
            if self._accelerator.scaler is not None:
                contents["scaler"] = self._accelerator.scaler.state_dict()
            save_checkpoint(path, contents)
            self._log.log_info(f"Saved {path}")
        self._accelerator.wait_for_everyone()
        return path

    def run(self) -> int | None:
        """The loop."""
        trainer = self._trainer
        if self.iteration >= trainer.total_iter:
            self._log.log_info(f"Iteration {self.iteration} is the last already (total_iter {trainer.total_iter})")
            return None
        self._set_aside_earlier_run()
        if self._accelerator.is_main_process:
            claim_folder(self._folder / "checkpoints")
        self._log.log_to_file_only(
            f"Seed {self._options.seed}, settings:\n{yaml.safe_dump(to_mapping(self._settings), sort_keys=False)}"
        )
        self._log.open_summary(self.iteration)
        self._network.train()
        if trainer.fix_BN:
            self._model.fix_batch_norm()
        saved = -1
        bar = progress_bar(
            total=trainer.total_iter, initial=self.iteration, desc="Training", unit="it", disable=not self._log.active
        )
        with StopSignals() as stop, bar:
            for batch in self._loader:
                if self._step(batch):
                    bar.update()
                    if self.iteration % trainer.save_iter == 0 or self.iteration == trainer.total_iter:
                        self._save()
                        saved = self.iteration
                        self._test()
                # Several processes must stop at the same batch; asking each other at every one would slow them down.
                asks = self._accelerator.num_processes == 1 or self._batches_drawn % _ASK_EVERY == 0
                if asks and agree(stop.received is not None, self._accelerator.device):
                    break
                if self.iteration >= trainer.total_iter:
                    return None
            if saved != self.iteration:
                self._save()
            self._log.log_warning(f"Stopped by a signal at iteration {self.iteration}; --resume goes on from there")
        return stop.received or signal.SIGTERM

    def _test(self) -> None:
        if self._tester is None:
            return
        self._log.scalars(self.iteration, self._tester.run(self._model).metrics)
        if self._trainer.fix_BN:
            self._model.fix_batch_norm()

    def _step(self, batch: Batch) -> bool:
        """One batch; False where half precision skipped the step."""
        # The same in every process: what is drawn for a sequence depends on its place in the whole batch.
        seed_everything(self._options.seed, self._batches_drawn)
        self._batches_drawn += 1
        inputs = to_device(batch, self._accelerator.device)
        with self._accelerator.autocast():
            out = self._network(inputs)
        loss, summary = self._losses(out["training_feat"])
        self._optimizer.zero_grad()
        self._accelerator.backward(loss)
        self._optimizer.step()
        if self._accelerator.optimizer_step_was_skipped:
            self._skipped += 1
            if self._skipped > _MOST_SKIPS:
                raise FloatingPointError(f"{_MOST_SKIPS} steps in a row were skipped for infinite gradients")
            return False
        self._skipped = 0
        self._scheduler.step()
        self.iteration += 1
        loss = loss.detach()
        self._log.collect(summary)
        self._report(loss, out["visual_summary"])
        return True

    def _report(self, loss: Tensor, pictures: dict[str, Tensor]) -> None:
        # On a CPU the value costs nothing to read; on a GPU only at the log's interval does the step wait for it.
        due = self.iteration % self._trainer.log_iter == 0 or self.iteration == self._trainer.total_iter
        if (due or loss.device.type == "cpu") and not math.isfinite(float(loss)):
            raise FloatingPointError(
                f"the loss at iteration {self.iteration} is {float(loss)}; the last checkpoint is unaffected"
            )
        if due:
            self._log.report(self.iteration, {"scalar/learning_rate": self._plain_optimizer().param_groups[1]["lr"]})
            for name, images in pictures.items():
                self._log.images(self.iteration, name, images[:30])
