"""Every shipped config is understood and builds its model; a wrong one is refused completely, before anything runs."""

from pathlib import Path

import pytest
import yaml

from common.runtime.settings import ConfigError, merge, to_mapping
from plugin.runtime.host import MODELS
from plugin.runtime.settings import load_gait_settings

ROOT = Path(__file__).parents[3]
SHIPPED = sorted(path.relative_to(ROOT) for path in (ROOT / "configs").rglob("swingait2d*.yaml"))


class Silent:
    def log_info(self, message):
        pass


def build(settings):
    return MODELS[settings.model_cfg.model](to_mapping(settings), True, Silent())


def differences(first, second, key=""):
    """Dotted keys at which two mappings differ; absent ones too."""
    if not (isinstance(first, dict) and isinstance(second, dict)):
        return [] if first == second else [key]
    names = sorted(set(first) | set(second))
    return [d for n in names for d in differences(first.get(n), second.get(n), f"{key}.{n}" if key else n)]


def test_there_are_configs_to_test():
    assert len(SHIPPED) >= 4


@pytest.mark.parametrize("path", [path for path in SHIPPED if "demo" in path.parts], ids=str)
def test_demo_config_builds(path):
    settings = load_gait_settings(ROOT / path)
    model = build(settings)
    assert model.get_optimizer(to_mapping(settings.optimizer_cfg)).param_groups


@pytest.mark.parametrize("path", SHIPPED, ids=str)
def test_shipped_config_is_consistent(path):
    settings = load_gait_settings(ROOT / path)
    assert settings.trainer_cfg.save_name == settings.evaluator_cfg.save_name
    assert settings.trainer_cfg.total_iter == settings.evaluator_cfg.restore_hint
    assert settings.model_cfg.backbone_cfg.position_bias == ("kprpe" if "kprpe" in path.name else "table")


def test_full_size_parameter_counts():
    sizes = {}
    for name in ("swingait2d", "swingait2d_kprpe"):
        model = build(load_gait_settings(ROOT / "configs" / f"{name}.yaml"))
        sizes[name] = {parameter: value.numel() for parameter, value in model.named_parameters()}
    assert sum(sizes["swingait2d"].values()) == 25_318_464  # SwinGait, made 2D
    plain, keyed = sizes.values()
    tables = {name for name in plain if "relative_position_bias_table" in name}
    kprpe = {name for name in keyed if "kprpe" in name}
    assert len(tables) == 4 + 2
    assert set(plain) - tables == set(keyed) - kprpe
    # 49 buckets with 17 joints x (x, y) and a bias each, for 4 layers of 16 heads and 2 of 32
    assert sum(keyed[name] for name in kprpe) == 49 * (2 * 17 + 1) * (4 * 16 + 2 * 32)


@pytest.mark.parametrize("folder", ["configs", "configs/demo"])
def test_baseline_and_kprpe_differ_only_where_they_must(folder):
    plain, keyed = (
        to_mapping(load_gait_settings(ROOT / folder / f"swingait2d{suffix}.yaml")) for suffix in ("", "_kprpe")
    )
    assert differences(plain, keyed) == [
        "data_cfg.data_in_use",
        "evaluator_cfg.save_name",
        "model_cfg.backbone_cfg.position_bias",
        "trainer_cfg.save_name",
    ]


def test_demo_differs_from_full_in_size_and_schedule_only():
    full, demo = (
        to_mapping(load_gait_settings(ROOT / folder / "swingait2d_kprpe.yaml"))
        for folder in ("configs", "configs/demo")
    )
    sections = {key.rsplit(".", 1)[-1] for key in differences(full, demo)}
    assert not sections & {"transform", "position_bias", "keypoint_grid", "form", "method", "ratio", "window_size"}
    assert not sections & {"sample_type", "solver", "weight_decay", "loss_cfg", "bin_num", "feature_size"}


