"""The configs of the other sets: OpenGait's numbers, and all else as in the Gait3D config."""

import dataclasses
from pathlib import Path

import pytest

from common.runtime.settings import parse_overrides
from plugin.runtime.settings import load_gait_settings

CONFIGS = Path(__file__).parents[2] / "configs"

# Subjects of TRAIN_SET in OpenGait's partition; layers, batch, iterations of its config for the set.
SETS = {
    "grew": ("GREW", 20000, (1, 4, 4, 2), (32, 4), 200000, "evaluate_real_scene"),
    "sustech1k": ("SUSTech1K", 250, (1, 1, 2, 2), (8, 8), 60000, "evaluate_indoor_dataset"),
    "ccpg": ("CCPG", 100, (1, 1, 2, 2), (8, 16), 80000, "evaluate_CCPG"),
    "oumvlp": ("OUMVLP", 5153, (1, 1, 2, 2), (32, 8), 120000, "evaluate_indoor_dataset"),
}


def load(folder, *overrides):
    return load_gait_settings(CONFIGS / folder / "swingait2d_kprpe.yaml", parse_overrides(list(overrides)))


@pytest.mark.parametrize("folder", SETS)
def test_numbers_of_opengait(folder):
    name, classes, layers, batch, iterations, function = SETS[folder]
    settings = load(folder)
    assert settings.data_cfg.dataset_name == settings.data_cfg.test_dataset_name == name
    assert settings.model_cfg.bnnecks.class_num == classes
    assert settings.model_cfg.backbone_cfg.layers == layers
    assert settings.trainer_cfg.sampler.batch_size == batch
    assert settings.trainer_cfg.total_iter == settings.evaluator_cfg.restore_hint == iterations
    assert settings.trainer_cfg.save_name == settings.evaluator_cfg.save_name
    assert settings.evaluator_cfg.eval_func == function
    schedule = settings.scheduler_cfg
    periods = schedule.first_period * (1 + schedule.growth)  # two of them, the second longer
    assert 0 <= periods - iterations <= 1


@pytest.mark.parametrize("folder", SETS)
def test_all_else_is_as_on_gait3d(folder):
    ours, gait3d = load(folder), load_gait_settings(CONFIGS / "swingait2d_kprpe.yaml")
    layers = gait3d.model_cfg.backbone_cfg.layers
    assert dataclasses.replace(ours.model_cfg.backbone_cfg, layers=layers) == gait3d.model_cfg.backbone_cfg
    assert ours.optimizer_cfg == gait3d.optimizer_cfg
    assert ours.loss_cfg == gait3d.loss_cfg
    assert ours.trainer_cfg.transform == gait3d.trainer_cfg.transform
    assert ours.evaluator_cfg.transform == gait3d.evaluator_cfg.transform


@pytest.mark.parametrize("folder", SETS)
def test_the_baseline_is_an_override(folder):
    page = (CONFIGS.parent / "plugin" / "DATASETS.md").read_text()
    line = next(line for line in page.splitlines() if line.startswith("model_cfg.backbone_cfg.position_bias=table"))
    settings = load(folder, *line.split())
    assert settings.model_cfg.backbone_cfg.position_bias == "table"
    assert settings.data_cfg.data_in_use == [True, False]
    assert settings.trainer_cfg.save_name == settings.evaluator_cfg.save_name != load(folder).trainer_cfg.save_name


def test_grew_can_be_submitted():
    assert load("grew", "evaluator_cfg.eval_func=GREW_submission").evaluator_cfg.eval_func == "GREW_submission"
