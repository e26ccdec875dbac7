"""Time and memory of the IJB evaluation on made-up embeddings of IJB-C's size, beside insightface's public scripts.

    INSIGHTFACE_ROOT=path/to/insightface python scripts/benchmark_face_evaluation.py \
        --out scripts/results/face_evaluation.json

Both start from the same files: 469,375 embeddings of 512 numbers, 23,124 templates, 15,658,489 pairs of them, and two
galleries of 1,772 and 1,759 templates for 19,593 probes. Theirs are the functions of eval_ijbc.py and ijb_1n.py, taken
out of the scripts unchanged, and the loop that fills the table of the former. Each evaluation has a process of its own,
whose peak memory is the operating system's figure. What imports took before is subtracted for `evaluation_megabytes`:
ours have torch among them (the scripts, too, but not the functions alone), for which nothing here has a use. What is
printed must come out the same, or the command ends with 1. Seconds count from files to numbers; starting Python and
imports do not count; cpu_seconds add up those of all threads (ours takes the cosines of pairs on every core, theirs on
one) and leave out what other work on the machine took. Without INSIGHTFACE_ROOT ours is measured alone.

--share takes a part of everything: theirs needs minutes for the whole.
"""

import argparse
import ast
import contextlib
import io
import json
import math
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
IMAGES, TEMPLATES, GALLERIES, GENUINE, PAIRS = 469_375, 23_124, (1_772, 1_759), 19_557, 15_658_489
CHANNELS = 512
FARS = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
SCRIPTS = {
    "1:1": "recognition/arcface_torch/eval_ijbc.py",
    "1:N": "recognition/_evaluation_/ijb/ijb_1n.py",
}


