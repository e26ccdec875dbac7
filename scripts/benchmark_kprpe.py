"""What KP-RPE costs beside no, table and iRPE encodings: Table 3 of its paper, measured here.

    python scripts/benchmark_kprpe.py --out kprpe.json
    CVLFACE_ROOT=path/to/CVLface python scripts/benchmark_kprpe.py

Faces: ViT-S and ViT-B of the paper on 112 px images; with CVLFACE_ROOT the authors' transformers too, on the same
weights. Before anything is timed they must give the same embeddings and gradients as ours, or the run ends. Window:
the Swin stages of SwinGait-2D, 15 x 10 tokens in windows of 3 x 5, 17 joints with visibilities. Attention: ViT + KP-RPE
with each way of computing attention, in training. All of it takes about eight minutes on two cores, and half as much
again with the authors' models.

Training is forward and backward from a given gradient of the output: no loss, no optimizer, no stochastic depth.
Within a part all models take turns in every round, and ratios are those of times in one round. Peak memory is that of
tensors, above the model and its inputs; gradients of the weights are part of it in training.
Multiply-adds (MACs) are those of matrix products and convolutions, attention's included, for one image. The paper's
GFLOPs are DeepSpeed's count: two a multiply-add, five an element of a LayerNorm, and nothing for the two products
within attention, which it does not see behind the operator @. For the authors' models it gives the paper's figures.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, get_args

import torch
from authors_models import AuthorsModel, Operator, load_authors_model, prepare_operator
from torch import Tensor, nn

from common.rpe import PositionBias, PositionBiasSettings
from common.rpe.attention import AttentionImplementation
from common.runtime.benchmark import MEASURES, Candidate, environment, growth, measure, ratios, tensor_memory
from common.runtime.files import write_text
from common.swin import SwinTransformer
from face.models.cvlface import translate_cvlface_keys
from face.models.vit import FaceViT, vit_base, vit_small
from face.reference import reference_landmarks

SIZES: dict[str, Callable[..., FaceViT]] = {"small": vit_small, "base": vit_base}
FACES = {
    "plain": PositionBiasSettings(position_bias="none"),
    "table": PositionBiasSettings(position_bias="table"),
    "irpe": PositionBiasSettings(position_bias="irpe", irpe_on="qkv"),
    "irpe-k": PositionBiasSettings(position_bias="irpe", irpe_on="k"),
    "kprpe": PositionBiasSettings(position_bias="kprpe"),
}
AUTHORS = {"plain": "authors-plain", "irpe": "authors-irpe", "kprpe": "authors-kprpe"}
ATTENTION: tuple[AttentionImplementation, ...] = ("fused", "explicit", "compact")
WINDOW_SHAPE: dict[str, Any] = {
    "in_channels": 128,
    "feature_size": (30, 20),
    "patch_size": 2,
    "embed_dim": 256,
    "depths": (4, 2),
    "num_heads": (16, 32),
    "window_size": (3, 5),
    "mlp_ratio": 4.0,
    "drop_path_rate": 0.0,
}
WINDOW = {
    "none": PositionBiasSettings(position_bias="none"),
    "table": PositionBiasSettings(position_bias="table"),
    "kprpe-window": PositionBiasSettings(position_bias="kprpe", num_keypoints=17, keypoint_grid="window"),
    "kprpe-image": PositionBiasSettings(position_bias="kprpe", num_keypoints=17, keypoint_grid="image"),
}
# How far ours and the authors' may be apart: outputs, of the largest one; gradients, in their norm, since where a ReLU6
# turns rounding decides between a slope of 0 and of 1.
SAME = {"outputs": 1e-4, "gradients": 1e-2}
Rows = dict[str, dict[str, Any]]


def main(argv: Sequence[str] | None = None) -> int:
    """The command line. Returns the exit code: 0, or 2 for wrong input."""
    try:
        options = check_options(build_parser().parse_args(argv))
        torch.set_num_threads(options.threads)
        torch.manual_seed(0)
        authors = Authors(os.environ.get("CVLFACE_ROOT"), options)
        report: dict[str, Any] = {
            "settings": {name: getattr(options, name) for name in ("batch", "frames", "rounds", "dtype")},
            **environment(options.device),
            "authors_operator": authors.operator_name,
        }
        for part in options.parts:
            for name, rows in PARTS[part](options, authors):
                report.setdefault(part, {})[name] = rows
                if options.out:  # after every table, so that a run cut short leaves what it has
                    write_text(options.out, json.dumps(report, indent=2) + "\n")
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    for name, choices in (("parts", PARTS), ("what", MEASURES), ("models", FACES), ("sizes", SIZES)):
        every = ",".join(choices)
        parser.add_argument(f"--{name}", default=every, metavar="A,B", help=f"some of {every} (default: all)")
    parser.add_argument("--batch", type=int, default=8, help="faces at once (default: %(default)s)")
    parser.add_argument("--frames", type=int, default=16, help="silhouettes at once, for window (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="of all models in turn (default: %(default)s)")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32",
                        help="other than float32: autocast to it (default: %(default)s)")  # fmt: skip
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of a CPU (default: %(default)s)")
    parser.add_argument("--authors-operator", choices=get_args(Operator), default="compiled", help="their C++ operator "
                        "as their package builds it, or their fallback without (default: %(default)s)")  # fmt: skip
    parser.add_argument("--out", type=Path, metavar="FILE", help="JSON file to write")
    return parser


def check_options(options: argparse.Namespace) -> argparse.Namespace:
    """Names to lists, `auto` to a device.

    Raises:
        ValueError: unknown names, numbers out of range, no such device, or no folder to write to.
    """
    for name, choices in (("parts", PARTS), ("what", MEASURES), ("models", FACES), ("sizes", SIZES)):
        chosen = [entry.strip() for entry in getattr(options, name).split(",")]
        unknown = [entry for entry in chosen if entry not in choices]
        if unknown:
            raise ValueError(f"--{name}: unknown {', '.join(map(repr, unknown))}, expected some of {','.join(choices)}")
        setattr(options, name, [entry for entry in choices if entry in chosen])
    if "faces" in options.parts and "plain" not in options.models:
        raise ValueError(f"--models must hold plain, which the others are compared with, got {options.models}")
    if min(options.rounds, options.frames, options.threads) < 1 or options.batch < 2:
        raise ValueError("--rounds, --frames and --threads must be >= 1, --batch >= 2 (batch norm in training)")
    if options.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: torch finds no CUDA device")
    if options.device == "auto":
        options.device = "cuda" if torch.cuda.is_available() else "cpu"
    if options.dtype == "bfloat16" and options.authors_operator == "compiled" and os.environ.get("CVLFACE_ROOT"):
        raise ValueError("the authors' compiled operator knows no bfloat16, use --authors-operator python")
    if options.out and not options.out.parent.is_dir():
        raise ValueError(f"--out: folder {options.out.parent} does not exist")
    return options


class Authors:
    """The authors' models, where a checkout is given."""

    def __init__(self, root: str | None, options: argparse.Namespace) -> None:
        self.root = Path(root) if root and "faces" in options.parts else None
        self.operator_name = options.authors_operator if self.root else None
        self.operator = prepare_operator(self.root, options.authors_operator, options.device) if self.root else None

    def build(self, name: str, like: FaceViT) -> AuthorsModel | None:
        """Their model of a name, with the shape of ours; None if there is none."""
        if self.root is None or name not in AUTHORS:
            return None
        block: Any = like.blocks[0]
        shape = {
            "img_size": like.image_hw[0],
            "patch_size": like.patch_hw[0],
            "embed_dim": like.embed_dim,
            "depth": len(like.blocks),
            "num_heads": block.attn.num_heads,
            "mlp_ratio": block.mlp.fc1.out_features / like.embed_dim,
            "num_classes": like.feature[2].out_features,
        }
        return load_authors_model(self.root, name, self.operator, shape)


