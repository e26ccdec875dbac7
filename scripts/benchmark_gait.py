"""SwinGait-2D's speed in training beside OpenGait's, on the same weights and the same batch.

    OPENGAIT_ROOT=path/to/OpenGait python scripts/benchmark_gait.py --out scripts/results/gait.json

Transformer: patch embedding and Swin stages, forward and backward, from the same feature maps and the same gradient of
the tokens, each side in its own layout. Step: the whole network from silhouettes, both losses, backward and AdamW, in
float32. OpenGait's network is its SwinGait with a 2D second stage and windows of one frame, as SwinGait-2D is; with
--dimensions 3 it is SwinGait as published. Before anything is timed both sides must give the same outputs, losses and
gradients from the same weights, or the run ends. All candidates take turns in every round; ratios are formed round by
round. Without OPENGAIT_ROOT, table and KP-RPE are compared with each other.
"""

import argparse
import importlib
import importlib.util
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from common.runtime.benchmark import environment, ratios, spread, time_rounds
from common.runtime.files import write_text
from common.runtime.settings import to_mapping
from plugin.runtime.host import MODELS
from plugin.runtime.losses import LossAggregator
from plugin.runtime.settings import GaitSettings, load_gait_settings

ROOT = Path(__file__).resolve().parents[1]
CLASSES = 3000
# How far apart they may be: the loss relatively, gradients in their norm, since where a ReLU or a maximum turns,
# rounding decides between a slope of 0 and of 1.
SAME = {"loss": 1e-4, "gradient_norm": 1e-2}


def main(argv: Sequence[str] | None = None) -> int:
    """The command line. Returns the exit code: 0, or 2 for wrong input."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, nargs=2, default=[4, 2], metavar=("P", "K"),
                        help="subjects and sequences of each (default: %(default)s)")  # fmt: skip
    parser.add_argument("--frames", type=int, default=30, help="of a sequence (default: %(default)s)")
    parser.add_argument("--dimensions", type=int, choices=[2, 3], default=2, help="SwinGait-2D or SwinGait-3D")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--parts", nargs="+", choices=["transformer", "step"], default=["transformer", "step"])
    parser.add_argument("--out", type=Path, help="JSON file to write")
    options = parser.parse_args(argv)
    if min(*options.batch, options.frames, options.rounds, options.threads) < 1 or options.batch[0] < 2:
        parser.error("--batch needs 2 subjects or more, and --frames, --rounds and --threads 1 or more")
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    try:
        report = run(options, os.environ.get("OPENGAIT_ROOT"))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    text = json.dumps(report, indent=2)
    print(text)
    if options.out:
        write_text(options.out, text + "\n")
    return 0


def run(options: argparse.Namespace, root: str | None) -> dict[str, Any]:
    """Check that all agree, then time."""
    own = {name: build(name, options.dimensions) for name in ("table", "kprpe")}
    theirs = Theirs(Path(root), options.dimensions) if root else None
    batch = made_up_batch(options)
    if theirs is not None:
        state = own["table"].translate_checkpoint(theirs.model.state_dict())
        missing, unexpected = own["table"].load_state_dict(state, strict=False)
        if unexpected or any(not name.endswith("num_batches_tracked") for name in missing):
            raise ValueError(f"OpenGait's weights do not fit: missing {missing}, unexpected {unexpected}")
    own["kprpe"].load_state_dict(own["table"].state_dict(), strict=False)
    report: dict[str, Any] = {
        "settings": {name: getattr(options, name) for name in ("batch", "frames", "dimensions", "rounds")},
        **environment("cpu"),
    }
    for part in options.parts:
        steps = {name: STEPS[part](model, batch) for name, model in own.items()}
        if theirs is not None:
            steps["opengait"] = getattr(theirs, f"{part}_step")(batch)
            report[f"{part}_differences"] = compare(steps["table"], steps["opengait"])
        times = time_rounds(steps, options.rounds, title=part)
        report[part] = {"seconds": {name: spread(values) for name, values in times.items()}}
        report[part]["kprpe_over_table"] = ratios(times["kprpe"], times["table"])
        if theirs is not None:
            for name in own:
                report[part][f"opengait_over_{name}"] = ratios(times["opengait"], times[name])
    return report


def settings_of(name: str, dimensions: int) -> GaitSettings:
    path = ROOT / "configs" / f"swingait{dimensions}d{'_kprpe' if name == 'kprpe' else ''}.yaml"
    # Stochastic depth would make the two sides compute different things.
    return load_gait_settings(path, {"model_cfg": {"backbone_cfg": {"drop_path_rate": 0.0}}})


def build(name: str, dimensions: int) -> Any:
    """One of our models as the embedded runtime trains it."""
    settings = settings_of(name, dimensions)
    quiet = SimpleNamespace(log_info=lambda *_: None)
    model = MODELS[settings.model_cfg.model](to_mapping(settings), True, quiet)
    return model.to(memory_format=torch.channels_last) if dimensions == 2 else model


def made_up_batch(options: argparse.Namespace) -> dict[str, Any]:
    subjects, each = options.batch
    count, frames = subjects * each, options.frames
    coarse = (torch.rand(count, frames, 16, 11) < 0.5).float()
    maps = torch.randn(count, 128, frames, 30, 20)
    tokens = (count, 512, frames, 15, 10)
    return {
        "silhouettes": coarse.repeat_interleave(4, 2).repeat_interleave(4, 3),
        "keypoints": torch.rand(count, frames, 17, 3),
        "labels": torch.arange(subjects).repeat_interleave(each),
        "maps": maps,
        "gradient": torch.randn(tokens),
    }


class Theirs:
    """OpenGait's network and losses, from a checkout that stays as it is."""

    def __init__(self, root: Path, dimensions: int) -> None:
        sys.dont_write_bytecode = True
        sys.path.insert(0, str(root / "opengait"))
        if not dist.is_initialized():  # their losses gather over processes
            os.environ.update(RANK="0", WORLD_SIZE="1", MASTER_ADDR="127.0.0.1", MASTER_PORT="0")
            dist.init_process_group("gloo", init_method="env://")
        harness = load_harness()
        self.model: Any = getattr(harness, f"swingait_{dimensions}d")(root, CLASSES).train()
        self.model.apply(without_drop_path)
        self.model.optimizer, self.model.iteration, self.model.T_max_iter = None, 0, 1
        sys.modules["modeling.models.swingait"].adjust_learning_rate = lambda *_, **__: None  # type: ignore[attr-defined]
        losses = importlib.import_module("modeling.losses.triplet"), importlib.import_module("modeling.losses.ce")
        self.triplet = losses[0].TripletLoss(margin=0.2)
        self.softmax = losses[1].CrossEntropyLoss(scale=16, log_accuracy=True)

    def transformer_step(self, batch: dict[str, Any]) -> "Step":
        maps, gradient = batch["maps"], batch["gradient"]
        return Step(self.model.transformer, lambda: self.model.transformer(maps).backward(gradient))

    def step_step(self, batch: dict[str, Any]) -> "Step":
        optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4)

        def step() -> Tensor:
            out = self.model(([batch["silhouettes"]], batch["labels"], None, None, None))["training_feat"]
            loss = self.triplet(**out["triplet"])[0].mean() + self.softmax(**out["softmax"])[0].mean()
            loss.backward()
            return loss.detach()

        return Step(self.model, step, optimizer)


