"""The face aligner beside the authors' (mk-minchul/CVLface), with the same weights on the same images.

    CVLFACE_ROOT=path/to/CVLface python scripts/benchmark_face_aligner.py --out scripts/results/face_aligner.json

Timed are, without gradients: the alignment alone (from given landmarks to aligned images and landmarks); the part of it
that is not F.grid_sample, which both sides call (from landmarks to the sampling grid and aligned landmarks); and all
from images to aligned images. Theirs runs unchanged from a checkout and needs scikit-image. Weights are random, but for
those that say where landmarks are, which are set so that these make a face. Before anything is timed, both must give
the same images, landmarks and scores: for that ours runs as theirs does (`align_corners`, sampled from the network's
image). Both take turns in every round, and ratios are those of times in one round. Ours with its defaults is timed too.
"""

import argparse
import importlib
import importlib.util
import json
import os
import sys
import tempfile
import types
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.runtime.benchmark import environment, multiply_adds, ratios, spread, time_rounds
from common.runtime.files import write_text
from face import alignment
from face.alignment import align_faces
from face.dfa.aligner import AlignerSettings, FaceAligner, load_aligner
from face.reference import reference_landmarks

ALIGNERS = "cvlface/research/recognition/code/run_v1/aligners"
SIDE, OUT = 160, 112
SAME = 1e-4  # of pixels in [-1, 1], fractions and scores
OURS, THEIRS, DEFAULT = "ours", "authors", "ours, default settings"
AS_THEIRS = AlignerSettings(align_corners=True, sample_from="network")

