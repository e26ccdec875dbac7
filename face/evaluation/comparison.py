"""Results of several runs, and numbers quoted from papers, side by side.

Runs are results.json of `python -m face.evaluate`, or their folders. Quoted numbers are a CSV file with the columns
model,set,metric,value,source or a JSON file with such results,

    {"results": [{"model": "ViT + KP-RPE", "set": "tinyface", "metrics": {"rank-1": 69.88}, "source": "Table 1"}]}

and show their source in every table. Values are percent.
"""

import csv
import io
import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from common.runtime.files import write_text
from face.evaluation.catalogue import canonical_name
from face.evaluation.ijbs import PROTOCOLS
from face.evaluation.results import FORMAT, RESULT_FILES, format_percent, headline_columns, markdown_table

__all__ = [
    "COMPARISON_FILES",
    "ComparedRow",
    "comparison_notes",
    "comparison_table",
    "read_rows",
    "rows_of_run",
    "write_comparison",
]

COMPARISON_FILES = ("compare.md", "compare.csv")

_METRIC = re.compile(
    rf"((g1|g2|mean|{'|'.join(PROTOCOLS)})/)?"
    r"(accuracy|accuracy_std|auc|eer|map|rank-[1-9]\d*|(tar@far|val@far|tpir@fpir)=[1-9](\.\d+)?e-?\d+)"
)
_KNOWN_METRICS = "accuracy, auc, eer, map, rank-1, tar@far=1e-4, tpir@fpir=1e-2, and mean/rank-1 or so of a protocol"
_COLUMNS = ("model", "set", "metric", "value", "source")
_SETTINGS = ("pipeline", "fusion", "align", "flip_test", "precision", "missing_landmarks")  # told where they differ


@dataclass(frozen=True, kw_only=True, eq=False)
class ComparedRow:
    """A model of a run, or of a paper."""

    model: str
    """Its name."""

    run: str
    """The file."""

    source: str
    """What the numbers are quoted from; empty for those of a run."""

    metrics: Mapping[str, Mapping[str, float]]
    """Percent, by set and metric."""

    settings: Mapping[str, Any]
    """Of the run; empty for quoted ones."""

    lists: Mapping[str, Mapping[str, Mapping[str, str]]]
    """SHA-256 of each set's lists and landmarks, as `data_hashes` gives them; empty for quoted ones."""

    complete: bool = True
    """False where the run was interrupted."""


def read_rows(path: str | Path) -> list[ComparedRow]:
    """Rows of a file, one for each model (and source).

    Raises:
        FileNotFoundError: no such file, or a folder without results.json.
        ValueError: damaged content, numbers without a source that no run measured, unknown sets or metrics, a number
            twice, or one that is no percentage. The file is named.
    """
    path = Path(path)
    file = path / RESULT_FILES[0] if path.is_dir() else path
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such file of results")
    try:
        return _quoted(_read_csv(file), str(file)) if file.suffix == ".csv" else _read_json(file)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{file}: not results of face.evaluate ({type(error).__name__}: {error})") from error


def rows_of_run(content: Mapping[str, Any], name: str) -> list[ComparedRow]:
    """Rows of what results.json has.

    Raises:
        ValueError: as `read_rows`.
    """
    rows: dict[str, dict[str, dict[str, float]]] = {}
    for result in content["results"]:
        sets = rows.setdefault(str(result["model"]), {})
        known = {metric: value for metric, value in result["metrics"].items() if value is not None}
        sets[canonical_name(result["set"])] = _checked(known, name)
    return [
        ComparedRow(
            model=model,
            run=name,
            source="",
            metrics=metrics,
            settings=content["settings"],
            lists={set_name: content["sets"][set_name]["sha256"] for set_name in metrics},
            complete=content["complete"],
        )
        for model, metrics in rows.items()
    ]


def comparison_notes(rows: Sequence[ComparedRow]) -> list[str]:
    """What makes rows of runs less comparable: data of one name that differ, runs that were interrupted."""
    notes = {f"{row.run} was interrupted, it lacks results": None for row in rows if not row.complete}
    for first, second in combinations(rows, 2):
        for set_name in first.lists.keys() & second.lists.keys():
            for part, what in (("lists", "other data"), ("landmarks", "other landmarks")):
                mine, other = (row.lists[set_name].get(part, {}) for row in (first, second))
                shared = mine.keys() & other.keys()
                changed = sorted(name for name in shared if mine[name] != other[name])
                if not changed and part == "lists" and mine.keys() != other.keys():
                    changed = sorted(mine.keys() ^ other.keys())
                if changed:
                    notes[f"{set_name}: {what} ({', '.join(changed)}) in {second.run} than in {first.run}"] = None
    return sorted(notes)


def comparison_table(rows: Sequence[ComparedRow]) -> str:
    """Rows and, for each set, the metrics that papers give: the best is bold, differences are to the first row."""
    columns = headline_columns(row.metrics for row in rows)
    titles, texts = _row_texts(rows)
    values = [[row.metrics.get(column.set_name, {}).get(column.metric) for row in rows] for column in columns]
    for number, text in enumerate(texts):
        for column in values:
            shown = format_percent(column[number])
            known = [round(value, 2) for value in column if value is not None]
            value = column[number]
            if value is not None and len(known) > 1 and round(value, 2) == max(known):
                shown = f"**{shown}**"
            if number and value is not None and column[0] is not None:
                shown += f" ({round(value - column[0], 2) + 0.0:+.2f})"  # + 0.0: no -0.00
            text.append(shown)
    return markdown_table([*titles, *(column.title for column in columns)], texts, left=len(titles))


