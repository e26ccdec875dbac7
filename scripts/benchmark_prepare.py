"""Time the preparation of raw frames (PNG silhouettes and text poses) beside OpenGait's pretreatment of them.

    OPENGAIT_ROOT=path/to/OpenGait python scripts/benchmark_prepare.py --out scripts/results/prepare.json

The frames are synthetic walkers in PNG files as OpenCV writes them, in crops as drawn and, for each of --enlarge, that
many times as large; --raw takes frames of one's own. Ours reads both streams; OpenGait's `datasets/pretreatment.py`
runs unchanged, its silhouettes and its --pose part timed apart, in one worker. All take turns within one process, so
that ratios do not depend on what else the machine does. The silhouettes must come out the same bit by bit. Starting
Python is not timed. Without OPENGAIT_ROOT ours is timed alone.
"""

import argparse
import importlib.util
import json
import logging
import os
import shutil
import sys
import tempfile
import types
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import cv2
import numpy as np

from common.runtime.arrays import load_array
from common.runtime.benchmark import environment, ratios, spread, time_rounds
from common.runtime.files import write_text
from common.runtime.progress import progress_bar
from plugin.layout import SILHOUETTES_FILE
from plugin.prepare import PrepareSettings, prepare
from plugin.prepare.raw import list_frames, read_pose, read_silhouette
from plugin.synthesize import SynthesisSettings, synthesize

OURS, SILHOUETTES, POSES = "ours", "opengait silhouettes", "opengait poses"


