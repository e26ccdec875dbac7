"""What programs that make data sets share: settings that are options, a folder of their own, an orderly end.

A settings class is a frozen dataclass whose fields are made by `setting` (a number within bounds) or have the
metadata "text" and, for a choice, "choices".
"""

import argparse
import json
import math
import os
import sys
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool
from dataclasses import field, fields
from pathlib import Path
from typing import Any

from common.runtime.workers import exit_code, sigterm_interrupts

__all__ = ["add_setting_options", "begun_by", "check_new_folder", "check_settings", "make_orderly", "setting"]


def setting(default: int | float, text: str, low: float, high: float = math.inf, below: bool = False) -> Any:
    """A dataclass field that carries its help text and its allowed range (`below`: `high` itself is refused)."""
    return field(default=default, metadata={"text": text, "low": low, "high": high, "below": below})


def check_settings(settings: Any) -> None:
    """Hold the fields of a settings object against their metadata.

    Raises:
        ValueError: naming the field, what is allowed and the value found.
    """
    for entry in fields(settings):
        value, metadata = getattr(settings, entry.name), entry.metadata
        if "choices" in metadata and value not in metadata["choices"]:
            raise ValueError(f"{entry.name} must be one of {', '.join(metadata['choices'])}, got {value!r}")
        if "low" in metadata:
            _check_number(entry.name, value, type(entry.default), metadata["low"], metadata["high"], metadata["below"])


def _check_number(name: str, value: Any, kind: type, low: float, high: float, below: bool) -> None:
    if not isinstance(value, int if kind is int else (int, float)) or isinstance(value, bool):
        raise ValueError(f"{name} must be {'a whole number' if kind is int else 'a number'}, got {value!r}")
    if not low <= value <= high or (below and value == high):
        bound = "" if high == math.inf else f" and {'<' if below else '<='} {high}"
        raise ValueError(f"{name} must be >= {low}{bound}, got {value}")


def add_setting_options(parser: argparse.ArgumentParser, cls: type[Any]) -> None:
    """--out, an option for each field of a settings class, and --workers."""
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="new or empty folder to write to")
    for entry in fields(cls):
        kind = type(entry.default)
        parser.add_argument(
            f"--{entry.name.replace('_', '-')}",
            type=kind,
            default=entry.default,
            choices=entry.metadata.get("choices"),
            metavar=None if "choices" in entry.metadata else {str: "LIST", int: "N", float: "X"}[kind],
            help=f"{entry.metadata['text']} (default: %(default)s)",
        )
    cores = os.cpu_count() or 1
    text = "processes; changes the speed, not the files (default: one a core, here %(default)s)"
    parser.add_argument("--workers", type=int, default=cores, metavar="N", help=text)


def begun_by(out: Path, made_by: str) -> dict[str, Any] | None:
    """What settings.json of a folder holds, if this program wrote it; else None."""
    try:
        begun = json.loads((out / "settings.json").read_text())
    except (OSError, ValueError):
        return None
    return begun if isinstance(begun, dict) and begun.get("made_by") == made_by else None


def check_new_folder(out: Path, unfinished: bool, sign: str) -> None:
    """Refuse what is no new or empty folder.

    Args:
        out: the folder.
        unfinished: whether it holds what an interrupted run left.
        sign: what shows that, such as "no partition.json".

    Raises:
        FileExistsError: it is a file, or not empty.
    """
    if out.exists() and not out.is_dir():
        raise FileExistsError(f"{out}: expected a folder to make, found a file")
    found = next(out.iterdir(), None) if out.is_dir() else None
    if found is not None and unfinished:
        raise FileExistsError(
            f"{out}: expected an empty or new folder, found an interrupted run, or one still going "
            f"({sign}); remove it and run again"
        )
    if found is not None:
        raise FileExistsError(f"{out}: expected an empty or new folder, found {found.name} in it")


def make_orderly(make: Callable[[], object], out: Path, is_unfinished: Callable[[Path], bool], sign: str) -> int:
    """Make a data set for a command line, and say what went wrong.

    Args:
        make: does it.
        out: where.
        is_unfinished, sign: see `check_new_folder`.

    Returns:
        The exit code: 0 when done, 1 when a worker process died, 2 for what the user must put right, 130 after Ctrl-C,
        143 after SIGTERM.
    """

    def left() -> str:
        return f": {out} is incomplete ({sign}); remove it and run again" if is_unfinished(out) else ""

    try:
        with sigterm_interrupts():
            make()
    except KeyboardInterrupt as interrupt:
        print(f"interrupted{left()}", file=sys.stderr)
        return exit_code(interrupt)
    except BrokenProcessPool:
        print(f"error: a worker process was killed, perhaps for its memory{left()}", file=sys.stderr)
        return 1
    except (ValueError, OSError) as error:
        of_a_file = isinstance(error, OSError) and error.filename is not None
        print(f"error: --out {out}: cannot be written: {error}" if of_a_file else f"error: {error}", file=sys.stderr)
        return 2
    return 0
