"""The command line: arguments, overrides, exit codes, and errors of one block instead of a traceback."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from common.runtime.settings import merge, parse_overrides
from plugin.__main__ import main

ROOT = Path(__file__).parents[3]


def test_help_does_not_wait_for_torch():
    code = (
        "import sys\nfrom plugin.__main__ import main\n"
        "try:\n    main(['--help'])\n"
        "finally:\n    assert not {'torch', 'numpy', 'cv2'} & set(sys.modules), sorted(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    for argument in ("--cfgs", "--phase", "--iter", "--resume", "--log_to_file", "--seed", "--output", "--misalign"):
        assert argument in done.stdout


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "--cfgs"),
        (["--cfgs", "x.yaml", "--phase", "val"], "invalid choice: 'val'"),
        (["--cfgs", "x.yaml", "--iter", "-1"], "must not be negative"),
        (["--cfgs", "x.yaml", "--iter", "two"], "invalid int value"),
        (["--cfgs", "x.yaml", "--misalign", "-0.1", "--phase", "test"], "--misalign must be at least 0"),
        (["--cfgs", "x.yaml", "--misalign", "1", "--phase", "test"], "--misalign must be at least 0"),
        (["--cfgs", "x.yaml", "--misalign", "0.1"], "--misalign is a condition of --phase test"),
        (["--cfgs", "x.yaml", "--unknown", "1"], "unrecognized arguments"),
    ],
)
def test_wrong_arguments(arguments, expected, capsys):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert expected in capsys.readouterr().err


def test_mapping_as_an_override_replaces_the_files():
    overrides = parse_overrides(["a={kind: new}", "b.c=2"])
    assert merge({"a": {"kind": "old", "detail": 1}, "b": {"c": 1, "d": 1}}, overrides) == {
        "a": {"kind": "new"},
        "b": {"c": 2, "d": 1},
    }


def test_overrides_are_nested_and_yaml():
    assert parse_overrides([]) == {}
    assert parse_overrides(["a.b=1", "a.c.d=[true, x]", "e=text", "f=1.0e-4", "g=", "h=a=b"]) == {
        "a": {"b": 1, "c": {"d": [True, "x"]}},
        "e": "text",
        "f": 1e-4,
        "g": None,
        "h": "a=b",
    }
    assert parse_overrides(["a=1", "a=2"]) == {"a": 2}


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        (["a"], "expected KEY=VALUE, got 'a'"),
        (["=1"], "expected KEY=VALUE, got '=1'"),
        (["a=1", "a.b=2"], "'a.b=2': a is set to a value already"),
        (["a.b=2", "a=1"], "'a=1': keys below a are set already"),
        (["a=[1"], r"'a=\[1': the value is not YAML"),
    ],
)
def test_wrong_overrides(entries, expected):
    with pytest.raises(ValueError, match=expected):
        parse_overrides(entries)


def call(config, *arguments, path=None):
    return main(["--cfgs", str(path or config.file()), "--output", str(config.folder / "output"), *arguments])


def assert_error(capsys, *expected):
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert "Traceback" not in err
    for text in expected:
        assert text in err


def test_train_then_test(config):
    few = ["trainer_cfg.total_iter=2", "evaluator_cfg.restore_hint=2"]
    assert call(config, "--phase", "train", "--log_to_file", *few) == 0
    run = config.folder / "output" / "tiny" / "SwinGait2D" / "tiny"
    assert (run / "checkpoints" / "tiny-00002.pt").exists()
    assert len(list((run / "logs").iterdir())) == 1
    assert call(config, "--phase", "test", *few) == 0
    assert call(config, "--phase", "test", "--misalign", "0.1", "--iter", "2") == 0
    assert sorted(path.name for path in (run / "results").iterdir()) == [
        "tiny-00002-clean.json",
        "tiny-00002-misaligned-0.1.json",
    ]


def test_overrides_may_stand_anywhere(config):
    path = config.file()
    arguments = ["trainer_cfg.total_iter=1", "--cfgs", str(path), "data_cfg.dataset_name=other", "--output"]
    assert main([*arguments, str(config.folder / "output"), "trainer_cfg.save_name=mine"]) == 0
    assert (config.folder / "output" / "other" / "SwinGait2D" / "mine" / "checkpoints" / "mine-00001.pt").exists()


@pytest.mark.parametrize("phase", ["train", "test"])
def test_wrong_yaml(config, capsys, phase):
    path = config.file({"trainer_cfg": {"totl_iter": 3}})
    assert call(config, "--phase", phase, path=path) == 2
    assert_error(capsys, str(path), "trainer_cfg.totl_iter", "did you mean", "OpenGait")


def test_missing_yaml(config, capsys):
    assert call(config, path=config.folder / "none.yaml") == 2
    assert_error(capsys, "none.yaml: 1 problem(s)\n  no such file")


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("data_cfg.dataset_root=/nowhere", "dataset_root: no such folder: /nowhere"),
        ("data_cfg.dataset_partition=/nowhere.json", "/nowhere.json: partition cannot be read"),
        ("trainer_cfg.sampler.batch_size=[6, 2]", "asks for 6 subjects, the training set has 5"),
        ("trainer_cfg.restore_hint=7", "tiny-00007.pt: no such checkpoint"),
        ("data_cfg.data_in_use=[true, false]", "15 sequence(s) cannot be used"),
        ("model_cfg.backbone_cfg.num_heads=[3, 4]", "num_heads[0] must divide the 8 channels of its stage, got 3"),
        ("nothing", "expected KEY=VALUE, got 'nothing'"),
    ],
)
def test_wrong_input_ends_with_one_error(config, capsys, override, expected):
    assert call(config, override) == 2
    assert_error(capsys, expected)
    assert not (config.folder / "output").exists()


def test_testing_without_checkpoint(config, capsys):
    assert call(config, "--phase", "test") == 2
    assert_error(capsys, "tiny-00004.pt: no such checkpoint; beside it: no .pt file")


def test_output_that_is_a_file(config, capsys):
    (config.folder / "output").write_text("")
    assert call(config) == 2
    assert_error(capsys, str(config.folder / "output"))


def test_module_exits_with_the_code_of_main(config):
    path = config.folder / "none.yaml"
    command = [sys.executable, "-m", "plugin", "--cfgs", str(path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, env={**os.environ})
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {path}: 1 problem(s)")
