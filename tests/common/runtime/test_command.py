"""Exit codes, and who says what."""

import os
import signal

import pytest

from common.runtime.command import run_command


def raising(error):
    def job():
        raise error

    return job


def test_codes_of_jobs():
    assert run_command(lambda: None) == 0
    assert run_command(lambda: 143) == 143


@pytest.mark.parametrize("error", [ValueError("wrong"), FileNotFoundError("wrong"), FloatingPointError("wrong")])
def test_errors_in_one_line(error, capsys):
    assert run_command(raising(error)) == 2
    assert capsys.readouterr().err == "error: wrong\n"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["ctrl-c", "sigterm"])
def test_signals(number, code, capsys):
    before = signal.getsignal(signal.SIGTERM)
    assert run_command(lambda: os.kill(os.getpid(), number), interrupted="stopped") == code
    assert capsys.readouterr().err == "stopped\n"
    assert signal.getsignal(signal.SIGTERM) is before


def test_loader_processes_that_die(capsys):
    killed = RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. ")
    assert run_command(raising(killed), died="go on") == 2
    assert "died (DataLoader worker (pid 7)" in capsys.readouterr().err
    with pytest.raises(RuntimeError, match="a fault of ours"):
        run_command(raising(RuntimeError("a fault of ours")))


def test_the_first_process_speaks_for_all(monkeypatch, capsys):
    monkeypatch.setenv("RANK", "1")
    assert run_command(raising(ValueError("wrong"))) == 2
    assert capsys.readouterr().err == ""
    assert run_command(raising(ValueError("wrong")), every_process=True) == 2
    assert capsys.readouterr().err == "error: wrong\n"
