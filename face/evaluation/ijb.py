"""IJB-B and IJB-C in the layout that insightface's metadata has, and that nearly everybody has them in.

    IJBC/loose_crop/<image>.jpg                 faces cut out loosely, of all sizes, not aligned
    IJBC/meta/ijbc_face_tid_mid.txt             image template medium
    IJBC/meta/ijbc_name_5pts_score.txt          image x0 y0 ... x4 y4 score, in the same order
    IJBC/meta/ijbc_template_pair_label.txt      template template 1 or 0, the pairs of 1:1
    IJBC/meta/ijbc_1N_gallery_G1.csv, ..._G2.csv, ijbc_1N_probe_mixed.csv
                                                TEMPLATE_ID,SUBJECT_ID,... (1:N; may be absent, all three)

IJB-B has ijbb and, for its galleries, S1 and S2 in these names.

Source: deepinsight/insightface@7fadd42, recognition/arcface_torch/eval_ijbc.py (1:1) and
recognition/_evaluation_/ijb/ijb_1n.py (1:N).
Deliberate difference: everything is checked before the first image is read. As there, lists of 1:N may name a template
on several lines, one for each of its images as NIST's do; here these must agree about its subject.

Coordinates: landmarks are pixel-index coordinates of their image, in the order of `common.FIVE_POINT_FACE`. Fractions
would need the sizes of all images, which no list has; see `marked_images`.
Shape letters: n images, P pairs, g templates of a gallery.
"""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from face.evaluation.images import FolderImages
from face.evaluation.listed_images import ListedImages
from face.evaluation.marked_images import AlignedImages, UnalignedImages
from face.evaluation.number_tables import read_integers, read_named_numbers
from face.evaluation.release_folders import check_folder, check_parts, missing_parts
from face.reference import REFERENCE_SIZE

__all__ = ["IJBPairs", "IJBSearch", "IJBSet", "IJBTemplates", "open_ijb"]

_GALLERIES = {"ijbb": ("S1", "S2"), "ijbc": ("G1", "G2")}
_COLUMNS = ("TEMPLATE_ID", "SUBJECT_ID")


@dataclass(frozen=True, kw_only=True, eq=False)
class IJBPairs:
    """1:1: which templates are compared."""

    a: np.ndarray
    """[P] int32, ids of templates."""

    b: np.ndarray
    """[P] int32, ids of those that they are compared with."""

    same: np.ndarray
    """[P] bool: whether the two are of one subject."""


@dataclass(frozen=True, kw_only=True, eq=False)
class IJBTemplates:
    """Templates of a gallery, or probes."""

    templates: np.ndarray
    """[g] int32, ids, ascending."""

    subjects: np.ndarray
    """[g] int32, ids."""


@dataclass(frozen=True, kw_only=True, eq=False)
class IJBSearch:
    """1:N: who is looked for, and among whom."""

    galleries: tuple[IJBTemplates, IJBTemplates]
    """G1 and G2 (IJB-B: S1 and S2). A subject has one template in the two together."""

    probes: IJBTemplates
    """Each of a subject that one of the galleries has; no template is in a gallery too."""


@dataclass(frozen=True, kw_only=True, eq=False)
class IJBSet:
    """Image i is in template `templates[i]`, and there of medium `medias[i]`."""

    which: Literal["ijbb", "ijbc"]
    """Which of the two it is."""

    images: FolderImages
    """n, not aligned, of different sizes, decoded when they are asked for."""

    landmarks_px: np.ndarray
    """[n, 5, 2] float32, pixel-index coordinates of each image."""

    scores: np.ndarray
    """[n] float32 >= 0, the face detector's."""

    templates: np.ndarray
    """[n] int32, ids."""

    medias: np.ndarray
    """[n] int32, ids: stills, and videos, of which several images are frames."""

    pairs: IJBPairs
    """Of templates that have images."""

    search: IJBSearch | None
    """Of templates that have images; None where the folder has none of the lists of 1:N."""

    def aligned(self, out_hw: tuple[int, int] = (REFERENCE_SIZE, REFERENCE_SIZE)) -> AlignedImages:
        """The images aligned by their landmarks, as the public scripts embed them. See there for errors."""
        return AlignedImages(self.images, self.landmarks_px, out_hw)

    def unaligned(self) -> UnalignedImages:
        """The images as they are, each with its landmarks."""
        return UnalignedImages(self.images, self.landmarks_px)


