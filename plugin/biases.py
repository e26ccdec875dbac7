"""What a trained SwinGait-2D adds to the attention of its layers, frame by frame, for pictures.

Shape letters: F frames, L joints, W windows, H heads, n positions of a window.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from common.rpe import Window
from common.runtime.arrays import load_array
from common.swin import WindowAttention
from plugin.inference import find_checkpoint, load_model
from plugin.layout import KEYPOINTS_FILE, SILHOUETTES_FILE
from plugin.runtime.settings import GaitSettings
from plugin.transforms import PairedCompose

__all__ = ["gait_biases", "load_kprpe_model", "read_frames"]


def read_frames(settings: GaitSettings, sequence: Path) -> tuple[np.ndarray, np.ndarray]:
    """A prepared sequence as a test of the run would give it to the network: silhouettes [F, h, w], joints [F, L, 3].

    Raises:
        FileNotFoundError, ValueError: a stream is missing, damaged, or not of this kind.
    """
    stored, pixels = (load_array(sequence / file) for file in (SILHOUETTES_FILE, KEYPOINTS_FILE))
    try:
        silhouettes, joints = PairedCompose(settings.evaluator_cfg.transform[0].trf_cfg)(stored, pixels, seed=0)
    except ValueError as error:
        raise ValueError(f"{sequence}: {error}") from error
    assert joints is not None
    return silhouettes, joints


def load_kprpe_model(
    settings: GaitSettings, weights: Path | None, iteration: int | None, output: Path, source: str
) -> torch.nn.Module:
    """The model of a run, for inference.

    Args:
        settings: of the run.
        weights: a checkpoint file; None: that of `iteration` in the run's folder below `output`.
        iteration: see above.
        output: the folder of all runs.
        source: what errors call the settings, such as their file name.

    Raises:
        FileNotFoundError, ValueError: no such checkpoint, one of another model, or settings without KP-RPE.
    """
    if settings.model_cfg.model != "SwinGait2D":
        raise ValueError(
            f"{source}: model_cfg.model must be SwinGait2D, found {settings.model_cfg.model}: biases in windows over "
            "time are not drawn"
        )
    kind = settings.model_cfg.backbone_cfg.position_bias
    if kind != "kprpe":
        raise ValueError(f"{source}: model_cfg.backbone_cfg.position_bias must be kprpe, found {kind}")
    return load_model(settings, find_checkpoint(settings, weights, iteration, output))


@torch.no_grad()
def gait_biases(
    model: Any, silhouettes: np.ndarray, joints: np.ndarray
) -> tuple[np.ndarray, np.ndarray | None, tuple[int, int], list[Window], list[Any]]:
    """Run frames [F, h, w] with joints [F, L, 3] through a model's backbone, and note what each layer is given.

    Returns:
        Keypoints [F, L, 2] and visibilities [F, L] as the transformer takes them, (rows, cols) of the token map, and
        for each layer its window and its bias [F, 1 or W, H, n, n].
    """
    given: list[Any] = []
    layers: list[tuple[tuple[int, int], Window, Any]] = []
    transformer = model.Backbone.transformer
    hooks = [transformer.register_forward_pre_hook(lambda _, inputs: given.extend(inputs))]
    for module in transformer.modules():
        if isinstance(module, WindowAttention):
            hooks.append(
                module.register_forward_pre_hook(
                    lambda layer, inputs: layers.append((tuple(inputs[0].shape[1:3]), layer.window, inputs[1]))
                )
            )
    try:
        model.Backbone(torch.from_numpy(silhouettes)[None], torch.from_numpy(joints)[None])
    finally:
        for hook in hooks:
            hook.remove()
    _, points, visibility, *_ = given
    grids, windows, biases = map(list, zip(*layers, strict=True))
    return points.numpy(), None if visibility is None else visibility.numpy(), grids[0], windows, biases
