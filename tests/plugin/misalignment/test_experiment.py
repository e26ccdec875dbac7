"""The experiment on tiny models: figures are those of the tests, nothing is done twice, other settings are refused."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import yaml

from plugin.conditions import TestCondition
from plugin.evaluation import Protocol
from plugin.misalignment import cli
from plugin.misalignment.experiment import AUGMENTATION, describe_data, load_candidates
from plugin.misalignment.sweeps import Sweep
from plugin.runtime import runner

SWEEPS = (
    Sweep(title="crops", axis="shift", varied="misalign", strengths=(0.0, 0.2)),
    Sweep(title="joints", axis="noise", varied="joint_noise", strengths=(0.0, 0.1), base=TestCondition(misalign=0.2)),
)
NAMES = {"swingait2d": "SwinGait-2D", "swingait2d_kprpe": "SwinGait-2D + KP-RPE"}
SHORT = {"trainer_cfg": {"total_iter": 2}, "scheduler_cfg": {"T_0": 2}}


def arguments(data, configs, out, *more):
    where = ["--data", str(data.root), "--partition", str(data.partition), "--out", str(out)]
    return [*where, "--cfgs", *map(str, configs), *more]


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def read_results(out):
    return json.loads((out / "results.json").read_text())["runs"]


@pytest.fixture
def configs(config, tmp_path):
    folder = tmp_path / "configs"
    folder.mkdir()
    for base in NAMES:
        (folder / f"{base}.yaml").write_text(yaml.safe_dump(config.mapping(SHORT, base)))
    return [folder / f"{base}.yaml" for base in NAMES]


@pytest.fixture(scope="module")
def store():
    """What the first test that needs the experiment leaves for the others."""
    return {}


@pytest.fixture
def experiment(store, prepared, configs, tmp_path, tmp_path_factory, capsys):
    """A copy of the folder that an experiment with seeds 0 and 1 leaves, and how it was called."""
    if not store:
        folder = tmp_path_factory.mktemp("experiment") / "out"
        assert cli.main(arguments(prepared, configs, folder, "--seeds", "0", "1"), SWEEPS) == 0
        store["folder"], store["printed"] = folder, capsys.readouterr().out
    out = tmp_path / "out"
    shutil.copytree(store["folder"], out)

    def again(*more):
        return cli.main(arguments(prepared, configs, out, *more), SWEEPS)

    return SimpleNamespace(out=out, again=again, printed=store["printed"])


@pytest.fixture
def calls(monkeypatch):
    """What is trained and tested, as (what, seed, condition)."""
    made = []
    for what in ("train", "test"):
        function = getattr(runner, what)

        def counted(settings, options, what=what, function=function):
            made.append((what, options.seed, options.condition.name))
            return function(settings, options)

        monkeypatch.setattr(runner, what, counted)
    return made


def test_figures_are_those_of_the_tests(experiment):
    """Every one is in the file that the runtime wrote for it, and the table has their means."""
    runs = read_results(experiment.out)
    met = {"swingait2d": ["clean", "misaligned-0.2"]}
    met["swingait2d_kprpe"] = [*met["swingait2d"], "misaligned-0.2+joint-noise-0.1"]
    found = {}
    for run in runs:
        name = next(name for name, title in NAMES.items() if title == run["model"])
        condition = TestCondition(**run["condition"]).name
        folder = experiment.out / "runs" / name / f"seed{run['seed']}" / "tiny" / "SwinGait2D" / "tiny"
        assert (folder / "checkpoints" / "tiny-00002.pt").is_file()
        result = json.loads((folder / "results" / f"tiny-00002-{condition}.json").read_text())
        assert run["metrics"] == result["metrics"]
        assert run["takes_joints"] == (name == "swingait2d_kprpe")
        assert not run["augmented"]
        found[name, run["seed"], condition] = result["metrics"]
    assert len(runs) == len(found)
    assert set(found) == {(name, seed, each) for name in met for seed in (0, 1) for each in met[name]}

    table = (experiment.out / "table.md").read_text()
    assert table.rstrip() in experiment.printed
    line = next(line for line in table.splitlines() if line.startswith("| crops misaligned 20 %, joint noise 10 %"))
    cells = [cell.strip() for cell in line.split("|")[2:-1]]
    expected = []
    for metric in ("Rank-1", "mAP"):
        old = np.array([found["swingait2d", seed, "misaligned-0.2"][metric] for seed in (0, 1)])
        new = np.array([found["swingait2d_kprpe", seed, met["swingait2d_kprpe"][2]][metric] for seed in (0, 1)])
        for values, sign in ((old, ""), (new, ""), (new - old, "+")):
            expected.append(f"{np.mean(values):{sign}.2f} ± {abs(values[0] - values[1]) / 2**0.5:.2f}")
    assert cells == expected
    assert "people" not in table  # nothing is said of data that is not ours
    assert cv2.imread(str(experiment.out / "curves.png")).std() > 1


def test_joints_are_nothing_to_the_baseline(experiment, configs, monkeypatch):
    """What is not tested again for it would be the same test: the embeddings agree to the last digit."""
    seen = []
    evaluate = Protocol.evaluate
    monkeypatch.setattr(
        Protocol,
        "evaluate",
        lambda self, embeddings, *names: seen.append(embeddings) or evaluate(self, embeddings, *names),
    )
    for candidate in load_candidates(configs, {}, augment="no"):
        for condition in (TestCondition(misalign=0.2), TestCondition(misalign=0.2, joint_noise=0.1, joint_loss=0.9)):
            output = experiment.out / "runs" / candidate.name / "seed1"
            runner.test(candidate.settings, runner.RunOptions(seed=1, output=output, iteration=2, condition=condition))
    baseline, hard_baseline, kprpe, hard_kprpe = seen
    assert (baseline == hard_baseline).all()
    assert (kprpe != hard_kprpe).any()  # two iterations give it weights other than zero


def test_nothing_is_done_twice(experiment, calls):
    before = files(experiment.out)
    assert experiment.again("--seeds", "0", "1") == 0
    assert calls == []
    changed = [name for name, content in files(experiment.out).items() if before.get(name) != content]
    assert set(changed) <= {"curves.png"}  # matplotlib may note the time in it


def test_what_is_lost_is_done_again(experiment, calls):
    before = read_results(experiment.out)
    gone = sorted((experiment.out / "runs").rglob("seed1/**/*misaligned-0.2+joint-noise-0.1.json"))
    assert len(gone) == 1
    gone[0].unlink()
    assert experiment.again("--seeds", "0", "1") == 0
    assert calls == [("test", 1, "misaligned-0.2+joint-noise-0.1")]
    assert read_results(experiment.out) == before


def test_a_seed_is_added(experiment, calls):
    assert experiment.again("--seeds", "0", "3") == 0
    assert {seed for _, seed, _ in calls} == {3}
    assert [what for what, *_ in calls] == ["train", "test", "test", "train", "test", "test", "test"]
    assert {run["seed"] for run in read_results(experiment.out)} == {0, 3}


def test_a_stopped_training_goes_on(experiment, calls, capsys):
    folder = experiment.out / "runs" / "swingait2d_kprpe" / "seed0"
    shutil.rmtree(folder)
    train = runner.train

    def stopped(settings, options):
        train(replace(settings, trainer_cfg=replace(settings.trainer_cfg, total_iter=1)), options)
        return 15

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner, "train", stopped)
        assert experiment.again("--seeds", "0") == 143
    assert "the same command goes on from here" in capsys.readouterr().err
    assert all(what == "train" for what, *_ in calls)
    calls.clear()
    assert experiment.again("--seeds", "0") == 0
    assert [what for what, *_ in calls] == ["train", "test", "test", "test"]
    assert {path.name for path in folder.rglob("*.pt")} == {"tiny-00001.pt", "tiny-00002.pt"}


def test_augmented_models_are_added(experiment, calls, configs):
    assert experiment.again("--seeds", "0", "--augment", "both") == 0
    assert [what for what, *_ in calls] == ["train", "test", "test", "train", "test", "test", "test"]
    assert sum(run["augmented"] for run in read_results(experiment.out)) == 5
    table = (experiment.out / "table.md").read_text()
    assert table.count("| clean ") == 2
    settings = json.loads((experiment.out / "settings.json").read_text())["models"]
    for name in NAMES:
        plain, augmented = (settings[each]["trainer_cfg"].pop("transform") for each in (name, f"{name}-augmented"))
        assert settings[name] == settings[f"{name}-augmented"]
        chain = augmented[0]["trf_cfg"]
        assert [entry["type"] for entry in chain[:3]] == ["CropMisalignment", "JointNoise", "JointDropout"]
        assert chain[len(AUGMENTATION) :] == plain[0]["trf_cfg"]


def test_other_settings_are_refused(experiment, calls, capsys, own_data, configs):
    before = files(experiment.out)
    assert experiment.again("--seeds", "0", "trainer_cfg.total_iter=3", "optimizer_cfg.lr=0.5") == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    for text in (
        "models.swingait2d.trainer_cfg.total_iter was 2, now 3",
        "swingait2d_kprpe.optimizer_cfg.lr was 0.001",
    ):
        assert text in error
    own_data.keypoints("0001").write_bytes(own_data.keypoints("0001").read_bytes() + b" ")
    assert cli.main(arguments(own_data, configs, experiment.out), SWEEPS) == 2
    assert "data.sha256 was" in capsys.readouterr().err
    assert calls == []
    assert files(experiment.out) == before


def test_speed_and_places_are_no_settings(experiment, calls, own_data, configs):
    moved = arguments(
        own_data, configs, experiment.out, "--seeds", "0", "data_cfg.cache=true", "trainer_cfg.log_iter=1"
    )
    assert cli.main(moved, SWEEPS) == 0
    assert calls == []


def test_settings_of_nothing_may_change(prepared, configs, tmp_path, calls, capsys):
    """A mistake that comes to light before anything is trained can be put right in the same folder."""
    out = tmp_path / "out"
    wrong = arguments(prepared, configs, out, "--seeds", "0", "data_cfg.data_in_use=[true, false]")
    assert cli.main(wrong, SWEEPS) == 2
    assert "expected .pkl files of silhouettes and keypoints" in capsys.readouterr().err
    assert calls == []  # although the baseline could do without
    assert cli.main(arguments(prepared, configs, out, "--seeds", "0"), SWEEPS[:1]) == 0


def test_folder_of_somebody_else(prepared, configs, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("years of work")
    assert cli.main(arguments(prepared, configs, tmp_path / "out"), SWEEPS) == 2
    assert "holds something else" in capsys.readouterr().err
    assert files(tmp_path / "out") == {"thesis.tex": b"years of work"}


@pytest.mark.parametrize(("name", "content"), [("settings.json", "[]"), ("settings.json", "{"), ("result", "{}")])
def test_spoilt_records_are_named(experiment, capsys, name, content):
    path = experiment.out / name if name != "result" else next(experiment.out.rglob("seed0/**/results/*.json"))
    path.write_text(content)
    assert experiment.again("--seeds", "0") == 2
    error = capsys.readouterr().err
    assert str(path) in error
    assert ("remove it to have it tested again" if name == "result" else "choose another --out") in error


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ("evaluator_cfg.save_name=other", "save_name \\(other\\) must be trainer_cfg.save_name \\(tiny\\)"),
        (
            "evaluator_cfg.eval_func=evaluate_indoor_dataset data_cfg.test_dataset_name=OUMVLP",
            "eval_func must be evaluate_Gait3D",
        ),
        ("trainer_cfg.total_itr=3", "total_iter"),
    ],
)
def test_configs_that_cannot_be_compared(prepared, configs, tmp_path, capsys, change, match):
    assert cli.main(arguments(prepared, configs, tmp_path / "out", *change.split()), SWEEPS) == 2
    assert re.search(match, capsys.readouterr().err)
    assert not (tmp_path / "out").exists()


def test_wrong_command_lines(prepared, configs, tmp_path, capsys):
    out = ["--out", str(tmp_path / "out")]
    for given, text in (
        ([*out, "--data", str(prepared.root)], "given together"),
        ([*out, "--seeds", "1", "1"], "must be different"),
        ([*out, "--seeds", "-1"], "not negative"),
    ):
        with pytest.raises(SystemExit):
            cli.main(given, SWEEPS)
        assert text in capsys.readouterr().err
    assert cli.main(arguments(prepared, [configs[0], configs[0]], tmp_path / "out"), SWEEPS) == 2
    assert "files of different names" in capsys.readouterr().err
    missing = ["--data", str(tmp_path / "none"), "--partition", str(prepared.partition)]
    assert cli.main([*out, *missing, "--cfgs", *map(str, configs)], SWEEPS) == 2
    assert "no such folder" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_several_processes_are_refused(monkeypatch, prepared, configs, tmp_path, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert cli.main(arguments(prepared, configs, tmp_path / "out"), SWEEPS) == 2
    assert "runs in one process" in capsys.readouterr().err


def test_data_is_known_by_its_files(prepared, own_data):
    before = describe_data(prepared.root, prepared.partition)
    assert before["sequences"] == 24
    assert describe_data(own_data.root, own_data.partition) == before
    (own_data.root / "0001" / ".DS_Store").write_text("of no importance")
    assert describe_data(own_data.root, own_data.partition) == before
    own_data.write_partition(TRAIN_SET=["0001"])
    assert describe_data(own_data.root, own_data.partition)["sha256"] != before["sha256"]
