"""Whole data sets of synthetic walkers in the raw layout of Gait3D or another set (layouts.py).

Beside the sequences, `partition.json` has TRAIN_SET and TEST_SET and, of Gait3D, PROBE_SET; `settings.json` says how
the set was made.

Every random number comes from a generator of its own for (seed, what for, subject, sequence): the bytes depend
neither on the number of processes nor on how many subjects there are.
"""

import json
import os
from contextlib import closing
from dataclasses import asdict
from enum import IntEnum
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from common.runtime.files import write_text
from common.runtime.progress import progress_bar
from common.runtime.synthesis import begun_by, check_new_folder
from common.runtime.workers import work_all
from plugin.synthesize.camera import draw_cameras, look
from plugin.synthesize.detector import crop_boxes, estimate_joints, occluder_polygons
from plugin.synthesize.layouts import LAYOUTS, Frame, Place
from plugin.synthesize.render import draw, joints_seen
from plugin.synthesize.settings import SynthesisSettings
from plugin.synthesize.walker import Subject, draw_subject, draw_take, walk

__all__ = [
    "NOTE",
    "Frame",
    "is_unfinished",
    "partition",
    "places",
    "render_sequence",
    "sequence_names",
    "subject_of",
    "synthesize",
]

NOTE = (
    "Synthetic walkers: drawn bodies, not people. They exist so that everything can be run and tested without "
    "a data set of people; results on them say nothing about accuracy on people."
)
MADE_BY = "python -m plugin.synthesize"
UNFINISHED = "no partition.json"
FRAMES_PER_SECOND = 25.0


class _For(IntEnum):
    """What a random generator is for."""

    CAMERAS = 0
    SUBJECT = 1
    PLAN = 2
    TAKE = 3
    FRAMES = 4
    ZOOM = 5
    CROPS = 6
    OCCLUDER = 7
    JOINTS = 8
    DROPS = 9
    PEOPLE = 10


def _generator(seed: int, purpose: _For, subject: int = 0, sequence: int = 0) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(purpose, subject, sequence)))


def subject_of(settings: SynthesisSettings, subject: int) -> Subject:
    """The body and gait of subject number `subject`; depends on the seed alone."""
    return draw_subject(_generator(settings.seed, _For.SUBJECT, subject))


def places(settings: SynthesisSettings, subject: int) -> list[Place]:
    """Folder and camera of each of a subject's sequences."""
    layout, train = LAYOUTS[settings.layout], subject < settings.train_subjects
    rng = _generator(settings.seed, _For.PLAN, subject)
    name = layout.subject_id(subject, train)
    return layout.places(name, train, settings.cameras, settings.sequences_per_subject, rng)


def sequence_names(settings: SynthesisSettings, subject: int) -> list[tuple[str, str, str]]:
    """(ID, type, view) of a subject's sequences."""
    return [place.folder for place in places(settings, subject)]


def partition(settings: SynthesisSettings) -> dict[str, list[str]]:
    """TRAIN_SET and TEST_SET ids and, where the set names its probes, PROBE_SET as "ID-TYPE-VIEW"."""
    layout, split = LAYOUTS[settings.layout], settings.train_subjects
    ids = [layout.subject_id(subject, subject < split) for subject in range(settings.subjects)]
    parts = {"TRAIN_SET": ids[:split], "TEST_SET": [*ids[split:], *(layout.others if ids[split:] else ())]}
    if layout.named_probes:
        parts["PROBE_SET"] = [
            "-".join(name)
            for subject in range(split, settings.subjects)
            for name in sequence_names(settings, subject)[: settings.probes_per_subject]
        ]
    return parts


def _frame_numbers(settings: SynthesisSettings, rng: np.random.Generator) -> NDArray[np.int64]:
    """Rising frame numbers with a gap here and there; some runs cross a power of ten, where names sort wrongly."""
    mean = settings.frames
    count = int(rng.integers(max(1, round(0.7 * mean)), round(1.3 * mean) + 1))
    steps = np.where(rng.random(count) < 0.04, rng.integers(2, 6, count), 1)
    steps[0] = 0
    start, crosses = int(rng.integers(100, 30000)), rng.random() < 0.15
    if crosses:
        start = int(rng.choice([1000, 10000])) - int(rng.integers(1, max(2, count)))
    return start + np.cumsum(steps)


