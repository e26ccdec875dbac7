"""OpenGait's SwinGait made 2D, built from a checkout from outside: nothing of the checkout is changed or copied.

SwinGait is a 3D network. Made 2D: its second stage gets 2D residual blocks applied frame by frame, and its windows one
frame. Its base model asks for CUDA, NCCL and a data set, none of which the network itself needs, so a bare nn.Module
stands in for it.

Run as a script, with OPENGAIT_ROOT set, it writes the outputs that tests/plugin/test_parity.py compares with where no
checkout is at hand: `python tests/parity/opengait.py`.
"""

import importlib
import json
import os
import sys
import types
from pathlib import Path

import numpy as np
import torch
from torch import nn

STORED = Path(__file__).with_name("swingait2d.npz")
SILHOUETTES = (2, 3, 64, 44)  # sequences, frames, height, width
CLASSES = 20
STRIDE = 7  # every 7th number of the token map is stored


def floating_shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    """Names and shapes of everything that `numbers` fills."""
    return {name: tuple(value.shape) for name, value in module.state_dict().items() if value.is_floating_point()}


def numbers(shapes: dict[str, tuple[int, ...]], seed: int) -> dict[str, torch.Tensor]:
    """Numbers for every parameter and buffer that do not depend on the version of torch, by sorted name."""
    rng = np.random.RandomState(seed)
    state = {}
    for name, shape in sorted(shapes.items()):
        value = rng.standard_normal(shape).astype(np.float32) * 0.05
        if name.endswith("running_var") or (name.endswith("weight") and len(shape) == 1):
            value = 1 + np.abs(value)
        state[name] = torch.from_numpy(value)
    return state


def fill(module: nn.Module, seed: int) -> None:
    """Put `numbers` into a module."""
    state = module.state_dict()
    for name, value in numbers(floating_shapes(module), seed).items():
        state[name].copy_(value)


def silhouettes() -> torch.Tensor:
    """[n, s, h, w] in {0, 1}, blocky enough to look like something."""
    rng = np.random.RandomState(5)
    coarse = rng.rand(*SILHOUETTES[:2], 8, 4) < 0.5
    return torch.from_numpy(np.kron(coarse, np.ones((1, 1, 8, 11))).astype(np.float32))


def _import_swingait(root: Path) -> types.ModuleType:
    """The checkout's swingait module, without running the package files that import every model."""
    source = root / "opengait"
    sys.path.insert(0, str(source))
    try:
        for name in ("modeling", "modeling.models"):
            package = types.ModuleType(name)
            package.__path__ = [str(source / name.replace(".", "/"))]
            sys.modules[name] = package

        class BaseModel(nn.Module):
            def __init__(self, cfgs, training):
                super().__init__()

        base = types.ModuleType("modeling.base_model")
        base.BaseModel = BaseModel
        sys.modules["modeling.base_model"] = base
        return importlib.import_module("modeling.models.swingait")
    finally:
        sys.path.remove(str(source))


def swingait_2d(root: Path, classes: int) -> nn.Module:
    """The checkout's SwinGait with its second stage and its windows made 2D, in evaluation mode."""
    swingait = _import_swingait(root)
    modules = importlib.import_module("modeling.modules")
    config = {
        "Backbone": {"channels": [64, 128], "layers": [1, 4, 4, 2], "in_channels": 1},
        "SeparateBNNecks": {"in_channels": 256, "class_num": classes, "parts_num": 16},
        "bin_num": [15],
    }
    model = swingait.SwinGait({"trainer_cfg": {"T_max_iter": 1}}, training=False)
    model.build_network(config)
    model.inplanes = 64
    stage = model.make_layer(modules.BasicBlock2D, 128, stride=[2, 2], blocks_num=4, mode="2d")
    model.layer2 = modules.SetBlockWrapper(stage)
    model.transformer = swingait.SwinTransformer3D(
        patch_size=[1, 2, 2],
        in_chans=128,
        embed_dim=256,
        depths=[4, 2],
        num_heads=[16, 32],
        window_size=[1, 3, 5],
        downsample=[1, 0],
        drop_path_rate=0.1,
        patch_norm=True,
    )
    return model.eval()


@torch.no_grad()
def reference_outputs(model: nn.Module) -> dict[str, torch.Tensor]:
    """Token map and embeddings of the filled model."""
    tokens = {}
    handle = model.transformer.register_forward_hook(lambda module, args, out: tokens.update(map=out))
    out = model(([silhouettes()], torch.zeros(SILHOUETTES[0], dtype=torch.long), None, None, None))
    handle.remove()
    return {"tokens": tokens["map"], "embeddings": out["inference_feat"]["embeddings"]}


if __name__ == "__main__":
    reference = swingait_2d(Path(os.environ["OPENGAIT_ROOT"]), CLASSES)
    fill(reference, seed=3)
    outputs = reference_outputs(reference)
    np.savez_compressed(
        STORED,
        tokens=outputs["tokens"].numpy().ravel()[::STRIDE],
        embeddings=outputs["embeddings"].numpy(),
        shapes=json.dumps(floating_shapes(reference)),
        full_parameters=sum(p.numel() for p in swingait_2d(Path(os.environ["OPENGAIT_ROOT"]), 3000).parameters()),
    )
    print(f"{STORED}: {STORED.stat().st_size} bytes")
