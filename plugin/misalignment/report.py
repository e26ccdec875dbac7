"""What came out: a table with the paired differences, and curves over the strength of each condition."""

import dataclasses
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from plugin.conditions import TestCondition
from plugin.misalignment.experiment import AUGMENTATION, METRICS, Run
from plugin.misalignment.sweeps import Sweep, all_conditions, as_met, describe
from plugin.pictures import SweepPanel, draw_sweeps

__all__ = ["draw_report", "format_report", "runs_as_json"]

TRAININGS = {False: "trained on crops as prepared", True: "trained with augmentation"}


class _Results:
    """The runs by what they are asked for."""

    def __init__(self, runs: Sequence[Run]) -> None:
        if not runs:
            raise ValueError("need at least one run")
        self._metrics = {(run.model, run.augmented, run.seed, run.condition): run.metrics for run in runs}
        self._takes_joints = {run.model: run.takes_joints for run in runs}
        self.models = list(self._takes_joints)
        self.seeds = list(dict.fromkeys(run.seed for run in runs))
        self.trainings = sorted({run.augmented for run in runs})

    def values(self, model: str, augmented: bool, condition: TestCondition, metric: str) -> list[float]:
        """One a seed, in their order."""
        met = as_met(condition, self._takes_joints[model])
        return [self._metrics[model, augmented, seed, met][metric] for seed in self.seeds]


def format_report(runs: Sequence[Run], sweeps: Sequence[Sweep], note: str = "") -> str:
    """A Markdown table for each kind of training: conditions down, models and differences to the first model across.

    Args:
        runs: of every model, training, seed and condition.
        sweeps: the conditions.
        note: a sentence for below the tables.

    Raises:
        ValueError: no runs.
    """
    results = _Results(runs)
    first, *others = results.models
    head = ["test"]
    for metric in METRICS:
        head += [f"{metric}, {model}" for model in results.models]
        head += [f"{metric}, {model} − {first}" if len(others) > 1 else f"{metric}, difference" for model in others]
    parts = []
    for augmented in results.trainings:
        rows = []
        for condition in all_conditions(sweeps):
            row = [describe(condition)]
            for metric in METRICS:
                by_model = [results.values(model, augmented, condition, metric) for model in results.models]
                row += [_mean(values) for values in by_model]
                row += [
                    _mean([new - old for new, old in zip(values, by_model[0], strict=True)], "+")
                    for values in by_model[1:]
                ]
            rows.append(row)
        parts.append(f"Models {TRAININGS[augmented]}:\n\n{_markdown([head, *rows])}")
    spread = ": mean ± standard deviation over the seeds; differences are formed seed by seed"
    seeds = ", ".join(map(str, results.seeds))
    parts.append(f"Percent, seed{'s' if len(results.seeds) > 1 else ''} {seeds}{spread if ',' in seeds else ''}.")
    if any(results.trainings):
        chain = ", ".join(map(_transform, AUGMENTATION))
        parts.append(f"Augmentation, before the training transforms of the config: {chain}.")
    return "\n\n".join([*parts, note] if note else parts)


def _transform(settings: Any) -> str:
    values = dataclasses.asdict(settings)
    return f"{values.pop('type')} ({', '.join(f'{name} {value}' for name, value in values.items())})"


def _mean(values: Sequence[float], sign: str = "") -> str:
    mean = f"{statistics.fmean(values):{sign}.2f}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):.2f}"


def _markdown(rows: list[list[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    aligned = [[row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])] for row in (rows[0], rule, *rows[1:])]
    return "\n".join(f"| {' | '.join(row)} |" for row in aligned)


def draw_report(path: str | Path, runs: Sequence[Run], sweeps: Sequence[Sweep]) -> None:
    """Curves: a column for each sweep, a row for each training and metric.

    Raises:
        ValueError: no runs, or a suffix that is no picture's.
    """
    results = _Results(runs)
    rows = [
        [_panel(results, augmented, metric, sweep, many=len(results.trainings) > 1) for sweep in sweeps]
        for augmented in results.trainings
        for metric in METRICS
    ]
    draw_sweeps(path, rows)


def _panel(results: _Results, augmented: bool, metric: str, sweep: Sweep, many: bool) -> SweepPanel:
    columns = sweep.conditions()
    return SweepPanel(
        title=sweep.title,
        xlabel=sweep.axis,
        ylabel=f"{metric} (%)" + (f"\n{TRAININGS[augmented]}" if many else ""),
        strengths=100 * np.array(sweep.strengths),
        curves={
            model: np.transpose([results.values(model, augmented, condition, metric) for condition in columns])
            for model in results.models
        },
    )


def runs_as_json(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Plain types, one mapping a test."""
    return [dataclasses.asdict(run) for run in runs]
