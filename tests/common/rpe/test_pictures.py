"""Pictures of biases: each value in its key's cell, the star on the query, windows where they lie in the image."""

import itertools
import os

import cv2
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from common.keypoints import COCO_17
from common.rpe import KeypointRPE, PositionBias, PositionBiasSettings, TableRPE, Window, pictures
from common.rpe.pictures import bias_map, draw_bias_by_depth, draw_bias_by_image, spread_queries

GRID = (4, 6)
WINDOWS = [  # grid, window: shifted or not, one shifted axis, padded at the right and bottom, as large as the map
    ((4, 6), Window((2, 3))),
    ((4, 6), Window((2, 3), (1, 2))),
    ((4, 6), Window((4, 3), (0, 1))),
    ((5, 7), Window((2, 3))),
    ((5, 7), Window((2, 3), (1, 1))),
    ((3, 2), Window((3, 2))),
]


def windows_by_loop(grid_hw, window):
    """(query cell, key cell) -> (window, query's place, key's place) of all pairs that attend to each other.

    Written as Swin has it: roll the padded map, cut it, and keep apart what the roll brought together.
    """
    (rows, cols), (height, width), (down, right) = grid_hw, window.size_hw, window.shift_hw
    padded_rows, padded_cols = -(-rows // height) * height, -(-cols // width) * width
    windows: dict[int, list[tuple[int, tuple[int, int], tuple[bool, bool]]]] = {}
    for top, left in itertools.product(range(padded_rows), range(padded_cols)):  # of the rolled map
        index = top // height * (padded_cols // width) + left // width
        place = top % height * width + left % width
        cell = (top + down) % padded_rows, (left + right) % padded_cols
        over = top >= padded_rows - down, left >= padded_cols - right
        if cell[0] < rows and cell[1] < cols:
            windows.setdefault(index, []).append((place, cell, over))
    return {
        (query, key): (index, i, j)
        for index, members in windows.items()
        for (i, query, over_i), (j, key, over_j) in itertools.product(members, repeat=2)
        if over_i == over_j
    }


def cells(grid_hw):
    return list(itertools.product(range(grid_hw[0]), range(grid_hw[1])))


@pytest.mark.parametrize("extra_tokens", [0, 2])
@pytest.mark.parametrize("grid_hw", [(1, 1), (2, 3), (3, 2)])
def test_map_holds_each_keys_value_in_its_cell(grid_hw, extra_tokens, rng):
    rows, cols = grid_hw
    size = extra_tokens + rows * cols
    bias = torch.randn(2, size, size, generator=rng)
    for query, head in itertools.product(cells(grid_hw), range(2)):
        drawn = bias_map(bias, grid_hw, query, head, extra_tokens=extra_tokens)
        for row, col in cells(grid_hw):
            i, j = query[0] * cols + query[1], row * cols + col
            assert drawn[row, col] == bias[head, extra_tokens + i, extra_tokens + j].item()


@pytest.mark.parametrize(("grid_hw", "window"), WINDOWS)
@pytest.mark.parametrize("own", [(True,), (1,), ()], ids=["one-a-window", "one-for-all", "no-window-axis"])
def test_map_is_blank_outside_of_the_querys_window(grid_hw, window, own, rng):
    pairs = windows_by_loop(grid_hw, window)
    count = -(-grid_hw[0] // window.size_hw[0]) * -(-grid_hw[1] // window.size_hw[1])
    size = window.size_hw[0] * window.size_hw[1]
    axis = (count,) if own == (True,) else own
    bias = torch.randn(*axis, 2, size, size, generator=rng)
    of_window = bias.expand(count, 2, size, size)
    for query in cells(grid_hw):
        drawn = bias_map(bias, grid_hw, query, 1, window)
        for key in cells(grid_hw):
            if (query, key) not in pairs:
                assert np.isnan(drawn[key])
                continue
            index, i, j = pairs[query, key]
            assert drawn[key] == of_window[index, 1, i, j].item()


@pytest.mark.parametrize(("grid_hw", "window"), WINDOWS)
def test_windows_of_the_image_grid_are_pieces_of_the_image_level_bias(grid_hw, window, rng):
    rpe = KeypointRPE(num_keypoints=3, num_heads=2).requires_grad_(False)
    torch.nn.init.normal_(rpe.weight, generator=rng)
    keypoints = torch.rand(1, 3, 2, generator=rng)
    whole, cut = rpe(keypoints, grid_hw)[0][0], rpe(keypoints, grid_hw, windows=[window])[0][0]
    for query in cells(grid_hw):
        piece = bias_map(cut, grid_hw, query, 1, window)
        expected = np.where(np.isnan(piece), np.nan, bias_map(whole, grid_hw, query, 1))
        np.testing.assert_allclose(piece, expected, atol=1e-5)
        assert not np.isnan(piece[query])


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"query": (4, 0)}, r"query must be \(row, col\) within a grid of 4 x 6, got \(4, 0\)"),
        ({"query": (0, -1)}, r"within a grid of 4 x 6, got \(0, -1\)"),
        ({"head": 2}, "head must be 0 to 1, got 2"),
        ({"head": -1}, "head must be 0 to 1, got -1"),
        ({"grid_hw": (6, 6)}, r"bias must have shape \[H, 36, 36\] on this grid, got \[2, 24, 24\]"),
        ({"bias": torch.zeros(1, 2, 24, 24)}, r"bias must have shape \[H, 24, 24\] .* got \[1, 2, 24, 24\]"),
        ({"extra_tokens": 1}, r"\[H, 25, 25\]"),
        ({"window": Window((2, 3))}, r"\[H, 6, 6\] on this grid, got \[2, 24, 24\]"),
        ({"window": Window((2, 3)), "bias": torch.zeros(3, 2, 6, 6)}, r"\[4, H, 6, 6\] .* got \[3, 2, 6, 6\]"),
        ({"window": Window((2, 3)), "extra_tokens": 1}, "windows hold no extra tokens, got extra_tokens 1"),
        ({"window": Window((2, 3), (2, 0))}, "shift"),
        ({"bias": torch.full((2, 24, 24), torch.nan)}, r"head 0 and query \(1, 2\) must be finite, found nan"),
    ],
)
def test_map_refuses(change, match):
    arguments = {"bias": torch.zeros(2, 24, 24), "grid_hw": GRID, "query": (1, 2)} | change
    with pytest.raises(ValueError, match=match):
        bias_map(**arguments)


