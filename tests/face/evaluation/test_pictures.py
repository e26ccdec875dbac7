"""ROC pictures: what is drawn is what was measured, and files are whole or absent."""

import os

import cv2
import numpy as np
import pytest

from face.evaluation import pictures
from face.evaluation.identification import identify
from face.evaluation.pictures import draw_det, draw_results, draw_roc
from face.evaluation.protocols import TemplateDetails
from face.evaluation.roc import RocCurve, equal_error_rate, roc_curve
from face.evaluation.template_search import search
from face.evaluation.verification import verify_distances


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


def test_millions_of_impostors_are_shown_down_to_1e_6(drawn):
    far = np.array([0, 1e-7, 1e-6, 1e-3, 1])
    many = RocCurve(far=far, tar=np.array([0, 0.1, 0.55, 0.9, 1]), thresholds=far, different=10**7)
    draw_roc("roc.png", {"many": many})
    (axes,) = drawn[0].axes
    assert axes.get_xlim() == (1e-6, 1)
    assert axes.get_ylim() == (50, 101)  # of what is seen


def test_det_shows_both_errors(drawn):
    few, many = curve(0), curve(1, pairs=2000, shift=2.0)
    draw_det("det.png", {"few": few, "many": many})
    (axes,) = drawn[0].axes
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    assert axes.get_xlim() == (0.5 / 1000, 1)
    stairs = [line for line in axes.lines if line.get_drawstyle() == "steps-post"]
    for line, each in zip(stairs, (few, many), strict=True):
        far, missed = (values[~np.isnan(line.get_ydata())] for values in line.get_data())
        for x, y in zip(far, missed, strict=True):
            assert y >= 1 - each.tar[each.far <= x].max() - 1e-12
        last = np.append(far[1:] != far[:-1], True)  # a stair's lower end
        for x, y in zip(far[last], missed[last], strict=True):
            expected = 1 - each.tar[each.far <= x].max()
            assert y == pytest.approx(expected) or expected < 1e-12  # 0 has no place on the axis
        assert missed.min() > 0
    bottom, top = axes.get_ylim()
    assert (bottom, top) == (1e-3, 1)
    (legend,) = drawn[0].legends
    assert [text.get_text() for text in legend.get_texts()] == [
        f"{name}  {100 * equal_error_rate(each):.2f}" for name, each in (("few", few), ("many", many))
    ]


def test_det_without_errors(tmp_path):
    same = np.arange(40) % 2 == 0
    draw_det(tmp_path / "det.png", {"all right": roc_curve(np.where(same, 0.0, 1.0), same)})
    assert (tmp_path / "det.png").is_file()


def test_no_legend_below_lies_on_curves_and_many_entries_have_room(drawn):
    curves = {f"model {number}": curve(number) for number in range(12)}
    draw_roc("roc.png", curves, legend_below=True)
    (figure,) = drawn
    figure.draw_without_rendering()
    (legend,) = figure.legends
    axes = figure.axes[0].get_window_extent()
    assert legend.get_window_extent().y1 < axes.y0
    assert axes.height > 0.4 * figure.bbox.height
    assert len(legend.get_texts()) == 12


def draw_set(tmp_path, **results):
    written = draw_results(tmp_path, "toy", results)
    assert sorted(os.listdir(tmp_path)) == sorted(path.name for path in written)
    return [path.name for path in written]


def test_results_of_pairs(tmp_path):
    same = np.arange(40) % 2 == 0
    distances = np.random.default_rng(0).uniform(0, 2, 40)
    names = draw_set(tmp_path, a=verify_distances(distances, same), b=verify_distances(distances / 2, same))
    assert names == ["roc_toy.png", "det_toy.png"]
    assert all(cv2.imread(str(tmp_path / name)).std() > 1 for name in names)


def test_results_of_identification(tmp_path):
    random = np.random.default_rng(0)
    found = identify(random.standard_normal((4, 3)), random.standard_normal((4, 3)), list("abcd"), list("abcd"))
    assert draw_set(tmp_path, a=found) == ["cmc_toy.png"]


def test_results_of_templates(tmp_path, monkeypatch):
    random = np.random.default_rng(0)
    gallery = random.standard_normal((3, 4))
    both, none = (
        search(random.standard_normal((3, 4)), gallery, labels, [0, 1, 2]) for labels in ([0, 1, 2], [7, 8, 9])
    )
    shown = {}
    for kind in ("roc", "cmc"):
        monkeypatch.setattr(
            pictures, f"draw_{kind}", lambda path, curves, legend_below, kind=kind: shown.update({kind: list(curves)})
        )
    ijb = TemplateDetails(rocs={"verification": curve(0)}, searches={"search": both, "g1": both, "g2": none})
    draw_results(tmp_path, "ijbc", {"a": ijb, "b": ijb})
    assert shown == {"roc": ["a", "b"], "cmc": ["a", "b"]}
    ijbs = TemplateDetails(rocs={}, searches={"surveillance_to_single": both, "x": both, "of_nobody": none})
    shown.clear()
    draw_results(tmp_path, "ijbs", {"a": ijbs})
    assert shown == {"cmc": [("a", "surveillance to single"), ("a", "x")]}


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
