"""Draw what a trained KP-RPE adds to the attention of one query and head, over images with their keypoints.

    python scripts/plot_kprpe.py images --weights model.pt --image a.png --keypoints points.csv --out depth.png
    python scripts/plot_kprpe.py images --weights model.pt --image *.png --keypoints points.csv --layer 5 --out all.png
    python scripts/plot_kprpe.py gait --cfgs configs/swingait2d_kprpe.yaml --iter 60000 --sequence DIR --out gait.png

One image gives a column for each layer, several images a column for each image; every query is a row. `images` takes
the weights of any ViT with KP-RPE, this project's or the authors' (.pt, .safetensors). Its keypoints are a CSV with the
header `image,x0,y0,x1,y1,...` and a row for each image: its file name, then pixels of that image, the centre of the
upper left one being (0, 0). `gait` takes a run's YAML, its checkpoint, and the folder of one prepared sequence.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import cv2
import numpy as np
import torch

from common.keypoints import COCO_17, pixels_to_fractions
from common.keypoints.files import read_keypoints
from common.rpe import DistanceMethod, KeypointRPEForm
from common.rpe.pictures import ColourScale, draw_bias_by_depth, draw_bias_by_image
from common.rpe.stored import find_keypoint_rpe, read_state, square_grid
from common.runtime.figures import check_picture_path
from plugin.biases import gait_biases, load_kprpe_model, read_frames
from plugin.runtime.settings import load_gait_settings

PAPERS_LAYERS = (0, 1, 3, 5, 7)


def main(argv: Sequence[str] | None = None) -> int:
    """The command line. Returns the exit code: 0, or 2 for wrong input."""
    args = _parser().parse_args(argv)
    try:
        check_picture_path(args.out)
        args.draw(args)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(args.out)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    kinds = parser.add_subparsers(required=True, metavar="images|gait")
    images = kinds.add_parser("images", help="images and a CSV of their keypoints", allow_abbrev=False)
    images.set_defaults(draw=draw_images)
    images.add_argument("--weights", type=Path, required=True, metavar="FILE", help="state dict with a KP-RPE")
    images.add_argument("--image", type=Path, required=True, nargs="+", metavar="FILE", help="as the model takes them")
    images.add_argument("--keypoints", type=Path, required=True, metavar="CSV", help="image,x0,y0,x1,y1,... in pixels")
    images.add_argument("--grid", type=int, nargs=2, metavar=("ROWS", "COLS"),
                        help="patches of the image (default: as the weights' pos_embed has them)")  # fmt: skip
    images.add_argument("--num-heads", type=int, metavar="H", help="of the model (default: follows from its layers)")
    images.add_argument("--num-layers", type=int, metavar="D", help="of the model (default: its blocks, or from heads)")
    images.add_argument("--form", choices=get_args(KeypointRPEForm), default="multihead")
    images.add_argument("--shared", action="store_true", help="one set of weights serves all layers")
    images.add_argument("--method", choices=get_args(DistanceMethod), default="product")
    images.add_argument("--ratio", type=float, default=1.9)
    images.add_argument("--extra-tokens", type=int, default=0, metavar="E", help="such as a class token (default: 0)")
    images.add_argument("--name", help="what stands before .weight in the file, where several weights may be meant")

    gait = kinds.add_parser("gait", help="frames of a prepared gait sequence", allow_abbrev=False)
    gait.set_defaults(draw=draw_gait)
    gait.add_argument("--cfgs", type=Path, required=True, metavar="YAML", help="the run's settings")
    source = gait.add_mutually_exclusive_group(required=True)
    source.add_argument("--weights", type=Path, metavar="FILE", help="a checkpoint of the run")
    source.add_argument("--iter", type=int, metavar="N", help="iteration of the checkpoint in the run's output folder")
    gait.add_argument("--output", type=Path, default=Path("output"), metavar="DIR", help="of the run (default: output)")
    gait.add_argument("--sequence", type=Path, required=True, metavar="DIR", help="ROOT/ID/camidC_videoidV/seqS")
    gait.add_argument("--frame", type=int, nargs="+", metavar="T", help="from 0 (default: the middle one)")

    for kind in (images, gait):
        kind.add_argument("--out", type=Path, required=True, metavar="FILE", help="picture: .png, .pdf, .svg")
        kind.add_argument("--query", type=_cell, nargs="+", metavar="ROW,COL",
                          help="cells of the feature map (default: three down the diagonal)")  # fmt: skip
        kind.add_argument("--layer", type=int, nargs="+", metavar="D", help="layers to draw, from 0; one for several "
                          "images (default for one image: all, or of more than six 0 1 3 5 7)")  # fmt: skip
        kind.add_argument("--head", type=int, default=0, metavar="H", help="head to draw (default: 0)")
        kind.add_argument("--scale", choices=get_args(ColourScale), default="figure",
                          help="one range of colours for the figure, or one for each panel")  # fmt: skip
    return parser


def _cell(text: str) -> tuple[int, int]:
    parts = text.split(",")
    if len(parts) != 2 or not all(part.strip().isdecimal() for part in parts):
        raise argparse.ArgumentTypeError(f"expected ROW,COL such as 7,3, got {text!r}")
    return int(parts[0]), int(parts[1])


def draw_images(args: argparse.Namespace) -> None:
    """Images with a ViT's KP-RPE."""
    pictures = [_read_image(path) for path in args.image]
    pixels = read_keypoints(args.keypoints, [path.name for path in args.image])
    sizes = [(picture.shape[0], picture.shape[1]) for picture in pictures]
    points = np.stack([pixels_to_fractions(one, size) for one, size in zip(pixels, sizes, strict=True)])
    state = read_state(args.weights)
    grid_hw = tuple(args.grid) if args.grid else square_grid(state, args.extra_tokens)
    if grid_hw is None:
        raise ValueError(f"{args.weights}: no pos_embed of a square of patches to go by, give --grid ROWS COLS")
    options = {
        name: getattr(args, name)
        for name in ("num_heads", "num_layers", "form", "shared", "method", "ratio", "extra_tokens", "name")
    }
    rpe = find_keypoint_rpe(state, points.shape[1], **options, source=str(args.weights))
    print(
        f"{args.weights}: KP-RPE of {rpe.num_layers} layers, {rpe.num_heads} heads and {rpe.num_keypoints} keypoints, "
        f"on {grid_hw[0]} x {grid_hw[1]} patches"
    )
    biases = rpe(torch.from_numpy(points).float(), grid_hw)
    labels = [path.name for path in args.image]
    _draw(args, pictures, points, biases, grid_hw, labels, extra_tokens=args.extra_tokens)


