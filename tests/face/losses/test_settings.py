"""Settings of margins: told apart by their type, built into the margin they name, and refused with its own words."""

from dataclasses import dataclass

import pytest

from common.runtime.settings import ConfigError, build_settings, to_mapping
from face.losses import AdaFace, ArcFace, CosFace
from face.losses.settings import AdaFaceSettings, ArcFaceSettings, CosFaceSettings, MarginSettings, make_margin


@dataclass(frozen=True, kw_only=True)
class Run:
    margin: MarginSettings


@pytest.mark.parametrize(
    ("mapping", "settings", "kind"),
    [
        ({"type": "arcface", "margin_rad": 0.3}, ArcFaceSettings(margin_rad=0.3), ArcFace),
        ({"type": "cosface", "scale": 32}, CosFaceSettings(scale=32.0), CosFace),
        ({"type": "adaface", "h": 0.5, "t_alpha": 0.99}, AdaFaceSettings(h=0.5, t_alpha=0.99), AdaFace),
    ],
)
def test_type_names_the_margin(mapping, settings, kind):
    run = build_settings({"margin": mapping}, Run)
    assert run == Run(margin=settings)
    assert build_settings(to_mapping(run), Run) == run
    margin = make_margin(run.margin)
    assert type(margin) is kind
    for name, value in mapping.items():
        if name != "type":
            assert getattr(margin, name) == value


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({"type": "arcface", "margin": 0.5}, "margin.margin: unknown key"),
        ({"type": "arcface", "margin_rad": 28.6}, "margin: margin_rad must be within"),
        ({"type": "arcfase"}, "did you mean 'arcface'"),
        ({"margin_rad": 0.5}, "margin.type: required, one of arcface, cosface, adaface"),
    ],
)
def test_problems_are_named(mapping, message):
    with pytest.raises(ConfigError, match=message):
        build_settings({"margin": mapping}, Run)
