"""The table says what came out, whatever it is; the pictures show what they are given."""

import csv

import cv2
import numpy as np
import pytest

from common.affnist.experiment import Frames, Run
from common.affnist.frames import box_keypoints
from common.affnist.report import draw_results, draw_samples, format_table, write_samples


def run_of(model, seed, clean, affine):
    return Run(model=model, seed=seed, clean=clean, affine=affine, parameters=1234, seconds=2.4, device="cpu")


def rows_of(table):
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines() if line.startswith("|")]


@pytest.fixture
def frames():
    images = np.zeros((3, 40, 40), np.uint8)
    for number, image in enumerate(images):
        image[5 + number : 20, 10 : 18 + number] = 200
    return Frames(images, box_keypoints(images), np.array([4, 0, 7]))


def test_mean_spread_range_and_paired_difference():
    runs = [run_of("kprpe", 0, 98.0, 81.0), run_of("absolute", 0, 97.0, 80.0)]
    runs += [run_of("absolute", 1, 95.0, 70.0), run_of("kprpe", 1, 99.0, 68.0)]
    head, _, absolute, kprpe = rows_of(format_table(runs))
    assert head[:4] == ["model", "clean", "affine, unseen", "affine − absolute PE"]
    assert absolute[:4] == ["absolute PE", "96.00 ± 1.41 (95.00 to 97.00)", "75.00 ± 7.07 (70.00 to 80.00)", ""]
    assert kprpe[2:] == ["74.50 ± 9.19 (68.00 to 81.00)", "-0.50 ± 2.12 (-2.00 to +1.00)", "1,234", "2"]


def test_one_seed_has_no_spread():
    rows = rows_of(format_table([run_of("absolute", 0, 97.0, 80.0), run_of("table", 0, 96.0, 82.5)]))
    assert rows[2][1:4] == ["97.00", "80.00", ""]
    assert rows[3][1:4] == ["96.00", "82.50", "+2.50"]


def test_no_difference_without_the_baseline():
    assert rows_of(format_table([run_of("irpe", 0, 97.0, 80.0)]))[2][3] == ""


def test_nothing_to_report(tmp_path):
    with pytest.raises(ValueError, match="at least one run"):
        format_table([])
    with pytest.raises(ValueError, match="at least one run"):
        draw_results(tmp_path / "results.png", [], "nothing")
    with pytest.raises(ValueError, match="at least one part"):
        draw_samples(tmp_path / "samples.png", {})


def test_bars_are_drawn_for_what_is_there(tmp_path):
    runs = [run_of(model, seed, 90 + seed, 60 + seed) for model in ("absolute", "kprpe") for seed in range(3)]
    draw_results(tmp_path / "results.png", runs, "no $maths$")
    picture = cv2.imread(str(tmp_path / "results.png"))[..., ::-1]
    assert picture.std() > 10
    draw_results(tmp_path / "one.svg", runs[:1], "one")
    text = (tmp_path / "one.svg").read_text()
    assert text.startswith("<?xml")
    with pytest.raises(ValueError, match="suffix must be one of"):
        draw_results(tmp_path / "results.xyz", runs, "unknown")


def test_samples_are_drawn_with_keypoints(tmp_path, frames):
    draw_samples(tmp_path / "samples.png", {"a part": frames, "another": frames}, columns=4)
    picture = cv2.imread(str(tmp_path / "samples.png"))[..., ::-1].astype(int)
    warmth = picture[..., 0] - picture[..., 2]
    assert (warmth < -80).sum() > 100  # blue keypoints
    assert (warmth > 80).sum() > 100  # orange boxes


def test_written_samples_come_back(tmp_path, frames):
    write_samples(tmp_path / "samples", {"clean": frames}, count=2)
    with (tmp_path / "samples" / "keypoints.csv").open() as file:
        head, *rows = list(csv.reader(file))
    assert head == ["image", "x0", "y0", "x1", "y1", "x2", "y2", "x3", "y3", "x4", "y4"]
    assert [row[0] for row in rows] == ["clean-0-4.png", "clean-1-0.png"]
    image = cv2.imread(str(tmp_path / "samples" / "clean-0-4.png"), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(image, frames.images[0])
    # The box's outer edges in pixel-index coordinates, where the first pixel spans -0.5 to 0.5.
    assert [float(value) for value in rows[0][1:5]] == [9.5, 4.5, 17.5, 4.5]