def draw_gait(args: argparse.Namespace) -> None:
    """Frames with the KP-RPE of a SwinGait-2D, as the network adds it in its windows."""
    settings = load_gait_settings(args.cfgs)
    silhouettes, joints = read_frames(settings, args.sequence)
    frames = args.frame or [len(silhouettes) // 2]
    if not all(0 <= frame < len(silhouettes) for frame in frames):
        raise ValueError(f"{args.sequence}: --frame must be 0 to {len(silhouettes) - 1}, got {frames}")
    model = load_kprpe_model(settings, args.weights, args.iter, args.output, str(args.cfgs))
    points, visibility, grid_hw, windows, biases = gait_biases(model, silhouettes[frames], joints[frames])
    pictures = [1 - 0.6 * silhouettes[frame] for frame in frames]  # grey bodies on white
    labels = [f"frame {frame}" for frame in frames]
    _draw(args, pictures, points, biases, grid_hw, labels, windows=windows, visibility=visibility, schema=COCO_17)


def _read_image(path: Path) -> np.ndarray:
    """[h, w, 3] RGB uint8."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such image")
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise ValueError(f"{path}: not an image that can be read")
    return image[..., ::-1]


def _draw(
    args: argparse.Namespace,
    pictures: Sequence[np.ndarray],
    points: np.ndarray,
    biases: Sequence[Any],
    grid_hw: tuple[int, int],
    labels: Sequence[str],
    visibility: np.ndarray | None = None,
    **options: Any,
) -> None:
    options |= {"queries": args.query, "head": args.head, "scale": args.scale}
    if len(pictures) > 1:
        if args.layer is None or len(args.layer) != 1:
            raise ValueError("several images are drawn for one layer: give --layer with one number")
        options |= {"layer": args.layer[0], "labels": labels, "visibility": visibility}
        draw_bias_by_image(args.out, pictures, points, biases, grid_hw, **options)
        return
    depth = len(biases)
    layers = args.layer or (range(depth) if depth <= 6 else [layer for layer in PAPERS_LAYERS if layer < depth])
    options |= {"layers": layers, "visibility": None if visibility is None else visibility[0]}
    draw_bias_by_depth(args.out, pictures[0], points[0], biases, grid_hw, **options)


if __name__ == "__main__":
    sys.exit(main())
