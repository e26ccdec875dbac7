"""Pictures: joints where they belong and drawn as trusted, curves in the colours promised, files whole or absent."""

import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from matplotlib.figure import Figure

from common.keypoints import COCO_17
from plugin import pictures
from plugin.pictures import SweepPanel, draw_sequences, draw_sweeps, draw_training

SCALE = 9  # odd: the centre of a silhouette pixel is a picture pixel


def read(path: Path) -> np.ndarray:
    return cv2.imread(str(path), cv2.IMREAD_COLOR)[..., ::-1].astype(int)


def keypoints_with(name: str, x: float, y: float, confidence: float) -> np.ndarray:
    keypoints = np.zeros((1, 17, 3), dtype=np.float32)
    keypoints[0, COCO_17.names.index(name)] = x, y, confidence
    return keypoints


def sheet(path: Path, keypoints: np.ndarray | None, height: int = 20, width: int = 16) -> np.ndarray:
    draw_sequences(path, [("row", np.zeros((1, height, width), np.uint8), keypoints)], scale=SCALE)
    return read(path)


def tile_corner(picture: np.ndarray) -> np.ndarray:
    """(row, column) of the first frame, where paper ends and background begins."""
    corner = np.array([pictures.LEGEND_HEIGHT + pictures.LABEL_HEIGHT, pictures.GAP])
    row, column = corner
    assert (picture[row - 1, column : column + 9] == pictures.PAPER).all()
    assert (picture[row : row + 9, column - 1] == pictures.PAPER).all()
    assert (picture[row, column] != pictures.PAPER).all()
    return corner


def changed(picture: np.ndarray, plain: np.ndarray) -> np.ndarray:
    return np.argwhere((picture != plain).any(-1))


@pytest.mark.parametrize(("x", "y"), [(4, 7), (11.5, 3.25)])
def test_joint_is_drawn_at_its_pixel(tmp_path, x, y):
    plain = sheet(tmp_path / "plain.png", None)
    picture = sheet(tmp_path / "joint.png", keypoints_with("nose", x, y, 0.9))
    centre = changed(picture, plain).mean(0) - tile_corner(plain)
    np.testing.assert_allclose(centre, [(y + 0.5) * SCALE - 0.5, (x + 0.5) * SCALE - 0.5], atol=0.5)


@pytest.mark.parametrize(("name", "side"), [("left_knee", "left"), ("right_ear", "right"), ("nose", "centre")])
def test_sides_have_their_colours_and_doubt_is_hollow(tmp_path, name, side):
    plain = sheet(tmp_path / "plain.png", None)
    row, column = tile_corner(plain) + np.array([10, 5]) * SCALE + SCALE // 2
    trusted = sheet(tmp_path / "trusted.png", keypoints_with(name, 5, 10, 0.8))
    doubted = sheet(tmp_path / "doubted.png", keypoints_with(name, 5, 10, 0.2))
    assert tuple(trusted[row, column]) == pictures.SIDE_COLOURS[side]
    assert tuple(doubted[row, column]) == (255, 255, 255)
    assert len(changed(doubted, plain)) > SCALE


@pytest.mark.parametrize("missing", [(5, 10, 0), (5, 10, np.nan), (np.nan, 10, 0.9), (np.inf, 10, 0.9), (1e9, 0, 1)])
def test_missing_joints_are_not_drawn(tmp_path, missing):
    plain = sheet(tmp_path / "plain.png", None)
    assert np.array_equal(sheet(tmp_path / "a.png", keypoints_with("nose", *missing)), plain)


def test_joints_outside_stay_in_their_frame(tmp_path):
    plain = sheet(tmp_path / "plain.png", None)
    keypoints = keypoints_with("left_hip", -40, 10, 0.9)
    keypoints[0, COCO_17.names.index("left_knee")] = 60, 30, 0.9
    where = changed(sheet(tmp_path / "a.png", keypoints), plain) - tile_corner(plain)
    assert where.min() >= 0
    assert (where.max(0) < np.array([20, 16]) * SCALE).all()


def test_edges_join_the_schemas_pairs_and_fade_with_doubt(tmp_path):
    def line_pixels(confidence):
        keypoints = keypoints_with("left_hip", 3, 3, 0.9)
        keypoints[0, COCO_17.names.index("left_knee")] = 3, 15, confidence
        picture = sheet(tmp_path / "a.png", keypoints)
        row, column = tile_corner(picture) + np.array([9, 3]) * SCALE + SCALE // 2
        return picture[row, column - 4 : column + 5]

    firm, faint = line_pixels(0.9), line_pixels(0.1)
    assert tuple(firm[4]) == pictures.SIDE_COLOURS["left"]
    background = np.full(3, pictures.GROUND)
    assert (faint[4] != background).any()
    assert np.abs(faint - background).sum() < np.abs(firm - background).sum() / 2
    assert (line_pixels(0) == background).all()