def open_ijb(folder: str | Path, which: Literal["ijbb", "ijbc"] | None = None, *, progress: bool = False) -> IJBSet:
    """Read all lists, and look for every image; none is decoded.

    Args:
        folder: with `loose_crop` and `meta`.
        which: of the two; None finds out by the names of the lists.
        progress: show a bar over the list of pairs.

    Raises:
        FileNotFoundError: no folder, or files that are not in it, all of them; some of the lists of 1:N without the
            others.
        ValueError: a list with another number of entries on a line, or with something else than numbers; lists of
            different length or order; an image twice or not on the disk; pairs or lists of 1:N with templates without
            images, labels other than 1 and 0, a subject twice in the galleries or probes of one that they lack. File
            and line are named.
    """
    folder = Path(folder)
    which = _which(folder) if which is None else which
    if which not in _GALLERIES:
        raise ValueError(f"which must be ijbb or ijbc, got {which!r}")
    meta = folder / "meta"
    members, marks, pair_list = (
        meta / f"{which}_{name}.txt" for name in ("face_tid_mid", "name_5pts_score", "template_pair_label")
    )
    parts = ["loose_crop/", *(f"meta/{path.name}" for path in (members, marks, pair_list))]
    check_parts(folder, parts, f"{which.upper()} in insightface's layout")
    search_lists = _search_lists(meta, which)
    names, ids = read_named_numbers(members, 2, whole=True)
    marked, values = read_named_numbers(marks, 11, whole=False)
    _check_names(members, names, marks, marked)
    if (values[:, 10] < 0).any():
        line = int((values[:, 10] < 0).argmax())
        raise ValueError(f"{marks}, line {line + 1}: scores must be >= 0, found {values[line, 10]:g}")
    images = ListedImages(folder / "loose_crop", names, members)
    templates, medias = ids.T.copy()
    known = np.unique(templates)
    return IJBSet(
        which=which,
        images=images,
        landmarks_px=values[:, :10].astype(np.float32).reshape(-1, 5, 2),
        scores=values[:, 10].astype(np.float32),
        templates=templates,
        medias=medias,
        pairs=_read_pairs(pair_list, known, members, progress),
        search=_read_search(search_lists, known, members) if search_lists else None,
    )


def _which(folder: Path) -> Literal["ijbb", "ijbc"]:
    layout = "IJB-B or IJB-C in insightface's layout"
    check_folder(folder, layout)
    names: tuple[Literal["ijbb", "ijbc"], ...] = ("ijbb", "ijbc")
    found = [name for name in names if (folder / f"meta/{name}_face_tid_mid.txt").is_file()]
    if not found:
        raise missing_parts(folder, [" or ".join(f"meta/{name}_face_tid_mid.txt" for name in names)], layout)
    if len(found) > 1:
        raise ValueError(f"{folder / 'meta'}: has the lists of both IJB-B and IJB-C; name the one that is meant")
    return found[0]


def _check_names(members: Path, names: Sequence[str], marks: Path, marked: Sequence[str]) -> None:
    if len(names) != len(marked):
        raise ValueError(f"{members} has {len(names)} images, {marks} has {len(marked)}: expected the same ones")
    if names != marked:
        line = next(line for line, pair in enumerate(zip(names, marked, strict=True)) if pair[0] != pair[1])
        raise ValueError(
            f"{marks}, line {line + 1}: image {marked[line]}, but {members.name} has {names[line]} on that line"
        )
    if len(set(names)) < len(names):
        first: dict[str, int] = {}
        for line, name in enumerate(names, start=1):
            if first.setdefault(name, line) != line:
                raise ValueError(f"{members}, line {line}: image {name} is on line {first[name]} already")


