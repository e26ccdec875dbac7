"""Sheets of synthetic faces to look at, landmarks drawn: an identity in each row, or photographs."""

from pathlib import Path

import cv2
import numpy as np
from matplotlib.figure import Figure

from common.keypoints import pixels_to_fractions
from common.runtime.figures import write_figure
from face.pictures import draw_landmarks
from face.synthesize.images import Split, crop_scene, render_scene
from face.synthesize.photographs import Photograph, render_photograph
from face.synthesize.settings import SynthesisSettings

__all__ = ["draw_faces", "draw_photographs", "write_faces", "write_photographs"]

TILE_DOTS = 160
PHOTOGRAPH_DOTS, GAP = 480, 6


def _marked(image: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
    """A tile with landmarks in fractions of the image."""
    tile = cv2.resize(image, (TILE_DOTS, TILE_DOTS), interpolation=cv2.INTER_LINEAR)
    return draw_landmarks(tile, landmarks)


def draw_faces(settings: SynthesisSettings, identities: int = 8, images: int = 6) -> Figure:
    """Scenes of the first training identities, then both crops of the last scene of each.

    Args:
        settings: of the set; how many identities and images it has does not matter.
        identities: rows.
        images: scenes in a row.
    """
    rows = []
    for who in range(identities):
        scenes = [render_scene(settings, Split.TRAIN, who, image) for image in range(images)]
        tiles = [_marked(scene.image, pixels_to_fractions(scene.landmarks, scene.image.shape[:2])) for scene in scenes]
        for kind in ("aligned", "unaligned"):
            crop = crop_scene(settings, scenes[-1], kind, Split.TRAIN, who, images - 1)
            tiles.append(_marked(crop.image, crop.landmarks))
        rows.append(np.hstack(tiles))
    sheet = np.vstack(rows)
    dpi, title = 100, 24
    figure = Figure(figsize=(sheet.shape[1] / dpi, (sheet.shape[0] + title) / dpi), dpi=dpi)
    axes = figure.add_axes((0, 0, 1, sheet.shape[0] / (sheet.shape[0] + title)))
    axes.imshow(sheet, interpolation="nearest", aspect="auto")
    axes.set_axis_off()
    for column, text in ((images / 2, "scenes"), (images + 0.5, "aligned"), (images + 1.5, "unaligned")):
        axes.annotate(text, (column * TILE_DOTS, -8), ha="center", annotation_clip=False)
    return figure


def write_faces(settings: SynthesisSettings, path: str | Path) -> None:
    """Write the sheet of `draw_faces`; the suffix names the format.

    Raises:
        ValueError: a suffix that no format has.
        OSError: the picture cannot be written.
    """
    write_figure(draw_faces(settings), path)


def draw_photographs(settings: SynthesisSettings, count: int = 12, columns: int = 4) -> Figure:
    """The first photographs for training, with boxes (red where nobody could place landmarks) and landmarks.

    Args:
        settings: of the set.
        count: of photographs, >= 1.
        columns: photographs in a row.
    """
    tiles = [_photograph_tile(render_photograph(settings, Split.TRAIN, number)) for number in range(count)]
    tiles += [np.full_like(tiles[0], 255)] * (-len(tiles) % columns)
    sheet = np.vstack([np.hstack(tiles[begin : begin + columns]) for begin in range(0, len(tiles), columns)])
    dpi = 100
    figure = Figure(figsize=(sheet.shape[1] / dpi, sheet.shape[0] / dpi), dpi=dpi)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.imshow(sheet, interpolation="nearest", aspect="auto")
    axes.set_axis_off()
    return figure


def write_photographs(settings: SynthesisSettings, path: str | Path) -> None:
    """Write the sheet of `draw_photographs`; see `write_faces`."""
    write_figure(draw_photographs(settings), path)


def _photograph_tile(shot: Photograph) -> np.ndarray:
    image = shot.image.copy()
    for face in shot.faces:
        left, top, right, bottom = face.box.tolist()
        colour = (60, 220, 60) if face.clear else (230, 40, 40)
        cv2.rectangle(image, (left, top), (right - 1, bottom - 1), colour, 1)
        if face.clear:
            image = draw_landmarks(image, pixels_to_fractions(face.landmarks, image.shape[:2]))
    shrink = PHOTOGRAPH_DOTS / max(image.shape[:2])
    size_wh = round(image.shape[1] * shrink), round(image.shape[0] * shrink)
    tile = np.full((PHOTOGRAPH_DOTS + GAP, PHOTOGRAPH_DOTS + GAP, 3), 255, np.uint8)
    tile[: size_wh[1], : size_wh[0]] = cv2.resize(image, size_wh, interpolation=cv2.INTER_AREA)
    return tile
