"""Synthetic benchmarks of templates: IJB-B and IJB-C in insightface's layout, IJB-S as our tables.

    IJBB/loose_crop/<n>.jpg, IJBB/meta/ijbb_*.txt and .csv           IJBC: the same; see face.evaluation.ijb
    ijbs/<template>/<n>.jpg, ijbs/frames.csv, ijbs/<protocol>_{gallery,probes}.csv    see face.evaluation.ijbs

A still is a scene; the frames of a video are crops of one scene, placed and sized anew each time.
"""

import dataclasses
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from common.runtime.files import write_bytes, write_text
from face.synthesize.images import Purpose, Split, generator
from face.synthesize.loose_crops import LooseCrop, draw_loose_crops, encode_jpeg
from face.synthesize.settings import SynthesisSettings

__all__ = [
    "IJBMedium",
    "IJBSFrame",
    "draw_ijb_media",
    "draw_ijbs_templates",
    "finish_ijb",
    "finish_ijbs",
    "ijbs_identities",
    "plan_ijb",
]

_LOOSE = (60, 200)  # heights in pixels
_WATCHED = (24, 64)  # of surveillance videos
_GALLERIES = {"ijbb": ("S1", "S2"), "ijbc": ("G1", "G2")}
_TEMPLATES = (2, 0), (1, 1), (0, 1), (1, 0)  # stills and videos of each; the first one is the gallery's
_BOOKING = 3  # photographs
_VIDEOS = 3  # of somebody who is enrolled, two of them in the gallery of surveillance_to_surveillance


class IJBMedium(NamedTuple):
    """A still or a video of an identity in one of its templates."""

    identity: int
    place: int
    """Of the template among those of the identity; 0 is the gallery's."""
    template: int
    medium: int
    scene: int
    names: tuple[str, ...]
    """Of its images."""


def plan_ijb(settings: SynthesisSettings, number: int, first: int) -> list[IJBMedium]:
    """What there is to draw, by template.

    Args:
        settings: of the set.
        number: of the benchmark.
        first: number of an identity's first scene.
    """
    rng = generator(settings.seed, Purpose.GALLERY, Split.BENCHMARK, number)
    templates = rng.permutation(settings.benchmark_identities * len(_TEMPLATES)) + 1
    media = []
    for identity in range(settings.benchmark_identities):
        scene = first
        for place, (stills, videos) in enumerate(_TEMPLATES):
            template = int(templates[identity * len(_TEMPLATES) + place])
            for medium in range(stills + videos):
                frames = 1 if medium < stills else _frames(settings, rng)
                media.append((template, identity, place, scene, frames))
                scene += 1
    ids = (rng.permutation(len(media)) + 1).tolist()
    plan, images = [], 0
    for medium, (template, identity, place, scene, frames) in zip(ids, sorted(media), strict=True):
        names = tuple(f"{image}.jpg" for image in range(images + 1, images + frames + 1))
        images += frames
        plan.append(IJBMedium(identity, place, template, medium, scene, names))
    return plan


def draw_ijb_media(
    settings: SynthesisSettings, folder: Path, media: Sequence[IJBMedium]
) -> list[tuple[str, np.ndarray, float]]:
    """Write the images of some media; name, landmarks [5, 2] in pixels and score of each."""
    rows = []
    folder.mkdir(parents=True, exist_ok=True)
    for each in media:
        crops = draw_loose_crops(settings, each.identity, each.scene, len(each.names), _LOOSE)
        for name, crop in zip(each.names, crops, strict=True):
            write_bytes(folder / name, encode_jpeg(crop.image))
            rows.append((name, crop.landmarks_px, crop.score))
    return rows


