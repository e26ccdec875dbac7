"""`python -m face.evaluate --weights A B --data DIR`: models on the benchmarks of face recognition, in one table.

python -m face.evaluate --weights output/vit_base/weights/best --data data --sets lfw cfp_fp agedb ijbc tinyface
torchrun --nproc_per_node 8 -m face.evaluate --weights ViT=A KP-RPE=B --data data --cache features
python -m face.evaluate --compare evaluation/results.json earlier/results.json paper.csv --out comparison
"""

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from common.runtime.log import RunLog
    from face.evaluation.comparison import ComparedRow
    from face.evaluation.sets import EvaluationSet, EvaluationSetSettings
    from face.pipelines import RecognitionPipeline

__all__ = ["main"]

_DESCRIPTION = """Evaluate models on the benchmarks of face recognition: verification accuracy (LFW and its like), TAR
at FAR and search (IJB-B, IJB-C), Rank-k (TinyFace, IJB-S). Prints a table in percent, and writes results.json,
results.csv, a log, and curves of all models in one picture for each set. All is opened and checked before the first
image is embedded. On a CPU, one GPU, or several under torchrun. With --compare alone no model is needed."""

_FUSIONS = ("average", "norm", "landmark", "average+score", "norm+score")


def main(argv: Sequence[str] | None = None) -> int:
    """The command line. Returns the exit code: 0, 2 for wrong input, 128 + n after signal n."""
    args = _parse(argv)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # threads that wait would spin, at the cost of all others
    # Imported late, so that --help and typing errors do not wait for all of it.
    from common.runtime.command import run_command

    def job() -> None:
        if args.weights:
            _evaluate(args, sys.argv[1:] if argv is None else argv)
        elif int(os.environ.get("RANK", "0")) == 0:
            _compare(args)

    return run_command(job, interrupted="interrupted; what was measured is kept")


def _compare(args: argparse.Namespace) -> None:
    """Earlier results alone."""
    from face.evaluation.comparison import comparison_notes, write_comparison
    from face.evaluation.suite import Problems

    problems = Problems()
    rows = _read_compared(args, problems)
    with problems.noted():
        _check_out(args.out)
    if error := problems.error():
        raise error
    for note in comparison_notes(rows):
        print(f"warning: {note}", file=sys.stderr)
    print(write_comparison(args.out, rows))
    print(", ".join(str(args.out / name) for name in ("compare.md", "compare.csv")))


def _read_compared(args: argparse.Namespace, problems: Any) -> "list[ComparedRow]":
    from face.evaluation.comparison import read_rows

    rows: list[ComparedRow] = []
    for path in args.compare:
        with problems.noted():
            rows += read_rows(path)
    return rows


def _evaluate(args: argparse.Namespace, argv: Sequence[str]) -> None:
    from common.runtime.distribution import make_accelerator, share_problem
    from common.runtime.log import RunLog
    from face.dfa.predict import choose_device
    from face.evaluation.comparison import comparison_notes, rows_of_run, write_comparison
    from face.evaluation.features import check_cache_folder
    from face.evaluation.fusion import FusionSettings
    from face.evaluation.processes import in_first_process
    from face.evaluation.results import ResultRecord, results_table
    from face.evaluation.suite import Problems, model_names, open_models, open_sets
    from face.pipelines import PipelineSettings

    accelerator = make_accelerator("fp32")
    first = accelerator.is_main_process
    problems = Problems()
    pipeline = PipelineSettings()
    fusion: FusionSettings | None = None
    device: Any = accelerator.device
    sources: dict[str, str] = {}
    with problems.noted():
        sources = model_names(args.weights)
    with problems.noted():
        pipeline = PipelineSettings(kind=args.pipeline, aligner=args.aligner, padding_ratio=args.padding)
    with problems.noted():
        if args.fusion is not None:
            kind, _, score = args.fusion.partition("+")
            fusion = FusionSettings(kind=kind, detector_score=bool(score))
    with problems.noted():
        device = choose_device(args.device) if args.device else accelerator.device
        if args.precision == "fp16" and device.type == "cpu":
            raise ValueError("--precision fp16 needs a CUDA device: use fp32 or bf16")
    if first:
        with problems.noted():
            _check_out(args.out)
        if args.cache is not None:
            with problems.noted():
                check_cache_folder(args.cache)
    compared = _read_compared(args, problems)
    chosen = _chosen_sets(args, problems)
    pipelines = open_models(sources, pipeline, problems)
    sets = open_sets(chosen, pipelines, fusion, problems, progress=first)
    share_problem(problems.error())

    log = RunLog(args.out, to_file=True, active=first)
    try:
        log.log_to_file_only(_command(argv))
        log.log_info(f"models: {', '.join(sources)}; sets: {', '.join(sets)}; on {device}")
        about = in_first_process(lambda: _about(args, argv, sources, pipelines, sets, str(device)))
        record = ResultRecord(args.out, about)
        if first:
            _keep_earlier(args.out, log)
        _measure(args, record, pipelines, sets, fusion, device, log, first)
        if not first:
            return
        record.write(complete=True)
        log.log_to_file_only(f"results\n{results_table(record.metrics())}")
        print(f"\n{results_table(record.metrics())}\n")
        if compared:
            rows = [*compared, *rows_of_run(record.content(complete=True), str(args.out / "results.json"))]
            for note in comparison_notes(rows):
                log.log_warning(note)
            print(f"{write_comparison(args.out, rows)}")
        print(f"{args.out}: {', '.join(sorted(path.name for path in args.out.iterdir() if path.is_file()))}")
    except (ValueError, OSError) as error:
        log.log_to_file_only(f"error: {error}")
        raise
    finally:
        log.close()


