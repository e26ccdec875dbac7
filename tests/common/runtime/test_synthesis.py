"""Settings that are options, folders that are new, and ends that are orderly."""

import argparse
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field

import pytest

from common.runtime.synthesis import (
    add_setting_options,
    begun_by,
    check_new_folder,
    check_settings,
    make_orderly,
    setting,
)


@dataclass(frozen=True, kw_only=True)
class Settings:
    count: int = setting(3, "how many", 1)
    share: float = setting(0.5, "which share", 0, 1, below=True)
    layout: str = field(default="a", metadata={"text": "which layout", "choices": ("a", "b")})

    def __post_init__(self) -> None:
        check_settings(self)


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"count": 0}, "count must be >= 1, got 0"),
        ({"count": 2.5}, "count must be a whole number, got 2.5"),
        ({"count": True}, "count must be a whole number, got True"),
        ({"share": 1.0}, "share must be >= 0 and < 1, got 1.0"),
        ({"share": "x"}, "share must be a number, got 'x'"),
        ({"layout": "c"}, "layout must be one of a, b, got 'c'"),
    ],
)
def test_values_that_are_refused(settings, problem):
    with pytest.raises(ValueError, match=problem):
        Settings(**settings)


def test_fields_are_options():
    parser = argparse.ArgumentParser()
    add_setting_options(parser, Settings)
    options = vars(parser.parse_args(["--out", "x", "--count", "5", "--layout", "b", "--workers", "2"]))
    assert (options.pop("out").name, options.pop("workers")) == ("x", 2)
    assert Settings(**options) == Settings(count=5, layout="b")
    assert "how many (default: 3)" in parser.format_help()


def test_folders(tmp_path):
    check_new_folder(tmp_path / "new", False, "sign")
    (tmp_path / "settings.json").write_text('{"made_by": "me"}')
    with pytest.raises(FileExistsError, match=r"found settings.json in it"):
        check_new_folder(tmp_path, False, "sign")
    with pytest.raises(FileExistsError, match=r"an interrupted run, or one still going \(sign\)"):
        check_new_folder(tmp_path, True, "sign")
    with pytest.raises(FileExistsError, match="expected a folder to make, found a file"):
        check_new_folder(tmp_path / "settings.json", False, "sign")
    assert begun_by(tmp_path, "me") == {"made_by": "me"}
    assert begun_by(tmp_path, "you") is None
    assert begun_by(tmp_path / "new", "me") is None


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (None, 0, ""),
        (ValueError("count must be >= 1"), 2, "error: count must be >= 1"),
        (FileExistsError("out: expected a folder"), 2, "error: out: expected a folder"),
        (OSError(28, "No space left on device", "x"), 2, "cannot be written: [Errno 28] No space left"),
        (BrokenProcessPool(), 1, "error: a worker process was killed, perhaps for its memory: "),
        (KeyboardInterrupt(), 130, "interrupted: "),
    ],
)
def test_ends(tmp_path, capsys, error, code, said):
    def make():
        if error is not None:
            raise error

    assert make_orderly(make, tmp_path, lambda out: True, "sign") == code
    printed = capsys.readouterr().err
    assert said in printed
    assert ("is incomplete (sign)" in printed) is (code in (1, 130))
