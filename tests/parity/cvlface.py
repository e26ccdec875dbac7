"""The KP-RPE authors' code (CVLface) run from a checkout from outside: nothing of it is changed, copied or installed.

Their RPE packages build and install an extension as soon as they are imported, so bare packages stand in for those,
holding nothing but their `build_rpe`. Networks are small, their weights and inputs drawn from NumPy's RandomState,
whose numbers are frozen, so that only outputs and samples of the gradients need be stored.

Run as a script, with CVLFACE_ROOT set, it writes what tests compare with where no checkout is at hand:
`python tests/parity/cvlface.py`.
"""

import ast
import contextlib
import importlib
import io
import json
import math
import os
import sys
import types
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import numpy as np
import timm.layers
import torch
from torch import Tensor, nn

STORED = Path(__file__).with_name("buckets.npz")
STORED_NETWORKS = Path(__file__).with_name("networks.npz")
STORED_IRPE = Path(__file__).with_name("irpe.npz")
STORED_WINDOWS = Path(__file__).with_name("windows.npz")
STORED_IRESNET = Path(__file__).with_name("iresnet.npz")
MODELS = "cvlface/research/recognition/code/run_v1/models"


# Loading


class Config(dict):
    """A mapping whose keys are attributes too: all that their code asks of EasyDict and OmegaConf."""

    __setattr__ = dict.__setitem__

    def __getattr__(self, name: str) -> object:
        if name not in self:
            raise AttributeError(name)
        return self[name]


@contextlib.contextmanager
def _stand_ins() -> Iterator[None]:
    """Modules that theirs import, for the time of the import: missing here, or of another name by now."""
    contents = {
        "easydict": {"EasyDict": Config},
        "fvcore": {},
        "fvcore.nn": {"flop_count": None},
        "omegaconf": {"DictConfig": Config, "OmegaConf": None},
        "timm.models.layers": vars(timm.layers),
    }
    before = {name: sys.modules.get(name) for name in contents}
    for name, values in contents.items():
        sys.modules[name] = types.ModuleType(name)
        vars(sys.modules[name]).update(values)
    try:
        yield
    finally:
        for name, module in before.items():
            del sys.modules[name]
            if module is not None:
                sys.modules[name] = module


def _package(name: str, folder: Path) -> types.ModuleType:
    """A package whose modules are found in a folder, and whose own file is not run."""
    package = types.ModuleType(name)
    package.__path__ = [str(folder)]
    package.__package__ = name
    sys.modules[name] = package
    return package


def load_models(root: Path, name: str) -> types.ModuleType:
    """One of their packages of models: vit, vit_kprpe, vit_irpe or swin_kprpe."""
    folder = root / MODELS / name
    package = f"cvlface_models.{name}"
    if package in sys.modules:
        return sys.modules[package]
    quiet = contextlib.redirect_stdout(io.StringIO())  # they print that the extension is missing
    with _stand_ins(), quiet, mock.patch.object(sys, "dont_write_bytecode", True):
        if "cvlface_models" not in sys.modules:
            _package("cvlface_models", root / MODELS)
        if (folder / "RPE").is_dir():
            rpe = _package(f"{package}.RPE", folder / "RPE")
            sys.modules[f"{package}.RPE.rpe_ops"] = None  # always their Python, whether or not the extension is there
            source = folder / "RPE" / "__init__.py"
            harmless = [
                node
                for node in ast.parse(source.read_text()).body
                if isinstance(node, ast.FunctionDef) or (isinstance(node, ast.ImportFrom) and node.level == 1)
            ]
            exec(compile(ast.Module(harmless, []), source, "exec"), vars(rpe))
        return importlib.import_module(package)


def module_of(root: Path, name: str, path: str) -> types.ModuleType:
    """A module inside one of their packages of models, such as ("vit_kprpe", "RPE.KPRPE.kprpe_shared")."""
    load_models(root, name)
    return sys.modules[f"cvlface_models.{name}.{path}"]