def test_defaults_are_opengaits(config):
    mapping = config.mapping()
    for section in ("trainer_cfg", "evaluator_cfg"):
        mapping[section] = {"save_name": "tmp"}
    path = config.folder / "short.yaml"
    path.write_text(yaml.safe_dump(mapping))
    settings = load_gait_settings(path)
    trainer, evaluator = settings.trainer_cfg, settings.evaluator_cfg
    assert (trainer.total_iter, trainer.save_iter, trainer.log_iter, trainer.restore_hint) == (80000, 2000, 100, 0)
    assert (trainer.enable_float16, trainer.fix_BN, trainer.sync_BN, trainer.with_test) == (True, False, False, False)
    assert (trainer.sampler.batch_size, trainer.sampler.sample_type) == ((8, 16), "fixed_unordered")
    assert trainer.sampler.frames_num_fixed == 30
    assert (evaluator.restore_hint, evaluator.enable_float16, evaluator.metric) == (80000, False, "euc")
    assert (evaluator.sampler.batch_size, evaluator.sampler.sample_type) == (4, "all_ordered")


def refused(config, changes, *expected):
    path = config.file(changes)
    with pytest.raises(ConfigError) as caught:
        load_gait_settings(path)
    message = str(caught.value)
    for text in (str(path), *expected):
        assert text in message
    return message


def test_unknown_key_is_refused_with_the_nearest_name(config):
    expected = ("trainer_cfg.totl_iter", "did you mean 'total_iter'?", "others need OpenGait itself")
    refused(config, {"trainer_cfg": {"totl_iter": 4}}, *expected)


def test_wrong_type_is_refused(config):
    refused(config, {"optimizer_cfg": {"lr": "1e-4"}}, "optimizer_cfg.lr", "expected float", "1.0e-4")
    refused(config, {"trainer_cfg": {"with_test": 1}}, "trainer_cfg.with_test: expected bool, found 1")
    refused(config, {"trainer_cfg": {"sampler": {"batch_size": [8]}}}, "batch_size: expected 2 value(s), found 1")


