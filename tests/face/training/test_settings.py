"""Every shipped config is read, names a model that there is, and says what the paper's table says."""

from pathlib import Path

import pytest

from common.runtime.settings import ConfigError
from face.losses import AdaFaceSettings, make_margin
from face.models.registry import model_settings
from face.training.settings import load_train_settings

ROOT = Path(__file__).parents[3]
CONFIGS = sorted(
    path
    for folder in (ROOT / "configs" / "face", ROOT / "configs" / "demo" / "face")
    for path in folder.glob("*.yaml")
    if not path.name.startswith("dfa")  # of face.dfa.train
)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: str(path.relative_to(ROOT / "configs")))
def test_shipped_configs(path):
    settings = load_train_settings(path)
    model_settings(settings.model.name, **settings.model.settings)
    make_margin(settings.loss.margin)
    if path.parent.name == "face" and path.parent.parent.name == "configs":
        assert settings.name == path.stem


# (lr, batch, epochs, repeats, sampling rate) of the two columns of Table 6; the other rows are common to both.
TABLE_6 = {
    "vit_small_kprpe_adaface": (1e-3, 512, 34, 0.5, 1.0),
    "vit_large_kprpe_adaface": (1e-4, 1024, 36, 0.1, 0.6),
}


@pytest.mark.parametrize("name", TABLE_6)
def test_table_6(name):
    settings = load_train_settings(ROOT / "configs" / "face" / f"{name}.yaml")
    assert (
        settings.optimizer.lr,
        settings.trainer.batch_size,
        settings.schedule.epochs,
        settings.data.repeat_probability,
        settings.loss.sampling_rate,
    ) == TABLE_6[name]
    assert settings.optimizer.type == "AdamW"
    assert settings.optimizer.betas[0] == 0.9
    assert settings.optimizer.weight_decay == 0.05
    assert (settings.schedule.decay, settings.schedule.warmup_epochs) == ("cosine", 3)
    assert isinstance(settings.loss.margin, AdaFaceSettings)
    assert (settings.loss.margin.margin, settings.loss.margin.h) == (0.4, 0.333)
    augmentation = settings.augmentation
    assert (augmentation.randaug_magnitude, augmentation.randaug_bins, augmentation.rotation_degrees) == (14, 31, 20.0)
    for chance in ("flip_prob", "rotation_prob", "blur_prob", "cutout_prob", "translation_extra", "randaug_ops"):
        assert getattr(augmentation, chance) > 0, chance
    assert settings.model.settings["position_bias"] == "kprpe"
    assert settings.model.settings["drop_path"] > 0  # no row of the table; both public codes have it


def test_the_two_demo_configs_differ_in_the_position_encoding_alone():
    one, two = (
        load_train_settings(ROOT / "configs" / "demo" / "face" / f"{name}.yaml") for name in ("vit", "vit_kprpe")
    )
    assert one.model.settings | {"position_bias": "kprpe"} == two.model.settings
    assert one.model.settings["position_bias"] == "none"
    for part in ("data", "augmentation", "loss", "optimizer", "schedule", "trainer", "evaluation"):
        assert getattr(one, part) == getattr(two, part), part


def test_all_problems_of_a_file_are_listed(config):
    path = config.file(
        {
            "data": {"missing_landmarks": "ignore", "min_image": 2},
            "loss": {"margin": {"type": "adaface", "margin": "0.4"}},
            "trainer": {"batch_size": 0, "max_grad_norm": -1.0},
            "optimizer": {"type": "Adam"},
        }
    )
    with pytest.raises(ConfigError, match=r"5 problem\(s\)") as problem:
        load_train_settings(path)
    for text in (
        "data.missing_landmarks: 'ignore' is not one of error, drop, reference, hide",
        "data.min_image: unknown key; did you mean 'min_images'?",
        "loss.margin.margin: expected float, found '0.4'",
        "trainer: batch_size must be >= 2, got 0; max_grad_norm must be > 0 or null, got -1.0",
        "optimizer.type: 'Adam' is not one of AdamW, SGD",
    ):
        assert text in str(problem.value)


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ({"name": "../x"}, "name must name one folder, got '../x'"),
        ({"data": {"repeat_probability": 1.5}}, "repeat_probability must be within 0 and 1, got 1.5"),
        ({"loss": {"sampling_rate": 0.0}}, "sampling_rate must be above 0 and at most 1, got 0.0"),
        ({"evaluation": {"sets": [{"name": "a", "path": "x"}] * 2}}, "two sets are called 'a'"),
        ({"evaluation": {"every_epochs": 0.0}}, "every_epochs must be > 0, got 0.0"),
        ({"trainer": {"save_epochs": 0.0}}, "save_epochs must be > 0, got 0.0"),
    ],
)
def test_values_out_of_range(config, override, problem):
    with pytest.raises(ConfigError, match=problem):
        config.settings(override)