def run_faces(options: argparse.Namespace, authors: Authors) -> Iterator[tuple[str, Rows]]:
    """For each size, one row a model."""
    for size in options.sizes:
        models, apart = build_faces(size, options, authors)
        inputs = face_inputs(models["plain"], options.device)
        base = {name: "authors-plain" if name in AUTHORS.values() else "plain" for name in models}
        rows = run_models(models, inputs, options.batch, base, options.what, options, f"ViT {size}")
        for name, row in rows.items():
            row["paper_flops"] = paper_flops(models[name], row["multiply_adds"])
        for name in apart:
            rows[name]["apart_from_authors"] = apart[name]
            rows[name]["over_authors"] = compare(rows[name], rows[AUTHORS[name]])
        if "memory" in options.what and "kprpe" in models:
            add_features(rows, models, inputs, options.device)
        print_table(f"ViT {size}, {options.batch} faces", rows, base)
        print_comparison({name: rows[name] for name in apart})
        yield size, rows


def run_window(options: argparse.Namespace, _: Authors) -> Iterator[tuple[str, Rows]]:
    """One row a position encoding."""
    models = {}
    for name, settings in WINDOW.items():
        models[name] = SwinTransformer(bias=settings, **WINDOW_SHAPE).to(options.device)
        for module in models[name].modules():
            if isinstance(module, PositionBias):
                fill(module)
    base = dict.fromkeys(models, "table")
    rows = run_models(models, window_inputs(options.device), options.frames, base, options.what, options, "SwinGait-2D")
    print_table(f"Swin stages of SwinGait-2D, {options.frames} silhouettes", rows, base)
    yield "swingait2d", rows