def write_comparison(folder: str | Path, rows: Sequence[ComparedRow]) -> str:
    """compare.md, the table with its notes, and compare.csv, every number with its difference to the first row's.

    Returns:
        What compare.md has.

    Raises:
        OSError: they cannot be written.
    """
    notes = [f"- {note}" for note in comparison_notes(rows)]
    lines = ["Percent; in brackets the difference to the first row.", "", comparison_table(rows)]
    text = "\n".join([*lines, *(["", *notes] if notes else []), ""])
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["run", *_COLUMNS, "difference"])
    for row in rows:
        for set_name, metrics in row.metrics.items():
            for metric, value in metrics.items():
                base = rows[0].metrics.get(set_name, {}).get(metric)
                difference = "" if base is None else value - base
                writer.writerow([row.run, row.model, set_name, metric, value, row.source, difference])
    write_text(Path(folder) / COMPARISON_FILES[0], text)
    write_text(Path(folder) / COMPARISON_FILES[1], table.getvalue())
    return text


def _read_json(path: Path) -> list[ComparedRow]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: not valid JSON: {error}") from error
    if not isinstance(content, dict) or not isinstance(content.get("results"), list):
        raise ValueError(f"{path}: expected an object with results")
    if content.get("format") == FORMAT:
        return rows_of_run(content, str(path))
    numbers = []
    for result in content["results"]:
        source = str(result.get("source") or content.get("source") or "")
        numbers += [(result["model"], result["set"], *number, source) for number in result["metrics"].items()]
    return _quoted(numbers, str(path))


def _read_csv(path: Path) -> list[tuple[Any, ...]]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        missing = [name for name in _COLUMNS if name not in (reader.fieldnames or ())]
        if missing:
            raise ValueError(
                f"{path}: expected the columns {','.join(_COLUMNS)}, not there: {', '.join(missing)} (of a run of "
                "face.evaluate name results.json)"
            )
        numbers = []
        for row in reader:
            try:
                value = float(row["value"])
            except (TypeError, ValueError):
                where = f"{path}, line {reader.line_num}"
                raise ValueError(f"{where}: value must be a number, found {row['value']!r}") from None
            numbers.append((row["model"], row["set"], row["metric"], value, row["source"]))
        return numbers


def _quoted(numbers: Sequence[tuple[Any, ...]], name: str) -> list[ComparedRow]:
    """Rows of numbers that no run measured."""
    found: dict[tuple[str, str], dict[str, dict[str, float]]] = {}
    for model, set_name, metric, value, source in numbers:
        if not model or not source:
            raise ValueError(f"{name}: quoted numbers must name model and source, found {model!r} and {source!r}")
        try:
            known = canonical_name(set_name)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
        metrics = found.setdefault((model, source), {}).setdefault(known, {})
        if metric in metrics:
            raise ValueError(f"{name}: {model} has {metric} of {known} twice")
        metrics.update(_checked({metric: value}, name))
    if not found:
        raise ValueError(f"{name}: no numbers in it")
    return [
        ComparedRow(model=model, run=name, source=source, metrics=metrics, settings={}, lists={})
        for (model, source), metrics in found.items()
    ]


def _checked(metrics: Mapping[str, Any], name: str) -> dict[str, float]:
    for metric, value in metrics.items():
        if not _METRIC.fullmatch(metric):
            raise ValueError(f"{name}: no metric is called {metric!r}; there are {_KNOWN_METRICS}")
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 100 or math.isnan(value):
            raise ValueError(f"{name}: {metric} must be a percentage, found {value!r}")
    return {metric: float(value) for metric, value in metrics.items()}


def _row_texts(rows: Sequence[ComparedRow]) -> tuple[list[str], list[list[str]]]:
    """Titles of the columns before those of sets, and their entries: the model, and what tells rows apart."""
    titles, texts = ["model"], [[row.model] for row in rows]
    counts = Counter((row.model, row.source) for row in rows)
    if max(counts.values()) > 1:
        titles.append("run")
        for text, row in zip(texts, rows, strict=True):
            text.append(row.run if not row.source else "-")
    for setting in _SETTINGS:
        shown = [_setting(row, setting) for row in rows]
        if len({each for each in shown if each != "-"}) > 1:
            titles.append(setting.replace("_", " "))
            for text, each in zip(texts, shown, strict=True):
                text.append(each)
    if any(row.source for row in rows):
        titles.append("source")
        for text, row in zip(texts, rows, strict=True):
            text.append(row.source or "measured")
    return titles, texts


def _setting(row: ComparedRow, name: str) -> str:
    if row.source or name not in row.settings:
        return "-"
    value = row.settings[name]
    words = {True: "yes", False: "no", None: "default"}
    return words[value] if value is None or isinstance(value, bool) else str(value)
