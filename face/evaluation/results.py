"""Results of models on benchmarks: the table that is printed, and results.json and results.csv that stay.

results.json has everything: each metric, settings, weights and data by their hashes, versions, the command. results.csv
has model, set, metric and value, a row each. Both are written whole, anew after every result: what an interrupted run
has measured is there, with "complete": false.
"""

import csv
import hashlib
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from common.runtime.files import write_text
from face.evaluation.catalogue import BENCHMARKS
from face.evaluation.ijb import IJBSet
from face.evaluation.ijbs import IJBSSet
from face.evaluation.sets import EvaluationSet, SetResult
from face.evaluation.tinyface import TinyFaceSet

__all__ = [
    "FORMAT",
    "RESULT_FILES",
    "Column",
    "ResultRecord",
    "data_hashes",
    "format_percent",
    "headline_columns",
    "markdown_table",
    "results_table",
]

FORMAT = "kprpe-face-evaluation"
RESULT_FILES = ("results.json", "results.csv")

Metrics = Mapping[str, Mapping[str, float]]
"""Percent, by set and by the metric's name."""

_FORMAT_VERSION = 1
_HEADLINES = {
    "pairs": ("accuracy",),
    "ijb": ("tar@far=1e-4",),
    "tinyface": ("rank-1", "rank-5"),
    "ijbs": ("rank-1", "rank-5"),
}
_CHUNK = 2**20


class Column(NamedTuple):
    """Of a table: one metric of one set."""

    set_name: str

    metric: str

    @property
    def title(self) -> str:
        """As papers have it: LFW for its accuracy, IJB-C TAR@1e-4, IJB-S single Rank-1."""
        protocol, _, metric = self.metric.rpartition("/")
        name, _, at = metric.partition("=")
        words = {"accuracy": "", "tar@far": "TAR@", "val@far": "VAL@", "tpir@fpir": "TPIR@", "map": "mAP"}
        shown = words.get(name, name.capitalize()) + at
        where = protocol.removeprefix("surveillance_to_")
        return " ".join(filter(None, (BENCHMARKS[self.set_name].title, where, shown)))


def headline_columns(rows: Iterable[Metrics]) -> list[Column]:
    """The columns of a table with these rows: the metrics that papers give of each set, in the order of BENCHMARKS.

    Of a set that has none of them, such as a small one without a TAR at 1e-4, it is the metric that comes first.
    """
    found: dict[str, dict[str, None]] = {}  # metrics of each set, in the order they come in
    for row in rows:
        for set_name, metrics in row.items():
            found.setdefault(set_name, {}).update(dict.fromkeys(metrics))
    columns = []
    for set_name in (name for name in BENCHMARKS if found.get(name)):
        wanted = _HEADLINES[BENCHMARKS[set_name].kind]
        chosen = [metric for metric in found[set_name] if metric.rpartition("/")[2] in wanted]
        if BENCHMARKS[set_name].kind != "ijbs":
            chosen = [metric for metric in chosen if "/" not in metric]
        columns += [Column(set_name, metric) for metric in chosen or list(found[set_name])[:1]]
    return columns