def run_attention(options: argparse.Namespace, _: Authors) -> Iterator[tuple[str, Rows]]:
    """One row an implementation of attention, in training."""
    what = [measure for measure in options.what if measure != "inference"]
    if not what:
        return
    size = options.sizes[0]
    models: dict[str, Any] = {"plain": SIZES[size]().to(options.device)}
    for implementation in ATTENTION:
        model = SIZES[size](position_bias=FACES["kprpe"], implementation=implementation).to(options.device)
        models[f"kprpe-{implementation}"] = share(model, models["plain"])
        fill(model.position_bias)
    base = dict.fromkeys(models, "plain")
    inputs = face_inputs(models["plain"], options.device)
    rows = run_models(models, inputs, options.batch, base, what, options, f"attention of ViT {size}")
    print_table(f"Attention of ViT {size}, {options.batch} faces", rows, base)
    yield size, rows


def run_models(
    models: Mapping[str, nn.Module],
    inputs: Callable[[int], tuple[Any, ...]],
    batch: int,
    base: Mapping[str, str],
    what: Sequence[str],
    options: argparse.Namespace,
    title: str,
) -> Rows:
    dtype = getattr(torch, options.dtype)
    candidates = {name: Candidate(model, inputs, batch, dtype) for name, model in models.items()}
    return measure(candidates, base, what, options.rounds, options.device, title)


def build_faces(
    size: str, options: argparse.Namespace, authors: Authors
) -> tuple[dict[str, Any], dict[str, dict[str, float]]]:
    """Ours, each followed by the authors', all on the same weights, and how far each pair is apart."""
    plain = SIZES[size]().to(options.device)
    models: dict[str, Any] = {}
    apart: dict[str, dict[str, float]] = {}
    for name in options.models:
        ours = plain if name == "plain" else share(SIZES[size](position_bias=FACES[name]).to(options.device), plain)
        theirs = authors.build(name, ours)
        models[name] = ours
        if theirs is None:
            fill(ours.position_bias)
            continue
        models[AUTHORS[name]] = theirs.to(options.device)
        share(theirs.net, plain)
        own = [value for key, value in theirs.net.named_parameters() if "keypoint_linear" in key or "rpe_" in key]
        fill(nn.ParameterList(own))
        ours.load_state_dict(translate_cvlface_keys(theirs.state_dict()), assign=True)
        apart[name] = check_same(ours, theirs, face_inputs(plain, options.device)(2), f"{name}, size {size}")
    return models, apart


