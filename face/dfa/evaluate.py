"""`python -m face.dfa.evaluate`: errors of face landmarks on annotated photographs, of several models in one table.

python -m face.dfa.evaluate --weights dfa_mobilenet --images WIDER_val/images --labels val/label.txt --out results
torchrun --nproc_per_node 4 -m face.dfa.evaluate ...
"""

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from common.runtime.curves import Name
    from face.dfa.annotations import FaceAnnotations
    from face.dfa.crops import PhotographCrops
    from face.dfa.landmark_errors import LandmarkMetricSettings, LandmarkResult
    from face.dfa.network import DFANetwork, DFAPrediction

__all__ = ["format_table", "main"]

_DESCRIPTION = """Errors of face landmarks on annotated photographs, such as WIDER FACE's validation set: of one or more
landmark networks, each with and without its aggregator, and of other detectors whose landmarks are in a table. Prints a
table and writes results.json, results.csv, curve.png (cumulative errors) and faces.png (of the first model: the faces
with the smallest, the middle and the largest errors). On a CPU, one GPU, or several under torchrun."""


def main(argv: Sequence[str] | None = None) -> int:
    """The command line. Returns the exit code: 0, 2 for wrong input, 128 + n after signal n."""
    args = _parse(argv)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # threads that wait would spin, at the cost of all others
    # Imported late, so that --help and typing errors do not wait for all of it.
    from common.runtime.command import run_command

    return run_command(lambda: _run(args))