def main(argv: Sequence[str] | None = None) -> int:
    """The command line. Returns the exit code: 0, 1 where numbers differ, or 2 for wrong input."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--share", type=float, default=1.0, metavar="S", help="part of everything, at most 1")
    parser.add_argument("--channels", type=int, default=CHANNELS, metavar="E", help="of an embedding")
    parser.add_argument("--data", type=Path, metavar="DIR", help="where embeddings and lists are kept, about 1.4 GB; "
                        "made there if it has none (default: a temporary folder)")  # fmt: skip
    parser.add_argument("--out", type=Path, metavar="FILE", help="JSON file to write")
    parser.add_argument("--job", nargs=2, metavar=("NAME", "KIND"), help=argparse.SUPPRESS)  # of a process of its own
    options = parser.parse_args(argv)
    if not 0 < options.share <= 1 or options.channels < 1:
        parser.error(f"--share must be in (0, 1] and --channels >= 1, got {options.share} and {options.channels}")
    if options.job:
        name, kind = options.job
        print(json.dumps(run_job(name, kind, options.data, options.share, options.channels)))
        return 0
    root = os.environ.get("INSIGHTFACE_ROOT")
    missing = [place for place in SCRIPTS.values() if root and not (Path(root) / place).is_file()]
    if missing:
        print(f"error: INSIGHTFACE_ROOT: {Path(root or '') / missing[0]} does not exist", file=sys.stderr)
        return 2
    with contextlib.ExitStack() as stack:
        folder = options.data or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        report = measure(folder, options, ["insightface", "ours"] if root else ["ours"])
    text = json.dumps(report, indent=2)
    print(text)
    if options.out:
        from common.runtime.files import write_text

        write_text(options.out, text + "\n")
    return 0 if all(row.get("same_numbers", True) for row in report["evaluations"].values()) else 1


def measure(folder: Path, options: argparse.Namespace, names: Sequence[str]) -> dict[str, Any]:
    """Everything that is reported."""
    settings = ["--data", str(folder), "--share", str(options.share), "--channels", str(options.channels)]
    if not (folder / "size.json").is_file():
        start(["data", "-", *settings])
    size = json.loads((folder / "size.json").read_text())
    if size != (expected := sizes(options.share, options.channels)):
        raise SystemExit(f"error: {folder} holds other sizes: expected {expected}, got {size}")
    rows: dict[str, Any] = {}
    for kind in SCRIPTS:
        row: dict[str, Any] = {name: start([name, kind, *settings]) for name in names}
        if len(names) == 2:
            theirs, ours = (row[name] for name in names)
            row["same_numbers"] = theirs["printed"] == ours["printed"]
            measures = ("seconds", "cpu_seconds", "evaluation_megabytes", "peak_megabytes")
            row["insightface_over_ours"] = {what: theirs[what] / ours[what] for what in measures if ours[what]}
        rows[kind] = row
    from common.runtime.benchmark import environment  # not before: a process starts with the peak of its parent

    return {"size": size, "cores": os.cpu_count(), **environment("cpu"), "evaluations": rows}


def start(arguments: Sequence[str]) -> dict[str, Any]:
    """A job in a process of its own; its last line is its report."""
    command = [sys.executable, str(Path(__file__).resolve()), "--job", *arguments]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"error: {' '.join(arguments[:2])} ended with {done.returncode}")
    return json.loads(done.stdout.splitlines()[-1])


def run_job(name: str, kind: str, folder: Path, share: float, channels: int) -> dict[str, Any]:
    """Time and memory of one evaluation, and what it prints; or the files are made."""
    if name == "data":
        make_data(folder, sizes(share, channels))
        return {}
    jobs: dict[tuple[str, str], Callable[[Path], Callable[[], list[str]]]] = {
        ("ours", "1:1"): ours_verification,
        ("ours", "1:N"): ours_search,
        ("insightface", "1:1"): theirs_verification,
        ("insightface", "1:N"): theirs_search,
    }
    job = jobs[name, kind](folder)
    imports = peak_megabytes()
    begun = time.perf_counter(), time.process_time()
    printed = job()
    times = {"seconds": time.perf_counter() - begun[0], "cpu_seconds": time.process_time() - begun[1]}
    peak = peak_megabytes()
    memory = {"evaluation_megabytes": peak - imports, "peak_megabytes": peak}
    return {**times, **memory, "printed": printed}


def peak_megabytes() -> float:
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def sizes(share: float, channels: int) -> dict[str, int]:
    """Of what is made."""
    galleries = [max(6, round(share * size)) for size in GALLERIES]  # rank 10 is asked for
    templates = max(sum(galleries) + 2, round(share * TEMPLATES))
    probes = templates - sum(galleries)
    return {
        "images": max(2 * templates, round(share * IMAGES)),
        "channels": channels,
        "templates": templates,
        "gallery_1": galleries[0],
        "gallery_2": galleries[1],
        "probes": probes,
        "genuine": min(probes, max(1, round(share * GENUINE))),
        "pairs": round(share * PAIRS),
    }


def make_data(folder: Path, size: dict[str, int]) -> None:
    """Noisy copies of a vector for each subject, of any length; a block at a time."""
    random = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    n, templates = size["images"], size["templates"]
    subjects = size["gallery_1"] + size["gallery_2"]
    subject = np.append(np.arange(subjects), random.integers(0, subjects, size["probes"]))  # a gallery template each
    ids = random.permutation(2 * templates)[:templates] + 1
    likely = random.exponential(size=templates)
    place = np.append(np.arange(templates), random.choice(templates, n - templates, p=likely / likely.sum()))
    place.sort()  # the lists of IJB-C are in this order, too
    centres = random.standard_normal((subjects, size["channels"]), dtype=np.float32)
    quality = random.uniform(0.05, 1.0, n).astype(np.float32)  # much noise, so that rates are not all 100
    features = np.lib.format.open_memmap(
        folder / "features.npy", mode="w+", dtype=np.float32, shape=(n, size["channels"])
    )
    for begin in range(0, n, 2**14):
        rows = slice(begin, begin + 2**14)
        noise = random.standard_normal((len(quality[rows]), size["channels"]), dtype=np.float32)
        features[rows] = (centres[subject[place[rows]]] * quality[rows, None] + 3 * noise) * 5
    features.flush()
    arrays = {
        "templates": ids[place],
        "medias": np.cumsum(random.random(n) < 0.4),  # videos of a few frames each
        "scores": quality,
        "gallery_templates": ids[:subjects],
        "gallery_subjects": subject[:subjects] + 7,
        "probe_templates": ids[subjects:],
        "probe_subjects": subject[subjects:] + 7,
    }
    genuine, pairs = size["genuine"], size["pairs"]
    probes = np.append(np.arange(genuine), random.integers(0, size["probes"], pairs - genuine)) + subjects
    shift = np.append(np.zeros(genuine, np.int64), random.integers(1, subjects, pairs - genuine))
    shuffled = random.permutation(pairs)
    arrays["p1"] = ids[(subject[probes] + shift) % subjects][shuffled]
    arrays["p2"] = ids[probes][shuffled]
    arrays["label"] = (shift == 0).astype(np.int64)[shuffled]
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    (folder / "size.json").write_text(json.dumps(size))


def ours_verification(folder: Path) -> Callable[[], list[str]]:
    from face.evaluation.fusion import INSIGHTFACE_FUSIONS, fuse_templates
    from face.evaluation.pair_scores import measure_scores, nearest_point, score_pairs
    from face.evaluation.templates import template_rows

    def job() -> list[str]:
        read = reader(folder, "r")
        fused = fuse_templates(
            read("features"),
            read("templates"),
            read("medias"),
            settings=INSIGHTFACE_FUSIONS["N1D1"],
            scores=read("scores"),
        )
        sides = [template_rows(fused.ids, read(side)) for side in ("p1", "p2")]
        scores = score_pairs(fused.values, *sides)
        del sides, fused
        curve = measure_scores(scores, read("label") == 1).roc
        return [f"{far}: {100 * curve.tar[nearest_point(curve, far)]:.2f}" for far in FARS]

    return job


def ours_search(folder: Path) -> Callable[[], list[str]]:
    from face.evaluation.fusion import INSIGHTFACE_FUSIONS, fuse_templates
    from face.evaluation.template_search import FPIRS, closed_set_tpir, rank_rates, search
    from face.evaluation.templates import template_rows

    def job() -> list[str]:
        read = reader(folder, "r")
        fused = fuse_templates(
            read("features"),
            read("templates"),
            read("medias"),
            settings=INSIGHTFACE_FUSIONS["N1D1"],
            scores=read("scores"),
        )
        probe, gallery = (template_rows(fused.ids, read(f"{side}_templates")) for side in ("probe", "gallery"))
        result = search(
            fused.values[probe],
            fused.values[gallery],
            read("probe_subjects"),
            read("gallery_subjects"),
            keep=math.ceil(max(FPIRS) * len(probe)),
        )
        ranks, tpirs = rank_rates(result, (1, 5, 10)), closed_set_tpir(result)
        lines = [f"top{rank} = {rate / 100:.10f}" for rank, rate in ranks.items()]
        places = {fpir: math.ceil(fpir * len(probe)) - 1 for fpir in FPIRS}
        return lines + [
            f"far = {fpir:.10f} pr = {tpirs[fpir] / 100:.10f} th = {result.highest_others[places[fpir]]:.10f}"
            for fpir in FPIRS
        ]

    return job


def theirs_verification(folder: Path) -> Callable[[], list[str]]:
    import sklearn.preprocessing
    from sklearn.metrics import auc, roc_curve

    path = Path(os.environ["INSIGHTFACE_ROOT"]) / SCRIPTS["1:1"]
    theirs: dict[str, Any] = {"np": np, "sklearn": sklearn, "roc_curve": roc_curve, "auc": auc, "plt": mock.Mock()}
    load_functions(path, ("image2template_feature", "verification"), theirs)
    table: list[ast.stmt] = [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.For)]

    def job() -> list[str]:
        read = reader(folder)
        features = read("features") * read("scores")[:, np.newaxis]
        with contextlib.redirect_stdout(io.StringIO()):
            values, ids = theirs["image2template_feature"](features, read("templates"), read("medias"))
            score = theirs["verification"](values, ids, read("p1"), read("p2"))
        theirs.update(methods=np.array(["m"]), scores={"m": score}, label=read("label"), colours={"m": "k"})
        theirs.update(x_labels=list(FARS), target="IJBC", tpr_fpr_table=mock.Mock())
        exec(compile(ast.Module(table[-1:], []), str(path), "exec"), theirs)
        row = theirs["tpr_fpr_table"].add_row.call_args.args[0]
        return [f"{far}: {cell}" for far, cell in zip(FARS, row[1:], strict=True)]

    return job


def theirs_search(folder: Path) -> Callable[[], list[str]]:
    import heapq

    theirs: dict[str, Any] = {"np": np, "math": math, "heapq": heapq}
    names = ("image2template_feature", "evaluation", "gen_mask")
    load_functions(Path(os.environ["INSIGHTFACE_ROOT"]) / SCRIPTS["1:N"], names, theirs)

    def job() -> list[str]:
        read = reader(folder)
        features = read("features") * read("scores")[:, np.newaxis]
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            (gallery, _, gallery_ids), (probe, _, probe_ids) = (
                theirs["image2template_feature"](
                    features, read("templates"), read("medias"), read(f"{side}_templates"), read(f"{side}_subjects")
                )
                for side in ("gallery", "probe")
            )
            theirs["evaluation"](probe, gallery, theirs["gen_mask"](probe_ids, gallery_ids))
        lines = printed.getvalue().splitlines()
        tops = [re.fullmatch(r"(top\d+) = (\S+)", line) for line in lines]
        ranks = [f"{top[1]} = {float(top[2]):.10f}" for top in tops if top]
        return ranks + [line for line in lines if line.startswith("far = ")]

    return job


def load_functions(path: Path, names: Sequence[str], namespace: dict[str, Any]) -> None:
    """Define functions of a script whose other lines need a GPU and a data set."""
    nodes = [
        node for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef) and node.name in names
    ]
    exec(compile(ast.Module(list(nodes), []), str(path), "exec"), namespace)


def reader(folder: Path, mmap_mode: Any = None) -> Callable[[str], np.ndarray]:
    return lambda name: np.load(folder / f"{name}.npy", mmap_mode=mmap_mode)


if __name__ == "__main__":
    raise SystemExit(main())
