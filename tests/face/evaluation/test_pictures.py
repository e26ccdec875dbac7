"""ROC pictures: what is drawn is what was measured, and files are whole or absent."""

import os

import cv2
import numpy as np
import pytest

from face.evaluation import pictures
from face.evaluation.pictures import draw_roc
from face.evaluation.roc import roc_curve


def curve(seed, pairs=200, shift=1.0):
    random = np.random.default_rng(seed)
    same = np.arange(pairs) % 2 == 0
    return roc_curve(random.standard_normal(pairs) - shift * same, same)


@pytest.fixture
def drawn(monkeypatch):
    """The figure instead of its file."""
    figures = []
    monkeypatch.setattr(pictures, "write_figure", lambda figure, path: figures.append(figure))
    return figures


def test_roc_shows_operating_points(drawn):
    few, many = curve(0), curve(1, pairs=2000, shift=2.0)
    draw_roc("roc.png", {"few": few, "many": many})
    (axes,) = drawn[0].axes
    assert axes.get_xscale() == "log"
    assert axes.get_xlim() == (0.5 / 1000, 1)
    faint, stairs = axes.lines[:2]
    assert stairs.get_drawstyle() == "steps-post"
    far, tar = stairs.get_data()
    assert far[0] == 1 / 100
    for x, y in zip(far, tar, strict=True):
        assert y <= 100 * few.tar[few.far <= x].max()
    assert tar[-1] == 100
    without_false = 100 * few.tar[few.far == 0].max()
    assert tar[0] == without_false
    assert faint.get_data()[1].tolist() == [without_false] * 2
    texts = [text.get_text() for text in axes.get_legend().get_texts()]
    assert [text.split("  ")[0] for text in texts] == ["few", "many"]


def test_colours_are_of_networks_and_lines_of_sets(drawn):
    names = [("ViT", "aligned"), ("ViT", "unaligned"), ("ViT + KP-RPE", "unaligned")]
    draw_roc("roc.png", {name: curve(number) for number, name in enumerate(names)})
    lines = [line for line in drawn[0].axes[0].lines if line.get_alpha() is None]
    assert lines[0].get_color() == lines[1].get_color() != lines[2].get_color()
    assert lines[0].get_linestyle() == "-" != lines[1].get_linestyle() == lines[2].get_linestyle()


def test_files(tmp_path):
    draw_roc(tmp_path / "roc.png", {"a": curve(0)})
    assert cv2.imread(str(tmp_path / "roc.png")).shape == (660, 960, 3)
    assert sorted(os.listdir(tmp_path)) == ["roc.png"]


def test_refuses(tmp_path):
    with pytest.raises(ValueError, match="at least one ROC curve"):
        draw_roc(tmp_path / "roc.png", {})
    with pytest.raises(ValueError, match="suffix must be one of"):
        draw_roc(tmp_path / "roc.xyz", {"a": curve(0)})
    assert os.listdir(tmp_path) == []
