"""Whole data sets of synthetic faces.

    out/train/<identity>/<image>.jpg, landmarks.csv
    out/records/train.rec, train.idx, property, train.tsv, ldmk_5points.csv     the same images
    out/test/{aligned,unaligned}/<identity>/<image>.png, landmarks.csv, pairs.csv, gallery.csv, probe.csv
    out/test/{aligned,unaligned}.bin, .bin.csv                                  the same pairs; landmarks by position
    out/wider/                                                                  see wider.py
    out/benchmarks/                                                             see benchmarks.py
    out/settings.json                                                           how the set was made

Tables: `pairs.csv` has image1,image2,same (1 or 0), ten folds in order; `gallery.csv` and `probe.csv` have
image,identity. Images are named by their path below the table's folder. Landmarks are fractions of the image.
"""

import json
import os
import shutil
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from common.runtime.files import write_bytes, write_text
from common.runtime.progress import progress_bar
from common.runtime.synthesis import begun_by, check_new_folder
from common.runtime.workers import work_all
from face.data.landmarks import write_cvlface_landmarks, write_landmarks
from face.data.records import RecordWriter
from face.synthesize.benchmarks import write_benchmarks
from face.synthesize.images import Purpose, Split, crop_scene, face_of, generator, render_scene
from face.synthesize.protocols import Pair, draw_gallery, draw_pairs
from face.synthesize.settings import SynthesisSettings
from face.synthesize.wider import write_wider

__all__ = ["NOTE", "is_unfinished", "synthesize"]

NOTE = (
    "Synthetic faces: drawn, not photographed. They exist so that everything can be run and tested without "
    "a data set of people; results on them say nothing about real faces."
)
MADE_BY = "python -m face.synthesize"
UNFINISHED = "settings.json says so"
JPEG_QUALITY = 92
KINDS = ("aligned", "unaligned")

_Points = dict[str, np.ndarray]
"""[images, 5, 2] fractions for each kind of crop of one identity."""


class _Identity(NamedTuple):
    split: Split
    number: int

    @property
    def name(self) -> str:
        return f"{self.split.name.lower()}{self.number:05d}"


def _kinds(settings: SynthesisSettings, split: Split) -> tuple[str, ...]:
    return KINDS if split == Split.TEST or settings.train_crops == "both" else (settings.train_crops,)


def _image_name(settings: SynthesisSettings, who: _Identity, image: int, kind: str) -> str:
    """Below the folder of the split or, of test images, of the kind."""
    marked = f"_{kind}" if who.split == Split.TRAIN and settings.train_crops == "both" else ""
    return f"{who.name}/{image:04d}{marked}.{settings.train_format if who.split == Split.TRAIN else 'png'}"


def _root(out: Path, split: Split, kind: str) -> Path:
    return out / "train" if split == Split.TRAIN else out / "test" / kind


def _count(settings: SynthesisSettings, split: Split) -> int:
    return settings.images_per_identity if split == Split.TRAIN else settings.test_images_per_identity


def _encode(image: np.ndarray, suffix: str) -> bytes:
    # Level 1 makes PNGs a tenth larger than the default and is several times as fast.
    options = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY] if suffix == ".jpg" else [cv2.IMWRITE_PNG_COMPRESSION, 1]
    return cv2.imencode(suffix, image[..., ::-1], options)[1].tobytes()


def _write_identity(settings: SynthesisSettings, out: Path, who: _Identity) -> tuple[_Identity, _Points]:
    """Render and write the images of one identity."""
    kinds = _kinds(settings, who.split)
    face = face_of(settings, who.split, who.number)
    points: dict[str, list[np.ndarray]] = {kind: [] for kind in kinds}
    for kind in kinds:
        (_root(out, who.split, kind) / who.name).mkdir(parents=True, exist_ok=True)
    for image in range(_count(settings, who.split)):
        scene = render_scene(settings, who.split, who.number, image, face)
        for kind in kinds:
            crop = crop_scene(settings, scene, kind, who.split, who.number, image)
            path = _root(out, who.split, kind) / _image_name(settings, who, image, kind)
            write_bytes(path, _encode(crop.image, path.suffix))
            points[kind].append(crop.landmarks)
    return who, {kind: np.stack(found) for kind, found in points.items()}


def _write_train(settings: SynthesisSettings, out: Path, landmarks: dict[_Identity, _Points]) -> None:
    root, kinds = out / "train", _kinds(settings, Split.TRAIN)
    people = [_Identity(Split.TRAIN, number) for number in range(settings.identities)]
    images = [(who, image, kind) for who in people for image in range(settings.images_per_identity) for kind in kinds]
    names = [_image_name(settings, *each) for each in images]
    points = np.stack([landmarks[who][kind][image] for who, image, kind in images])
    write_landmarks(root / "landmarks.csv", names, points)
    if "records" in settings.parts:
        side = settings.crop_size
        with RecordWriter(out / "records", image_hw=(side, side)) as writer:
            for (who, _, _), name in zip(images, names, strict=True):
                writer.write((root / name).read_bytes(), label=who.number, name=name)
        write_cvlface_landmarks(out / "records" / "ldmk_5points.csv", points)


