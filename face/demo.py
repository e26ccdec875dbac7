"""`python -m face.demo`: face recognition training with and without KP-RPE on synthetic faces, from images to a table.

A small ViT is trained with its absolute encoding alone and with KP-RPE beside it, on the same aligned crops, seeds and
schedule, and both are tested on aligned and on unaligned crops: the two paths of the paper's Figure 11, with exact
landmarks. Everything goes through the readers, configs and commands that real sets go through.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from common.runtime.demo import make_room, paired_interval, timed, verdict
from common.runtime.files import write_text
from common.runtime.settings import merge, parse_overrides
from face.data import open_source, read_landmarks
from face.pictures import face_grid, write_sheet

if TYPE_CHECKING:
    from face.evaluation.sets import SetResult

__all__ = ["CROPS", "METRICS", "MODELS", "format_table", "main", "run_demo"]

MODELS = {"ViT": "vit.yaml", "ViT + KP-RPE": "vit_kprpe.yaml"}
CROPS = ("aligned", "unaligned")
METRICS = {"accuracy": ("pairs", "accuracy"), "Rank-1": ("identification", "rank-1"), "mAP": ("identification", "map")}

Results = Mapping[tuple[str, str, str], "SetResult"]
"""(model, crops, kind of set) to what came out."""


def format_table(results: Results) -> str:
    """The figures as a Markdown table, with the difference that KP-RPE makes below it, whatever its sign."""
    plain, kprpe = MODELS
    lines = [
        f"| {'model':<12} | {'test crops':<10} | " + " | ".join(f"{name:>8}" for name in METRICS) + " |",
        f"| {'-' * 12} | {'-' * 10} | " + " | ".join("-" * 7 + ":" for _ in METRICS) + " |",
    ]
    for crops in CROPS:
        rows = {
            model: [results[model, crops, kind].metrics[metric] for kind, metric in METRICS.values()]
            for model in MODELS
        }
        rows["difference"] = [new - old for new, old in zip(rows[kprpe], rows[plain], strict=True)]
        for model, values in rows.items():
            form = "{:>+8.2f}" if model == "difference" else "{:>8.2f}"
            lines.append(f"| {model:<12} | {crops:<10} | " + " | ".join(form.format(v) for v in values) + " |")
    for crops in CROPS:
        old, new = (_found(results[model, crops, "identification"]) for model in MODELS)
        low, high = paired_interval(old, new)
        lines.append(
            f"\n{crops.capitalize()}: KP-RPE {verdict(low, high)} here: Rank-1 {(new - old).mean():+.2f}, "
            f"95 % interval over the {len(old)} probes {low:+.2f} to {high:+.2f}."
        )
    return "\n".join(lines)


def _found(result: "SetResult") -> np.ndarray:
    """[n] 100 for each probe whose person came first, else 0."""
    from face.evaluation.identification import IdentificationResult

    assert isinstance(result.details, IdentificationResult)
    return 100.0 * (result.details.first_match == 1)


def _draw_faces(path: Path, folders: Sequence[Path], count: int = 16) -> None:
    """Some images of each folder with their landmarks."""
    sheets = []
    for folder in folders:
        source = open_source(folder)
        shown = np.linspace(0, len(source) - 1, count).astype(int)
        points = read_landmarks(folder / "landmarks.csv", source).points[shown]
        sheets.append(face_grid(np.stack([source.read(int(index)) for index in shown]), points, columns=8))
    write_sheet(np.concatenate(sheets), path)


def run_demo(
    out: Path,
    configs: Path,
    identities: int,
    seed: int,
    overrides: Mapping[str, Any],
    images: int = 20,
    pairs: int = 600,
) -> str:
    """Run everything and return the table.

    Args:
        out: folder for data, runs, pictures and table; see `common.runtime.demo.make_room`.
        configs: folder of the two demo configs.
        identities: how many to train on; a sixth as many more, but at least 4, to test on.
        seed: of the faces and of training.
        overrides: settings instead of the configs', as nested mappings.
        images: of each identity for training, and half as many for testing.
        pairs: for verification.

    Raises:
        ValueError: `out` holds something else, or wrong settings.
    """
    from common.runtime.curves import Name, draw_cmc
    from face.evaluation.identification import IdentificationResult
    from face.evaluation.pictures import draw_roc
    from face.evaluation.sets import EvaluationSetSettings, measure, open_set
    from face.evaluation.verification import VerificationResult
    from face.models import load_pretrained
    from face.synthesize import SynthesisSettings, synthesize
    from face.training.settings import load_train_settings
    from face.training.trainer import RunOptions, train

    make_room(out)
    seconds: dict[str, float] = {}
    faces = out / "faces"
    with timed("Make synthetic faces", seconds):
        settings = SynthesisSettings(
            identities=identities,
            images_per_identity=images,
            test_identities=max(4, identities // 6),
            test_images_per_identity=images // 2,
            pairs=pairs,
            write="folders",
            seed=seed,
        )
        synthesize(settings, faces, progress=True)
    results: dict[tuple[str, str, str], SetResult] = {}
    data = {"data": {"root": str(faces / "train")}}
    for model, config in MODELS.items():
        run = load_train_settings(configs / config, merge(data, overrides))
        with timed(f"Train {model}", seconds):
            stopped = train(run, RunOptions(seed=seed, output=out / "output"))
            if stopped is not None:
                raise KeyboardInterrupt
        network = load_pretrained(out / "output" / run.name / "weights" / "last")
        with timed(f"Test {model}", seconds):
            for crops in CROPS:
                for kind in ("pairs", "identification"):
                    entry = EvaluationSetSettings(name=f"{crops}-{kind}", path=faces / "test" / crops, kind=kind)
                    opened = open_set(entry, needs_keypoints=network.needs_keypoints)
                    results[model, crops, kind] = measure(opened, network, progress=True)
    _draw_faces(out / "faces.png", [faces / "train", *(faces / "test" / crops for crops in CROPS)])
    rocs: dict[Name, Any] = {}
    cmcs: dict[Name, Any] = {}
    for (model, crops, _), result in results.items():
        if isinstance(result.details, VerificationResult):
            rocs[model, crops] = result.details.roc
        elif isinstance(result.details, IdentificationResult):
            cmcs[model, crops] = result.details.cmc
    draw_roc(out / "roc.png", rocs)
    draw_cmc(out / "cmc.png", cmcs)
    table = format_table(results)
    write_text(out / "table.md", table + "\n")
    write_text(out / "seconds.json", json.dumps({what: round(value, 1) for what, value in seconds.items()}, indent=1))
    print(
        f"\n== Results on synthetic faces: {identities} identities to train on, {run.schedule.epochs} epochs. "
        f"They say nothing about real faces.\n\n{table}\n\n"
        f"Pictures: {', '.join(str(out / name) for name in ('faces.png', 'roc.png', 'cmc.png'))}. "
        f"Whole demo: {sum(seconds.values()):.0f} s."
    )
    return table


def main(argv: Sequence[str] | None = None) -> int:
    """The command line. Returns the exit code: 0, 2 for wrong input, 130 when interrupted."""
    parser = argparse.ArgumentParser(prog="python -m face.demo", description=__doc__)
    parser.add_argument(
        "--out", type=Path, default=Path("demo-face"), metavar="DIR", help="where everything goes (default: demo-face)"
    )
    parser.add_argument(
        "--configs",
        type=Path,
        default=Path("configs/demo/face"),
        help="folder of the two configs (default: configs/demo/face)",
    )
    parser.add_argument(
        "--identities", type=int, default=480, metavar="N", help="faces to train on (default: 480, and 80 to test on)"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of faces and training (default: 0)")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="settings instead of the configs'")
    args = parser.parse_args(argv)

    try:
        run_demo(args.out, args.configs, args.identities, args.seed, parse_overrides(args.overrides))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