def finish_ijb(
    root: Path, which: str, plan: Sequence[IJBMedium], rows: Sequence[tuple[str, np.ndarray, float]]
) -> None:
    """Write the lists: of the images, of all pairs of a gallery's template and a probe, and of 1:N."""
    meta = root / "meta"
    meta.mkdir()
    marks = {name: (points, score) for name, points, score in rows}
    members, scores = [], []
    owners: dict[int, tuple[int, int]] = {}  # template to identity and place
    files = defaultdict(list)
    for each in plan:
        owners[each.template] = each.identity, each.place
        for name in each.names:
            points, score = marks[name]
            members.append(f"{name} {each.template} {each.medium}")
            scores.append(f"{name} {' '.join(f'{value:.3f}' for value in points.ravel())} {score:.3f}")
            files[each.template].append(name)
    enrolled = [template for template, (_, place) in owners.items() if place == 0]
    probes = [template for template, (_, place) in owners.items() if place]
    pairs = [f"{a} {b} {int(owners[a][0] == owners[b][0])}" for a in enrolled for b in probes]
    _write_lines(meta / f"{which}_face_tid_mid.txt", members)
    _write_lines(meta / f"{which}_name_5pts_score.txt", scores)
    _write_lines(meta / f"{which}_template_pair_label.txt", pairs)
    halves = [[template for template in enrolled if owners[template][0] % 2 == half] for half in (0, 1)]
    names = [*(f"gallery_{name}" for name in _GALLERIES[which]), "probe_mixed"]
    for name, templates in zip(names, [*halves, probes], strict=True):
        listed = [f"{each},{owners[each][0] + 1},{file}" for each in templates for file in files[each]]
        _write_lines(meta / f"{which}_1N_{name}.csv", ["TEMPLATE_ID,SUBJECT_ID,FILENAME", *listed])


class IJBSFrame(NamedTuple):
    """A row of `frames.csv`."""

    image: str
    template: str
    landmarks: np.ndarray
    """[5, 2], fractions."""
    score: float


def ijbs_identities(settings: SynthesisSettings) -> int:
    """With half as many who are not enrolled."""
    return settings.benchmark_identities + settings.benchmark_identities // 2


def draw_ijbs_templates(settings: SynthesisSettings, root: Path, first: int, identity: int) -> list[IJBSFrame]:
    """Write the images of one identity.

    Args:
        settings: of the set.
        root: folder of the benchmark.
        first: number of the first scene.
        identity: whose face; those after the benchmark's are not enrolled.
    """
    frames = []
    if identity < settings.benchmark_identities:
        booking = f"booking{identity:04d}"
        crops = [draw_loose_crops(settings, identity, first + number, 1, _LOOSE)[0] for number in range(_BOOKING)]
        frames += _write_template(root, booking, crops)
        frames.append(frames[0]._replace(template=f"single{identity:04d}"))
    rng = generator(settings.seed, Purpose.GALLERY, Split.BENCHMARK, identity, first)
    watched = dataclasses.replace(settings, poor_camera=1.0)
    for video in range(_VIDEOS):
        crops = draw_loose_crops(watched, identity, first + _BOOKING + video, _frames(settings, rng), _WATCHED)
        frames += _write_template(root, f"video{identity:04d}_{video}", crops)
    return frames


def finish_ijbs(settings: SynthesisSettings, root: Path, frames: Sequence[IJBSFrame]) -> None:
    """Write the tables of frames and of the three protocols."""
    numbers = ",".join(f"{axis}{point}" for point in range(5) for axis in "xy")
    rows = [
        f"{each.image},{each.template},{','.join(f'{value:.6f}' for value in each.landmarks.ravel())},{each.score:.3f}"
        for each in frames
    ]
    _write_lines(root / "frames.csv", [f"image,template,{numbers},score", *rows])
    enrolled = range(settings.benchmark_identities)
    videos = [(who, video) for who in range(ijbs_identities(settings)) for video in range(_VIDEOS)]
    probes = [f"video{who:04d}_{video},{f'person{who:04d}' if who in enrolled else -1}" for who, video in videos]
    galleries = {
        "surveillance_to_single": [f"single{who:04d},person{who:04d}" for who in enrolled],
        "surveillance_to_booking": [f"booking{who:04d},person{who:04d}" for who in enrolled],
        "surveillance_to_surveillance": [
            row for row, (who, video) in zip(probes, videos, strict=True) if who in enrolled and video < _VIDEOS - 1
        ],
    }
    for name, gallery in galleries.items():
        _write_lines(root / f"{name}_gallery.csv", ["template,identity", *gallery])
        _write_lines(root / f"{name}_probes.csv", ["template,identity", *probes])


def _write_template(root: Path, template: str, crops: Sequence[LooseCrop]) -> list[IJBSFrame]:
    (root / template).mkdir(parents=True)
    frames = []
    for number, crop in enumerate(crops):
        name = f"{template}/{number:04d}.jpg"
        write_bytes(root / name, encode_jpeg(crop.image))
        frames.append(IJBSFrame(name, template, crop.landmarks, crop.score))
    return frames


def _frames(settings: SynthesisSettings, rng: np.random.Generator) -> int:
    """Of a video."""
    return int(rng.integers(min(2, settings.benchmark_frames), settings.benchmark_frames, endpoint=True))


def _write_lines(path: Path, lines: Sequence[str]) -> None:
    write_text(path, "\n".join(lines) + "\n")