# Bucket tables

METHODS = {"euclidean": 0, "quant": 1, "product": 3, "cross_rows": 41, "cross_cols": 42}
GRIDS = [(1, 1), (3, 5), (7, 4), (14, 14)]
RATIOS = [0.7, 1.0, 1.9, 2.5, 4.0]
BUCKET_CASES = [(method, grid, ratio, 0) for method in METHODS for grid in GRIDS for ratio in RATIOS] + [
    (method, grid, ratio, extra) for method in METHODS for grid in GRIDS[:3] for ratio in (1.0, 1.9) for extra in (1, 3)
]


def bucket_table(
    root: Path, method: str, grid_hw: tuple[int, int], ratio: float, extra_tokens: int = 0
) -> tuple[Tensor, int]:
    """Their table [E + N, E + N] and their number of buckets."""
    kprpe = module_of(root, "vit_kprpe", "RPE.KPRPE.kprpe_shared")
    kprpe.BUCKET_IDS_BUF.clear()
    return kprpe.get_bucket_ids_2d(METHODS[method], *grid_hw, extra_tokens, ratio, 2 * ratio, 8 * ratio)


def key(method: str, grid_hw: tuple[int, int], ratio: float, extra_tokens: int = 0) -> str:
    """Name of a table in the file."""
    extra = f"-extra{extra_tokens}" if extra_tokens else ""
    return f"{method}-{grid_hw[0]}x{grid_hw[1]}-{ratio:g}{extra}"


# Weights

Shapes = dict[str, tuple[int, ...]]


def shapes_of(module: nn.Module) -> Shapes:
    """Names and shapes of parameters and buffers."""
    return {name: tuple(value.shape) for name, value in module.state_dict().items()}


def numbers(shapes: Mapping[str, tuple[int, ...]], seed: int) -> dict[str, Tensor]:
    """Weights for everything: activations of about 1 (in the MLPs beyond 6 too, which ReLU6 cuts), attention far from
    uniform, encodings that change it much. What has the same name and shape in two networks is the same in both."""
    state = {}
    for name, shape in shapes.items():
        rng = np.random.RandomState([seed, zlib.crc32(name.encode())])
        if name.endswith("num_batches_tracked"):
            state[name] = torch.zeros(shape, dtype=torch.long)
            continue
        value = rng.standard_normal(shape).astype(np.float32)
        if "keypoint_linear" in name or "lookup_table" in name or name == "pos_embed":
            value *= 0.8
        elif len(shape) > 1:
            gain = 2.0 if "qkv" in name else 3.0 if "fc1" in name else 1.0
            value *= gain / math.sqrt(math.prod(shape[1:]))
        else:
            value = 1 + 0.2 * np.abs(value) if name.endswith(("weight", "running_var")) else 0.2 * value
        state[name] = torch.from_numpy(value)
    return state


def fill(module: nn.Module, seed: int) -> dict[str, Tensor]:
    """Put `numbers` into a module, and return them."""
    state = numbers(shapes_of(module), seed)
    module.load_state_dict(state)
    return state


# Networks


class Size(NamedTuple):
    """Of a square vision transformer and of a batch for it."""

    image: int
    patch: int
    dim: int
    depth: int
    heads: int
    mlp_ratio: float
    features: int
    batch: int


class Case(NamedTuple):
    """A network of theirs, by their names of the options."""

    package: str
    method: str = "product"
    ratio: float = 1.9
    ctx_type: str = ""
    rpe_on: str = "k"
    mode: str = "ctx"
    shared_head: bool = True

    def __str__(self) -> str:
        return "-".join(str(value) for value in self if value != "")