def results_table(models: Mapping[str, Metrics]) -> str:
    """Models as rows, sets as columns, percent with two decimals, in Markdown."""
    columns = headline_columns(models.values())
    rows = [
        [name, *(format_percent(metrics.get(column.set_name, {}).get(column.metric)) for column in columns)]
        for name, metrics in models.items()
    ]
    return markdown_table(["model", *(column.title for column in columns)], rows)


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """Rows of texts in columns of even width; the first `left` columns begin at the left, others end at the right."""
    widths = [max(3, len(title), *(len(row[place]) for row in rows)) for place, title in enumerate(head)]

    def line(cells: Sequence[str]) -> str:
        padded = [
            cell.ljust(width) if place < left else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        return f"| {' | '.join(padded)} |"

    rule = ["-" * width if place < left else "-" * (width - 1) + ":" for place, width in enumerate(widths)]
    return "\n".join(map(line, [head, rule, *rows]))


def format_percent(value: float | None) -> str:
    """Two decimals; a dash where there is nothing."""
    return "-" if value is None or not math.isfinite(value) else f"{value:.2f}"


def data_hashes(opened: EvaluationSet) -> dict[str, dict[str, str]]:
    """SHA-256 of what says what a set is: {"lists": {file: hash}, "landmarks": {file: hash}}.

    Lists are the `.bin` file itself, or the lists of a folder. Of TinyFace the names of its images count, too. Images
    of folders are not looked at. Landmarks are the table, where one was read.
    """
    content, path = opened.content, opened.settings.path
    root = path if path.is_dir() else path.parent
    names: dict[str, str] = {}
    if isinstance(content, IJBSet):
        files = [each for each in sorted((root / "meta").glob(f"{content.which}_*")) if _is_list(each.name)]
    elif isinstance(content, TinyFaceSet):
        root = content.images.root
        files = sorted(root.glob("*_img_ID_pairs.mat"))
        text = "\n".join(content.images.names).encode("utf-8", "surrogateescape")
        names["names of images"] = hashlib.sha256(text).hexdigest()
    elif isinstance(content, IJBSSet):
        files = [root / "frames.csv"]
        files += [root / f"{name}_{part}.csv" for name in content.protocols for part in ("gallery", "probes")]
    else:
        folder_lists = ("pairs.csv", "pairs.txt", "gallery.csv", "probe.csv")
        files = [path] if path.is_file() else [root / name for name in folder_lists if (root / name).is_file()]
    tables: list[Path] = []
    if not isinstance(content, IJBSet | IJBSSet) and content.landmarks is not None:
        beside = path.with_name(f"{path.name}.csv") if path.suffix == ".bin" else root / "landmarks.csv"
        tables = [opened.settings.landmarks or beside]
    return {
        "lists": {**{str(each.relative_to(root)): _sha256(each) for each in files}, **names},
        "landmarks": {each.name: _sha256(each) for each in tables},
    }


class ResultRecord:
    """What a run has found so far, and the files that say so.

    Args:
        folder: for them; it must be there.
        about: what else results.json says, in plain JSON types: settings, models, sets, environment.
    """

    def __init__(self, folder: Path, about: Mapping[str, Any]) -> None:
        self._folder = folder
        self._about = dict(about)
        self._rows: list[dict[str, Any]] = []

    def add(self, model: str, set_name: str, result: SetResult, seconds: float) -> None:
        """One model on one set."""
        numbers = {name: value if math.isfinite(value) else None for name, value in result.metrics.items()}
        self._rows.append(
            {
                "model": model,
                "set": set_name,
                "metrics": numbers,
                "images": result.images,
                "without_landmarks": result.without_landmarks,
                "without_alignment": result.degenerate,
                "templates": result.templates,
                "weightless_templates": result.weightless_templates,
                "fusion": None if result.fusion is None else asdict(result.fusion),
                "features_from_cache": result.reused,
                "seconds": round(seconds, 1),
            }
        )

    def content(self, complete: bool) -> dict[str, Any]:
        """What results.json has."""
        head = {"format": FORMAT, "format_version": _FORMAT_VERSION, "complete": complete}
        return {**head, **self._about, "results": self._rows}

    def metrics(self) -> dict[str, dict[str, dict[str, float]]]:
        """By model, set and name, for `results_table`."""
        found: dict[str, dict[str, dict[str, float]]] = {}
        for row in self._rows:
            finite = {name: value for name, value in row["metrics"].items() if value is not None}
            found.setdefault(row["model"], {})[row["set"]] = finite
        return found

    def write(self, complete: bool) -> None:
        """Both files.

        Raises:
            OSError: they cannot be written; what was there stays.
        """
        text = json.dumps(self.content(complete), indent=1, allow_nan=False)
        write_text(self._folder / RESULT_FILES[0], text + "\n")
        table = io.StringIO()
        writer = csv.writer(table, lineterminator="\n")
        writer.writerow(["model", "set", "metric", "value"])
        for row in self._rows:
            writer.writerows([row["model"], row["set"], name, value] for name, value in row["metrics"].items())
        write_text(self._folder / RESULT_FILES[1], table.getvalue())


def _is_list(name: str) -> bool:
    parts = ("face_tid_mid", "name_5pts_score", "template_pair_label", "_1N_gallery_", "_1N_probe_mixed")
    return any(part in name for part in parts)


def _sha256(path: Path) -> str:
    found = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            found.update(chunk)
    return found.hexdigest()
