"""What commands have in common once their arguments are parsed: exit codes, and errors in one line.

Commands import this, and with it torch, after parsing alone, so that help and typing errors do not wait.
"""

import os
import sys
from collections.abc import Callable

from common.runtime.distribution import leave_group
from common.runtime.errors import error_text
from common.runtime.workers import exit_code, sigterm_interrupts

__all__ = ["run_command"]


def run_command(
    job: Callable[[], int | None],
    *,
    interrupted: str = "interrupted",
    died: str = "is there memory enough?",
    every_process: bool = False,
) -> int:
    """Do what a command is for, and say in one line what was wrong.

    Args:
        job: its exit code, or None for 0. SIGTERM interrupts it as Ctrl-C does.
        interrupted: what is said then.
        died: what is said after the news that a loader process was killed.
        every_process: whether all processes of a torchrun say what they met; else the first one speaks for all, which
            is right where errors are shared.

    Returns:
        The exit code: that of the job, 2 for a ValueError, OSError or FloatingPointError, 130 after Ctrl-C, 143 after
        SIGTERM.
    """
    speaks = every_process or int(os.environ.get("RANK", "0")) == 0
    try:
        with sigterm_interrupts():
            code = job()
        leave_group()
        return code or 0
    except KeyboardInterrupt as interrupt:
        if speaks:
            print(interrupted, file=sys.stderr)
        return exit_code(interrupt)
    except (ValueError, OSError, FloatingPointError) as error:
        if speaks:
            print(f"error: {error_text(error)}", file=sys.stderr)
        return 2
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        print(f"error: a process that loads images died ({error}); {died}", file=sys.stderr)
        return 2