Step = Callable[[], Any]


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
    parser.add_argument("--batch", type=int, default=32, metavar="N", help="images of a step (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=25, metavar="N", help="default: %(default)s")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), metavar="N", help="of a CPU")
    parser.add_argument("--out", type=Path, metavar="FILE", help="JSON file to write")
    return parser


def check_options(options: argparse.Namespace) -> None:
    """Raises:
    ValueError: no checkout, no scikit-image, numbers out of range, no such device, or no folder to write to.
    """
    if not os.environ.get("CVLFACE_ROOT"):
        raise ValueError("CVLFACE_ROOT must name a checkout of CVLface, which is compared with")
    if min(options.batch, options.rounds, options.threads) < 1:
        raise ValueError("--batch, --rounds and --threads must be >= 1")
    if options.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: torch finds no CUDA device")
    if options.out and not options.out.parent.is_dir():
        raise ValueError(f"--out: folder {options.out.parent} does not exist")
    if importlib.util.find_spec("skimage") is None:
        raise ValueError("scikit-image must be installed: the authors' aligner fits with it")


def run(options: argparse.Namespace, root: Path) -> dict[str, Any]:
    """Everything that is reported.

    Raises:
        ValueError: the two sides do not give the same.
    """
    device = options.device
    torch.manual_seed(0)
    authors = load_authors_aligner(root).to(device).eval()
    make_faces(authors)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.pt"
        torch.save(authors.state_dict(), path)
        ours = load_aligner(path, AS_THEIRS, device=device)
        trainable = load_aligner(path, AS_THEIRS, inference=False)
    default = FaceAligner(ours.network)
    waves = torch.randn(options.batch, 3, SIDE // 8, SIDE // 8)
    # Dark at the borders: a step there makes much of the last digits of the landmarks.
    window = torch.hann_window(SIDE, periodic=False)
    smooth = F.interpolate(waves, size=(SIDE, SIDE), mode="bicubic").tanh()
    images = ((smooth + 1) * window * window[:, None] - 1).to(device)
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # newer scikit-images want another spelling
        difference = differences(ours, authors, images)
        if max(difference.values()) > SAME:
            raise ValueError(f"the two sides differ by {difference}, at most {SAME} was expected")
        landmarks = authors(images)[1]
        cases: dict[str, dict[str, Step]] = {
            "alignment": {
                OURS: lambda: align_faces(images, landmarks, (OUT, OUT), align_corners=True),
                THEIRS: lambda: align_as_authors(authors, images, landmarks),
                DEFAULT: lambda: align_faces(images, landmarks, (OUT, OUT)),
            },
            "alignment without sampling": {
                OURS: lambda: grid_by_us(landmarks, align_corners=True),
                THEIRS: lambda: grid_by_authors(authors, landmarks),
                DEFAULT: lambda: grid_by_us(landmarks, align_corners=False),
            },
            "images to aligned images": {
                OURS: lambda: ours(images),
                THEIRS: lambda: authors(images),
                DEFAULT: lambda: default(images),
            },
        }
        rows = {name: compare(name, steps, options) for name, steps in cases.items()}
    operations = multiply_adds(lambda: trainable.network(images[:1].cpu()))
    return {
        **environment(device),
        "settings": {"batch": options.batch, "rounds": options.rounds, "side_px": SIDE, "out_px": OUT},
        "largest_difference": difference,
        "network": {
            "parameters": sum(parameter.numel() for parameter in trainable.parameters()),
            "giga_multiply_adds": operations / 1e9,  # of one image
            "gflop": 2 * operations / 1e9,
        },
        "cases": rows,
    }


def compare(name: str, steps: dict[str, Step], options: argparse.Namespace) -> dict[str, Any]:
    """One case, by each in every round."""
    times = time_rounds(steps, options.rounds, options.device, title=name)
    return {
        "seconds": {who: spread(values) for who, values in times.items()},
        "images_per_second": {who: options.batch / spread(values)["median"] for who, values in times.items()},
        "authors_over_ours": ratios(times[THEIRS], times[OURS]),
        "authors_over_ours_default": ratios(times[THEIRS], times[DEFAULT]),
    }


def differences(ours: FaceAligner, authors: nn.Module, images: Tensor) -> dict[str, float]:
    """The largest difference of each output."""
    found = ours(images)
    aligned, landmarks, aligned_landmarks, score, _, boxes = authors(images)
    pairs = {
        "images": (found.images, aligned),
        "landmarks": (found.landmarks, landmarks),
        "aligned_landmarks": (found.aligned_landmarks, aligned_landmarks),
        "score": (found.score, score[:, 0]),
        "boxes": (found.boxes, boxes * SIDE),  # theirs are fractions already when they are divided by the size
    }
    return {name: float((one - other).abs().max()) for name, (one, other) in pairs.items()}


def load_authors_aligner(root: Path, padding_ratio: float = 0.0) -> nn.Module:
    """Their DifferentiableFaceAligner with a MobileNet, of new weights, from a checkout.

    Raises:
        FileNotFoundError: no such checkout.
    """
    folder = root / ALIGNERS
    if not (folder / "differentiable_face_aligner" / "aligner_helper.py").is_file():
        raise FileNotFoundError(
            f"CVLFACE_ROOT: {folder / 'differentiable_face_aligner'} does not exist or has no aligner"
        )
    package = types.ModuleType("cvlface_aligners")
    package.__path__ = [str(folder)]
    omegaconf = types.ModuleType("omegaconf")  # their code imports it to save settings
    vars(omegaconf).update(DictConfig=dict, OmegaConf=None)
    with (
        mock.patch.dict(sys.modules, {"cvlface_aligners": package, "omegaconf": omegaconf}),
        mock.patch.object(sys, "dont_write_bytecode", True),  # the checkout is not ours to write to
    ):
        module = importlib.import_module("cvlface_aligners.differentiable_face_aligner")
    config = types.SimpleNamespace(
        arch="mobile0.25",
        input_size=SIDE,
        output_size=OUT,
        input_padding_ratio=padding_ratio,
        input_padding_val="zero",
        freeze=True,
    )
    return module.DifferentiableFaceAligner.from_config(config)


def make_faces(network: nn.Module) -> None:
    """Set the biases of their landmark heads so that all anchors' landmarks together make a face."""
    anchor = 0.6  # about the mean of the anchors' sides
    points = torch.from_numpy(reference_landmarks(pixels=False)) - 0.5
    for name, value in network.state_dict().items():
        if "LandmarkHead" in name and name.endswith("bias"):
            value.copy_((points / (0.1 * anchor)).flatten().repeat(len(value) // 10))


def align_as_authors(authors: nn.Module, images: Tensor, landmarks: Tensor) -> tuple[Tensor, Tensor]:
    """What their `forward` does between the landmarks and its result."""
    grid, moved = grid_by_authors(authors, landmarks)
    return F.grid_sample(images + 1, grid, align_corners=True) - 1, moved


def grid_by_authors(authors: nn.Module, landmarks: Tensor) -> tuple[Tensor, Tensor]:
    """The first part of that: where to sample, and the aligned landmarks."""
    helper = type(authors).forward.__globals__["aligner_helper"]
    matrices = helper.get_cv2_affine_from_landmark(landmarks.flatten(1), helper.reference_landmark(), SIDE, SIDE)
    thetas = helper.cv2_param_to_torch_theta(matrices, SIDE, SIDE, OUT, OUT).to(landmarks.device)
    grid = F.affine_grid(thetas, [len(landmarks), 3, OUT, OUT], align_corners=True)
    return grid, helper.adjust_ldmks(landmarks, thetas)


def grid_by_us(landmarks: Tensor, align_corners: bool) -> tuple[Tensor, Tensor]:
    """The same of ours."""
    size, out = (SIDE, SIDE), (OUT, OUT)
    matrix, moved, _ = alignment._fit(landmarks, None, size, out, align_corners)
    return alignment._sampling_grid(matrix, size, out, supersample=1), moved


if __name__ == "__main__":
    sys.exit(main())