def _chosen_sets(args: argparse.Namespace, problems: Any) -> "list[EvaluationSetSettings]":
    from face.evaluation.catalogue import canonical_name, find_benchmark, find_benchmarks

    names: list[str] = []
    if args.sets:
        for name in args.sets:
            with problems.noted():
                names.append(canonical_name(name))
        if names and not args.data.is_dir():
            problems.found.append(f"--data: {args.data}: no such folder")
            return []
    else:
        with problems.noted():
            names = find_benchmarks(args.data)
    found = []
    for name in dict.fromkeys(names):
        with problems.noted():
            found.append(find_benchmark(name, args.data, align=args.align, missing_landmarks=args.missing_landmarks))
    return found


def _measure(
    args: argparse.Namespace,
    record: Any,
    pipelines: "Mapping[str, RecognitionPipeline]",
    sets: "Mapping[str, EvaluationSet]",
    fusion: Any,
    device: Any,
    log: "RunLog",
    first: bool,
) -> None:
    """Every model on every set; files grow with each of them."""
    import time

    from face.evaluation.pictures import draw_results
    from face.evaluation.processes import in_first_process
    from face.evaluation.sets import measure

    for set_name, opened in sets.items():
        details = {}
        for name, pipeline in pipelines.items():
            start = time.perf_counter()
            result = measure(
                opened,
                pipeline.to(device),
                batch_size=args.batch_size,
                device=device,
                precision=args.precision,
                num_workers=args.workers,
                progress=first,
                flip_test=args.flip,
                fusion=fusion,
                cache=args.cache,
            )
            if len(pipelines) > 1:
                pipeline.to("cpu")  # one at a time where memory is short
            record.add(name, set_name, result, time.perf_counter() - start)
            details[name] = result.details
            shown = ", ".join(f"{metric} {value:.2f}" for metric, value in list(result.metrics.items())[:6])
            log.log_info(f"{set_name}, {name}: {shown}{', features from the cache' if result.reused else ''}")
            for count, what in (
                (result.without_landmarks, "images without landmarks"),
                (result.degenerate, "images whose landmarks give no alignment"),
                (result.weightless_templates, "templates whose images all weigh nothing"),
            ):
                if count:
                    log.log_warning(f"{set_name}, {name}: {count} {what}")
            in_first_process(lambda: record.write(complete=False))
        in_first_process(lambda name=set_name, drawn=details: draw_results(args.out, name, drawn))  # type: ignore[misc]


def _about(
    args: argparse.Namespace,
    argv: Sequence[str],
    sources: Mapping[str, str],
    pipelines: "Mapping[str, RecognitionPipeline]",
    sets: "Mapping[str, EvaluationSet]",
    device: str,
) -> dict[str, Any]:
    """What results.json has beside the results."""
    import time
    from importlib.metadata import PackageNotFoundError, version

    from common.runtime.benchmark import environment
    from common.runtime.distribution import world_size
    from face.evaluation.suite import describe_models, describe_sets

    found = environment(device)
    for package in ("kprpe", "opencv-python", "scikit-learn"):
        try:
            found["versions"][package] = version(package)
        except PackageNotFoundError:
            found["versions"][package] = None
    return {
        "date": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": _command(argv),
        "settings": {
            "pipeline": args.pipeline,
            "aligner": args.aligner,
            "padding_ratio": args.padding,
            "fusion": args.fusion,
            "align": args.align,
            "missing_landmarks": args.missing_landmarks,
            "flip_test": args.flip,
            "precision": args.precision,
            "batch_size": args.batch_size,
            "processes": world_size(),
        },
        "environment": found,
        "models": describe_models(sources, pipelines),
        "sets": describe_sets(sets),
    }