def _write_test(settings: SynthesisSettings, out: Path, landmarks: dict[_Identity, _Points]) -> None:
    people = [_Identity(Split.TEST, number) for number in range(settings.test_identities)]
    size = settings.test_identities, settings.test_images_per_identity
    pairs = draw_pairs(generator(settings.seed, Purpose.PAIRS, Split.TEST), *size, settings.pairs)
    gallery, probes = draw_gallery(generator(settings.seed, Purpose.GALLERY, Split.TEST), *size)

    def name(image: tuple[int, int]) -> str:
        return _image_name(settings, people[image[0]], image[1], "aligned")

    for kind in KINDS:
        root = out / "test" / kind
        images = [(who.number, image) for who in people for image in range(size[1])]
        points = np.concatenate([landmarks[who][kind] for who in people])
        write_landmarks(root / "landmarks.csv", [name(image) for image in images], points)
        rows = [f"{name(pair.first)},{name(pair.second)},{int(pair.same)}" for pair in pairs]
        write_text(root / "pairs.csv", "\n".join(["image1,image2,same", *rows]) + "\n")
        for table, listed in (("gallery", gallery), ("probe", probes)):
            rows = [f"{name(image)},{people[image[0]].name}" for image in listed]
            write_text(root / f"{table}.csv", "\n".join(["image,identity", *rows]) + "\n")
        if "bins" in settings.parts:
            ends = [end for pair in pairs for end in (pair.first, pair.second)]
            _write_bin(root, [name(end) for end in ends], pairs, np.stack([points[a * size[1] + b] for a, b in ends]))


def _write_bin(root: Path, names: Sequence[str], pairs: Sequence[Pair], points: np.ndarray) -> None:
    from face.evaluation.bins import write_bin  # it brings the models along, which no worker process needs

    path = root.with_name(f"{root.name}.bin")
    write_bin(path, [(root / name).read_bytes() for name in names], [pair.same for pair in pairs])
    write_landmarks(path.with_name(f"{path.name}.csv"), [str(place) for place in range(len(names))], points)


def is_unfinished(out: Path) -> bool:
    """Whether `out` holds a set that was begun and is not whole: its settings.json says which."""
    begun = begun_by(out, MADE_BY)
    return begun is not None and begun.get("complete") is False


def _write_record(settings: SynthesisSettings, out: Path, complete: bool) -> None:
    fields = asdict(settings)
    for part, mark in (("wider", "photograph"), ("benchmarks", "benchmark")):
        if part not in settings.parts:
            fields = {name: value for name, value in fields.items() if mark not in name}
    record = {"made_by": MADE_BY, "note": NOTE, "complete": complete, "settings": fields}
    write_text(out / "settings.json", json.dumps(record, indent=2) + "\n")


def synthesize(
    settings: SynthesisSettings, out: str | Path, *, workers: int | None = None, progress: bool = False
) -> Path:
    """Write a data set of synthetic faces.

    Args:
        settings: what to make.
        out: folder to make; it may exist if it is empty.
        workers: processes; None for one a core. A script that calls this with more than one needs the usual
            `if __name__ == "__main__":`.
        progress: show a bar over the identities.

    Returns:
        `out`; its settings.json is written first and again, with `complete` true, last.

    Raises:
        ValueError: workers below 1.
        FileExistsError: `out` is a file, or a folder that is not empty. Nothing is written then.
        OSError: `out` cannot be written (any more).
        BrokenProcessPool: a worker process died, killed for its memory perhaps.
    """
    out = Path(out)
    workers = (os.cpu_count() or 1) if workers is None else workers
    if workers < 1:
        raise ValueError(f"workers must be >= 1, got {workers}")
    check_new_folder(out, is_unfinished(out), UNFINISHED)
    out.mkdir(parents=True, exist_ok=True)
    _write_record(settings, out, complete=False)
    if "wider" in settings.parts:
        write_wider(settings, out, workers=workers, progress=progress)
    if "benchmarks" in settings.parts:
        write_benchmarks(settings, out, workers=workers, progress=progress)
    if settings.writes_identities:
        _write_identities(settings, out, workers, progress)
    _write_record(settings, out, complete=True)
    return out


def _write_identities(settings: SynthesisSettings, out: Path, workers: int, progress: bool) -> None:
    tasks = [_Identity(Split.TRAIN, number) for number in range(settings.identities)]
    tasks += [_Identity(Split.TEST, number) for number in range(settings.test_identities)]
    landmarks = {}
    with (
        progress_bar(total=len(tasks), unit="identity", disable=not progress) as bar,
        closing(work_all(partial(_write_identity, settings, out), tasks, workers)) as written,
    ):
        for who, points in written:
            landmarks[who] = points
            bar.update()
    if settings.identities:
        _write_train(settings, out, landmarks)
    if settings.test_identities:
        _write_test(settings, out, landmarks)
    if "folders" not in settings.parts:  # they were what the others are packed from
        for folder in (out / "train", *(out / "test" / kind for kind in KINDS)):
            if folder.exists():
                shutil.rmtree(folder)
        if settings.test_identities and "bins" not in settings.parts:
            (out / "test").rmdir()