def test_default_queries_are_on_the_diagonal():
    assert spread_queries((14, 14)) == [(3, 3), (7, 7), (10, 10)]
    assert spread_queries((15, 10)) == [(3, 2), (7, 5), (11, 7)]
    assert spread_queries((1, 1)) == [(0, 0)]


@pytest.fixture
def figures(monkeypatch) -> list[Figure]:
    """The figures that would have been written."""
    caught: list[Figure] = []
    monkeypatch.setattr(pictures, "write_figure", lambda figure, path: caught.append(figure))
    return caught


def random_biases(rng, images=1, layers=3, heads=2, grid_hw=GRID):
    size = grid_hw[0] * grid_hw[1]
    return [torch.randn(images, heads, size, size, generator=rng) for _ in range(layers)]


def panels(figure):
    """The axes with pictures, in reading order; all others are colour bars."""
    return [axes for axes in figure.axes if len(axes.images) == 2]


def marks(axes, marker):
    (line,) = [line for line in axes.lines if line.get_marker() == marker]
    return line.get_xydata()


def test_depth_has_queries_in_rows_and_layers_in_columns(figures, rng):
    biases, image = random_biases(rng), np.random.default_rng(0).random((40, 90))
    keypoints, queries = torch.tensor([[0.5, 0.25], [0.1, 1.0]]), [(0, 5), (3, 2)]
    draw_bias_by_depth("a.png", image, keypoints, biases, GRID, queries=queries, layers=[2, 0], head=1)
    axes = panels(figures[0])
    assert [one.get_title() for one in axes] == ["layer 2", "layer 0", "", ""]
    for one, (query, layer) in zip(axes, itertools.product(queries, [2, 0]), strict=True):
        drawn = one.images[1].get_array()
        np.testing.assert_array_equal(drawn, biases[layer][0, 1, query[0] * 6 + query[1]].double().reshape(GRID))
        for layer_of_picture in one.images:
            assert tuple(layer_of_picture.get_extent()) == (0, 90, 40, 0)
        assert (one.get_xlim(), one.get_ylim()) == ((0, 90), (40, 0))
        np.testing.assert_allclose(marks(one, "*"), [[(query[1] + 0.5) * 15, (query[0] + 0.5) * 10]])
        np.testing.assert_allclose(marks(one, "o"), [[45, 10], [9, 40]], rtol=1e-6)
    texts = [text.get_text() for text in figures[0].texts]
    assert texts == ["query: row 0, col 5", "query: row 3, col 2", "KP-RPE bias, head 1"]


