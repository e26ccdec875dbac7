"""What the plugin needs of a checkout of OpenGait, read from its sources without running them."""

import ast
from collections.abc import Mapping
from pathlib import Path

__all__ = ["CheckoutError", "check_checkout"]

_TESTED = "0efafd4"

# File, class (or "" for functions of the module), and with each function the parameters that are passed to it. What is
# overridden is listed too: if OpenGait no longer calls it, the override would silently do nothing.
_SURFACE: Mapping[str, Mapping[str, Mapping[str, tuple[str, ...]]]] = {
    "opengait/main.py": {"": {"initialization": ("cfgs", "training"), "run_model": ("cfgs", "training")}},
    "opengait/modeling/base_model.py": {
        "BaseModel": {
            "__init__": ("self", "cfgs", "training"),
            "build_network": ("self", "model_cfg"),
            "init_parameters": ("self",),
            "get_backbone": ("self", "backbone_cfg"),
            "get_loader": ("self", "data_cfg", "train"),
            "get_optimizer": ("self", "optimizer_cfg"),
            "get_scheduler": ("self", "scheduler_cfg"),
            "save_ckpt": ("self", "iteration"),
            "resume_ckpt": ("self", "restore_hint"),
            "_load_ckpt": ("self", "save_name"),
            "inputs_pretreament": ("self", "inputs"),
            "train_step": ("self", "loss_sum"),
            "run_train": ("model",),
            "run_test": ("model",),
        }
    },
    "opengait/modeling/modules.py": {
        "HorizontalPoolingPyramid": {"__init__": ("self", "bin_num"), "__call__": ("self", "x")},
        "PackSequenceWrapper": {
            "__init__": ("self", "pooling_func"),
            "forward": ("self", "seqs", "seqL", "dim", "options"),
        },
        "SeparateFCs": {"__init__": ("self", "parts_num", "in_channels", "out_channels")},
        "SeparateBNNecks": {"__init__": ("self", "parts_num", "in_channels", "class_num", "norm", "parallel_BN1d")},
    },
    "opengait/modeling/losses/triplet.py": {"TripletLoss": {"__init__": ("self", "margin", "loss_term_weight")}},
    "opengait/modeling/losses/ce.py": {
        "CrossEntropyLoss": {"__init__": ("self", "scale", "label_smooth", "eps", "loss_term_weight", "log_accuracy")}
    },
    "opengait/data/dataset.py": {"DataSet": {"__init__": ("self", "data_cfg", "training")}},
    "opengait/data/transform.py": {"": {"get_transform": ("trf_cfg",)}},
    "opengait/data/sampler.py": {
        "TripletSampler": {"__init__": ("self", "dataset", "batch_size", "batch_shuffle")},
        "InferenceSampler": {"__init__": ("self", "dataset", "batch_size")},
    },
    "opengait/evaluation/evaluator.py": {"": {"evaluate_Gait3D": ("data", "dataset", "metric")}},
    "opengait/utils/common.py": {
        "": {"config_loader": ("path",), "get_valid_args": ("obj", "input_args", "free_keys")}
    },
}
_FILES = (
    "configs/default.yaml",
    "opengait/modeling/models/__init__.py",
    "opengait/modeling/backbones/__init__.py",
    "datasets/Gait3D/Gait3D.json",
)


class CheckoutError(ValueError):
    """A folder is no checkout of OpenGait, or one that the plugin does not fit."""


def check_checkout(root: Path) -> None:
    """Look for everything that the plugin uses or overrides.

    Raises:
        CheckoutError: no such folder, not OpenGait, or a version whose surface differs (every difference is listed).
    """
    if not root.is_dir():
        raise CheckoutError(f"{root}: no such folder")
    absent = [name for name in (*_SURFACE, *_FILES) if not (root / name).is_file()]
    if "opengait/main.py" in absent:
        raise CheckoutError(
            f"{root}: not a checkout of OpenGait: expected opengait/main.py in it, "
            f"found {', '.join(sorted(entry.name for entry in root.iterdir())[:8]) or 'nothing'}"
        )
    problems = [f"{name} is missing" for name in absent]
    for name, owners in _SURFACE.items():
        if name in absent:
            continue
        try:
            tree = ast.parse((root / name).read_text(encoding="utf-8"))
        except (SyntaxError, UnicodeDecodeError) as error:
            problems.append(f"{name} cannot be read: {error}")
            continue
        problems += [f"{name}: {problem}" for problem in _differences(tree, owners)]
    if problems:
        listed = "".join(f"\n  {problem}" for problem in problems)
        raise CheckoutError(
            f"{root}: this version of OpenGait differs from what the plugin was written against "
            f"(ShiqiYu/OpenGait@{_TESTED}):{listed}"
        )


def _differences(tree: ast.Module, owners: Mapping[str, Mapping[str, tuple[str, ...]]]) -> list[str]:
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    problems = []
    for owner, functions in owners.items():
        scope: ast.Module | ast.ClassDef | None = classes.get(owner) if owner else tree
        if scope is None:
            problems.append(f"class {owner} is missing")
            continue
        found = {node.name: node for node in scope.body if isinstance(node, ast.FunctionDef)}
        for name, wanted in functions.items():
            shown = f"{owner}.{name}" if owner else name
            if name not in found:
                problems.append(f"{shown} is missing")
                continue
            arguments = found[name].args
            has = [argument.arg for argument in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
            lacking = [argument for argument in wanted if argument not in has]
            required = has[: len(has) - len(arguments.defaults)]
            extra = [argument for argument in required if argument not in wanted]
            if lacking or extra:
                problems.append(f"{shown} takes ({', '.join(has)}), expected ({', '.join(wanted)})")
    return problems
