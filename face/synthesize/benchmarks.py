"""Small synthetic benchmarks in every layout that face.evaluation reads, for trying it out and for tests.

    out/benchmarks/lfw.bin, cfp_fp.bin, agedb_30.bin, calfw.bin, cplfw.bin, and .bin.csv of each
    out/benchmarks/tinyface/                                   see benchmark_images.py
    out/benchmarks/IJBB/, IJBC/, ijbs/                         see benchmark_templates.py

All of them are of the same few identities, but no scene is in two of them. The names say which layout it is, not what
is in it: numbers on these sets say nothing about the benchmarks whose names they bear.
"""

from collections import defaultdict
from collections.abc import Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from common.runtime.progress import progress_bar
from common.runtime.workers import work_all
from face.synthesize.benchmark_images import (
    BINS,
    draw_bin_images,
    draw_tinyface,
    finish_bin,
    finish_tinyface,
    tinyface_identities,
)
from face.synthesize.benchmark_templates import (
    IJBMedium,
    draw_ijb_media,
    draw_ijbs_templates,
    finish_ijb,
    finish_ijbs,
    ijbs_identities,
    plan_ijb,
)
from face.synthesize.settings import SynthesisSettings

__all__ = ["BENCHMARKS", "write_benchmarks"]

_FOLDERS = {"tinyface": "tinyface/Testing_Set", "ijbb": "IJBB", "ijbc": "IJBC", "ijbs": "ijbs"}
BENCHMARKS = (*BINS, *_FOLDERS)
_SCENES = 1000  # numbers of an identity's scenes in each


class _Task(NamedTuple):
    """The images of one identity in a benchmark."""

    benchmark: str
    first: int
    """Number of the first scene."""
    identity: int
    media: tuple[IJBMedium, ...] = ()
    """Of IJB-B and IJB-C."""


def write_benchmarks(settings: SynthesisSettings, out: str | Path, *, workers: int = 1, progress: bool = False) -> None:
    """Write all of them.

    Args:
        settings: how many identities, how many frames of a video, and of what poses and cameras.
        out: where; the folder `benchmarks` in it is made.
        workers: processes; they change nothing but the speed.
        progress: show a bar.

    Raises:
        OSError: something cannot be written.
        BrokenProcessPool: a worker process died.
    """
    root = Path(out) / "benchmarks"
    root.mkdir()
    plans = {name: plan_ijb(settings, BENCHMARKS.index(name), _first(name)) for name in ("ijbb", "ijbc")}
    tasks = [task for name in BENCHMARKS for task in _tasks(settings, name, plans.get(name, ()))]
    drawn: dict[str, dict[int, Any]] = defaultdict(dict)
    with (
        progress_bar(total=len(tasks), unit="task", disable=not progress) as bar,
        closing(work_all(partial(_draw, settings, root), tasks, workers)) as done,
    ):
        for task, found in done:
            drawn[task.benchmark][task.identity] = found
            bar.update()
    for number, name in enumerate(BENCHMARKS):
        parts = [drawn[name][identity] for identity in sorted(drawn[name])]
        rows = [row for part in parts for row in part]
        if name in BINS:
            finish_bin(settings, root / f"{name}.bin", number, parts)
        elif name == "tinyface":
            finish_tinyface(root / _FOLDERS[name], rows)
        elif name == "ijbs":
            finish_ijbs(settings, root / _FOLDERS[name], rows)
        else:
            finish_ijb(root / _FOLDERS[name], name, plans[name], rows)


def _first(name: str) -> int:
    return _SCENES * BENCHMARKS.index(name)


def _tasks(settings: SynthesisSettings, name: str, plan: Sequence[IJBMedium]) -> list[_Task]:
    counts = {"tinyface": tinyface_identities, "ijbs": ijbs_identities}
    count = counts[name](settings) if name in counts else settings.benchmark_identities
    media: list[list[IJBMedium]] = [[] for _ in range(count)]
    for medium in plan:
        media[medium.identity].append(medium)
    return [_Task(name, _first(name), identity, tuple(media[identity])) for identity in range(count)]


def _draw(settings: SynthesisSettings, root: Path, task: _Task) -> tuple[_Task, Any]:
    name, first, identity, media = task
    if name in BINS:
        return task, draw_bin_images(settings, name, first, identity)
    folder = root / _FOLDERS[name]
    if name == "tinyface":
        return task, draw_tinyface(settings, folder, first, identity)
    if name == "ijbs":
        return task, draw_ijbs_templates(settings, folder, first, identity)
    return task, draw_ijb_media(settings, folder / "loose_crop", media)