class Step:
    """Forward and backward, and an optimizer's step if there is one; gradients are dropped first, as in training."""

    def __init__(
        self, module: nn.Module, backward: Callable[[], Any], optimizer: torch.optim.Optimizer | None = None
    ) -> None:
        self.module, self.backward, self.optimizer = module, backward, optimizer

    def gradients(self) -> tuple[Any, dict[str, Tensor]]:
        """What `backward` returns, and the gradient of every parameter."""
        self.module.zero_grad()
        loss = self.backward()
        return loss, {name: p.grad.clone() for name, p in self.module.named_parameters() if p.grad is not None}

    def __call__(self) -> None:
        self.module.zero_grad()
        self.backward()
        if self.optimizer is not None:
            self.optimizer.step()


def transformer_step(model: Any, batch: dict[str, Any]) -> Step:
    transformer, count = model.Backbone.transformer, len(batch["maps"])
    maps = batch["maps"].transpose(1, 2).flatten(0, 1).contiguous(memory_format=torch.channels_last)
    gradient = batch["gradient"].permute(0, 2, 3, 4, 1).flatten(0, 1).contiguous()
    points, visibility = None, None
    if model.Backbone.position_bias == "kprpe":
        joints = batch["keypoints"].flatten(0, 1)
        points, visibility = joints[..., :2].contiguous(), joints[..., 2].contiguous()
    return Step(transformer, lambda: transformer(maps, points, visibility, count).backward(gradient))


def whole_step(model: Any, batch: dict[str, Any]) -> Step:
    losses = LossAggregator(settings_of("table", 2).loss_cfg)
    streams = [batch["silhouettes"], batch["keypoints"]][: 2 if model.Backbone.position_bias == "kprpe" else 1]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)

    def step() -> Tensor:
        loss, _ = losses(model((streams, batch["labels"], None, None, None))["training_feat"])
        loss.backward()
        return loss.detach()

    return Step(model, step, optimizer)


STEPS: dict[str, Callable[[Any, dict[str, Any]], Step]] = {"transformer": transformer_step, "step": whole_step}


def compare(ours: Step, theirs: Step) -> dict[str, float]:
    """Relative differences of the loss and of the gradients' norm.

    Raises:
        ValueError: the two do not compute the same.
    """
    (loss, gradients), (their_loss, their_gradients) = ours.gradients(), theirs.gradients()
    if len(gradients) != len(their_gradients):
        raise ValueError(f"{len(gradients)} and {len(their_gradients)} parameters have a gradient")
    norms = [torch.stack([g.norm() for g in some.values()]).norm() for some in (gradients, their_gradients)]
    found = {"gradient_norm": float((norms[0] - norms[1]).abs() / norms[1])}
    if loss is not None:
        found["loss"] = float((loss - their_loss).abs() / their_loss.abs())
    if any(value > SAME[name] for name, value in found.items()):
        raise ValueError(f"OpenGait's and ours differ: {found}")
    return found


def without_drop_path(module: nn.Module) -> None:
    if hasattr(module, "drop_prob"):
        setattr(module, "drop_prob", 0.0)  # noqa: B010 (no attribute of nn.Module)


def load_harness() -> ModuleType:
    """tests/parity/opengait.py, which builds OpenGait's networks from outside."""
    spec = importlib.util.spec_from_file_location("parity_opengait", ROOT / "tests" / "parity" / "opengait.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    sys.exit(main())