TINY = Size(image=15, patch=3, dim=16, depth=2, heads=2, mlp_ratio=2.0, features=6, batch=12)
SEED = 19  # one whose sums are clear of the corners of ReLU6, where gradients in float32 jump
PUBLISHED = "rel_keypoint_splithead_unshared"
CTX_TYPES = ["rel_keypoint", "rel_keypoint_unshared", "rel_keypoint_splithead", PUBLISHED, "keypoint"]
KPRPE_CASES = [
    *(Case("vit_kprpe", ctx_type=name) for name in CTX_TYPES),
    *(Case("vit_kprpe", method, ctx_type=PUBLISHED) for method in ("euc", "quant", "cross")),
    *(Case("vit_kprpe", ratio=ratio, ctx_type=PUBLISHED) for ratio in (1.0, 2.5)),
    Case("vit_kprpe", "cross", 1.3, "keypoint"),
]
IRPE_CASES = [
    *(Case("vit_irpe", rpe_on=places) for places in ("k", "q", "v", "qk", "qkv")),
    *(Case("vit_irpe", method, rpe_on="qkv", shared_head=False) for method in ("product", "euc", "quant", "cross")),
    *(Case("vit_irpe", rpe_on=places, mode="bias") for places in ("k", "q")),
    Case("vit_irpe", ratio=1.0, rpe_on="qk", mode="bias", shared_head=False),
]
CASES = [Case("vit"), *KPRPE_CASES, *IRPE_CASES]
CLASSES = {
    "vit": "VisionTransformer",
    "vit_kprpe": "VisionTransformerWithKPRPE",
    "vit_irpe": "VisionTransformerWithiRPE",
}


def rpe_config(case: Case) -> Config:
    """As in their YAML files."""
    name = {"vit_kprpe": "KPRPE_shared", "swin_kprpe": "KPRPE_shared", "vit_irpe": "iRPE"}[case.package]
    return Config(case._asdict(), name=name, num_keypoints=5)


def network(root: Path, case: Case, size: Size) -> nn.Module:
    """Their network: no stochastic depth, no masking."""
    vit = module_of(root, case.package, "vit")
    options = {} if case.package == "vit" else {"rpe_config": rpe_config(case)}
    return getattr(vit, CLASSES[case.package])(
        img_size=size.image,
        patch_size=size.patch,
        num_classes=size.features,
        embed_dim=size.dim,
        depth=size.depth,
        num_heads=size.heads,
        mlp_ratio=size.mlp_ratio,
        mask_ratio=0,
        **options,
    )


@contextlib.contextmanager
def keypoints_for_every_query(root: Path) -> Iterator[None]:
    """Gives the context of ctx_type "keypoint" to every query.

    Their own code hands over that of a single query, so that their look-up makes a bias of [B, 1, 1, 1], which softmax
    ignores: as it stands, "keypoint" is no encoding at all. Other contexts are not touched.
    """
    vit = module_of(root, "vit_kprpe", "vit")
    single = vit.make_kprpe_input

    def every(keypoints: Tensor, x: Tensor, *args: object) -> object:
        context = single(keypoints, x, *args)
        if isinstance(context, dict):
            context = {name: value.expand(-1, -1, x.shape[1], -1) for name, value in context.items()}
        return context

    with mock.patch.object(vit, "make_kprpe_input", every):
        yield


@contextlib.contextmanager
def in_double() -> Iterator[None]:
    """Lets their networks run in double precision: the cast to float32 before their last norm does nothing.

    In float32, a sum that rounds to the other side of a ReLU6's corners is seen in the gradients; in double precision
    what differs is a difference.
    """
    with mock.patch.object(torch.Tensor, "float", lambda tensor: tensor):
        yield


def inputs(size: Size) -> tuple[Tensor, Tensor, Tensor]:
    """Images, keypoints (some outside the image), and what the embeddings are multiplied with to have gradients."""
    rng = np.random.RandomState(7)
    images = rng.standard_normal((size.batch, 3, size.image, size.image))
    keypoints = rng.uniform(-0.2, 1.2, (size.batch, 5, 2))
    weights = rng.standard_normal((size.batch, size.features))
    return tuple(torch.from_numpy(array.astype(np.float32)) for array in (images, keypoints, weights))


