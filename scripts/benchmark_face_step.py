"""A training step of ViT + KP-RPE with AdaFace beside the authors' (mk-minchul/CVLface), on the same batch and weights.

    CVLFACE_ROOT=path/to/CVLface python scripts/benchmark_face_step.py --out face_step.json

A step is forward, loss, backward, clipping of the gradients at 5 and AdamW, float32. Theirs is their model with their
C++ operator and their classifier of one process with AdaFace. Before anything is timed, both must give the same loss
from the same weights. Both take turns in every round, and ratios are those of times in one round.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, get_args

import torch
from authors_models import Operator, load_authors_classifier, load_authors_model, prepare_operator
from torch import Tensor, nn

from common.runtime.benchmark import environment, ratios, spread, time_rounds
from common.runtime.files import write_text
from face.losses import AdaFace, PartialFC
from face.models import create_model
from face.models.cvlface import translate_cvlface_keys
from face.models.vit import VIT_SIZES
from face.reference import reference_landmarks
from face.training.optimisation import AdamWSettings, make_optimizer

MARGIN, H = 0.4, 0.333
SAME = 1e-4  # of the loss

Step = Callable[[], Tensor]


def main(argv: Sequence[str] | None = None) -> int:
    """The command line. Returns the exit code: 0, or 2 for wrong input."""
    options = build_parser().parse_args(argv)
    try:
        check_options(options)
        torch.set_num_threads(options.threads)
        report = run(options, Path(os.environ["CVLFACE_ROOT"]))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    text = json.dumps(report, indent=2)
    print(text)
    if options.out:
        write_text(options.out, text + "\n")
    return 0


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--model", choices=sorted(VIT_SIZES), default="vit_small", help="default: %(default)s")
    parser.add_argument("--batch", type=int, default=8, metavar="N", help="images of a step (default: %(default)s)")
    parser.add_argument(
        "--classes", type=int, default=10_572, metavar="N", help="identities (default: %(default)s, CASIA-WebFace's)"
    )
    parser.add_argument("--rounds", type=int, default=7, metavar="N", help="default: %(default)s")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), metavar="N", help="of a CPU")
    parser.add_argument("--authors-operator", choices=get_args(Operator), default="compiled")
    parser.add_argument("--out", type=Path, metavar="FILE", help="JSON file to write")
    return parser


def check_options(options: argparse.Namespace) -> None:
    """Raises:
    ValueError: no checkout, numbers out of range, no such device, or no folder to write to.
    """
    if not os.environ.get("CVLFACE_ROOT"):
        raise ValueError("CVLFACE_ROOT must name a checkout of CVLface, which is compared with")
    if min(options.rounds, options.threads) < 1 or min(options.batch, options.classes) < 2:
        raise ValueError("--rounds and --threads must be >= 1, --batch and --classes >= 2")
    if options.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: torch finds no CUDA device")
    if options.out and not options.out.parent.is_dir():
        raise ValueError(f"--out: folder {options.out.parent} does not exist")


def run(options: argparse.Namespace, root: Path) -> dict[str, Any]:
    """Everything that is reported.

    Raises:
        ValueError: the two sides do not give the same loss.
    """
    device = options.device
    torch.manual_seed(0)
    images = torch.rand(options.batch, 3, 112, 112, device=device) * 2 - 1
    points = torch.from_numpy(reference_landmarks(pixels=False)).float()
    keypoints = (points + 0.05 * torch.randn(options.batch, 5, 2)).to(device)
    labels = torch.randint(options.classes, (options.batch,), device=device)

    model = create_model(options.model, position_bias="kprpe").to(device)
    with torch.no_grad():
        model.get_parameter("position_bias.kprpe.weight").normal_(std=0.02)
    settings = model.config.settings
    shape = {
        "img_size": 112,
        "patch_size": settings["patch_hw"][0],
        "embed_dim": settings["embed_dim"],
        "depth": settings["depth"],
        "num_heads": settings["num_heads"],
        "mlp_ratio": settings["mlp_ratio"],
        "num_classes": settings["num_features"],
    }
    operator = prepare_operator(root, options.authors_operator, device)
    authors = load_authors_model(root, "kprpe", operator, shape).to(device)
    with torch.no_grad():  # the same weights, by the names of ours
        theirs = dict(authors.state_dict())
        for name, value in translate_cvlface_keys(theirs).items():
            value.copy_(model.state_dict()[name])
    classifier = PartialFC(model.num_features, options.classes, AdaFace(MARGIN, H)).to(device)
    authors_classifier = load_authors_classifier(root, model.num_features, options.classes, MARGIN, H).to(device)
    with torch.no_grad():
        authors_classifier.get_parameter("weight").copy_(classifier.weight)

    steps = {
        "ours": make_step(model, classifier, images, keypoints, labels),
        "authors": make_step(authors, authors_classifier, images, keypoints, labels),
    }
    losses = {name: float(step()) for name, step in steps.items()}
    if abs(losses["ours"] - losses["authors"]) > SAME * abs(losses["authors"]):
        raise ValueError(f"the losses of the first step differ: {losses}")
    times = time_rounds(steps, options.rounds, device, title="Steps")
    return {
        **environment(device),
        "settings": {name: getattr(options, name) for name in ("model", "batch", "classes", "rounds")},
        "authors_operator": options.authors_operator,
        "first_loss": losses,
        "seconds": {name: spread(values) for name, values in times.items()},
        "images_per_second": {name: options.batch / spread(values)["median"] for name, values in times.items()},
        "authors_over_ours": ratios(times["authors"], times["ours"]),
    }


def make_step(model: nn.Module, classifier: nn.Module, images: Tensor, keypoints: Tensor, labels: Tensor) -> Step:
    """A whole step, which returns the loss."""
    optimizers = [make_optimizer(AdamWSettings(lr=1e-4), part) for part in (model, classifier)]
    model.train()
    classifier.train()

    def step() -> Tensor:
        for optimizer in optimizers:
            optimizer.zero_grad()
        # Their margin writes into what it is given.
        loss = classifier(model(images, keypoints), labels.clone())
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        for optimizer in optimizers:
            optimizer.step()
        return loss.detach()

    return step


if __name__ == "__main__":
    sys.exit(main())