def main(argv: Sequence[str] | None = None) -> int:
    """The command line. Returns the exit code: 0, or 2 for wrong input."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--subjects", type=int, default=10, metavar="N", help="synthetic walkers (default: %(default)s)"
    )
    parser.add_argument(
        "--frames", type=int, default=130, metavar="N", help="of a sequence (default: %(default)s, as Gait3D)"
    )
    parser.add_argument(
        "--enlarge", type=int, nargs="*", default=[3], metavar="N", help="also in crops N times as large"
    )
    parser.add_argument("--raw", type=Path, metavar="DIR", help="frames to take instead: 2D_Silhouettes, 2D_Poses and "
                        "partition.json, as `python -m plugin.synthesize` writes them")  # fmt: skip
    parser.add_argument("--repeats", type=int, default=5, metavar="N", help="rounds (default: %(default)s)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="JSON file to write")
    options = parser.parse_args(argv)
    if min(options.subjects, options.frames, options.repeats, *options.enlarge, 1) < 1:
        parser.error("--subjects, --frames, --enlarge and --repeats must be >= 1")
    cv2.setNumThreads(1)
    try:
        pretreatment = load_pretreatment(os.environ.get("OPENGAIT_ROOT"))
        with tempfile.TemporaryDirectory() as scratch:
            report = run(options, pretreatment, Path(scratch))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    text = json.dumps(report, indent=2)
    print(text)
    if options.out:
        write_text(options.out, text + "\n")
    return 0


def run(options: argparse.Namespace, pretreatment: Any, scratch: Path) -> dict[str, Any]:
    """Everything that is reported."""
    sets: dict[str, Path] = {}
    if options.raw:
        sets["given"] = options.raw
    else:
        settings = SynthesisSettings(subjects=options.subjects, frames=options.frames)
        sets["walkers"] = synthesize(settings, scratch / "raw", workers=1)
        for factor in options.enlarge:
            sets[f"walkers, {factor} times as large"] = enlarge(sets["walkers"], scratch / f"raw{factor}", factor)
    rows = {name: compare(name, raw, pretreatment, options.repeats, scratch) for name, raw in sets.items()}
    return {**environment("cpu"), "opencv": cv2.__version__, "cv2_threads": 1, "sets": rows}


def compare(name: str, raw: Path, pretreatment: Any, repeats: int, scratch: Path) -> dict[str, Any]:
    """One set of frames, prepared by each in every round."""
    outs = {step: scratch / "out" / step.replace(" ", "-") for step in (OURS, SILHOUETTES, POSES)}
    settings = PrepareSettings(
        silhouettes=raw / "2D_Silhouettes",
        poses=raw / "2D_Poses",
        partition=raw / "partition.json",
        out=outs[OURS],
        progress=False,
    )

    def ours() -> None:
        shutil.rmtree(outs[OURS], ignore_errors=True)
        report = prepare(settings)
        if report.failed:
            raise ValueError(f"{raw}: sequences failed, such as {next(iter(report.failed.items()))}")

    steps: dict[str, Callable[[], object]] = {OURS: ours}
    if pretreatment is not None:
        theirs = {SILHOUETTES: pretreatment.pretreat, POSES: pretreatment.pretreat_pose}
        for step, function in theirs.items():
            source = settings.silhouettes if step == SILHOUETTES else settings.poses
            steps[step] = partial(_fresh, function, source, outs[step])
    times = time_rounds(steps, repeats, title=name)
    frames, pixels = measure_frames(outs[OURS], settings.silhouettes)
    row: dict[str, Any] = {
        "frames": frames,
        "mean_pixels_of_a_crop": pixels,
        "seconds": {step: spread(measured) for step, measured in times.items()},
        "microseconds_a_frame": {step: 1e6 * spread(found)["median"] / frames for step, found in times.items()},
    }
    if pretreatment is not None:
        row["identical_frames"] = count_identical(outs[OURS], outs[SILHOUETTES], settings)
        both = [sum(pair) for pair in zip(times[SILHOUETTES], times[POSES], strict=True)]
        row["opengait_silhouettes_over_ours"] = ratios(times[SILHOUETTES], times[OURS])
        row["opengait_both_over_ours"] = ratios(both, times[OURS])
    return row


def _fresh(function: Callable[..., object], source: Path, out: Path) -> None:
    shutil.rmtree(out, ignore_errors=True)
    function(input_path=source, output_path=out, workers=1)


def load_pretreatment(root: str | None) -> Any:
    """OpenGait's script as a module, without its progress bar; None where no checkout is given."""
    if not root:
        return None
    path = Path(root) / "datasets" / "pretreatment.py"
    if not path.is_file():
        raise FileNotFoundError(f"OPENGAIT_ROOT: {path} does not exist")
    spec = importlib.util.spec_from_file_location("pretreatment", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with mock.patch.object(sys, "dont_write_bytecode", True):  # the checkout is not ours to write to
        spec.loader.exec_module(module)
    vars(module)["args"] = types.SimpleNamespace(dataset="Gait3D")  # its pose part reads the command line's
    vars(module)["tqdm"] = lambda **_: types.SimpleNamespace(update=lambda _: None)
    sys.modules["pretreatment"] = module  # its worker process looks its functions up by name
    logging.getLogger().setLevel(logging.ERROR)
    return module


def enlarge(raw: Path, out: Path, factor: int) -> Path:
    """The same frames with every pixel `factor` x `factor`, and joints where they belong there."""
    paths = sorted((raw / "2D_Silhouettes").rglob("*.png"))
    for path in progress_bar(paths, desc=f"Crops {factor} times as large", unit="frame", leave=False):
        larger = out / path.relative_to(raw)
        larger.parent.mkdir(parents=True, exist_ok=True)
        crop = read_silhouette(path)
        cv2.imwrite(str(larger), cv2.resize(crop, None, fx=factor, fy=factor, interpolation=cv2.INTER_NEAREST))
        place = path.relative_to(raw / "2D_Silhouettes").with_suffix(".txt")
        (width, height), joints = read_pose(raw / "2D_Poses" / place)
        joints[:, :2] = (joints[:, :2] + 0.5) * factor - 0.5
        line = ",".join(f"{value:.3f}" for value in (width * factor, height * factor, *joints.ravel()))
        (out / "2D_Poses" / place).parent.mkdir(parents=True, exist_ok=True)
        (out / "2D_Poses" / place).write_text(line + "\n")
    shutil.copy(raw / "partition.json", out)
    return out


def measure_frames(prepared: Path, silhouettes: Path) -> tuple[int, float]:
    """Frames that were prepared, and the mean size of their crops in pixels."""
    frames = sum(len(load_array(path)) for path in prepared.glob(f"*/*/*/{SILHOUETTES_FILE}"))
    sizes = [read_silhouette(path).size for path in sorted(silhouettes.rglob("*.png"))[::10]]
    return frames, float(np.mean(sizes))


def count_identical(ours: Path, theirs: Path, settings: PrepareSettings) -> int:
    """Silhouettes that are the same bit by bit, theirs being in the order of the names.

    Raises:
        ValueError: they differ: the times would not be those of one computation.
    """
    identical = 0
    for path in sorted(ours.glob(f"*/*/*/{SILHOUETTES_FILE}")):
        sequence = path.parent.relative_to(ours)
        folder = settings.silhouettes / sequence
        numbers = list(list_frames(folder, os.listdir(folder)).names)
        found, other = load_array(path), load_array(theirs / sequence / f"{sequence.name}.pkl")
        order = np.argsort(numbers)
        if found.shape != other.shape or not np.array_equal(found, other[order]):
            raise ValueError(f"{sequence}: silhouettes of ours and OpenGait's differ")
        identical += len(found)
    return identical


if __name__ == "__main__":
    raise SystemExit(main())
