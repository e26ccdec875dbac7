"""Bars off a terminal: seldom, and complete in what they yield."""

from common.runtime.progress import progress_bar


def test_redirected_bar_writes_little_and_yields_all(capfd):
    assert list(progress_bar(range(5000), desc="Work")) == list(range(5000))
    assert capfd.readouterr().err.count("Work") <= 2


def test_own_settings_win(capfd):
    for _ in progress_bar(range(50), mininterval=0.0, miniters=1):
        pass
    assert capfd.readouterr().err.count("/50") >= 50