def share(model: Any, plain: nn.Module) -> Any:
    """Let a model have the very weights of `plain`, all but those of its position encoding."""
    missing, unexpected = model.load_state_dict(dict(plain.named_parameters()), strict=False, assign=True)
    known = ("position_bias.", "keypoint_linear.", "rpe_", "running_", "num_batches_tracked")
    strange = [name for name in missing if not any(word in name for word in known)] + unexpected
    if strange:
        raise ValueError(f"{type(model).__name__} has other weights than the plain transformer: {', '.join(strange)}")
    return model


@torch.no_grad()
def fill(encoding: nn.Module) -> None:
    """Numbers that matter in the place of the zeros that a position encoding starts with."""
    for parameter in encoding.parameters():
        parameter.normal_(std=0.1)


def face_inputs(model: FaceViT, device: str) -> Callable[[int], tuple[Tensor, Tensor]]:
    """Noise for images, and landmarks near those of aligned faces."""
    height, width = model.image_hw

    def inputs(batch: int) -> tuple[Tensor, Tensor]:
        random = torch.Generator().manual_seed(0)
        images = torch.rand(batch, 3, height, width, generator=random) * 2 - 1
        keypoints = torch.from_numpy(reference_landmarks(pixels=False)).float() + 0.02 * torch.randn(
            batch, 5, 2, generator=random
        )
        return images.to(device), keypoints.to(device)

    return inputs


def window_inputs(device: str) -> Callable[[int], tuple[Tensor, Tensor, Tensor, int]]:
    """Feature maps, joints, some of them unseen, and one sequence."""
    shape = WINDOW_SHAPE["in_channels"], *WINDOW_SHAPE["feature_size"]

    def inputs(frames: int) -> tuple[Tensor, Tensor, Tensor, int]:
        random = torch.Generator().manual_seed(0)
        features = torch.randn(frames, *shape, generator=random)
        joints = torch.rand(frames, 17, 2, generator=random)
        visibility = (torch.rand(frames, 17, generator=random) * 1.2 - 0.2).clamp(min=0)
        return features.to(device), joints.to(device), visibility.to(device), 1

    return inputs


def check_same(ours: nn.Module, theirs: nn.Module, inputs: tuple[Tensor, Tensor], title: str) -> dict[str, float]:
    """How far two models are apart: embeddings, without and with gradients, and their gradients by the images.

    Raises:
        ValueError: further than computing the same can be.
    """
    found: list[list[Tensor]] = []
    for model in (ours.eval(), theirs.eval()):
        images, keypoints = inputs[0].clone().requires_grad_(), inputs[1]
        with torch.no_grad():
            values = model(images, keypoints)
        out = model(images, keypoints)
        upstream = torch.linspace(-1, 1, out.numel(), device=out.device).view_as(out)
        found.append([values, out.detach(), *torch.autograd.grad(out, images, upstream)])
    *outputs, gradients = zip(*found, strict=True)
    apart = {
        "outputs": max(float((a - b).abs().max() / b.abs().max()) for a, b in outputs),
        "gradients": float((gradients[0] - gradients[1]).norm() / gradients[1].norm()),
    }
    for name, value in apart.items():
        if not value <= SAME[name]:
            raise ValueError(
                f"{title}: {name} of ours and the authors' are {value:.1e} apart, more than {SAME[name]:g}: their "
                "times would not be those of one computation"
            )
    return apart


