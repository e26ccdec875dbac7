"""What the pictures show: stairs at the right errors, and the faces that are the best, the middle and the worst."""

from types import SimpleNamespace

import numpy as np
import pytest

from face.dfa import pictures
from face.dfa.landmark_errors import LandmarkMetricSettings, LandmarkResult
from face.dfa.pictures import draw_cumulative_errors, draw_faces


@pytest.fixture
def drawn(monkeypatch):
    """Figures instead of files."""
    figures = []
    monkeypatch.setattr(pictures, "write_figure", lambda figure, path: figures.append(figure))
    return figures


def result(errors, **settings):
    errors = np.array(errors, np.float64)
    points = np.random.default_rng(0).uniform(0, 1, (len(errors), 5, 2)).astype(np.float32)
    return LandmarkResult(
        indices=10 * np.arange(len(errors)),
        truth=points,
        predicted=points + np.float32(0.1),
        scores=np.ones(len(errors), np.float32),
        errors=np.broadcast_to(errors[:, None], (len(errors), 5)),
        settings=LandmarkMetricSettings(**settings),
    )


def test_curves_are_stairs(drawn):
    results = {
        ("a", "aggregated"): result([1, 4, 4, 30]),
        ("a", "best anchor"): result([5, np.inf]),
        "b": result([np.inf]),
    }
    draw_cumulative_errors("curve.png", results)
    (axes,) = drawn[0].axes
    assert axes.get_xlim() == (0, 10)
    shown = [(line.get_xydata().tolist(), line.get_drawstyle()) for line in axes.lines]
    assert shown == [
        ([[0, 0], [1, 25], [4, 75], [30, 100], [30, 100]], "steps-post"),
        ([[0, 0], [5, 50], [10, 50]], "steps-post"),
        ([[0, 0], [10, 0]], "steps-post"),
    ]
    texts = [text.get_text() for text in axes.get_legend().get_texts()]
    assert texts == ["a, aggregated  9.75", "a, best anchor  5.00", "b  nan"]
    colours = [line.get_color() for line in axes.lines]
    assert colours[0] == colours[1] != colours[2]
    assert "% of sqrt(w h) of the box" in axes.get_xlabel()


def test_faces_are_the_best_the_median_and_the_worst(drawn):
    errors = [7.0, np.inf, 3.0, 9.0, 1.0, 5.0, 8.0, 2.0]
    asked = []

    class Crops:
        def __getitem__(self, index):
            asked.append(index)
            return SimpleNamespace(image=np.full((8, 8, 3), index, np.uint8))

    draw_faces("faces.png", result(errors), Crops(), columns=2)
    titles = [axes.get_title() for axes in drawn[0].axes]
    assert titles == ["1.0 %", "2.0 %", "3.0 %", "5.0 %", "8.0 %", "9.0 %"]
    assert asked == [40, 70, 20, 50, 60, 30]
    face = drawn[0].axes[0]
    np.testing.assert_array_equal(np.asarray(face.images[0].get_array()), np.full((8, 8, 3), 40))
    truth = result(errors).truth[4]
    dots = [line.get_xydata()[0] for line in face.lines if line.get_marker() == "o"]
    crosses = next(line.get_xydata() for line in face.lines if line.get_marker() == "x")
    np.testing.assert_allclose(dots, truth)
    np.testing.assert_allclose(crosses, truth + 0.1, rtol=1e-5)


def test_refusals(tmp_path):
    with pytest.raises(ValueError, match="got 2 results of 2 kinds"):
        draw_cumulative_errors(tmp_path / "x.png", {"a": result([1]), "b": result([1], normaliser="eyes")})
    with pytest.raises(ValueError, match="got 0 results of 0 kinds"):
        draw_cumulative_errors(tmp_path / "x.png", {})
    with pytest.raises(ValueError, match="need faces with predictions and columns >= 1, got 0 and 8"):
        draw_faces(tmp_path / "x.png", result([np.inf]), [])
    assert not list(tmp_path.iterdir())
