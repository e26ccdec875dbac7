"""The command line: exit codes, and errors of one line that come before anything long."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from face.train import main
from face.training.command import training_command

ROOT = Path(__file__).parents[2]


def write(folder: Path, text: str) -> str:
    path = folder / "run.yaml"
    path.write_text(text)
    return str(path)


def test_a_file_that_is_not_there(tmp_path, capsys):
    assert main(["--cfgs", str(tmp_path / "none.yaml")]) == 2
    assert "none.yaml: 1 problem(s)\n  no such file" in capsys.readouterr().err


def test_data_that_are_not_there(tmp_path, capsys):
    path = write(tmp_path, "name: x\ndata: {root: nowhere}\n")
    assert main(["--cfgs", path, "--output", str(tmp_path / "out"), "model.name=vit_tiny"]) == 2
    assert capsys.readouterr().err.strip().endswith("error: nowhere: no such folder")
    assert not (tmp_path / "out" / "x" / "checkpoints").exists()


def test_overrides_are_checked_like_the_file(tmp_path, capsys):
    path = write(tmp_path, "name: x\ndata: {root: nowhere}\n")
    assert main(["--cfgs", path, "trainer.batchsize=3"]) == 2
    assert "trainer.batchsize: unknown key; did you mean 'batch_size'?" in capsys.readouterr().err
    assert main(["--cfgs", path, "model.name=resnet", "--output", str(tmp_path / "out")]) == 2
    assert "unknown model 'resnet'; models: vit_tiny, vit_small" in capsys.readouterr().err


def test_seed_must_not_be_negative(capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["--cfgs", "x.yaml", "--seed", "-1"])
    assert "--seed must not be negative" in capsys.readouterr().err


def test_sigterm_before_the_first_step_lets_files_be_cleared(tmp_path, capsys):
    cleared = []

    def prepare(args):
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            cleared.append(args.cfgs)

    assert training_command(["--cfgs", "x.yaml"], "train", "", prepare) == 143
    assert cleared == [Path("x.yaml")]
    assert capsys.readouterr().err == "interrupted\n"


def test_help_does_not_wait_for_torch():
    code = (
        "import sys\nfrom face.train import main\n"
        "try:\n    main(['--help'])\n"
        "finally:\n    assert not {'torch', 'numpy', 'cv2'} & set(sys.modules), sorted(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "--resume" in done.stdout


def test_a_loader_process_that_dies(tmp_path, capsys, monkeypatch):
    from face.training import trainer

    def die(settings, options):
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. ")

    monkeypatch.setattr(trainer, "train", die)
    assert main(["--cfgs", write(tmp_path, "name: x\ndata: {root: nowhere}\n")]) == 2
    assert "error: a process that loads images died (DataLoader worker (pid 7)" in capsys.readouterr().err


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_ctrl_c_before_the_first_step_is_no_traceback(tmp_path):
    """While data are being looked at, there is nothing to save."""
    script = tmp_path / "interrupted.py"
    script.write_text(
        "import os, signal, sys\n"
        "import face.training.settings as settings\n"
        "def load(*arguments):\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "settings.load_train_settings = load\n"
        "from face.train import main\n"
        "sys.exit(main(['--cfgs', 'x.yaml']))\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 128 + signal.SIGINT
    assert done.stderr.strip() == "interrupted"
