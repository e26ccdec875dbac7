"""OpenGait's SwinGait, as published and made 2D, built from a checkout from outside: nothing there is changed or taken.

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
STORED_3D = Path(__file__).with_name("swingait3d.npz")
SILHOUETTES = (2, 3, 64, 44)  # sequences, frames, height, width
CLASSES = 20
STRIDE = 7  # every 7th number of the token map is stored
FRAMES_3D = (1, 2, 3, 4, 8)  # windows span 3
STRIDE_3D = 101  # of the longest one's token map
TRAINING_FRAMES = 4
GRADIENT_STRIDE = 17  # of the silhouettes' gradient
DEEPGAIT_MODES = ("2d", "p3d", "3d")


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


def silhouettes(frames: int = SILHOUETTES[1]) -> torch.Tensor:
    """[n, s, h, w] in {0, 1}, blocky enough to look like something."""
    rng = np.random.RandomState(5)
    coarse = rng.rand(SILHOUETTES[0], frames, 8, 4) < 0.5
    return torch.from_numpy(np.kron(coarse, np.ones((1, 1, 8, 11))).astype(np.float32))


def _import_model(root: Path, module: str) -> types.ModuleType:
    """One of the checkout's modules of models, without running the package files that import every model."""
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
        return importlib.import_module(f"modeling.models.{module}")
    finally:
        sys.path.remove(str(source))


def swingait_3d(root: Path, classes: int) -> nn.Module:
    """The checkout's SwinGait, in evaluation mode."""
    swingait = _import_model(root, "swingait")
    config = {
        "Backbone": {"channels": [64, 128], "layers": [1, 4, 4, 2], "in_channels": 1},
        "SeparateBNNecks": {"in_channels": 256, "class_num": classes, "parts_num": 16},
        "bin_num": [15],
    }
    model = swingait.SwinGait({"trainer_cfg": {"T_max_iter": 1}}, training=False)
    model.build_network(config)
    return model.eval()


def swingait_2d(root: Path, classes: int) -> nn.Module:
    """The same with its second stage and its windows made 2D."""
    model = swingait_3d(root, classes)
    swingait = _import_model(root, "swingait")
    modules = importlib.import_module("modeling.modules")
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


def deepgait(root: Path, mode: str) -> nn.Module:
    """The checkout's DeepGaitV2 in one of `DEEPGAIT_MODES`, at the size that SwinGait starts from."""
    model = _import_model(root, "deepgaitv2").DeepGaitV2({}, training=False)
    config = {"mode": mode, "in_channels": 1, "layers": [1, 4, 4, 1], "channels": [64, 128, 256, 512]}
    model.build_network({"Backbone": config, "SeparateBNNecks": {"class_num": CLASSES}})
    return model


def _inputs(streams: torch.Tensor) -> tuple:
    return [streams], torch.zeros(len(streams), dtype=torch.long), None, None, None


@torch.no_grad()
def reference_outputs(model: nn.Module, frames: int = SILHOUETTES[1]) -> dict[str, torch.Tensor]:
    """Token map and embeddings of the filled model."""
    tokens = {}
    handle = model.transformer.register_forward_hook(lambda module, args, out: tokens.update(map=out))
    out = model(_inputs(silhouettes(frames)))
    handle.remove()
    return {"tokens": tokens["map"], "embeddings": out["inference_feat"]["embeddings"]}


def training_step(model: nn.Module, frames: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Embeddings, and the gradients of their squares: of the silhouettes, and of all parameters that they depend on.

    In training, but for stochastic depth. In float64: at the kinks of ReLU and max, gradients are all or nothing, and
    the noise of float32 is enough to choose.
    """
    model.double().train()
    for module in model.modules():
        if hasattr(module, "drop_prob"):
            module.drop_prob = 0.0
    # OpenGait's SwinGait sets the learning rate in its forward pass.
    model.optimizer, model.iteration = types.SimpleNamespace(param_groups=[]), 0
    streams = silhouettes(frames).double().requires_grad_()
    embeddings = model(_inputs(streams))["inference_feat"]["embeddings"]
    named = {name: value for name, value in model.named_parameters() if not name.startswith("BNNecks")}
    grads = torch.autograd.grad(embeddings.square().sum(), [streams, *named.values()])
    return embeddings.detach(), dict(zip(["silhouettes", *named], grads, strict=True))


def _store_2d(root: Path) -> None:
    reference = swingait_2d(root, CLASSES)
    fill(reference, seed=3)
    outputs = reference_outputs(reference)
    np.savez_compressed(
        STORED,
        tokens=outputs["tokens"].numpy().ravel()[::STRIDE],
        embeddings=outputs["embeddings"].numpy(),
        shapes=json.dumps(floating_shapes(reference)),
        full_parameters=sum(p.numel() for p in swingait_2d(root, 3000).parameters()),
    )


def _store_3d(root: Path) -> None:
    reference = swingait_3d(root, CLASSES)
    fill(reference, seed=3)
    outputs = {frames: reference_outputs(reference, frames) for frames in FRAMES_3D}
    embeddings, grads = training_step(reference, TRAINING_FRAMES)
    full = swingait_3d(root, 3000)
    np.savez_compressed(
        STORED_3D,
        tokens=outputs[FRAMES_3D[-1]]["tokens"].numpy().ravel()[::STRIDE_3D],
        **{f"embeddings_{frames}": out["embeddings"].numpy() for frames, out in outputs.items()},
        training_embeddings=embeddings.numpy(),
        training_gradient=grads["silhouettes"].numpy().ravel()[::GRADIENT_STRIDE],
        shapes=json.dumps(floating_shapes(reference)),
        full_parameters=sum(p.numel() for p in full.parameters()),
        transformer_parameters=sum(p.numel() for p in full.transformer.parameters()),
        **{f"deepgait_{mode}": json.dumps(floating_shapes(deepgait(root, mode))) for mode in DEEPGAIT_MODES},
    )


if __name__ == "__main__":
    _store_2d(Path(os.environ["OPENGAIT_ROOT"]))
    _store_3d(Path(os.environ["OPENGAIT_ROOT"]))
    for stored in (STORED, STORED_3D):
        print(f"{stored}: {stored.stat().st_size} bytes")
