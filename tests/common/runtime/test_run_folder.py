"""What an earlier run wrote is moved away whole, and only what is in the way."""

import os
import signal
import sys

import pytest

from common.runtime.run_folder import claim_folder, earlier_run, held_folder, set_aside


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "run"
    for name in ("checkpoints/a-00010.pt", "checkpoints/a-00020.pt", "results/a.json", "notes.txt"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    return folder


def test_a_run_from_the_start_moves_all_that_a_run_writes(run):
    names = earlier_run(run, "a", None, ("checkpoints", "results"), ("summary",))
    aside = set_aside(run, names)
    assert sorted(path.name for path in run.iterdir()) == ["notes.txt"]
    assert (aside / "checkpoints" / "a-00020.pt").read_text() == "checkpoints/a-00020.pt"
    assert (aside / "results" / "a.json").is_file()
    assert aside.parent == run.parent


def test_a_run_that_goes_on_moves_what_lies_ahead(run):
    assert earlier_run(run, "a", 20, ("checkpoints",)) == []
    aside = set_aside(run, earlier_run(run, "a", 10, ("checkpoints",)))
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["a-00010.pt"]
    assert [path.name for path in (aside / "checkpoints").iterdir()] == ["a-00020.pt"]


def test_a_new_folder_has_nothing_in_the_way(tmp_path):
    assert earlier_run(tmp_path / "new", "a", None, ("checkpoints",)) == []
    assert set_aside(tmp_path / "new", []) is None


@pytest.mark.parametrize(("left", "moves"), [("results/a.json", True), ("summary/events", False)])
def test_anything_worth_keeping_is_moved_with_what_belongs_to_it(tmp_path, left, moves):
    for name in {left, "summary/events"}:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = earlier_run(tmp_path, "a", None, ("checkpoints", "results"), ("summary",))
    assert found == (["checkpoints", "results", "summary"] if moves else [])


HOLDING = """
import sys, time
from pathlib import Path
from common.runtime.run_folder import held_folder
with held_folder(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.mark.skipif(os.name != "posix", reason="locks of POSIX")
def test_one_run_at_a_time(tmp_path, start_program):
    folder = tmp_path / "new" / "run"
    other = start_program(sys.executable, "-c", HOLDING, folder)
    other.wait_for_line("held")
    with pytest.raises(ValueError, match="run: another run writes to it"), held_folder(folder):
        pass
    other.send(signal.SIGKILL)
    other.finish()
    with held_folder(folder):  # a hold ends with its process
        pass


def test_two_runs_within_a_second(run):
    first = set_aside(run, ["results"])
    (run / "results").mkdir()
    second = set_aside(run, ["results"])
    assert first != second
    assert (first / "results" / "a.json").is_file()


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"--output: checkpoints cannot be written to .*file.checkpoints"):
        claim_folder(tmp_path / "file" / "checkpoints")
    claim_folder(tmp_path / "deep" / "checkpoints")
    assert list((tmp_path / "deep" / "checkpoints").iterdir()) == []


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() == 0, reason="needs a user whom permissions bind")
def test_a_folder_that_cannot_be_written(tmp_path):
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(ValueError, match="Permission denied"):
            claim_folder(tmp_path)
    finally:
        tmp_path.chmod(0o700)