def test_images_stand_side_by_side_with_their_own_keypoints(figures, rng):
    biases = random_biases(rng, images=3)
    images = [np.zeros((24, 24, 3), np.uint8), np.ones((10, 40), bool), torch.rand(64, 44, generator=rng)]
    keypoints = torch.rand(3, 4, 2, generator=rng)
    visibility = np.array([[1, 1, 1, 1], [1, 0, 1, 0], [0.2, 1, 1, 1]])
    draw_bias_by_image(
        "a.png", images, keypoints, biases, GRID, layer=1, queries=[(1, 1)], labels=["a $x$", "b", "c"],
        visibility=visibility,
    )  # fmt: skip
    axes = panels(figures[0])
    assert [one.get_title() for one in axes] == ["a $x$", "b", "c"]
    for number, one in enumerate(axes):
        height, width = images[number].shape[:2]
        np.testing.assert_array_equal(one.images[1].get_array(), biases[1][number, 0, 7].double().reshape(GRID))
        expected = np.where(visibility[number, :, None] > 0, keypoints[number] * torch.tensor([width, height]), np.nan)
        np.testing.assert_allclose(marks(one, "o"), expected, rtol=1e-6)


def test_long_rows_go_on_below(figures, rng):
    biases = random_biases(rng, layers=pictures.LONGEST_ROW + 3)
    draw_bias_by_depth("a.png", np.ones((8, 8)), torch.rand(1, 2), biases, GRID, queries=[(0, 0), (1, 1)])
    axes = panels(figures[0])
    drawn = [np.asarray(one.images[1].get_array()).tobytes() for one in axes]
    order = [(layer, i) for part in (range(8), range(8, 11)) for i in (0, 7) for layer in part]
    assert drawn == [biases[layer][0, 0, i].double().numpy().tobytes() for layer, i in order]
    assert [one.get_title() for one in axes if one.get_title()] == [f"layer {layer}" for layer in range(11)]
    assert max(one.get_position().x1 for one in axes) < 1
    assert min(one.get_position().y0 for one in axes) > 0


def test_colours_are_shared_or_each_panels_own(figures, rng):
    biases = random_biases(rng)
    arguments = ("a.png", np.ones((8, 8)), torch.rand(1, 2), biases, GRID)
    draw_bias_by_depth(*arguments, queries=[(2, 2)])
    draw_bias_by_depth(*arguments, queries=[(2, 2)], scale="panel")
    rows = [bias[0, 0, 14] for bias in biases]
    together, alone = (
        [(one.images[1].norm.vmin, one.images[1].norm.vmax) for one in panels(figure)] for figure in figures
    )
    assert together == [(min(row.min() for row in rows), max(row.max() for row in rows))] * 3
    assert alone == [(row.min(), row.max()) for row in rows]
    assert len(figures[0].axes) == 3 + 1
    assert len(figures[1].axes) == 3 + 3
    for (low, high), bar in zip(alone, [one for one in figures[1].axes if one not in panels(figures[1])], strict=True):
        values = [float(text.get_text().replace("\N{MINUS SIGN}", "-")) for text in bar.get_xticklabels()]
        np.testing.assert_allclose(values, [low, high], rtol=5e-3)


def test_a_window_is_framed_where_it_lies(figures, rng):
    window = Window((2, 3), (1, 2))
    biases = [torch.randn(1, 4, 2, 6, 6, generator=rng)] * 2
    draw_bias_by_depth(
        "a.png", np.ones((40, 60)), torch.rand(1, 2), biases, GRID, queries=[(1, 3), (0, 0)], layers=[1],
        windows=[Window((2, 3)), window],
    )  # fmt: skip
    inner, corner = panels(figures[0])
    frames = [axes.patches[0].get_bbox().bounds for axes in (inner, corner)]
    assert frames == [(20, 10, 30, 20), (0, 0, 20, 10)]  # the corner's window wraps around: only its own part attends
    assert np.ma.count(corner.images[1].get_array()) == 2
    assert [text.get_text() for text in figures[0].legends[0].get_texts()] == ["query", "keypoints", "its window"]