def test_all_problems_come_at_once(config):
    message = refused(
        config,
        {
            "data_cfg": {"num_workers": -1, "cach": True},
            "model_cfg": {"backbone_cfg": {"position_bias": "keypoints"}},
            "trainer_cfg": {"log_iter": 0},
        },
    )
    for text in ("data_cfg.cach", "position_bias", "log_iter must be > 0"):
        assert text in message


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"model_cfg": {"model": "DeepGaitV2"}}, "'DeepGaitV2' is not one of SwinGait2D"),
        ({"loss_cfg": [{"type": "SupConLoss_Re", "log_prefix": "triplet"}]}, "'SupConLoss_Re' is not one of"),
        ({"optimizer_cfg": {"solver": "Adam"}}, "'Adam' is not one of AdamW, SGD"),
        ({"scheduler_cfg": {"scheduler": "StepLR"}}, "'StepLR' is not one of"),
        ({"evaluator_cfg": {"eval_func": "evaluate_FreeGait"}}, "'evaluate_FreeGait' is not one of"),
        ({"trainer_cfg": {"sampler": {"sample_type": "all_ordered"}}}, "'all_ordered' is not one of"),
        ({"trainer_cfg": {"sampler": {"type": "CommonSampler"}}}, "'CommonSampler' is not one of"),
    ],
)
def test_what_only_opengait_has_is_refused_by_name(config, changes, expected):
    refused(config, changes, expected, "others need OpenGait itself")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"model_cfg": {"SeparateFCs": {"parts_num": 6}}}, "parts_num must be the sum of bin_num and 1, 7"),
        ({"model_cfg": {"SeparateBNNecks": {"parts_num": 8}}}, "got 7 and 8"),
        ({"model_cfg": {"SeparateFCs": {"in_channels": 8}}}, "must be twice embed_dim, 16, got 8"),
        ({"model_cfg": {"SeparateBNNecks": {"in_channels": 4}}}, "must be SeparateFCs.out_channels, 8, got 4"),
        ({"model_cfg": {"SeparateBNNecks": {"class_num": 0}}}, "class_num must be > 0"),
        ({"model_cfg": {"bin_num": [4, 2]}}, "bin_num 4 does not divide the 6 token rows"),
        ({"model_cfg": {"bin_num": [6, 0]}}, "bin_num must be numbers > 0, got [6, 0]"),
        ({"model_cfg": {"bin_num": []}}, "bin_num must be numbers > 0, got []"),
        ({"model_cfg": {"backbone_cfg": {"channels": [4, 0]}}}, "channels[1] must be > 0"),
        ({"model_cfg": {"backbone_cfg": {"num_heads": [0, 4]}}}, "num_heads[0] must be > 0"),
        ({"model_cfg": {"backbone_cfg": {"drop_path_rate": 1.0}}}, "drop_path_rate must be in [0, 1)"),
        ({"trainer_cfg": {"transform": []}}, "transform must be one PairedCompose"),
        ({"loss_cfg": [{"type": "TripletLoss", "log_prefix": "triplet"}]}, "softmax and triplet, got ['triplet']"),
        ({"data_cfg": {"data_in_use": [0, -1]}}, "data_in_use: an index must be >= 0"),
        ({"trainer_cfg": {"sampler": {"frames_skip_num": -1}}}, "frames_skip_num must be >= 0"),
        ({"evaluator_cfg": {"sampler": {"frames_all_limit": 0}}}, "frames_all_limit must be > 0"),
        ({"evaluator_cfg": {"restore_hint": -2}}, "restore_hint must be >= 0"),
        ({"trainer_cfg": {"restore_hint": -2}}, "restore_hint must be >= 0"),
        ({"optimizer_cfg": {"lr": 0.0}}, "lr must be > 0"),
        ({"scheduler_cfg": {"T_0": 0}}, "T_0 must be > 0"),
        ({"scheduler_cfg": {"eta_min": -3.0}}, "eta_min must be within 0 and 1000"),
        ({"optimizer_cfg": {"lr": float("inf")}}, "lr must be within 0 and 1000"),
        ({"optimizer_cfg": {"weight_decay": -1.0}}, "weight_decay must be within 0 and 1000"),
        ({"model_cfg": {"backbone_cfg": {"min_confidence": 7.0}}}, "min_confidence must be within 0 and 1, got 7"),
        ({"model_cfg": {"backbone_cfg": {"num_keypoints": 5}}}, "num_keypoints must be 17, the joints of the data"),
        ({"model_cfg": {"backbone_cfg": {"ratio": 0.0001}}}, "ratio must be within 0.5 and 1000"),
        ({"model_cfg": {"backbone_cfg": {"num_heads": [3, 4]}}}, "num_heads[0] must divide the 8 channels"),
        ({"model_cfg": {"backbone_cfg": {"window_size": [3, 50]}}}, "window_size[1] must be 1 to"),
        ({"trainer_cfg": {"save_name": "../elsewhere"}}, "save_name must name one folder"),
        ({"evaluator_cfg": {"save_name": ""}}, "save_name must name one folder"),
        ({"data_cfg": {"dataset_name": ".."}}, "dataset_name must name one folder"),
    ],
)
def test_fields_are_checked_against_each_other(config, changes, expected):
    refused(config, changes, expected)


def test_overrides_merge_over_the_file(config):
    path = config.file()
    settings = load_gait_settings(path, {"trainer_cfg": {"total_iter": 9}, "model_cfg": {"bin_num": [6]}})
    expected = merge(to_mapping(load_gait_settings(path)), {"trainer_cfg": {"total_iter": 9}})
    assert to_mapping(settings) == expected


def test_a_protocol_of_another_data_set_is_refused(config):
    with pytest.raises(ConfigError, match="evaluate_CCPG knows the data sets CCPG, got 'walkers'"):
        config.settings({"evaluator_cfg": {"eval_func": "evaluate_CCPG"}})