def outcome(
    model: nn.Module, run: Callable[[nn.Module, Tensor, Tensor], Tensor], size: Size
) -> dict[str, Tensor | dict[str, Tensor]]:
    """Embeddings while evaluating and while training, the running mean that training leaves, and gradients by name."""
    images, keypoints, weights = (value.to(model.pos_embed.dtype) for value in inputs(size))
    with torch.no_grad():
        evaluated = run(model.eval(), images, keypoints)
    trained = run(model.train(), images, keypoints)
    (trained * weights).sum().backward()
    return {
        "eval": evaluated,
        "train": trained.detach(),
        "mean": model.feature[1].running_mean.clone(),
        "gradients": {name: parameter.grad for name, parameter in model.named_parameters()},
    }


def run_theirs(model: nn.Module, images: Tensor, keypoints: Tensor) -> Tensor:
    """Only their KP-RPE network takes keypoints."""
    return model(images, keypoints) if hasattr(model, "keypoint_linear") else model(images)


def reference(root: Path, case: Case, size: Size, seed: int) -> tuple[dict[str, Tensor], dict]:
    """Weights and outcome, in double precision, of their network, and how close it comes to a corner of a ReLU6."""
    model = network(root, case, size)
    state = fill(model, seed)
    distances = []
    for block in model.blocks:
        block.mlp.act.register_forward_pre_hook(
            lambda module, args: distances.append(torch.minimum(args[0].abs(), (args[0] - 6).abs()).min().item())
        )
    every = keypoints_for_every_query(root) if case.package == "vit_kprpe" else contextlib.nullcontext()
    with every, in_double():
        found = outcome(model.double(), run_theirs, size)
    return state, {**found, "corner": min(distances)}


def sample(value: Tensor) -> Tensor:
    """12 of a tensor's numbers, always the same."""
    return value.flatten()[torch.from_numpy(np.random.RandomState(value.numel()).randint(value.numel(), size=12))]


# One attention under iRPE, with what their networks do without: rectangular grids and extra tokens

IRPE_GRID = (3, 5)
IRPE_SEED = 5
IRPE_ATTENTIONS = [
    *(
        (Case("vit_irpe", method, rpe_on="qkv", shared_head=False), extra_tokens)
        for method in ("product", "euc", "quant", "cross")
        for extra_tokens in (0, 1, 3)
    ),
    *((Case("vit_irpe", "cross", 2.5, rpe_on="qk", mode="bias"), extra_tokens) for extra_tokens in (0, 2)),
]


def irpe_inputs(extra_tokens: int) -> list[Tensor]:
    """Queries, keys, values and what the output is multiplied with: [2, 2, E + N, 4] each."""
    shape = (4, 2, 2, extra_tokens + math.prod(IRPE_GRID), 4)
    return list(torch.from_numpy(np.random.RandomState(2).standard_normal(shape).astype(np.float32)))


def irpe_attention(root: Path, case: Case, extra_tokens: int) -> tuple[dict[str, Tensor], Tensor, dict[str, Tensor]]:
    """Their tables, the output of attention under their modules, and the gradients of the tables."""
    irpe = module_of(root, "vit_irpe", "RPE.iRPE.irpe")
    options = {name: getattr(case, name) for name in ("method", "ratio", "rpe_on", "mode", "shared_head")}
    irpe.BUCKET_IDS_BUF.clear()
    built = irpe.build_rpe(irpe.get_rpe_config(**options, skip=extra_tokens), head_dim=4, num_heads=2)
    modules = nn.ModuleDict({name: module for name, module in zip("qkv", built, strict=True) if module is not None})
    state = fill(modules, IRPE_SEED)
    rows, cols = IRPE_GRID
    query, key, value, weights = irpe_inputs(extra_tokens)
    query = query / 2
    logits = query @ key.mT
    if "k" in modules:
        logits = logits + modules["k"](query, height=rows, width=cols)
    if "q" in modules:
        logits = logits + modules["q"](key / 2, height=rows, width=cols).mT
    attention = logits.softmax(-1)
    out = attention @ value
    if "v" in modules:
        out = out + modules["v"](attention, height=rows, width=cols)
    (out * weights).sum().backward()
    return state, out.detach(), {name: parameter.grad for name, parameter in modules.named_parameters()}