def test_edges_join_visible_keypoints(figures, rng):
    keypoints = torch.rand(17, 2, generator=rng)
    draw_bias_by_depth(
        "a.png", np.ones((64, 44)), keypoints, random_biases(rng), GRID, schema=COCO_17, layers=[0], queries=[(0, 0)]
    )
    lines = [line.get_xydata() for line in panels(figures[0])[0].lines if line.get_marker() == "None"]
    expected = [(keypoints[list(edge)] * torch.tensor([44, 64])).numpy() for edge in COCO_17.edges]
    np.testing.assert_allclose(lines[::2], expected, rtol=1e-6)


def test_the_strongest_blue_is_at_the_strongest_key(tmp_path, monkeypatch):
    """From the bias to the pixels of the file, with a row, a column and a grid that no swap would leave alone."""
    bias = torch.zeros(1, 1, 24, 24)
    bias[0, 0, 0, 1 * 6 + 4] = 1.0
    figures, write = [], pictures.write_figure
    monkeypatch.setattr(pictures, "write_figure", lambda figure, path: (figures.append(figure), write(figure, path)))
    draw_bias_by_depth(tmp_path / "a.png", np.ones((40, 60)), np.array([[-1.0, -1.0]]), [bias], GRID, queries=[(0, 0)])
    picture = cv2.imread(str(tmp_path / "a.png"))[..., ::-1] / 255
    deepest = np.array(pictures.BLUES(1.0)[:3]) * pictures.OPACITY + 1 - pictures.OPACITY
    box = panels(figures[0])[0].get_window_extent()
    top = len(picture) - box.y1
    inside = picture[round(top) : round(top + box.height), round(box.x0) : round(box.x1)]
    rows, cols = np.nonzero((np.abs(inside - deepest) < 0.02).all(-1))
    # half a line's width to every side is the frame's or the neighbour's
    np.testing.assert_allclose([rows.mean() / box.height, cols.mean() / box.width], [1.5 / 4, 4.5 / 6], atol=0.01)
    np.testing.assert_allclose(len(rows) / (box.height * box.width), 1 / 24, rtol=0.1)


def test_what_a_position_bias_gives_is_drawn_as_it_is(figures, rng):
    keypoints, image = torch.rand(2, 5, 2, generator=rng), np.ones((8, 8))
    encoding = PositionBias(PositionBiasSettings(num_keypoints=5), num_heads=2, head_dim=4, num_layers=2, size_hw=GRID)
    torch.nn.init.normal_(encoding.kprpe.weight, generator=rng)
    draw_bias_by_image("a.png", [image] * 2, keypoints, encoding(GRID, keypoints), GRID, layer=1, queries=[(1, 1)])
    for number, axes in enumerate(panels(figures[0])):
        expected = encoding.kprpe(keypoints, GRID)[1][number, 0, 7].detach().double().reshape(GRID)
        np.testing.assert_allclose(axes.images[1].get_array(), expected, atol=1e-5)
    table = TableRPE((2, 3), num_heads=2)
    draw_bias_by_image(
        "a.png", [image] * 2, keypoints, [table()], GRID, layer=0, queries=[(1, 1)], windows=[Window((2, 3))]
    )
    for axes in panels(figures[1]):
        expected = table()[0, 4].detach().double().reshape(2, 3)
        np.testing.assert_array_equal(axes.images[1].get_array()[:2, :3], expected)


def test_files_have_a_sensible_size(tmp_path, rng):
    rpe = KeypointRPE(num_keypoints=5, num_heads=2, num_layers=4)
    torch.nn.init.normal_(rpe.weight, generator=rng)
    image, keypoints = np.random.default_rng(0).random((112, 112, 3)), torch.rand(2, 5, 2, generator=rng)
    draw_bias_by_depth(tmp_path / "new" / "a.png", image, keypoints[0], rpe(keypoints[:1], (14, 14)), (14, 14))
    height, width, _ = cv2.imread(str(tmp_path / "new" / "a.png")).shape
    assert 700 < height < 1200 < 2 * height  # three rows of 1.7 inches at 150 dots each
    assert 1100 < width < 1600
    draw_bias_by_image(tmp_path / "b.pdf", [image] * 2, keypoints, rpe(keypoints, (14, 14)), (14, 14), layer=3)
    assert (tmp_path / "b.pdf").read_bytes().startswith(b"%PDF")