def test_silhouettes_are_enlarged_pixel_by_pixel_whatever_their_dtype(tmp_path):
    pattern = np.random.default_rng(0).random((1, 20, 16)) < 0.5
    sheets = []
    for silhouettes in (pattern, pattern.astype(np.uint8) * 255, pattern.astype(np.float32)):
        draw_sequences(tmp_path / "a.png", [("row", silhouettes, None)], scale=4)
        sheets.append(read(tmp_path / "a.png"))
    assert np.array_equal(sheets[0], sheets[1])
    assert np.array_equal(sheets[0], sheets[2])
    greys = sheets[0][..., 0]
    row, column = tile_corner(sheets[0])
    enlarged = np.where(pattern[0], pictures.BODY, pictures.GROUND).repeat(4, 0).repeat(4, 1)
    upper = slice(0, 15 * 4)  # the frame's number is below
    assert np.array_equal(greys[row : row + 80, column : column + 64][upper], enlarged[upper])


@pytest.mark.parametrize(("length", "frames", "expected"), [(10, 4, [0, 3, 6, 9]), (3, 8, [0, 1, 2]), (5, 1, [0])])
def test_frames_are_chosen_evenly(tmp_path, length, frames, expected):
    silhouettes = np.zeros((length, 20, 16), dtype=np.float64)
    silhouettes += np.arange(length)[:, None, None] / 10
    draw_sequences(tmp_path / "a.png", [("row", silhouettes, None)], frames=frames)
    picture = read(tmp_path / "a.png")
    row, column = tile_corner(picture)
    tops = [picture[row + 3, column + 3 + i * (16 * 5 + pictures.GAP), 0] for i in range(len(expected) + 1)]
    levels = [(pictures.GROUND - top) / (pictures.GROUND - pictures.BODY) * 10 for top in tops]
    np.testing.assert_allclose(levels[:-1], expected, atol=0.2)
    assert tops[-1] == 255


def test_rows_of_different_sizes_and_labels_with_dollars(tmp_path):
    items = [("a $x_1$ \\frac", np.ones((3, 64, 44)), None), ("b", np.ones((9, 32, 64)), np.ones((9, 17, 3)))]
    draw_sequences(tmp_path / "a.pdf", items)
    draw_sequences(tmp_path / "new" / "a.png", items)
    height, width, _ = read(tmp_path / "new" / "a.png").shape
    assert width == 8 * (64 * 5 + pictures.GAP) + pictures.GAP
    assert height > (64 + 32) * 5
    assert (tmp_path / "a.pdf").read_bytes().startswith(b"%PDF")


@pytest.mark.parametrize(
    ("silhouettes", "keypoints", "match"),
    [
        (np.zeros((2, 4)), None, r"walk: silhouettes must be .* got float64 \[2, 4\]"),
        (np.zeros((0, 4, 4)), None, r"walk: silhouettes must be .* \[0, 4, 4\]"),
        (np.zeros((2, 4, 4), np.int64), None, "walk: silhouettes must be .* got int64"),
        (np.full((2, 4, 4), 255.0), None, r"walk: float silhouettes must be in \[0, 1\], got 255\.0\.\.255\.0"),
        (np.zeros((2, 4, 4)), np.zeros((2, 17, 2)), r"walk: keypoints must have shape \[2, 17, 3\], got \[2, 17, 2\]"),
        (np.zeros((2, 4, 4)), np.zeros((3, 17, 3)), r"walk: keypoints must have shape .* got \[3, 17, 3\]"),
        (np.zeros((1, 14000, 2)), None, "the sheet would be 480 x 70070 pixels"),
    ],
)
def test_sequences_refuse(tmp_path, silhouettes, keypoints, match):
    with pytest.raises(ValueError, match=match):
        draw_sequences(tmp_path / "a.png", [("walk", silhouettes, keypoints)])
    assert os.listdir(tmp_path) == []


def test_no_rows_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="need items, frames >= 1 and scale >= 1, got 0, 8 and 5"):
        draw_sequences(tmp_path / "a.png", [])


@pytest.fixture
def figures(monkeypatch) -> list[Figure]:
    """The figures that would have been written."""
    caught: list[Figure] = []
    monkeypatch.setattr(pictures, "write_figure", lambda figure, path: caught.append(figure))
    return caught


def test_training_gives_each_quantity_a_panel_and_each_model_a_colour(figures):
    short = [(1, 0.5), (2, 0.4), (5, 0.3)]
    falling = [(i, float(np.exp(-i / 20))) for i in range(1, 201)]
    draw_training("a.png", {("a", "triplet"): short, ("b", "triplet"): short, ("b", "softmax"): falling})
    triplet, softmax = figures[0].axes
    assert [axes.get_ylabel() for axes in (triplet, softmax)] == ["triplet", "softmax"]
    assert [axes.get_yscale() for axes in (triplet, softmax)] == ["linear", "log"]
    assert triplet.lines[0].get_xdata().tolist() == [1, 2, 5]
    assert triplet.lines[0].get_ydata().tolist() == [0.5, 0.4, 0.3]
    raw, mean = softmax.lines
    assert raw.get_color() == mean.get_color() == triplet.lines[1].get_color() != triplet.lines[0].get_color()
    values = [value for _, value in falling]
    assert raw.get_ydata().tolist() == values
    assert mean.get_xdata()[0] == pytest.approx(4.5)  # the mean of eight values stands in their middle
    assert mean.get_ydata()[0] == pytest.approx(np.mean(values[:8]))