def _command(argv: Sequence[str]) -> str:
    import shlex

    return shlex.join(["python", "-m", "face.evaluate", *argv])


def _keep_earlier(out: Path, log: "RunLog") -> None:
    """What an earlier run wrote into the folder goes into one of its own."""
    from common.runtime.run_folder import set_aside

    names = [
        path.name
        for path in sorted(out.iterdir())
        if path.name in ("results.json", "results.csv", "compare.md", "compare.csv")
        or (path.suffix == ".png" and path.name.startswith(("roc_", "det_", "cmc_")))
    ]
    if aside := set_aside(out, names):
        log.log_info(f"results of an earlier run are now in {aside}")


def _check_out(out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    if not os.access(out, os.W_OK):
        raise PermissionError(f"{out}: cannot be written to")


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m face.evaluate", description=_DESCRIPTION, allow_abbrev=False)
    add = parser.add_argument
    add(
        "--weights",
        nargs="+",
        default=[],
        metavar="W",
        help="of models: folders, files or a hub's repositories; NAME=W says what tables call one",
    )
    add("--data", type=Path, metavar="DIR", help="folder of the benchmarks: lfw.bin, IJBC/, tinyface/, ...")
    add(
        "--sets",
        nargs="+",
        metavar="NAME",
        help="some of lfw, cfp_fp, cfp_ff, agedb, calfw, cplfw, vgg2_fp, ijbb, ijbc, tinyface, ijbs (default: all "
        "that are in --data)",
    )
    add("--out", type=Path, default=Path("evaluation"), metavar="DIR", help="for what is written (default: evaluation)")
    add(
        "--compare",
        nargs="+",
        default=[],
        metavar="RUN",
        help="results.json of earlier runs, and tables of quoted numbers (model,set,metric,value,source), that "
        "compare.md and compare.csv show side by side, with what --weights gives below them; the first row is the one "
        "that others are compared with",
    )
    add(
        "--fusion",
        choices=_FUSIONS,
        help="how images of a template are pooled: equally, by the length of their embeddings, or by landmarks and "
        "face score; +score: times the detector's score (default: norm+score for IJB-B and IJB-C, average for IJB-S)",
    )
    add(
        "--pipeline",
        choices=("given", "dfa", "dfa_aligned"),
        default="given",
        help="given: images as they are, landmarks from tables if the model needs some; dfa: landmarks that the "
        "aligner finds; dfa_aligned: images aligned by those (default: %(default)s)",
    )
    add("--aligner", metavar="DFA", help="weights of a face aligner, for the pipelines with dfa")
    add(
        "--padding",
        type=float,
        default=0.0,
        metavar="R",
        help="rim around an image for the aligner to see, as a share of its longer side (default: 0)",
    )
    add(
        "--align",
        choices=("landmarks", "none"),
        default="landmarks",
        help="loose crops of IJB-B and IJB-C: aligned by their lists' landmarks, or as they are (default: %(default)s)",
    )
    add(
        "--missing-landmarks",
        choices=("error", "reference", "hide"),
        default="error",
        help="images without, in a model that needs them: reference takes the alignment template's, which suits "
        "aligned images; hide gives no keypoints to see (default: %(default)s)",
    )
    add("--flip", action=argparse.BooleanOptionalAction, default=True, help="add the mirror's embedding (default: yes)")
    add("--precision", choices=("fp32", "bf16", "fp16"), default="fp32", help="(default: %(default)s)")
    add("--batch-size", type=int, default=64, metavar="N", help="images at a time (default: %(default)s)")
    add(
        "--workers",
        type=int,
        default=min(4, os.cpu_count() or 1),
        metavar="N",
        help="processes that decode images (default: %(default)s)",
    )
    add("--device", metavar="NAME", help="such as cpu or cuda:1 (default: a GPU if there is one)")
    add(
        "--cache",
        type=Path,
        metavar="DIR",
        help="folder that features are kept in, for another fusion or a run that was interrupted (default: none)",
    )
    args = parser.parse_args(argv)
    if not args.weights and not args.compare:
        parser.error("give --weights to evaluate, or --compare with earlier results")
    if args.weights and args.data is None:
        parser.error("--weights need --data, the folder of the benchmarks")
    if not args.weights and (args.data is not None or args.sets):
        parser.error("--data and --sets are for --weights")
    for name, low in (("batch_size", 1), ("workers", 0)):
        if getattr(args, name) < low:
            parser.error(f"--{name.replace('_', '-')} must be >= {low}, got {getattr(args, name)}")
    return args


if __name__ == "__main__":
    sys.exit(main())