# Windows of their Swin

WINDOW = 3
# (rows, cols) of the feature map to heads and shifts of the blocks: 5 x 5 is padded to 6 x 6, and 3 x 3 is one window.
STAGES = {(5, 5): (2, [0, 1]), (3, 3): (4, [0, 1])}
WINDOW_CASE = Case("swin_kprpe", ctx_type=PUBLISHED)


def window_keypoints() -> Tensor:
    """[2, 5, 2]"""
    return torch.from_numpy(np.random.RandomState(9).uniform(-0.2, 1.2, (2, 5, 2)).astype(np.float32))


def window_biases(root: Path) -> tuple[list[dict[str, Tensor]], list[Tensor]]:
    """Weights of the stages' `keypoint_linear`, and the biases [B * W, H, n, n] of all blocks."""
    options = module_of(root, "swin_kprpe", "rpe_options")
    build_rpe = module_of(root, "swin_kprpe", "RPE").build_rpe
    config = rpe_config(WINDOW_CASE)
    buckets = 49
    blocks = {
        grid: [
            {"num_heads": heads, "shift_size": [shift] * 2, "feature_size": grid, "window_size": [WINDOW] * 2}
            for shift in shifts
        ]
        for grid, (heads, shifts) in STAGES.items()
    }
    linears = nn.ModuleDict(
        {
            f"keypoint_linear_{stage}": nn.Linear(10, buckets * sum(block["num_heads"] for block in of_stage))
            for stage, of_stage in enumerate(blocks.values())
        }
    )
    fill(linears, seed=4)
    kprpes = [build_rpe(config, head_dim=None, num_heads=heads)[1] for heads, _ in STAGES.values()]
    images = torch.zeros(2, 3, 1, 1)
    with torch.no_grad():
        rows = options.make_kprpe_bias(window_keypoints(), images, linears.values(), config, blocks, buckets, kprpes)
    return [linear.state_dict() for linear in linears.values()], [row["rel_keypoints"] for row in rows]


# IR networks

IR_NAMES = ("IR_18", "IR_50", "IR_101")
IR_IMAGE = (32, 43)  # theirs take squares of 112 or 224 px, but for the first layer of the head
IR_FEATURES = 6
IR_SEED = 3


