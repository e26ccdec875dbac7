"""`python -m face.align IN OUT --weights DFA`: faces of any size found, aligned and written; see face.dfa.align_files.

python -m face.align crops aligned --weights dfa_mobilenet
python -m face.align crops aligned --landmarks crops/landmarks.csv
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from face.dfa.align_files import AlignReport, FindLandmarks
    from face.dfa.image_files import ImageFiles

__all__ = ["main"]

_DESCRIPTION = """Align the faces of images, one a picture, as recognition models want them. IN is a folder (with all
below it), an image, or a list: a path a line, or a CSV with a column `image`. OUT gets the aligned images in the same
tree, landmarks.csv (so that it can be trained on) and report.csv, which says what became of each image. After an
interruption the same command goes on. The exit code is 0 if a face was aligned, 1 if none was, 2 for wrong input."""


def main(argv: Sequence[str] | None = None) -> int:
    """The command line. Returns the exit code: 0, 1 for no face aligned, 2 for wrong input, 128 + n after signal n."""
    args = _parser().parse_args(argv)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # threads that wait would spin, at the cost of all others
    # Imported late, so that --help and typing errors do not wait for all of it.
    from common.runtime.command import run_command

    return run_command(
        lambda: _report(_run(args), args.out),
        interrupted="interrupted; what is done stays, the same command goes on",
        died="the same command goes on",
    )


def _run(args: argparse.Namespace) -> "AlignReport":
    from face.dfa.align_files import AlignFileSettings, align_files
    from face.dfa.image_files import open_images
    from face.dfa.predict import choose_device

    settings = AlignFileSettings(
        size=args.size,
        format=args.format,
        quality=args.quality,
        min_score=args.min_score,
        batch_size=args.batch_size,
        num_workers=args.workers,
        overlays=args.overlays,
    )
    device = choose_device(args.device)
    images = open_images(args.images)
    find, origin = _finder(args, images, device)
    return align_files(images, args.out, find, origin, settings, device)


def _finder(args: argparse.Namespace, images: "ImageFiles", device: Any) -> "tuple[FindLandmarks, dict[str, object]]":
    """Where landmarks come from, and what tells it from others."""
    from face.data.landmarks import read_landmarks
    from face.dfa.align_files import given_landmarks, table_checksum

    if args.landmarks is not None:
        table = read_landmarks(args.landmarks, images, allow_extra=True)  # type: ignore[arg-type]  # no labels read
        return given_landmarks(table), {"landmarks_crc32": table_checksum(table)}
    from face.dfa.aligner import AlignerSettings, load_aligner
    from face.dfa.predict import weights_checksum

    aligner = load_aligner(args.weights, AlignerSettings(padding_ratio=args.padding)).to(device)

    def find(faces: Any, _: Any) -> Any:
        found = aligner(faces)
        return found.landmarks, found.score

    return find, {"weights_crc32": weights_checksum(aligner.network), "padding": args.padding}


def _report(report: "AlignReport", out: Path) -> int:
    total = sum(report.counts.values())
    print(f"{out}: {report.aligned} of {total} images aligned")
    for status, names in report.examples.items():
        count = report.counts[status]
        print(f"{count} {status}: {', '.join(names)}{', ...' if count > len(names) else ''}", file=sys.stderr)
    return 0 if report.aligned else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m face.align", description=_DESCRIPTION, allow_abbrev=False)
    add = parser.add_argument
    add("images", type=Path, metavar="IN", help="folder, list (text or CSV) or image")
    add("out", type=Path, metavar="OUT", help="new folder, or that of an interrupted run")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--weights", metavar="DFA", help="of the face aligner: a folder, a file or a hub's repository")
    source.add_argument(
        "--landmarks", type=Path, metavar="FILE", help="table of landmarks, by paths as IN has them; no network then"
    )
    add("--size", type=int, default=112, metavar="N", help="of aligned images in pixels (default: %(default)s)")
    add(
        "--padding",
        type=float,
        default=0.0,
        metavar="R",
        help="rim around an image for the network to see, as a share of its side; 0.215 suits tight crops (default: 0)",
    )
    add("--min-score", type=float, default=0.0, metavar="S", help="least face score, 0 to 1 (default: 0, all)")
    add("--format", choices=("png", "jpg", "same"), default="png", help="of aligned images (default: %(default)s)")
    add("--quality", type=int, default=95, metavar="N", help="of JPEG and WebP (default: %(default)s)")
    add("--overlays", type=Path, metavar="DIR", help="folder for pictures of the landmarks before and after")
    add("--batch-size", type=int, default=64, metavar="N", help="images at a time (default: %(default)s)")
    add(
        "--workers",
        type=int,
        default=min(4, os.cpu_count() or 1),
        metavar="N",
        help="processes that decode images (default: %(default)s)",
    )
    add("--device", metavar="NAME", help="such as cpu or cuda:1 (default: a GPU if there is one)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
