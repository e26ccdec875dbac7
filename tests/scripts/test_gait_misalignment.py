"""gait_misalignment.py is the command line of plugin.misalignment."""

import importlib.util
from pathlib import Path

import pytest

from plugin.misalignment import cli

PATH = Path(__file__).parents[2] / "scripts" / "gait_misalignment.py"


def test_script(capsys, monkeypatch):
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    spec = importlib.util.spec_from_file_location("gait_misalignment", PATH)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    assert script.main is cli.main
    assert script.os.environ["OMP_WAIT_POLICY"] == "ACTIVE"  # what the user chose is kept
    with pytest.raises(SystemExit) as ended:
        script.main(["--help"])
    assert ended.value.code == 0
    assert "walkers" in capsys.readouterr().out
