"""IJB-S, whose release may not be passed on, by plain tables that are easily written from what its licensees have.

    ijbs/frames.csv                         image,template  or  image,template,x0,y0,...,x4,y4,score
    ijbs/<protocol>_gallery.csv             template,identity
    ijbs/<protocol>_probes.csv              template,identity; empty or -1 for who is not in the gallery

<protocol> is surveillance_to_single, surveillance_to_booking or surveillance_to_surveillance; those that are there are
read. Images are paths below the folder, with slashes, mostly `<template>/<frame>.jpg`. An image may be in several
templates, such as a booking's frontal photograph that is somebody's single image. Landmarks are fractions of the image
in the order of `common.FIVE_POINT_FACE`, the score is the detector's, in [0, 1]; a row may leave all of them empty.
Templates and identities are any text. A gallery has one template of an identity, but for surveillance_to_surveillance.
There, templates of the gallery may be probes too; such a probe is not to be compared with itself, and of an identity
that has no other template in the gallery it is to be -1.

Source of the protocols: Kalka et al., "IJB-S: IARPA Janus Surveillance Video Benchmark", BTAS 2018.

Shape letters: n images, F frames, T templates, g templates of a gallery, p probes.
"""

import csv
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.keypoints import check_fractions
from common.runtime.progress import progress_bar
from face.data.landmarks import Landmarks
from face.evaluation.images import FolderImages
from face.evaluation.listed_images import ListedImages
from face.evaluation.release_folders import check_parts, missing_parts

__all__ = ["NON_MATED", "PROTOCOLS", "IJBSProtocol", "IJBSSet", "open_ijbs"]

NON_MATED = -1
"""Label of probes that are of nobody in the gallery."""

PROTOCOLS = ("surveillance_to_single", "surveillance_to_booking", "surveillance_to_surveillance")

_LAYOUT = "IJB-S as tables"
_NUMBERS = [*(f"{axis}{point}" for point in range(5) for axis in "xy"), "score"]
_NO_MARK = (0.0,) * 10 + (-1.0,)


@dataclass(frozen=True, kw_only=True, eq=False)
class IJBSProtocol:
    """Which templates are looked for among which."""

    gallery_templates: np.ndarray
    """[g] int32, numbers of templates."""

    gallery_labels: np.ndarray
    """[g] int32, numbers of identities."""

    probe_templates: np.ndarray
    """[p] int32, numbers of templates. One that is in the gallery too is not to be compared with itself."""

    probe_labels: np.ndarray
    """[p] int32, numbers of identities, of which the gallery has (another) template; or `NON_MATED`."""


@dataclass(frozen=True, kw_only=True, eq=False)
class IJBSSet:
    """Frame i is image `frame_images[i]` in template `frame_templates[i]`."""

    images: FolderImages
    """n, each of them once, decoded when it is asked for."""

    landmarks: Landmarks | None
    """Of the images, with the detector's scores; None where the table has none."""

    frame_images: np.ndarray
    """[F] int64, numbers of images."""

    frame_templates: np.ndarray
    """[F] int32, numbers of templates, 0 to T - 1; each has a frame."""

    template_names: tuple[str, ...]
    """[T], what the tables call a template."""

    identity_names: tuple[str, ...]
    """What the tables call an identity, by label."""

    protocols: dict[str, IJBSProtocol]
    """By their names, of `PROTOCOLS`: one or more."""


def open_ijbs(folder: str | Path, *, progress: bool = False) -> IJBSSet:
    """Read all tables, and look for every image; none is decoded.

    Args:
        folder: with `frames.csv` and tables of protocols.
        progress: show a bar over the frames.

    Raises:
        FileNotFoundError: no folder, no `frames.csv`, no protocol, or one table of a protocol without the other.
        ValueError: tables with another header or rows that are not as shown above; an image twice in a template or
            not on the disk; landmarks that are in pixels or differ for one image; scores outside [0, 1]; templates
            without frames or twice in a table; identities that differ for one template, come twice in a gallery of
            one template each, or are looked for and not in the gallery. File and line are named.
    """
    folder = Path(folder)
    check_parts(folder, ["frames.csv"], _LAYOUT)
    tables = _protocol_tables(folder)
    frames = _read_frames(folder / "frames.csv", progress)
    templates = {name: number for number, name in enumerate(frames.template_names)}
    identities: dict[str, int] = {}
    known: dict[int, tuple[str, str]] = {}  # identity of a template, and where it is said
    protocols = {name: _read_protocol(name, *paths, templates, identities, known) for name, paths in tables.items()}
    return IJBSSet(
        images=ListedImages(folder, frames.images, folder / "frames.csv"),
        landmarks=frames.landmarks,
        frame_images=frames.frame_images,
        frame_templates=frames.frame_templates,
        template_names=frames.template_names,
        identity_names=tuple(identities),
        protocols=protocols,
    )