def _read_pairs(path: Path, known: np.ndarray, members: Path, progress: bool) -> IJBPairs:
    a, b, label = read_integers(path, 3, progress)
    strange = label > 1
    if strange.any():
        line = int(strange.argmax())
        raise ValueError(f"{path}, line {line + 1}: labels must be 1 (same) or 0, found {label[line]}")
    for side in (a, b):
        absent = ~np.isin(side, known)
        if absent.any():
            line = int(absent.argmax())
            raise ValueError(f"{path}, line {line + 1}: template {side[line]} has no image in {members.name}")
    return IJBPairs(a=a, b=b, same=label == 1)


def _search_lists(meta: Path, which: str) -> list[Path]:
    """Two galleries and the probes; nothing where none of them is there."""
    paths = [meta / f"{which}_1N_{name}.csv" for name in (*(f"gallery_{x}" for x in _GALLERIES[which]), "probe_mixed")]
    missing = [path.name for path in paths if not path.is_file()]
    if missing and len(missing) < len(paths):
        raise FileNotFoundError(f"{meta}: expected all lists of 1:N or none, not there: {', '.join(missing)}")
    return [] if missing else paths


def _read_search(paths: Sequence[Path], known: np.ndarray, members: Path) -> IJBSearch:
    places: dict[int, str] = {}  # of subjects, in the galleries
    taken: dict[int, str] = {}  # of templates
    lists = []
    for number, path in enumerate(paths):
        templates: dict[int, int] = {}
        for line, template, subject in _read_ids(path):
            where = f"{path}, line {line}"
            if template in templates:
                if templates[template] != subject:
                    raise ValueError(f"{where}: template {template} of subject {subject}, above {templates[template]}")
                continue
            if template in taken:
                raise ValueError(f"{where}: template {template} is in {taken[template]} already")
            if number < 2 and subject in places:
                raise ValueError(f"{where}: subject {subject} is in a gallery already ({places[subject]})")
            if number == 2 and subject not in places:
                raise ValueError(f"{where}: probe {template} is of subject {subject}, which no gallery has")
            templates[template] = subject
            taken[template] = where
            if number < 2:
                places[subject] = where
        ids = np.array(sorted(templates.items()), np.int32)
        absent = ids[~np.isin(ids[:, 0], known), 0].tolist()
        if absent:
            shown = ", ".join(taken[template].rpartition(", ")[2] + f" ({template})" for template in absent[:5])
            raise ValueError(
                f"{path}: {len(absent)} of {len(ids)} templates have no image in {members.name}, first: {shown}"
            )
        lists.append(IJBTemplates(templates=ids[:, 0].copy(), subjects=ids[:, 1].copy()))
    return IJBSearch(galleries=(lists[0], lists[1]), probes=lists[2])


def _read_ids(path: Path) -> list[tuple[int, int, int]]:
    """Line, template and subject of each row."""
    with path.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
        reader = csv.reader(file)
        header = [entry.strip().upper() for entry in next(reader, [])]
        if not set(_COLUMNS) <= set(header):
            found = ",".join(header)[:80] or "no line"
            raise ValueError(f"{path}: the header must have {' and '.join(_COLUMNS)}, found {found}")
        places = [header.index(column) for column in _COLUMNS]
        rows = []
        for row in reader:
            if not any(map(str.strip, row)):
                continue
            ids = [row[place].strip() if place < len(row) else "" for place in places]
            if not all(each.isascii() and each.isdecimal() and int(each) < 1 << 31 for each in ids):
                expected = "whole numbers for template and subject"
                raise ValueError(f"{path}, line {reader.line_num}: expected {expected}, found {','.join(row)[:80]!r}")
            rows.append((reader.line_num, int(ids[0]), int(ids[1])))
    if not rows:
        raise ValueError(f"{path}: it has no rows below the header")
    return rows
