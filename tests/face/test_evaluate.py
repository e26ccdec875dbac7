"""The command: a whole run over small sets in the layouts of the releases, and wrong input before anything long."""

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import face
from face.evaluate import main
from face.evaluation.catalogue import BENCHMARKS
from face.evaluation.sets import EvaluationSetSettings, measure, open_set
from face.synthesize import SynthesisSettings, synthesize

ROOT = Path(__file__).parents[2]
SETS = ["lfw", "ijbc", "tinyface", "ijbs"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("benchmarks") / "faces"
    synthesize(SynthesisSettings(write="benchmarks", benchmark_identities=5, benchmark_frames=3), folder, workers=1)
    return folder / "benchmarks"


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A model that needs landmarks, and one that does not."""
    folder = tmp_path_factory.mktemp("models")
    size = {"embed_dim": 16, "depth": 1, "num_heads": 2, "mlp_ratio": 1.0, "patch_hw": (16, 16), "num_features": 8}
    for seed, bias in enumerate(("kprpe", "none")):
        torch.manual_seed(seed)
        face.save_pretrained(face.create_model("vit_tiny", position_bias=bias, **size).eval(), folder / bias)
    return folder


def run(*arguments):
    return main([*map(str, arguments), "--workers", "0"])


def results(folder):
    content = json.loads((folder / "results.json").read_text())
    return content, {(row["model"], row["set"]): row["metrics"] for row in content["results"]}


@pytest.fixture(scope="module")
def done(data, models, tmp_path_factory):
    """Both models on four sets, features kept."""
    folder = tmp_path_factory.mktemp("done")
    code = run(
        *("--weights", f"KP-RPE={models / 'kprpe'}", f"plain={models / 'none'}"),
        *("--data", data, "--sets", *SETS, "--out", folder / "out", "--cache", folder / "cache"),
    )
    assert code == 0
    return folder


def test_what_is_written(done):
    content, metrics = results(done / "out")
    assert content["complete"] is True
    assert set(metrics) == {(model, name) for model in ("KP-RPE", "plain") for name in SETS}
    assert {"accuracy", "auc", "eer"} <= set(metrics["plain", "lfw"])
    assert {"tar@far=1e-1", "rank-1", "tpir@fpir=1e-1"} <= set(metrics["plain", "ijbc"])
    assert {"rank-1", "map"} <= set(metrics["plain", "tinyface"])
    assert any(name.startswith("surveillance_to_booking/") for name in metrics["plain", "ijbs"])
    assert all(0 <= value <= 100 for found in metrics.values() for value in found.values())
    with (done / "out" / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == sum(map(len, metrics.values()))
    pictures = {path.name for path in (done / "out").glob("*.png")}
    assert {
        "roc_lfw.png",
        "det_lfw.png",
        "roc_ijbc.png",
        "cmc_ijbc.png",
        "cmc_tinyface.png",
        "cmc_ijbs.png",
    } <= pictures
    assert list((done / "out" / "logs").glob("*.txt"))


def test_kept_features_give_the_same_numbers(done, data, models, monkeypatch, capsys):
    def embed(*_, **__):
        raise AssertionError("embedded again")

    monkeypatch.setattr("face.evaluation.features.embed_batches", embed)
    code = run(
        *("--weights", f"plain={models / 'none'}", "--data", data, "--sets", "lfw", "tinyface"),
        *("--out", done / "again", "--cache", done / "cache"),
    )
    assert code == 0, capsys.readouterr().err
    again, before = results(done / "again")[1], results(done / "out")[1]
    assert all(again[key] == before[key] for key in again)


def test_fusions_differ_where_templates_are_pooled(done, data, models):
    arguments = ("--weights", f"plain={models / 'none'}", "--data", data, "--sets", "lfw", "ijbs")
    for fusion in ("average", "norm"):
        assert run(*arguments, "--out", done / fusion, "--fusion", fusion, "--cache", done / "cache") == 0
    average, norm = (results(done / fusion)[1] for fusion in ("average", "norm"))
    assert average["plain", "lfw"] == norm["plain", "lfw"]
    assert average["plain", "ijbs"] != norm["plain", "ijbs"]


def test_earlier_results_side_by_side(done, tmp_path, capsys):
    quoted = tmp_path / "paper.csv"
    quoted.write_text("model,set,metric,value,source\nViT-B,lfw,accuracy,99.8,the paper\n")
    out = done / "out" / "results.json"
    assert main(["--compare", str(out), str(quoted), "--out", str(tmp_path / "compare")]) == 0
    shown = capsys.readouterr().out
    text = (tmp_path / "compare" / "compare.md").read_text()
    assert "99.80" in shown
    assert "**99.80**" in text
    assert "the paper" in text


def test_numbers_are_those_of_measure_and_the_table_shows_them(done, data, models, tmp_path, capsys):
    arguments = ("--weights", f"named={models / 'none'}", "--data", data, "--sets", "lfw", "--out", tmp_path / "out")
    assert run(*arguments, "--no-flip") == 0
    model = face.load_pretrained(models / "none")
    opened = open_set(EvaluationSetSettings(name="lfw", path=data / "lfw.bin"), needs_keypoints=False)
    expected = measure(opened, model, flip_test=False).metrics
    assert results(tmp_path / "out")[1] == {("named", "lfw"): expected}
    assert f"| named | {expected['accuracy']:.2f} |" in capsys.readouterr().out
    assert expected != results(done / "out")[1]["plain", "lfw"]


def test_two_processes_are_one(done, data, models, tmp_path, torchrun):
    process = torchrun(
        *("-m", "face.evaluate", "--weights", f"KP-RPE={models / 'kprpe'}", "--data", data, "--sets", *SETS),
        *("--out", tmp_path / "two", "--device", "cpu", "--workers", 0),
    )
    out, err = process.finish()
    assert process.returncode == 0, err
    assert out.count("| KP-RPE |") == 1
    assert len(list((tmp_path / "two" / "logs").iterdir())) == 1
    content, shared = results(tmp_path / "two")
    alone = {key: metrics for key, metrics in results(done / "out")[1].items() if key[0] == "KP-RPE"}
    assert content["settings"]["processes"] == 2
    assert shared == alone


@pytest.mark.parametrize(
    ("interrupt", "code"), [(KeyboardInterrupt(), 130), (KeyboardInterrupt(15), 143)], ids=["Ctrl-C", "SIGTERM"]
)
def test_an_interrupted_run_keeps_what_it_has_and_what_was_there(
    data, models, tmp_path, monkeypatch, capsys, interrupt, code
):
    arguments = ("--weights", models / "none", "--data", data, "--sets", "lfw", "tinyface", "--out", tmp_path / "out")
    assert run(*arguments) == 0
    earlier = (tmp_path / "out" / "results.json").read_bytes()

    def stop(opened, *rest, **options):
        if opened.settings.name == "tinyface":
            raise interrupt
        return measure(opened, *rest, **options)

    monkeypatch.setattr("face.evaluation.sets.measure", stop)
    assert run(*arguments) == code
    assert "interrupted; what was measured is kept" in capsys.readouterr().err
    content, metrics = results(tmp_path / "out")
    assert content["complete"] is False
    assert list(metrics) == [("none", "lfw")]
    (aside,) = tmp_path.glob("out.*")
    assert (aside / "results.json").read_bytes() == earlier
    assert {path.name for path in aside.glob("*.png")} == {"roc_lfw.png", "det_lfw.png", "cmc_tinyface.png"}


def test_all_problems_at_once_before_anything_is_embedded(data, models, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("face.evaluation.sets.measure", lambda *_, **__: pytest.fail("measured"))
    weights = ("--weights", models / "none", tmp_path / "nowhere")
    assert run(*weights, "--data", data, "--sets", "lfw", "megaface", "--out", tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert "2 problems" in error
    assert "no benchmark is called 'megaface'; known are lfw" in error
    assert "nowhere: no such file or folder" in error


def test_sets_that_are_damaged(data, models, tmp_path, capsys):
    broken = tmp_path / "data"
    shutil.copytree(data, broken)
    (broken / "IJBC" / "meta" / "ijbc_name_5pts_score.txt").unlink()
    (broken / "lfw.bin.csv").unlink()
    arguments = ("--weights", models / "kprpe", "--data", broken, "--sets", "lfw", "ijbc", "--out", tmp_path / "out")
    assert run(*arguments) == 2
    error = capsys.readouterr().err
    assert "evaluation set lfw: " in error
    assert "images have no landmarks" in error
    assert "not there: meta/ijbc_name_5pts_score.txt" in error
    assert not (tmp_path / "out" / "results.json").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give --weights to evaluate, or --compare"),
        (["--weights", "a"], "--weights need --data"),
        (["--weights", "a", "--data", "b", "--batch-size", "0"], "--batch-size must be >= 1, got 0"),
    ],
    ids=["nothing", "no data", "no batch"],
)
def test_arguments_that_make_no_sense(arguments, message, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    assert message in capsys.readouterr().err


def test_help_does_not_wait_for_torch():
    code = (
        "import sys\nfrom face.evaluate import main\n"
        "try:\n    main(['--help'])\n"
        "finally:\n    assert not {'torch', 'numpy', 'cv2'} & set(sys.modules), sorted(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "--fusion" in done.stdout


def test_help_names_all_sets(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    assert f"some of {', '.join(BENCHMARKS)} (default" in " ".join(capsys.readouterr().out.split())