def _protocol_tables(folder: Path) -> dict[str, tuple[Path, Path]]:
    tables = {name: (folder / f"{name}_gallery.csv", folder / f"{name}_probes.csv") for name in PROTOCOLS}
    missing = {name: [path.name for path in paths if not path.is_file()] for name, paths in tables.items()}
    if halves := [path for paths in missing.values() if len(paths) == 1 for path in paths]:
        raise missing_parts(folder, halves, _LAYOUT)
    if all(missing.values()):
        raise missing_parts(folder, [" or ".join(f"{name}_gallery.csv" for name in PROTOCOLS)], _LAYOUT)
    return {name: paths for name, paths in tables.items() if not missing[name]}


def _rows(path: Path, headers: Sequence[Sequence[str]]) -> Iterator[tuple[int, list[str]]]:
    """Line and entries of each row of a table with one of some headers; entries may be empty."""
    with path.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
        reader = csv.reader(file)
        header = [entry.strip() for entry in next(reader, [])]
        if header not in [list(each) for each in headers]:
            expected = " or ".join(",".join(each) for each in headers)
            raise ValueError(f"{path}: the header must be {expected}, found {','.join(header)[:80] or 'no line'}")
        empty = True
        for row in reader:
            entries = [entry.strip() for entry in row]
            if not any(entries):
                continue
            if len(entries) != len(header) or not entries[0]:
                expected = f"{len(header)} entries ({','.join(header)})"
                raise ValueError(f"{path}, line {reader.line_num}: expected {expected}, found {','.join(row)[:80]!r}")
            yield reader.line_num, entries
            empty = False
    if empty:
        raise ValueError(f"{path}: it has no rows below the header")


@dataclass(frozen=True, kw_only=True, eq=False)
class _Frames:
    images: list[str]
    landmarks: Landmarks | None
    frame_images: np.ndarray
    frame_templates: np.ndarray
    template_names: tuple[str, ...]


def _read_frames(path: Path, progress: bool) -> _Frames:
    images: dict[str, int] = {}
    templates: dict[str, int] = {}
    # Millions of frames: arrays take a tenth of what lists of objects would.
    frames, lines, marks = array("q"), array("q"), array("f")
    has_landmarks = False
    rows = _rows(path, [["image", "template"], ["image", "template", *_NUMBERS]])
    for line, (image, template, *numbers) in progress_bar(
        rows, desc=f"reading {path.name}", unit="frame", disable=not progress
    ):
        where = f"{path}, line {line}"
        if not template:
            raise ValueError(f"{where}: {image} has no template")
        has_landmarks = bool(numbers)
        mark = array("f", _mark(numbers, where) if any(numbers) else _NO_MARK)
        index = images.setdefault(image, len(images))
        begin = index * len(mark)
        if begin == len(marks):
            marks.extend(mark)
        elif marks[begin : begin + len(mark)] != mark:
            raise ValueError(f"{where}: {image} has other landmarks here than above")
        frames.extend((index, templates.setdefault(template, len(templates))))
        lines.append(line)
    pairs = np.array(frames, np.int64).reshape(-1, 2)
    _, first, which = np.unique(pairs @ np.array([len(templates), 1]), return_index=True, return_inverse=True)
    if len(first) < len(pairs):
        again = int((first[which] != np.arange(len(pairs))).argmax())
        image, template = (list(names)[number] for names, number in zip((images, templates), pairs[again], strict=True))
        before = lines[int(first[which[again]])]
        raise ValueError(f"{path}, line {lines[again]}: {image} is in template {template} already (line {before})")
    return _Frames(
        images=list(images),
        landmarks=_landmarks(np.array(marks, np.float32), path) if has_landmarks else None,
        frame_images=pairs[:, 0].copy(),
        frame_templates=pairs[:, 1].astype(np.int32),
        template_names=tuple(templates),
    )


