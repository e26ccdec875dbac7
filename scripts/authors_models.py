"""The authors' face transformers, loaded from a checkout of CVLface (mk-minchul/CVLface@d3d09c9) to compare with.

Their files are imported by path as they are. Their package would build and install its C++ operator on import and end
the process; here the operator is either compiled into torch's folder of extensions, or left out, for which their code
indexes in Python. Packages that they import and these models do without (fvcore, easydict) are stood in for where they
are missing.
"""

import importlib
import importlib.util
import sys
import types
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args
from unittest import mock

import torch
from torch import Tensor, nn

__all__ = ["AuthorsModel", "Operator", "load_authors_classifier", "load_authors_model", "prepare_operator"]

RUN = "cvlface/research/recognition/code/run_v1"
MODELS = f"{RUN}/models"
Operator = Literal["compiled", "python"]
CLASSES = {
    "plain": ("vit", "VisionTransformer"),
    "irpe": ("vit_irpe", "VisionTransformerWithiRPE"),
    "kprpe": ("vit_kprpe", "VisionTransformerWithKPRPE"),
}
# As their configs have it (vit_irpe/configs/v1_base_irpe.yaml, vit_kprpe/configs/v1_base_kprpe_*.yaml).
COMMON = {"shared_head": True, "mode": "ctx", "method": "product", "ratio": 1.9, "num_keypoints": 5}
RPE: dict[str, dict[str, Any]] = {
    "irpe": {"name": "iRPE", "rpe_on": "qkv", "ctx_type": ""},
    "kprpe": {"name": "KPRPE_shared", "rpe_on": "k", "ctx_type": "rel_keypoint_splithead_unshared"},
}


class _AttributeDict(dict[str, Any]):
    """What their code uses of EasyDict and of OmegaConf's settings."""

    __getattr__ = dict.__getitem__
    __setattr__ = dict.__setitem__


def prepare_operator(root: Path, operator: Operator, device: str = "cpu") -> types.ModuleType | None:
    """Their C++ operator, compiled if it is asked for (about a minute the first time), else None.

    Raises:
        ValueError: an unknown choice, or it cannot be compiled.
    """
    if operator not in get_args(Operator):
        raise ValueError(f"operator must be one of {', '.join(get_args(Operator))}, got {operator!r}")
    if operator == "python":
        return None
    from torch.utils.cpp_extension import load

    on_gpu = torch.device(device).type == "cuda"
    sources = ["rpe_index.cpp", *(["rpe_index_cuda.cu"] if on_gpu else [])]
    folder = _folder(root, "vit_kprpe") / "RPE" / "rpe_ops"
    define = ["-DWITH_CUDA"] if on_gpu else []
    try:
        return load(
            name="rpe_index_cpp",
            sources=[str(folder / source) for source in sources],
            extra_cflags=["-O3", "-fopenmp", *define],
            extra_cuda_cflags=["-O3", *define],
            with_cuda=on_gpu,
        )
    except (RuntimeError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"{folder}: the operator cannot be compiled ({reason}); choose python") from error


def load_authors_model(
    root: Path, name: str, operator: types.ModuleType | None, shape: Mapping[str, Any]
) -> "AuthorsModel":
    """One of their transformers, without random masking and stochastic depth.

    Args:
        root: the checkout.
        name: "plain", "irpe" (contextual, on queries, keys and values) or "kprpe" (multi-head, a table a layer).
        operator: what `prepare_operator` gave.
        shape: img_size, patch_size, embed_dim, depth, num_heads, mlp_ratio, num_classes.

    Raises:
        FileNotFoundError: no such file in the checkout.
    """
    folder, kind = CLASSES[name]
    module = _import(_folder(root, folder), operator)
    settings: dict[str, Any] = dict(shape, mask_ratio=0.0, drop_path_rate=0.0)
    if name in RPE:
        settings["rpe_config"] = _AttributeDict(COMMON | RPE[name])
    return AuthorsModel(getattr(module, kind)(**settings), module)


def load_authors_classifier(root: Path, num_features: int, num_classes: int, margin: float, h: float) -> nn.Module:
    """Their classifier of one process (`classifiers/fc`) with their AdaFace: (embeddings, labels) to the loss.

    Raises:
        FileNotFoundError: no such file in the checkout.
    """
    names = {"losses.margin_loss": "losses/margin_loss.py", "losses.adaface": "losses/adaface.py"}
    loaded = {"losses": _module("losses")}
    with mock.patch.dict(sys.modules, loaded):
        for name, path in {**names, "authors_fc": "classifiers/fc/fc.py"}.items():
            file = root / RUN / path
            if not file.is_file():
                raise FileNotFoundError(f"CVLFACE_ROOT: {file} does not exist")
            spec = importlib.util.spec_from_file_location(name, file)
            assert spec is not None
            assert spec.loader is not None
            loaded[name] = sys.modules[name] = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(loaded[name])
    loss = loaded["losses.adaface"].AdaFaceLoss(64, margin, h, 0.01)
    classifier: nn.Module = loaded["authors_fc"].FC(loss, num_features, num_classes)
    return classifier


class AuthorsModel(nn.Module):
    """One signature for all of their transformers, forward(images, keypoints); `net` as in their released files."""

    def __init__(self, net: nn.Module, module: types.ModuleType) -> None:
        super().__init__()
        self.net = net
        self._takes_keypoints = hasattr(net, "keypoint_linear")
        self._module = module

    def forward(self, images: Tensor, keypoints: Tensor) -> Tensor:
        return self.net(images, keypoints) if self._takes_keypoints else self.net(images)

    def keypoint_features(self, images: Tensor, keypoints: Tensor) -> Any:
        """What KP-RPE makes of the keypoints before the first block, for all of them."""
        net: Any = self.net
        tokens = net.patch_embed(images)
        return self._module.make_kprpe_input(
            keypoints, tokens, net.keypoint_linear, net.rpe_config, 0, net.depth, net.num_heads, net.num_buckets
        )


def _folder(root: Path, name: str) -> Path:
    folder = root / MODELS / name
    if not (folder / "vit.py").is_file():
        raise FileNotFoundError(f"CVLFACE_ROOT: {folder / 'vit.py'} does not exist")
    return folder


def _import(folder: Path, operator: types.ModuleType | None) -> types.ModuleType:
    package = f"authors_{folder.name}_{'python' if operator is None else 'compiled'}"
    sys.modules[package] = _module(package, __path__=[str(folder)])  # in the place of its own, which needs all models
    stand_ins = {
        "easydict": _module("easydict", EasyDict=_AttributeDict),
        "fvcore": _module("fvcore"),
        "fvcore.nn": _module("fvcore.nn", flop_count=None),  # imported, never called
    }
    missing = {name: stub for name, stub in stand_ins.items() if importlib.util.find_spec(name.split(".")[0]) is None}
    if operator is None:
        index = f"{package}.RPE.rpe_ops.rpe_index"
        sys.modules[index] = _module(index, RPEIndexFunction=None)
    else:
        missing["rpe_index_cpp"] = operator
    sys.modules.update(missing)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # they import from timm.models.layers
            return importlib.import_module(f"{package}.vit")
    finally:
        for name in missing:
            sys.modules.pop(name, None)


def _module(name: str, **attributes: Any) -> types.ModuleType:
    module = types.ModuleType(name)
    vars(module).update(attributes)
    return module