def add_features(rows: Rows, models: Mapping[str, Any], inputs: Callable[[int], Any], device: str) -> None:
    """What KP-RPE holds of one more image from the first block to the last: once for all of them, not a block."""
    ours = models["kprpe"]
    grid_hw = tuple(size // patch for size, patch in zip(ours.image_hw, ours.patch_hw, strict=True))
    steps: dict[str, Callable[..., Any]] = {"kprpe": lambda _, keypoints: ours.position_bias.kprpe(keypoints, grid_hw)}
    if AUTHORS["kprpe"] in models:
        steps[AUTHORS["kprpe"]] = models[AUTHORS["kprpe"]].keypoint_features
    for name, step in steps.items():
        held = growth(lambda batch, step=step: tensor_memory(partial(step, *inputs(batch)), device).held)  # type: ignore[misc]
        rows[name]["memory"]["features_per_image"] = held
    if len(steps) == 2:
        over = rows["kprpe"]["memory"]["features_per_image"] / rows[AUTHORS["kprpe"]]["memory"]["features_per_image"]
        rows["kprpe"]["over_authors"]["features_per_image"] = over


def paper_flops(model: nn.Module, macs: int) -> int:
    """DeepSpeed's count of one of the face transformers, as the paper has it."""
    net: Any = getattr(model, "net", model)
    _, tokens, channels = net.pos_embed.shape
    depth = len(net.blocks)
    within_attention = 2 * depth * tokens**2 * channels
    return 2 * (macs - within_attention) + 5 * (2 * depth + 1) * tokens * channels


def compare(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> dict[str, Any]:
    """Ours over the authors', of everything that was measured."""
    out: dict[str, Any] = {}
    for mode in ("inference", "training"):
        if mode in ours:
            out[f"{mode}_time"] = ratios(ours[mode]["rounds"], theirs[mode]["rounds"])
    for name, value in ours.get("memory", {}).items():
        out[name] = value / theirs["memory"][name]
    return out


def print_table(title: str, rows: Mapping[str, Mapping[str, Any]], base: Mapping[str, str]) -> None:
    """One line a model."""
    lines: list[dict[str, str]] = []
    for name, row in rows.items():
        line = {"": name, "params M": f"{row['parameters'] / 1e6:.2f}", "GMACs": f"{row['multiply_adds'] / 1e9:.2f}"}
        if "paper_flops" in row:
            line["paper's GFLOPs"] = f"{row['paper_flops'] / 1e9:.2f}"
        for mode in ("inference", "training"):
            if mode in row:
                line[f"{mode} images/s"] = f"{row[mode]['images_per_second']:.1f}"
                line[f"{mode} time ratio"] = show(row[mode][f"time_over_{base[name]}"])
        if "memory" in row:
            found = row["memory"]
            line["peak MB, inference"] = f"{found['inference_peak'] / 1e6:.1f}"
            line["peak MB, training"] = f"{found['training_peak'] / 1e6:.1f}"
            kept = found["kept_for_backward_per_image"]
            more = kept - rows[base[name]]["memory"]["kept_for_backward_per_image"]
            line["kept MB/image"] = f"{kept / 1e6:.2f} ({more / 1e6:+.2f})"
            if "features_per_image" in found:
                line["KP-RPE MB/image"] = f"{found['features_per_image'] / 1e6:.3f}"
        lines.append(line)
    print(f"\n{title}. Ratios (median [quartiles]) and differences are to {', '.join(dict.fromkeys(base.values()))}.")
    print_columns(lines)


def print_comparison(rows: Mapping[str, Mapping[str, Any]]) -> None:
    """Ours over the authors', one line a pair."""
    lines = []
    for name, row in rows.items():
        values = {key.replace("_", " "): show(value) for key, value in row["over_authors"].items()}
        lines.append({"": f"{name}, ours / authors'", **values, "apart": f"{row['apart_from_authors']['outputs']:.0e}"})
    if lines:
        print()
        print_columns(lines)


def show(value: Mapping[str, float] | float) -> str:
    """A ratio, or the spread of one."""
    if isinstance(value, Mapping):
        return f"{value['median']:.2f} [{value['lower_quartile']:.2f}, {value['upper_quartile']:.2f}]"
    return f"1/{1 / value:.0f}" if 0 < value < 0.1 else f"{value:.2f}"


def print_columns(lines: Sequence[Mapping[str, str]]) -> None:
    """Aligned, a dash where a line has nothing to say."""
    names = list(dict.fromkeys(name for line in lines for name in line))
    table = [names, *([line.get(name, "-") for name in names] for line in lines)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for first, *others in table:
        cells = [text.rjust(width) for text, width in zip(others, widths[1:], strict=True)]
        print("  ".join([first.ljust(widths[0]), *cells]).rstrip(), flush=True)


PARTS = {"faces": run_faces, "window": run_window, "attention": run_attention}

if __name__ == "__main__":
    raise SystemExit(main())
