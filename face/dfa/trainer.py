"""Training of a DFA network on faces cut from photographs. What all training runs have in common is in
face/training/loop.py.

The order of a run is: settings, annotations of all sets (every photograph is looked for), crops (cut out once and
kept), network, checkpoint, and only then the long part.
Shape letters: B images of a batch.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor
from torch.utils.data import DataLoader

from common.runtime.checkpoint import load_weights
from common.runtime.distribution import seed_everything, share_problem
from common.runtime.log import RunLog
from common.runtime.sync_batch_norm import synchronise_batch_norm
from face.dfa.annotations import read_annotations
from face.dfa.crop_cache import CropCache, CropSettings, cached_crops
from face.dfa.crops import FACE, PhotographCrops
from face.dfa.dataset import CropSet, DFABatch, make_crop_loader
from face.dfa.evaluation import AGGREGATED, BEST_ANCHOR, evaluate_landmarks
from face.dfa.losses import DFALoss
from face.dfa.pretrained import create_dfa, load_dfa, save_dfa
from face.dfa.settings import DFADataSettings, DFATestSetSettings, DFATrainSettings
from face.models.base import pixels_to_input
from face.pictures import face_grid
from face.training.checkpoints import RunParts
from face.training.loop import RunOptions, Tested, TrainingLoop, run_training
from face.training.optimisation import make_optimizer
from face.training.sampler import EpochBatches

__all__ = ["RunOptions", "train"]

_PICTURED = 32  # faces


def train(settings: DFATrainSettings, options: RunOptions) -> int | None:
    """Train to the last epoch; returns and raises as `face.training.loop.run_training`."""
    return run_training(_Trainer, settings, options)


class _Trainer(TrainingLoop[DFATrainSettings, DFABatch]):
    """One run that trains a DFA network."""

    def __init__(
        self, settings: DFATrainSettings, options: RunOptions, accelerator: Accelerator, folder: Path, log: RunLog
    ) -> None:
        super().__init__(settings, options, accelerator, folder, log)
        seed_everything(options.seed)
        network = create_dfa(settings.model.name, **settings.model.settings)
        self._tests = [(entry, _open_test(entry, network.image_hw, log)) for entry in settings.evaluation.sets]
        crops, digest = _open_crops(settings.data, accelerator, log)
        self._crops = CropSet(
            crops, network.image_hw, settings.augmentation, options.seed, skip_broken=settings.data.skip_broken
        )
        if settings.model.start_from is not None:
            start = load_dfa(settings.model.start_from)
            load_weights(network, start.state_dict(), strict=True, source=settings.model.start_from)
            log.log_info(f"Weights of {settings.model.start_from} to start from")
        if settings.trainer.sync_batch_norm and accelerator.num_processes > 1:
            synchronise_batch_norm(network, accelerator.device)
        network = network.to(accelerator.device)
        self._loss = DFALoss(settings.loss)
        # What the order of the data follows from: a run can only go on where it is the same.
        identity = {
            "crops": len(crops),
            "annotations": int(digest[:12], 16),  # a checksum of them
            "batch_size": settings.trainer.batch_size,
            "seed": options.seed,
        }
        fp16 = settings.trainer.precision == "fp16"
        self._prepare(
            RunParts(
                model=network,
                optimizer=make_optimizer(settings.optimizer, network),
                scaler=torch.amp.GradScaler(accelerator.device.type, enabled=fp16),
                identity=identity,
            )
        )
        count = sum(parameter.numel() for parameter in network.parameters())
        self._report_start(f"{settings.model.name}: {count / 1e6:.2f} M parameters, {len(network.anchors)} anchors")

    def _batches(self, first: int, last: int, rank: int, world: int) -> EpochBatches:
        trainer = self._settings.trainer
        return EpochBatches(
            self._crops.crops.kinds,
            trainer.batch_size,
            self._options.seed,
            first,
            last,
            rank,
            world,
            trainer.accumulate,
        )

    def _loader(self, batches: EpochBatches) -> DataLoader[Any]:
        on_gpu = self._accelerator.device.type == "cuda"
        return make_crop_loader(self._crops, batches, self._settings.data.num_workers, pin_memory=on_gpu)

    def _compute(self, batch: DFABatch) -> tuple[Tensor, dict[str, Tensor]]:
        device = self._accelerator.device
        with self._accelerator.autocast():
            output = self._network(pixels_to_input(batch.images, device))
        targets = (x.to(device, non_blocking=True) for x in (batch.boxes, batch.landmarks, batch.kinds))
        losses = self._loss(output, self._model.anchors, *targets)
        figures = {f"loss/{name}": value.detach() for name, value in losses._asdict().items() if name != "total"}
        return losses.total, figures

    def _pictured(self, batch: DFABatch) -> np.ndarray:
        """With their landmarks, where they have some."""
        shown = batch.images[:_PICTURED].permute(0, 2, 3, 1).numpy()
        known = (batch.kinds[:_PICTURED] == FACE).numpy()[:, None, None]
        return face_grid(shown, np.where(known, batch.landmarks[:_PICTURED].numpy(), np.nan))

    def _describe(self, batch: DFABatch) -> dict[str, Any]:
        content = {name: value for name, value in vars(batch).items() if isinstance(value, Tensor)}
        return {**content, "files": [self._crops.crops.name_of(int(index)) for index in batch.indices]}

    def _evaluate(self) -> Tested | None:
        """The score is the mean error's negative."""
        if not self._tests:
            return None
        evaluation = self._settings.evaluation
        figures: dict[str, dict[str, float]] = {}
        for entry, crops in self._tests:
            results = evaluate_landmarks(
                self._model,
                crops,
                batch_size=evaluation.batch_size,
                device=self._accelerator.device,
                precision=self._settings.trainer.precision,
                num_workers=evaluation.num_workers,
                progress=f"evaluating {entry.name}" if self._log.active else None,
            )
            shown = results.get(AGGREGATED, results[BEST_ANCHOR])
            figures[entry.name] = {**shown.metrics, "nme_best_anchor": results[BEST_ANCHOR].nme}
        return Tested(score=-float(np.mean([found["nme"] for found in figures.values()])), sets=figures)

    def _write_weights(self, folder: Path) -> None:
        save_dfa(self._model, folder)


