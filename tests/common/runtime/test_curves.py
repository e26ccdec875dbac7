"""Curves are drawn as they are given, in the colours and line styles promised."""

import os

import numpy as np
import pytest
from matplotlib.figure import Figure

from common.runtime import curves as pictures
from common.runtime.curves import draw_cmc


@pytest.fixture
def figures(monkeypatch) -> list[Figure]:
    """The figures that would have been written."""
    caught: list[Figure] = []
    monkeypatch.setattr(pictures, "write_figure", lambda figure, path: caught.append(figure))
    return caught


def test_cmc_colours_models_and_dashes_conditions(figures):
    curves = {
        ("plain", "clean"): np.array([60.0, 70, 80]),
        ("plain", "misaligned"): np.array([50.0, 60, 70]),
        ("kprpe", "clean"): np.array([65.0, 75, 85]),
        ("kprpe", "misaligned"): np.array([62.0, 72, 82]),
    }
    draw_cmc("a.png", curves, max_rank=2)
    (axes,) = figures[0].axes
    lines = axes.lines
    for line, curve in zip(lines, curves.values(), strict=True):
        assert line.get_xdata().tolist() == [1, 2]
        assert line.get_ydata().tolist() == curve[:2].tolist()
    colours, styles = [line.get_color() for line in lines], [line.get_linestyle() for line in lines]
    assert colours[0] == colours[1] != colours[2] == colours[3]
    assert styles[0] == styles[2] == "-"
    assert styles[1] == styles[3] != "-"
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels[1] == "plain, misaligned  50.0"
    assert axes.get_xticks().tolist() == [1, 2]
    assert axes.get_ylim() == (40, 101)


@pytest.mark.parametrize(
    ("curves", "match"),
    [
        ({}, "need curves"),
        ({"a": np.array([50.0, 101.0])}, r"CMC of a must be a row of percentages, got \[ *50\. 101\.\]"),
        ({("a", "b"): np.array([np.nan])}, "CMC of a, b must be a row of percentages"),
        ({"a": np.zeros((2, 2))}, "CMC of a must be a row of percentages"),
        ({"a": np.array([])}, "CMC of a must be a row of percentages"),
        ({"a": np.array([50.0, 40.0])}, "CMC of a falls from one rank to the next"),
    ],
)
def test_cmc_refuses(figures, curves, match):
    with pytest.raises(ValueError, match=match):
        draw_cmc("a.png", curves)
    assert figures == []


def test_files(tmp_path):
    draw_cmc(tmp_path / "b.svg", {"one": [100.0]})
    assert "</svg>" in (tmp_path / "b.svg").read_text()
    with pytest.raises(ValueError, match=r"a\.txt: a picture's suffix must be one of .*png"):
        draw_cmc(tmp_path / "a.txt", {"one": [60.0]})
    assert os.listdir(tmp_path) == ["b.svg"]