def format_table(rows: Sequence[Mapping[str, Any]], settings: "LandmarkMetricSettings") -> str:
    """Rows of results as a Markdown table, figures in percent."""
    failure, auc = f"{settings.failure_percent:g}", f"{settings.auc_percent:g}"
    wide = max(len("model"), *(len(row["model"]) for row in rows))
    head = ("aggregator", "faces", "found", "  NME", f"errors > {failure} %", f"AUC to {auc} %")
    lines = [
        f"| {'model':<{wide}} | " + " | ".join(head) + " |",
        f"| {'-' * wide} | {'-' * len(head[0])} | "
        + " | ".join("-" * (len(name) - 1) + ":" for name in head[1:])
        + " |",
    ]
    for row in rows:
        aggregator = {True: "yes", False: "no", None: "-"}[row["aggregator"]]
        values = [aggregator.ljust(len(head[0])), *(str(row[name]) for name in ("faces", "found"))]
        values += [f"{row[name]:.2f}" for name in ("nme", f"failure_rate@{failure}", f"auc@{auc}")]
        cells = [value.rjust(len(name)) for value, name in zip(values, head, strict=True)]
        lines.append(f"| {row['model']:<{wide}} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _run(args: argparse.Namespace) -> None:
    from common.runtime.distribution import make_accelerator, share_problem
    from face.dfa.annotations import read_annotations
    from face.dfa.crops import PhotographCrops
    from face.dfa.landmark_errors import LandmarkMetricSettings
    from face.dfa.predict import choose_device
    from face.dfa.pretrained import load_dfa

    accelerator = make_accelerator("fp32")
    problem: Exception | None = None
    try:
        settings = LandmarkMetricSettings(
            normaliser=args.normaliser, failure_percent=args.failure, auc_percent=args.auc
        )
        device = choose_device(args.device) if args.device else accelerator.device
        _check_out(args.out)
        tables = {_short(path, args.predictions, Path(path).stem): path for path in args.predictions}
        if missing := [path for path in tables.values() if not path.is_file()]:
            raise FileNotFoundError(f"{missing[0]}: no such file")
        faces = read_annotations(args.layout, args.labels, args.images, args.min_side)
        crops = PhotographCrops(faces, args.padding)
        if not faces.has_landmarks.any():
            raise ValueError(f"{args.labels}: none of its {len(faces)} faces has landmarks")
        crops.read(int(faces.has_landmarks.argmax()))
        networks = {
            _short(source, args.weights, Path(source).name): load_dfa(source, map_location=device).to(device).eval()
            for source in args.weights
        }
        if both := sorted(networks.keys() & tables.keys()):
            raise ValueError(f"--weights and --predictions both have a {both[0]}: rename the table")
    except (ValueError, OSError) as error:
        problem = error
    share_problem(problem)
    first = accelerator.is_main_process
    if first:
        print(faces.describe(), flush=True)
    results = _evaluate(networks, tables, crops, settings, args, device if networks else "cpu", first)
    if first:
        rows = [_row(name, result) for name, result in results.items()]
        _write(args, results, rows, crops, faces, networks, tables, str(device))
        print(f"\n{format_table(rows, settings)}\n")
        print(", ".join(str(args.out / name) for name in ("results.json", "results.csv", "curve.png", "faces.png")))


def _evaluate(
    networks: Mapping[str, "DFANetwork"],
    tables: Mapping[str, Path],
    crops: "PhotographCrops",
    settings: "LandmarkMetricSettings",
    args: argparse.Namespace,
    device: Any,
    show: bool,
) -> "dict[Name, LandmarkResult]":
    """Networks of one input size see the faces in one pass, as photographs take longer to decode."""
    from face.dfa.dataset import CropSet
    from face.dfa.evaluation import both_predictions, evaluate_landmarks, evaluate_table

    found: dict[Name, LandmarkResult] = {}
    for size in dict.fromkeys(network.image_hw for network in networks.values()):
        chosen = {name: network for name, network in networks.items() if network.image_hw == size}

        def predict(images: "Tensor", chosen: "dict[str, DFANetwork]" = chosen) -> "dict[Name, DFAPrediction]":
            return {
                (name, condition): prediction
                for name, network in chosen.items()
                for condition, prediction in both_predictions(network, images).items()
            }

        found |= evaluate_landmarks(
            predict,
            CropSet(crops, size),
            settings,
            batch_size=args.batch_size,
            device=device,
            num_workers=args.workers,
            progress=f"evaluating {', '.join(chosen)}" if show else None,
        )
    for name, path in tables.items():
        title = f"evaluating {name}" if show else None
        found[name] = evaluate_table(path, crops, settings, num_workers=args.workers, progress=title)
    order = [*networks, *tables]
    return dict(sorted(found.items(), key=lambda item: order.index(_model(item[0]))))


def _model(name: "Name") -> str:
    return name if isinstance(name, str) else name[0]


def _row(name: "Name", result: "LandmarkResult") -> dict[str, Any]:
    from face.dfa.evaluation import AGGREGATED

    return {
        "model": _model(name),
        "aggregator": None if isinstance(name, str) else name[1] == AGGREGATED,
        "faces": len(result.indices),
        "found": result.found,
        **result.metrics,
    }


def _write(
    args: argparse.Namespace,
    results: "Mapping[Name, LandmarkResult]",
    rows: Sequence[Mapping[str, Any]],
    crops: "PhotographCrops",
    faces: "FaceAnnotations",
    networks: "Mapping[str, DFANetwork]",
    tables: Mapping[str, Path],
    device: str,
) -> None:
    import csv
    import io
    import json
    from dataclasses import asdict

    from common.runtime.benchmark import environment
    from common.runtime.curves import curve_title
    from common.runtime.files import write_text
    from face.dfa.dataset import CropSet
    from face.dfa.pictures import draw_cumulative_errors, draw_faces
    from face.dfa.predict import weights_checksum

    name, result = next(iter(results.items()))
    content = {
        "settings": {
            **asdict(result.settings),
            "layout": args.layout,
            "min_side_px": args.min_side,
            "padding": args.padding,
        },
        "labels": {
            "path": str(args.labels),
            "sha256": _sha256(args.labels),
            "images": str(args.images),
            "photographs": len(faces.images),
            "faces": len(faces),
            "with_landmarks": int(faces.has_landmarks.sum()),
            "left_out": faces.counts,
        },
        "weights": {
            each: {"source": source, "crc32": f"{weights_checksum(network):08x}"}
            for (each, network), source in zip(networks.items(), args.weights, strict=True)
        },
        "predictions": {each: {"path": str(path), "sha256": _sha256(path)} for each, path in tables.items()},
        "environment": environment(device),
        "results": [{key: None if value != value else value for key, value in row.items()} for row in rows],
    }
    write_text(args.out / "results.json", json.dumps(content, indent=1) + "\n")
    table = io.StringIO()
    writer = csv.DictWriter(table, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(args.out / "results.csv", table.getvalue())
    draw_cumulative_errors(args.out / "curve.png", results)
    if result.found:
        shown = next(iter(networks.values())).image_hw if networks else (160, 160)
        draw_faces(args.out / "faces.png", result, CropSet(crops, shown), title=curve_title(name))


def _sha256(path: Path) -> str:
    import hashlib

    return hashlib.sha256(path.read_bytes()).hexdigest()


def _short(source: Any, sources: Sequence[Any], name: str) -> str:
    """What tables call a model: the last part of where it is, unless another one has the same."""
    if list(sources).count(source) > 1:
        raise ValueError(f"{source} is given twice")
    same = [each for each in sources if name in (Path(each).name, Path(each).stem)]
    return name if len(same) == 1 else str(source)


def _check_out(out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    if not os.access(out, os.W_OK):
        raise PermissionError(f"{out}: cannot be written to")


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m face.dfa.evaluate", description=_DESCRIPTION, allow_abbrev=False)
    add = parser.add_argument
    add("--weights", nargs="+", default=[], metavar="DFA", help="of networks: folders, files or a hub's repositories")
    add(
        "--predictions",
        nargs="+",
        default=[],
        type=Path,
        metavar="CSV",
        help="landmarks of other detectors: image,x0,y0,...,x4,y4,score, where image is a photograph, '#' and the line "
        "of the label file that the face is in, and x and y are fractions of the photograph; faces that a table lacks "
        "are failures, and do not count in its NME",
    )
    add("--images", type=Path, required=True, metavar="DIR", help="folder that the labels' images begin at")
    add("--labels", type=Path, required=True, metavar="FILE", help="RetinaFace's label.txt, or one of WFLW's lists")
    add("--layout", choices=("widerface", "wflw"), default="widerface", help="of the labels (default: %(default)s)")
    add("--out", type=Path, required=True, metavar="DIR", help="folder for what is written")
    add(
        "--min-side",
        type=float,
        default=20,
        metavar="PX",
        help="faces whose box is narrower or lower are left out (default: %(default)s)",
    )
    add(
        "--padding",
        type=float,
        default=0.1,
        metavar="R",
        help="what is around a face's box in its crop, on each side, as a share of its longer side (default: "
        "%(default)s, as in training)",
    )
    add(
        "--normaliser",
        choices=("box", "eyes", "landmarks"),
        default="box",
        help="what errors are divided by: sqrt(w h) of the annotated box, the distance of the eyes, or sqrt(w h) of "
        "the smallest box about the true landmarks (default: %(default)s)",
    )
    add("--failure", type=float, default=10, metavar="P", help="a face with a larger error, in percent, is a failure")
    add("--auc", type=float, default=10, metavar="P", help="error, in percent, that curves and their areas reach up to")
    add("--device", metavar="NAME", help="such as cpu or cuda:1 (default: a GPU for each process if there is one)")
    add("--batch-size", type=int, default=256, metavar="N", help="faces at a time, each process (default: %(default)s)")
    add(
        "--workers",
        type=int,
        default=min(4, os.cpu_count() or 1),
        metavar="N",
        help="processes that decode, beside each (default: %(default)s)",
    )
    args = parser.parse_args(argv)
    if not args.weights and not args.predictions:
        parser.error("nothing to evaluate: give --weights or --predictions")
    for name, low in (("min_side", 0), ("padding", 0), ("batch_size", 1), ("workers", 0)):
        if not getattr(args, name) >= low:
            parser.error(f"--{name.replace('_', '-')} must be >= {low}, got {getattr(args, name)}")
    return args


if __name__ == "__main__":
    sys.exit(main())
