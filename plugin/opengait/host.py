"""OpenGait as a host of the plugin's models. Imported inside OpenGait's process, where its packages are on the path.

Importing it adds the backbones and the paired transform to OpenGait's registries, and defines the models.

Where the base model here departs from OpenGait's: both streams of a sequence go through one `PairedCompose`, which
moves joints with silhouettes; data and model settings are checked before anything long begins; checkpoints are
written whole or not at all and read without running what is in them, OpenGait's own names translated, with a list of
what was and was not restored; and the test batch follows the number of processes, which OpenGait asks for anyway.
"""

import inspect
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from data import transform as transforms
from modeling import backbones, modules
from modeling.base_model import BaseModel
from torch import Tensor
from utils import list2var, np2var

from common.runtime.checkpoint import checkpoint_path, restore_weights, save_checkpoint
from common.runtime.distribution import mix_seed
from common.runtime.settings import build_settings
from plugin.model import Host, make_models
from plugin.partition import read_partition
from plugin.runtime.data import GaitDataset
from plugin.runtime.host import BACKBONES
from plugin.runtime.settings import DataSettings, ModelSettings
from plugin.transforms import PairedCompose

__all__ = ["SwinGait2D", "SwinGait3D"]

for _name, _backbone in BACKBONES.items():
    setattr(backbones, _name, _backbone)
transforms.PairedCompose = PairedCompose

# Where OpenGait's evaluate_Gait3D looks for its probes, whatever data_cfg says.
_GAIT3D_PROBES = Path("datasets/Gait3D/Gait3D.json")


class PairedBaseModel(BaseModel):
    """OpenGait's base model for two streams that are moved together."""

    def __init__(self, cfgs: dict[str, Any], training: bool) -> None:
        settings = build_settings(cfgs["model_cfg"], ModelSettings, source="model_cfg")
        phases = (["trainer_cfg"] if training else []) + ["evaluator_cfg"]
        for phase in phases:
            _check_transform(cfgs[phase]["transform"], phase)
        if not training or cfgs["trainer_cfg"]["with_test"]:
            _check_probes(cfgs)
        _drop_foreign_default(cfgs["optimizer_cfg"])
        world = torch.distributed.get_world_size()
        sampler = cfgs["evaluator_cfg"]["sampler"]
        rescaled = sampler["batch_size"] != world
        sampler["batch_size"] = world
        self._needs_keypoints = settings.needs_keypoints
        self._test_numbers: dict[tuple[str, str, str], int] = {}
        super().__init__(cfgs, training)
        if rescaled:
            self.msg_mgr.log_info(f"evaluator_cfg.sampler.batch_size is {world}, the number of processes")

    def get_loader(self, data_cfg: dict[str, Any], train: bool = True) -> Any:
        """OpenGait's loader, after a look at every sequence of the set."""
        if torch.distributed.get_rank() == 0:
            GaitDataset(build_settings(data_cfg, DataSettings, source="data_cfg"), train, self._needs_keypoints)
        return super().get_loader(data_cfg, train)

    def inputs_pretreament(self, inputs: Any) -> tuple[list[Tensor], Tensor, Any, Any, Tensor | None]:
        """Move silhouettes and joints of each sequence together, then stack them as OpenGait does."""
        streams, labels, types, views, lengths = inputs
        if lengths is None:
            transform, samples = self.trainer_trfs[0], list(zip(*streams, strict=True))
            seeds: Sequence[Any] = [random.getrandbits(63) for _ in samples]
        else:
            transform, samples = self.evaluator_trfs[0], _split(streams, lengths)
            seeds = [self._test_seed(*names) for names in zip(labels, types, views, strict=True)]
        moved = [transform(s[0], s[1] if len(s) > 1 else None, seed) for s, seed in zip(samples, seeds, strict=True)]
        join = np.stack if lengths is None else (lambda arrays: np.concatenate(arrays)[None])
        tensors = [np2var(join(stream)) for stream in zip(*moved, strict=True) if stream[0] is not None]
        where = None if lengths is None else np2var(np.asarray(lengths)).int()
        return tensors, list2var(labels).long(), types, views, where

    def _test_seed(self, label: int, kind: str, view: str) -> tuple[int, int]:
        """The same draws for a test sequence as in the embedded runtime (at its default seed)."""
        dataset = self.test_loader.dataset
        if not self._test_numbers:
            names = zip(dataset.label_list, dataset.types_list, dataset.views_list, strict=True)
            self._test_numbers = {name: number for number, name in enumerate(names)}
        return mix_seed(mix_seed(0, 1), self._test_numbers[dataset.label_set[label], kind, view]), 1

    def save_ckpt(self, iteration: int) -> None:
        """OpenGait's checkpoint file, written whole or not at all."""
        if torch.distributed.get_rank() == 0:
            name = self.engine_cfg["save_name"]
            contents = {
                "model": self.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "scheduler": self.scheduler.state_dict(),
                "iteration": iteration,
            }
            save_checkpoint(checkpoint_path(Path(self.save_path) / "checkpoints", name, iteration), contents)

    def _load_ckpt(self, save_name: str) -> None:
        strict = self.engine_cfg["restore_ckpt_strict"]
        checkpoint, report = restore_weights(self, save_name, strict=strict, translate=self.translate_checkpoint)
        self.msg_mgr.log_info(str(report))
        if not self.training:
            return
        for part in ("optimizer", "scheduler"):
            if part in checkpoint and not self.engine_cfg[f"{part}_reset"]:
                getattr(self, part).load_state_dict(checkpoint[part])
            else:
                self.msg_mgr.log_warning(f"The {part}'s state is not restored, it starts afresh")


