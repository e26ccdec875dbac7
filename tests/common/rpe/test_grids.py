"""Query grids and windows against loops over cells."""

import pytest
import torch

from common.rpe import Window, grid_centres, window_centres, window_partition


def centres_by_loop(grid_hw, window):
    """[W, n, 2]: pad at the right and bottom, roll up and left by the shift, cut row by row."""
    (rows, cols), (height, width), (down, right) = grid_hw, *window
    padded_rows = rows if rows % height == 0 else rows + height - rows % height
    padded_cols = cols if cols % width == 0 else cols + width - cols % width
    windows = []
    for top in range(0, padded_rows, height):
        for left in range(0, padded_cols, width):
            cells = []
            for y in range(top, top + height):
                for x in range(left, left + width):
                    row, col = (y + down) % padded_rows, (x + right) % padded_cols
                    cells.append([(col + 0.5) / cols, (row + 0.5) / rows])
            windows.append(cells)
    return torch.tensor(windows, dtype=torch.float64)


@pytest.mark.parametrize("grid_hw", [(1, 1), (3, 5), (14, 14), (15, 10)])
def test_grid_centres(grid_hw):
    rows, cols = grid_hw
    expected = [[(col + 0.5) / cols, (row + 0.5) / rows] for row in range(rows) for col in range(cols)]
    torch.testing.assert_close(
        grid_centres(grid_hw, torch.float64), torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-15
    )
    assert grid_centres(grid_hw, torch.float32).dtype == torch.float32


@pytest.mark.parametrize(
    ("grid_hw", "window"),
    [
        ((6, 10), Window((3, 5))),
        ((6, 10), Window((3, 5), (1, 2))),
        ((15, 10), Window((3, 5), (0, 2))),
        ((7, 4), Window((3, 3), (1, 1))),
        ((5, 7), Window((2, 3), (1, 0))),
        ((2, 2), Window((4, 3), (3, 2))),
    ],
)
def test_window_centres(grid_hw, window):
    torch.testing.assert_close(
        window_centres(grid_hw, window, torch.float64), centres_by_loop(grid_hw, window), rtol=0, atol=1e-15
    )


def test_windows_of_an_unpadded_map_hold_every_centre_once():
    windows = window_centres((6, 10), Window((3, 5), (1, 2)), torch.float64).reshape(-1, 2)
    assert sorted(windows.tolist()) == sorted(grid_centres((6, 10), torch.float64).tolist())


@pytest.mark.parametrize("lead", [(), (2,), (2, 3)])
def test_window_partition(lead, rng):
    height, width = 2, 3
    x = torch.randn(*lead, 4, 9, 5, generator=rng)
    windows = [
        torch.stack([x[..., top + y, left + dx, :] for y in range(height) for dx in range(width)], dim=-2)
        for top in range(0, 4, height)
        for left in range(0, 9, width)
    ]
    assert torch.equal(window_partition(x, (height, width)), torch.stack(windows, dim=-3))


def test_built_in_inference_mode_and_used_in_training():
    with torch.inference_mode():
        centres = grid_centres((3, 11), torch.float32)
        windows = window_centres((3, 11), Window((3, 11)), torch.float32)
    weight = torch.ones(33, 2, requires_grad=True)
    ((weight * centres).sum() + (weight * windows[0]).sum()).backward()
    assert torch.equal(weight.grad, centres + windows[0])


def test_bad_inputs():
    with pytest.raises(ValueError, match=r"grid_hw must be \(rows, cols\), both >= 1, got \(0, 4\)"):
        grid_centres((0, 4), torch.float32)
    with pytest.raises(ValueError, match="all >= 1"):
        window_centres((4, 4), Window((0, 2)), torch.float32)
    with pytest.raises(ValueError, match="all >= 1"):
        window_centres((4, 0), Window((2, 2)), torch.float32)
    for shift in ((2, 0), (0, 3), (-1, 0)):
        with pytest.raises(ValueError, match="smaller than the window"):
            window_centres((4, 6), Window((2, 3), shift), torch.float32)
    with pytest.raises(ValueError, match="a map of 4 x 5 cannot be cut into windows of 2 x 3"):
        window_partition(torch.zeros(1, 4, 5, 1), (2, 3))