def _mark(numbers: Sequence[str], where: str) -> tuple[float, ...]:
    try:
        mark = tuple(map(float, numbers))
    except ValueError:
        found = ",".join(numbers)[:80]
        raise ValueError(f"{where}: expected landmarks and a score, all or none of them, found {found!r}") from None
    if not np.isfinite(mark).all():
        raise ValueError(f"{where}: a number is NaN or infinite")
    if not 0 <= mark[-1] <= 1:
        raise ValueError(f"{where}: scores must be from 0 to 1, found {mark[-1]:g}")
    return mark


def _landmarks(marks: np.ndarray, path: Path) -> Landmarks:
    values = marks.reshape(-1, len(_NUMBERS))
    found = values[:, -1] >= 0
    points, scores = values[:, :-1].reshape(-1, 5, 2).copy(), np.where(found, values[:, -1], 0).astype(np.float32)
    points[~found] = np.nan
    check_fractions(points[found], source=str(path))
    return Landmarks(points=points, scores=scores, found=found)


def _read_protocol(
    name: str,
    gallery_path: Path,
    probe_path: Path,
    templates: dict[str, int],
    identities: dict[str, int],
    known: dict[int, tuple[str, str]],
) -> IJBSProtocol:
    between_videos = name == PROTOCOLS[2]
    gallery = _read_members(gallery_path, templates, known)
    enrolled: dict[str, list[int]] = {}
    for template, (identity, where) in gallery.items():
        if identity is None:
            raise ValueError(f"{where}: a template of the gallery needs an identity")
        others = enrolled.setdefault(identity, [])
        if others and not between_videos:
            raise ValueError(f"{where}: identity {identity} is in the gallery already ({gallery[others[0]][1]})")
        others.append(template)
        identities.setdefault(identity, len(identities))
    probes = _read_members(probe_path, templates, known)
    for template, (identity, where) in probes.items():
        if template in gallery and not between_videos:
            raise ValueError(f"{where}: the probe is in the gallery too ({gallery[template][1]})")
        said = gallery[template][0] if identity is None and template in gallery else identity
        mates = [mate for mate in enrolled.get(said or "", []) if mate != template]
        if identity is None and mates:
            raise ValueError(f"{where}: the probe is said to be of nobody, but the gallery has templates of {said}")
        if identity is not None and not mates:
            raise ValueError(
                f"{where}: the gallery has no (other) template of identity {identity}; a probe of nobody in it has -1"
            )
    return IJBSProtocol(
        gallery_templates=np.array(list(gallery), np.int32),
        gallery_labels=np.array([identities[str(identity)] for identity, _ in gallery.values()], np.int32),
        probe_templates=np.array(list(probes), np.int32),
        probe_labels=np.array(
            [NON_MATED if identity is None else identities[identity] for identity, _ in probes.values()], np.int32
        ),
    )


def _read_members(
    path: Path, templates: dict[str, int], known: dict[int, tuple[str, str]]
) -> dict[int, tuple[str | None, str]]:
    """Identity of each template, None for -1 or nothing, and where it is said. `known` is added to."""
    members: dict[int, tuple[str | None, str]] = {}
    for line, (template, identity) in _rows(path, [["template", "identity"]]):
        where = f"{path}, line {line}"
        if template not in templates:
            raise ValueError(f"{where}: template {template} has no frame in frames.csv")
        number = templates[template]
        if number in members:
            raise ValueError(f"{where}: template {template} is in {members[number][1]} already")
        named = None if identity in ("", str(NON_MATED)) else identity
        if named is not None:
            before, place = known.setdefault(number, (named, where))
            if before != named:
                raise ValueError(f"{where}: template {template} is of {named}, but of {before} in {place}")
        members[number] = (named, where)
    return members