def _open_test(entry: DFATestSetSettings, image_hw: tuple[int, int], log: RunLog) -> CropSet:
    """Raises ValueError, OSError: the set cannot be read, or has no faces with landmarks."""
    try:
        annotations = read_annotations(entry.layout, entry.labels, entry.images, min_side_px=entry.min_side_px)
        if not annotations.has_landmarks.any():
            raise ValueError(f"{entry.labels}: none of its {len(annotations)} faces has landmarks")
    except FileNotFoundError as error:
        raise FileNotFoundError(f"evaluation set {entry.name}: {error}") from error
    except ValueError as error:
        raise ValueError(f"evaluation set {entry.name}: {error}") from error
    log.log_info(f"Evaluation set {entry.name}: {annotations.describe()}")
    crops = CropSet(PhotographCrops(annotations, entry.padding), image_hw)
    crops[int(np.argmax(annotations.has_landmarks))]  # a photograph that does not decode shows now
    return crops


def _open_crops(data: DFADataSettings, accelerator: Accelerator, log: RunLog) -> tuple[CropCache, str]:
    """The crops, which the first process cuts out where they are not there, and the digest of their annotations."""
    annotations = read_annotations(data.layout, data.labels, data.images, min_side_px=data.min_side_px)
    log.log_info(annotations.describe())
    settings = CropSettings(padding=data.padding, background_share=data.background_share, skip_broken=data.skip_broken)
    problem: Exception | None = None
    if accelerator.is_main_process:
        try:
            cached_crops(annotations, data.cache, settings, workers=max(1, data.num_workers))
        except (ValueError, OSError) as error:
            problem = error
    share_problem(problem)
    crops = CropCache(data.cache)
    log.log_info(crops.describe())
    return crops, annotations.digest