def test_training_refuses(figures):
    with pytest.raises(ValueError, match="need at least one history"):
        draw_training("a.png", {})
    with pytest.raises(ValueError, match=r"history of a, loss must have rising iterations, got \[2\. 1\.\]"):
        draw_training("a.png", {("a", "loss"): [(2, 0.1), (1, 0.2)]})
    with pytest.raises(ValueError, match="history of a must have rising iterations"):
        draw_training("a.png", {"a": []})
    assert figures == []


def test_curves_with_gaps_and_single_values_are_written(tmp_path):
    draw_training(tmp_path / "a.png", {"loss": [(1, float("nan")), (2, 1.0)], "other": [(7, float("inf"))]})
    assert len(np.unique(read(tmp_path / "a.png"))) > 2


def test_files_are_whole_or_untouched(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    draw_training(path, {"one": [(1, 50.0)]})
    before = path.read_bytes()

    def half(figure, target, **options):
        Path(target).write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(Figure, "savefig", half)
    with pytest.raises(OSError, match="No space left"):
        draw_training(path, {"one": [(1, 60.0)]})
    with pytest.raises(ValueError, match=r"a\.txt: a picture's suffix must be one of .*png"):
        draw_training(tmp_path / "a.txt", {"one": [(1, 60.0)]})
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == [path.name]


def panel(**changes):
    settings = {
        "title": "noise",
        "xlabel": "strength (%)",
        "ylabel": "Rank-1 (%)",
        "strengths": np.array([0.0, 1.0, 4.0]),
        "curves": {"old": np.array([[9.0, 6.0, 3.0], [5.0, 4.0, 1.0]]), "new": np.array([[7.0, 7.0, 7.0]])},
    }
    return SweepPanel(**settings | changes)


def test_sweeps_show_mean_deviation_and_single_runs(figures):
    draw_sweeps("a.png", [[panel(), panel(title="loss")], [panel(ylabel="mAP (%)"), panel(ylabel="mAP (%)")]])
    grid = np.reshape(figures[0].axes, (2, 2))
    assert [[axes.get_title() for axes in row] for row in grid] == [["noise", "loss"], ["", ""]]
    assert [row[0].get_ylabel() for row in grid] == ["Rank-1 (%)", "mAP (%)"]
    for axes in grid.flat:
        old, new = axes.lines
        assert old.get_xdata().tolist() == [0, 1, 4]
        assert (old.get_ydata().tolist(), new.get_ydata().tolist()) == ([7, 5, 2], [7, 7, 7])
        assert old.get_color() != new.get_color()
        shade, points = axes.collections  # the model with a single run has neither
        assert {tuple(point) for point in points.get_offsets().tolist()} == {
            (x, y) for column in ([9, 6, 3], [5, 4, 1]) for x, y in zip([0, 1, 4], column, strict=True)
        }
        corners = shade.get_paths()[0].vertices
        deviation = 8**0.5  # of 9 and 5, from their mean 7, over n - 1
        first = corners[corners[:, 0] == 0][:, 1]
        assert (first.min(), first.max()) == pytest.approx((7 - deviation, 7 + deviation))
        assert axes.get_ylim()[0] == 0
    assert [text.get_text() for text in figures[0].legends[0].get_texts()] == ["old", "new"]


@pytest.mark.parametrize(
    ("rows", "match"),
    [
        ([], r"rows of equally many panels, got \[\]"),
        ([[]], r"rows of equally many panels, got \[0\]"),
        ([[panel()], [panel(), panel()]], r"rows of equally many panels, got \[1, 2\]"),
        ([[panel(strengths=np.array([0.0, 2.0, 1.0]))]], "'noise': strengths must rise"),
        ([[panel(curves={"old": np.zeros((1, 2))})]], r"old in 'noise': expected .*\[runs, 3\], got \[1, 2\]"),
        ([[panel(curves={"old": np.zeros(3)})]], "old in 'noise': expected"),
        ([[panel(curves={"old": np.full((1, 3), np.nan)})]], "old in 'noise': expected finite"),
    ],
)
def test_sweeps_refuse(figures, rows, match):
    with pytest.raises(ValueError, match=match):
        draw_sweeps("a.png", rows)
    assert figures == []


def test_sweeps_are_written(tmp_path):
    draw_sweeps(tmp_path / "a.png", [[panel()]])
    assert read(tmp_path / "a.png").std() > 1
