"""Training of face recognition: a network and its classifier over all identities, tested on verification and
identification sets. What all training runs have in common is in loop.py.

The order of a run is: settings, data and test sets (all looked at), model, checkpoint, and only then the long part.
Shape letters: B images of a batch.
"""

import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor
from torch.utils.data import DataLoader

from common.keypoints import FIVE_POINT_FACE
from common.runtime.checkpoint import load_weights
from common.runtime.distribution import mix_seed, seed_everything
from common.runtime.log import RunLog
from common.runtime.sync_batch_norm import synchronise_batch_norm
from face.evaluation.sets import measure, open_set
from face.losses import PartialFC, make_margin
from face.models import create_model, load_pretrained, save_pretrained
from face.models.base import pixels_to_input
from face.pictures import face_grid
from face.pipelines import make_pipeline
from face.training.checkpoints import RunParts
from face.training.data import open_training_set
from face.training.dataset import FaceBatch, collate
from face.training.loading import make_loader
from face.training.loop import RunOptions, Tested, TrainingLoop, run_training
from face.training.optimisation import make_optimizer
from face.training.sampler import EpochBatches
from face.training.settings import TrainSettings

__all__ = ["RunOptions", "train"]

_PICTURED = 32  # faces


def train(settings: TrainSettings, options: RunOptions) -> int | None:
    """Train to the last epoch; returns and raises as `face.training.loop.run_training`."""
    return run_training(_Trainer, settings, options)


class _Trainer(TrainingLoop[TrainSettings, FaceBatch]):
    """One run of recognition training."""

    def __init__(
        self, settings: TrainSettings, options: RunOptions, accelerator: Accelerator, folder: Path, log: RunLog
    ) -> None:
        super().__init__(settings, options, accelerator, folder, log)
        trainer, world = settings.trainer, accelerator.num_processes

        seed_everything(options.seed)
        model = create_model(settings.model.name, **settings.model.settings)
        self._data = open_training_set(
            settings.data, settings.augmentation, model.image_hw, model.needs_keypoints, options.seed, log
        )
        self._pipeline = make_pipeline(model, settings.evaluation.pipeline, accelerator.device)
        needed = self._pipeline.needs_keypoints
        self._sets = [open_set(entry, needs_keypoints=needed) for entry in settings.evaluation.sets]
        self._check_sizes()
        if settings.model.start_from is not None:
            start = load_pretrained(settings.model.start_from)
            load_weights(model, start.state_dict(), strict=True, source=settings.model.start_from)
            log.log_info(f"Weights of {settings.model.start_from} to start from")
        if trainer.sync_batch_norm and world > 1:
            synchronise_batch_norm(model, accelerator.device)
        self._pipeline.to(accelerator.device)  # the model in it, too
        labels, classes = self._data.source.labels, self._data.source.num_classes
        self._classifier = PartialFC(
            model.num_features,
            classes,
            make_margin(settings.loss.margin),
            sampling_rate=settings.loss.sampling_rate,
            seed=mix_seed(options.seed, 2),
        ).to(accelerator.device)
        # What the order of the data follows from: a run can only go on where it is the same.
        identity = {
            "images": len(labels),
            "classes": classes,
            "labels": zlib.crc32(labels.astype(np.int64).tobytes()),  # a checksum of them
            "batch_size": trainer.batch_size,
            "seed": options.seed,
            "repeat_probability": settings.data.repeat_probability,
            "repeat_same_image": settings.data.repeat_same_image,
        }
        self._prepare(
            RunParts(
                model=model,
                optimizer=make_optimizer(settings.optimizer, model),
                scaler=torch.amp.GradScaler(accelerator.device.type, enabled=trainer.precision == "fp16"),
                identity=identity,
                classifier=self._classifier,
                class_optimizer=make_optimizer(settings.optimizer, self._classifier),
            )
        )
        count = sum(parameter.numel() for parameter in model.parameters())
        self._report_start(
            f"{settings.model.name}: {count / 1e6:.2f} M parameters, and {classes} classes of {model.num_features} "
            "features"
        )

    def _check_sizes(self) -> None:
        """What would otherwise come up in the first step."""
        classes, world = self._data.source.num_classes, self._accelerator.num_processes
        if classes < world:
            raise ValueError(f"{self._settings.data.root}: {classes} identities for {world} processes")
        points = self._settings.model.settings.get("num_keypoints", len(FIVE_POINT_FACE))
        if self._data.landmarks is not None and points != len(FIVE_POINT_FACE):
            raise ValueError(f"model.settings.num_keypoints must be {len(FIVE_POINT_FACE)}, as landmarks, got {points}")

    def _batches(self, first: int, last: int, rank: int, world: int) -> EpochBatches:
        data, trainer = self._settings.data, self._settings.trainer
        return EpochBatches(
            self._data.source.labels,
            trainer.batch_size,
            self._options.seed,
            first,
            last,
            rank,
            world,
            trainer.accumulate,
            data.repeat_probability,
            data.repeat_same_image,
        )

    def _loader(self, batches: EpochBatches) -> DataLoader[Any]:
        on_gpu = self._accelerator.device.type == "cuda"
        return make_loader(self._data, batches, self._settings.data.num_workers, on_gpu, collate)

    def _compute(self, batch: FaceBatch) -> tuple[Tensor, dict[str, Tensor]]:
        embeddings = self._embed(batch)
        labels = batch.labels.to(embeddings.device, non_blocking=True)
        loss = self._classifier(embeddings, labels, [len(labels)] * self._accelerator.num_processes)
        return loss, {"embedding_norm": embeddings.detach().float().norm(dim=1).mean()}

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

    def _figures(self) -> dict[str, float]:
        return {name: float(value) for name, value in self._classifier.margin.named_buffers()}

    def _pictured(self, batch: FaceBatch) -> np.ndarray:
        """With their landmarks where the model takes any."""
        shown = batch.images[:_PICTURED].permute(0, 2, 3, 1).numpy()
        return face_grid(shown, None if self._data.landmarks is None else batch.keypoints[:_PICTURED].numpy())

    def _describe(self, batch: FaceBatch) -> dict[str, Any]:
        content = {name: value for name, value in vars(batch).items() if isinstance(value, Tensor)}
        return {**content, "files": [self._data.source.name_of(int(index)) for index in batch.indices]}

    def _evaluate(self) -> Tested | None:
        if not self._sets:
            return None
        evaluation = self._settings.evaluation
        figures: dict[str, dict[str, float]] = {}
        for opened in self._sets:
            name = opened.settings.name
            result = measure(
                opened,
                self._pipeline,
                batch_size=evaluation.batch_size,
                device=self._accelerator.device,
                precision=self._settings.trainer.precision,
                num_workers=evaluation.num_workers,
                progress=self._log.active,
            )
            figures[name] = result.metrics
            if result.degenerate:
                self._log.log_warning(f"{name}: {result.degenerate} of {result.images} images could not be aligned")
            if result.without_landmarks:
                self._log.log_warning(
                    f"{name}: {result.without_landmarks} of {result.images} images have no landmarks "
                    f"(missing_landmarks {opened.settings.missing_landmarks})"
                )
        # The first figure of a set is the one that it is known by.
        return Tested(score=float(np.mean([next(iter(found.values())) for found in figures.values()])), sets=figures)

    def _write_weights(self, folder: Path) -> None:
        save_pretrained(self._model, folder)
