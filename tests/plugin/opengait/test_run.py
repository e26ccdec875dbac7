"""`python -m plugin --opengait`: OpenGait's main program, its checkout untouched."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from common.runtime.settings import ConfigError
from plugin.__main__ import main
from plugin.conditions import TestCondition
from plugin.opengait.run import effective_settings, work_folder
from plugin.runtime.runner import RunOptions, test
from plugin.runtime.settings import load_gait_settings

from .conftest import environment, tree
from .test_install import fake  # noqa: F401 (a fixture)

run_test = test
del test


def test_paths_become_absolute(runs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    mapping = runs.tiny("swingait2d", Path("here"))
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(mapping))
    settings = effective_settings(
        tmp_path / "run.yaml", {"trainer_cfg": {"restore_hint": "some/file.pt"}}, TestCondition(misalign=0.2)
    )
    assert settings["data_cfg"]["dataset_root"] == str(tmp_path / "here" / "paired")
    assert settings["data_cfg"]["dataset_partition"] == str(tmp_path / "here" / "partition.json")
    assert settings["trainer_cfg"]["restore_hint"] == str(tmp_path / "some" / "file.pt")
    assert settings["evaluator_cfg"]["restore_hint"] == 3
    chain = settings["evaluator_cfg"]["transform"][0]["trf_cfg"]
    assert chain[0].items() >= {"type": "CropMisalignment", "shift": 0.2, "scale": 0.2}.items()
    assert chain[1:] == mapping["evaluator_cfg"]["transform"][0]["trf_cfg"]


def test_wrong_yaml_is_refused(tmp_path):
    (tmp_path / "run.yaml").write_text("data_cfg: {}\nevaluator_cfg: 3\n")
    with pytest.raises(ConfigError, match="evaluator_cfg must be a mapping, found int"):
        effective_settings(tmp_path / "run.yaml", {}, TestCondition())


def test_work_folder_looks_like_the_checkout(fake, tmp_path):  # noqa: F811
    (fake / "datasets" / "GREW").mkdir()
    (tmp_path / "partition.json").write_text('{"PROBE_SET": ["mine"]}')
    settings = {"data_cfg": {"dataset_partition": str(tmp_path / "partition.json")}}
    before = tree(fake)
    with work_folder(fake, settings, tmp_path / "out") as folder:
        assert (folder / "configs" / "default.yaml").read_text() == ""
        assert (folder / "datasets" / "GREW").is_dir()
        assert json.loads((folder / "datasets" / "Gait3D" / "Gait3D.json").read_text()) == {"PROBE_SET": ["mine"]}
        assert yaml.safe_load((folder / "run.yaml").read_text()) == settings
        (folder / "output" / "kept.txt").write_text("kept")
    assert not folder.exists()
    assert (tmp_path / "out" / "kept.txt").read_text() == "kept"
    assert tree(fake) == before


def test_without_cuda_it_says_what_does_without(fake, settings, tmp_path, capsys, monkeypatch):  # noqa: F811
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    settings("swingait2d")
    assert main(["--cfgs", str(tmp_path / "swingait2d.yaml"), "--opengait", str(fake)]) == 2
    assert "needs CUDA devices" in capsys.readouterr().err
    assert main(["--cfgs", str(tmp_path / "swingait2d.yaml"), "--opengait", str(tmp_path)]) == 2
    assert "not a checkout of OpenGait" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["--cfgs", "x.yaml", "--opengait", str(fake), "--seed", "3"])


def launch(runs, checkout, config, output, *more, processes=1):
    harness = str(Path(runs.__file__).with_name("opengait_cpu.py"))
    start = [sys.executable]
    if processes > 1:
        start += ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    command = [*start, harness, "-m", "plugin", "--opengait", str(checkout), "--cfgs", str(config)]
    return subprocess.run(
        [*command, "--output", str(output), *more],
        cwd=config.parent,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


def test_two_processes_train_and_test(checkout, runs, data, tmp_path):
    """DDP in OpenGait itself; its metrics are those of the embedded runtime, on misaligned crops too."""
    config = tmp_path / "run.yaml"
    config.write_text(yaml.safe_dump(runs.tiny("swingait2d_kprpe", data)))
    before = tree(checkout)
    done = launch(runs, checkout, config, tmp_path / "out", processes=2)
    assert done.returncode == 0, done.stderr[-3000:]
    points = EventAccumulator(str(tmp_path / "out" / "tiny" / "SwinGait2D" / "swingait2d_kprpe" / "summary")).Reload()
    assert [point.step for point in points.Scalars("triplet/loss")] == [1, 2, 3]
    done = launch(
        runs, checkout, config, tmp_path / "out", "--phase", "test", "--resume", "--misalign", "0.2", processes=2
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = dict(re.findall(r"scalar/test_accuracy/([\w-]+)': (?:np\.float\d+\()?([\d.]+)", done.stderr))
    assert tree(checkout) == before

    options = RunOptions(output=tmp_path / "out", resume=True, condition=TestCondition(misalign=0.2))
    metrics = run_test(load_gait_settings(config), options).metrics
    for key, value in metrics.items():
        # OpenGait's log shows its numbers with two digits.
        assert float(found[key.rsplit("/", 1)[1]]) == pytest.approx(value, abs=0.006), key


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (["evaluator_cfg.transform=[{type: BaseSilTransform}]"], "must be a list of one PairedCompose"),
        (["model_cfg.backbone_cfg.heads=3"], "unknown key"),
        (["data_cfg.dataset_root=nowhere"], "no such folder"),
    ],
)
def test_mistakes_are_found_before_training(changes, said, checkout, runs, data, tmp_path):
    config = tmp_path / "run.yaml"
    config.write_text(yaml.safe_dump(runs.tiny("swingait2d_kprpe", data)))
    done = launch(runs, checkout, config, tmp_path / "out", *changes)
    assert done.returncode == 2, done.stderr[-3000:]
    assert re.search(rf"error: .*{said}", done.stderr, re.S)
    assert "Traceback" not in done.stderr