def render_sequence(settings: SynthesisSettings, subject: int, sequence: int) -> list[Frame]:
    """All frames of one sequence.

    Args:
        settings: of the data set.
        subject: number of the subject, from 0.
        sequence: number of the sequence of that subject, from 0.

    Raises:
        ValueError: no such subject or sequence in this data set.
    """
    for name, value, end in (
        ("subject", subject, settings.subjects),
        ("sequence", sequence, len(places(settings, subject))),
    ):
        if not 0 <= value < end:
            raise ValueError(f"{name} must be in 0..{end - 1}, got {value}")

    def rng(purpose: _For) -> np.random.Generator:
        return _generator(settings.seed, purpose, subject, sequence)

    numbers = _frame_numbers(settings, rng(_For.FRAMES))
    times = (numbers - numbers[0]) / FRAMES_PER_SECOND
    zoom_rng = rng(_For.ZOOM)
    size, nearing = zoom_rng.uniform(0.93, 1.07), zoom_rng.uniform(-0.1, 0.1)
    zoom = size * np.exp(np.linspace(-nearing, nearing, len(numbers)))
    cameras = draw_cameras(_generator(settings.seed, _For.CAMERAS), settings.cameras)
    camera = cameras[places(settings, subject)[sequence].camera]
    view = look(camera, walk(subject_of(settings, subject), draw_take(rng(_For.TAKE)), times), zoom)

    boxes = crop_boxes(view, settings.miscrop, rng(_For.CROPS))
    occluders = occluder_polygons(view, settings.occlusion, rng(_For.OCCLUDER))
    silhouettes, seen = [], []
    for index, (box, occluder) in enumerate(zip(boxes, occluders, strict=True)):
        silhouette, labels = draw(view, index, box, occluder)
        silhouettes.append(silhouette)
        seen.append(joints_seen(view, index, box, labels))
    joints = estimate_joints(view, boxes, np.stack(seen), settings.pose_noise, settings.missed_joints, rng(_For.JOINTS))
    lost, of_pose = rng(_For.DROPS).random((2, len(numbers)))
    lost_pose = (lost < settings.drop_frames) & (of_pose < 0.5)
    lost_silhouette = (lost < settings.drop_frames) & (of_pose >= 0.5)
    return [
        Frame(
            number=int(number),
            size_wh=(int(boxes[index, 2]), int(boxes[index, 3])),
            silhouette=None if lost_silhouette[index] else silhouettes[index],
            joints=None if lost_pose[index] else joints[index],
        )
        for index, number in enumerate(numbers)
    ]


def _write_sequence(settings: SynthesisSettings, out: Path, task: tuple[int, int]) -> int:
    """Render and write one sequence; returns its number of frames."""
    subject, sequence = task
    folder = places(settings, subject)[sequence].folder
    frames = render_sequence(settings, subject, sequence)
    LAYOUTS[settings.layout].write(out, folder, frames, _generator(settings.seed, _For.PEOPLE, subject, sequence))
    return len(frames)


def is_unfinished(out: Path) -> bool:
    """Whether `out` holds a set that was begun and lacks its partition.json, which is written last."""
    begun = begun_by(out, MADE_BY)
    return begun is not None and not (out / "partition.json").exists()


def synthesize(
    settings: SynthesisSettings, out: str | Path, *, workers: int | None = None, progress: bool = False
) -> Path:
    """Write a data set of synthetic walkers.

    Args:
        settings: what to make.
        out: folder to make; it may exist if it is empty.
        workers: processes; None for one a core. A script that calls this with more than one needs the usual
            `if __name__ == "__main__":`.
        progress: show a bar over the sequences.

    Returns:
        `out`, holding the set's folders, settings.json and, written last, partition.json.

    Raises:
        ValueError: workers below 1, or more cameras than the set has names for.
        FileExistsError: `out` is a file, or a folder that is not empty. Nothing is written then.
        OSError: `out` cannot be written (any more); a set without partition.json is not whole.
        BrokenProcessPool: a worker process died, killed for its memory perhaps.
    """
    out = Path(out)
    workers = (os.cpu_count() or 1) if workers is None else workers
    if workers < 1:
        raise ValueError(f"workers must be >= 1, got {workers}")
    most = LAYOUTS[settings.layout].most_cameras
    if settings.cameras > most:
        raise ValueError(f"cameras must be <= {most} for {settings.layout}, which names so many views")
    check_new_folder(out, is_unfinished(out), UNFINISHED)
    out.mkdir(parents=True, exist_ok=True)
    record = {"made_by": MADE_BY, "note": NOTE, "settings": asdict(settings)}
    write_text(out / "settings.json", json.dumps(record, indent=2) + "\n")
    tasks = [(s, q) for s in range(settings.subjects) for q in range(len(places(settings, s)))]
    with (
        progress_bar(total=len(tasks), unit="sequence", disable=not progress) as bar,
        closing(work_all(partial(_write_sequence, settings, out), tasks, workers)) as written,
    ):
        for _ in written:
            bar.update()
    write_text(out / "partition.json", json.dumps(partition(settings), indent=2) + "\n")
    return out