def _split(streams: Sequence[Any], lengths: Any) -> list[tuple[np.ndarray, ...]]:
    """Sequences that lie end to end, one array a stream, into one tuple of arrays a sequence."""
    borders = np.cumsum(lengths[0])[:-1]
    return list(zip(*(np.split(np.asarray(stream[0]), borders) for stream in streams), strict=True))


def _drop_foreign_default(optimizer_cfg: dict[str, Any]) -> None:
    """OpenGait merges its default, SGD with momentum, into whatever the YAML says."""
    solver = getattr(torch.optim, optimizer_cfg["solver"])
    if "momentum" not in inspect.signature(solver).parameters:
        optimizer_cfg.pop("momentum", None)


def _check_transform(transform: Any, phase: str) -> None:
    if not isinstance(transform, list) or [entry.get("type") for entry in transform] != ["PairedCompose"]:
        raise ValueError(
            f"{phase}.transform must be a list of one PairedCompose, which moves silhouettes and joints together, "
            f"got {transform}"
        )


def _check_probes(cfgs: dict[str, Any]) -> None:
    """OpenGait's evaluate_Gait3D takes its probes from the checkout, which may be those of another data set."""
    if cfgs["evaluator_cfg"]["eval_func"] != "evaluate_Gait3D":
        return
    partition = cfgs["data_cfg"]["dataset_partition"]
    if set(read_partition(partition).probes) != set(read_partition(_GAIT3D_PROBES).probes):
        raise ValueError(
            f"data_cfg.dataset_partition {partition} and {_GAIT3D_PROBES.resolve()} name different probes, and "
            "OpenGait's evaluate_Gait3D reads the latter; `python -m plugin --opengait` puts the right one in its place"
        )


_MODELS = make_models(
    Host(
        base_model=PairedBaseModel,
        horizontal_pooling=modules.HorizontalPoolingPyramid,
        pack_sequence=modules.PackSequenceWrapper,
        separate_fcs=modules.SeparateFCs,
        separate_bnnecks=modules.SeparateBNNecks,
    )
)
SwinGait2D = _MODELS["SwinGait2D"]
SwinGait3D = _MODELS["SwinGait3D"]