def iresnet(root: Path, name: str, image_hw: tuple[int, int] = IR_IMAGE) -> nn.Module:
    """Their network, its last linear layer as wide as images of another size need it, without dropout."""
    model = getattr(module_of(root, "iresnet", "model"), name)((112, 112), IR_FEATURES)
    cells = math.prod(-(-size // 16) for size in image_hw)
    model.output_layer[3] = nn.Linear(512 * cells, IR_FEATURES)
    model.output_layer[1].p = 0.0
    return model


def iresnet_inputs(image_hw: tuple[int, int] = IR_IMAGE) -> tuple[Tensor, Tensor]:
    """Images [3, 3, *image_hw], and what the embeddings are multiplied with to have gradients."""
    rng = np.random.RandomState(8)
    arrays = rng.standard_normal((3, 3, *image_hw)), rng.standard_normal((3, IR_FEATURES))
    return tuple(torch.from_numpy(array.astype(np.float32)) for array in arrays)


def iresnet_outcome(model: nn.Module, gradients: bool = True) -> dict[str, Tensor | dict[str, Tensor]]:
    """Embeddings while evaluating and, in training, gradients by name; in the precision of the model."""
    images, weights = (value.to(next(model.parameters()).dtype) for value in iresnet_inputs())
    with torch.no_grad():
        found: dict[str, Tensor | dict[str, Tensor]] = {"eval": model.eval()(images)}
    if gradients:
        trained = model.train()(images)
        (trained * weights).sum().backward()
        found["train"] = trained.detach()
        found["gradients"] = {name: parameter.grad for name, parameter in model.named_parameters()}
    return found


# Writing


def _store_buckets(root: Path) -> None:
    tables = {key(*case): bucket_table(root, *case)[0].numpy().astype(np.uint16) for case in BUCKET_CASES}
    np.savez_compressed(STORED, **tables)


def _store_networks(root: Path) -> None:
    arrays, shapes = {}, {}
    for case in CASES:
        state, found = reference(root, case, TINY, SEED)
        if found["corner"] < 2e-5:
            raise SystemExit(f"{case}: a sum of {found['corner']:g} off a corner of ReLU6; choose another SEED")
        gradients = [found["gradients"][name] for name in sorted(found["gradients"])]
        shapes[str(case)] = {name: tuple(value.shape) for name, value in state.items()}
        arrays |= {f"{case}/{name}": found[name] for name in ("eval", "train", "mean")}
        arrays[f"{case}/gradients"] = torch.stack([sample(value) for value in gradients])
        arrays[f"{case}/scales"] = torch.stack([value.abs().max() for value in gradients])
    arrays = {name: value.numpy().astype(np.float32) for name, value in arrays.items()}
    np.savez_compressed(STORED_NETWORKS, shapes=np.frombuffer(json.dumps(shapes).encode(), np.uint8), **arrays)


def _store_irpe(root: Path) -> None:
    arrays = {}
    for case, extra_tokens in IRPE_ATTENTIONS:
        _, out, gradients = irpe_attention(root, case, extra_tokens)
        arrays[f"{case}/{extra_tokens}/out"] = out.numpy()
        arrays |= {f"{case}/{extra_tokens}/gradient/{name}": value.numpy() for name, value in gradients.items()}
    np.savez_compressed(STORED_IRPE, **arrays)


def _store_windows(root: Path) -> None:
    linears, biases = window_biases(root)
    arrays = {f"{name}-{stage}": value.numpy() for stage, state in enumerate(linears) for name, value in state.items()}
    arrays |= {f"block-{block}": bias.numpy() for block, bias in enumerate(biases)}
    np.savez_compressed(STORED_WINDOWS, **arrays)


def _store_iresnet(root: Path) -> None:
    arrays, shapes = {}, {}
    for name in IR_NAMES:
        model = iresnet(root, name)
        fill(model, IR_SEED)
        shapes[name] = shapes_of(model)
        found = iresnet_outcome(model.double(), gradients=name == "IR_18")
        arrays[f"{name}/eval"] = found["eval"]
        if name == "IR_18":
            gradients = [found["gradients"][key] for key in sorted(found["gradients"])]
            arrays[f"{name}/train"] = found["train"]
            arrays[f"{name}/gradients"] = torch.stack([sample(value) for value in gradients])
            arrays[f"{name}/scales"] = torch.stack([value.abs().max() for value in gradients])
    arrays = {name: value.numpy().astype(np.float32) for name, value in arrays.items()}
    np.savez_compressed(STORED_IRESNET, shapes=np.frombuffer(json.dumps(shapes).encode(), np.uint8), **arrays)


if __name__ == "__main__":
    torch.manual_seed(0)  # their constructors draw numbers, all of which are overwritten
    checkout = Path(os.environ["CVLFACE_ROOT"])
    for store, file in (
        (_store_buckets, STORED),
        (_store_networks, STORED_NETWORKS),
        (_store_irpe, STORED_IRPE),
        (_store_windows, STORED_WINDOWS),
        (_store_iresnet, STORED_IRESNET),
    ):
        store(checkout)
        print(f"{file}: {file.stat().st_size} bytes")