def test_a_constant_bias_and_extra_tokens_are_drawn(figures):
    bias = torch.full((1, 1, 26, 26), 0.5)
    draw_bias_by_depth("a.png", np.ones((8, 8)), torch.rand(1, 2), [bias], GRID, extra_tokens=2, queries=[(0, 0)])
    assert (panels(figures[0])[0].images[1].get_array() == 0.5).all()


def test_an_untrained_kprpe_is_an_error(tmp_path):
    fresh, keypoints = KeypointRPE(num_keypoints=2, num_heads=1), torch.rand(1, 2, 2)
    with pytest.raises(ValueError, match="all biases are zero: this KP-RPE is untrained"):
        draw_bias_by_depth(tmp_path / "a.png", np.ones((8, 8)), keypoints[0], fresh(keypoints, GRID), GRID)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"layers": [3]}, "layer must be 0 to 2, got 3"),
        ({"head": 9}, "head must be 0 to 1, got 9"),
        ({"queries": [(0, 6)]}, r"within a grid of 4 x 6, got \(0, 6\)"),
        ({"queries": []}, "nothing to draw"),
        ({"layers": []}, "nothing to draw"),
        ({"keypoints": torch.rand(1, 3, 2)}, r"keypoints must have shape \[L, 2\], got \[1, 3, 2\]"),
        ({"keypoints": torch.rand(5, 2), "schema": COCO_17}, r"keypoints must have shape \[17, 2\], got \[5, 2\]"),
        ({"keypoints": torch.rand(5, 2) * 100 + 10}, "must be fractions of the image"),
        ({"visibility": torch.ones(4)}, r"visibility must have shape \[3\], got \[4\]"),
        ({"image": np.zeros((2, 8, 8), np.uint8)}, r"an image must be .* got uint8 \[2, 8, 8\]"),
        ({"image": np.zeros((8, 8), int)}, "an image must be bool, uint8 or float .* got int64"),
        ({"image": np.full((8, 8), 255.0)}, r"a float image must be in \[0, 1\], got 255 to 255"),
        ({"biases": [None] * 3}, "layer 0 must have a bias that is added to the logits, got NoneType"),
        (
            {"biases": [torch.zeros(2, 2, 24, 24)] * 3},
            r"of layer 0 must be of 1 image\(s\), got shape \[2, 2, 24, 24\]",
        ),
        ({"windows": [Window((2, 3))]}, "windows must name one window for each of 3 layers, got 1"),
        ({"scale": "both"}, "scale must be figure or panel, got 'both'"),
        ({"path": "a.txt"}, r"a\.txt: a picture's suffix must be one of"),
    ],
)
def test_depth_refuses(figures, rng, change, match):
    arguments = {
        "path": "a.png",
        "image": np.ones((8, 8)),
        "keypoints": torch.rand(3, 2),
        "biases": random_biases(rng),
        "grid_hw": GRID,
    } | change
    with pytest.raises(ValueError, match=match):
        draw_bias_by_depth(**arguments)
    assert figures == []


def test_images_refuse(figures, rng):
    images, biases = [np.ones((8, 8))] * 2, random_biases(rng, images=2)
    with pytest.raises(ValueError, match="need as many keypoints and labels as images: 3, 2, 2"):
        draw_bias_by_image("a.png", images, torch.rand(3, 4, 2), biases, GRID, layer=0)
    with pytest.raises(ValueError, match="need as many keypoints and labels as images: 2, 1, 2"):
        draw_bias_by_image("a.png", images, torch.rand(2, 4, 2), biases, GRID, layer=0, labels=["a"])
    with pytest.raises(ValueError, match=r"keypoints must have shape \[B, 17, 2\], got \[2, 4, 2\]"):
        draw_bias_by_image("a.png", images, torch.rand(2, 4, 2), biases, GRID, layer=0, schema=COCO_17)
    with pytest.raises(ValueError, match="layer must be 0 to 2, got -1"):
        draw_bias_by_image("a.png", images, torch.rand(2, 4, 2), biases, GRID, layer=-1)
    assert figures == []
