"""Stopping a long run in an orderly way: SIGTERM and Ctrl-C set a flag, which the loop looks at between steps."""

import signal
import time
from types import FrameType, TracebackType

__all__ = ["StopSignals"]

# Launchers pass on a signal that the process got itself already, as part of a group or job.
_ECHO_S = 2.0


class StopSignals:
    """Context in which SIGTERM and SIGINT ask for a stop; a later second one of them stops at once.

    After it, `received` is the signal's number, or None. Exit with 128 + `received`, as shells expect.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._since = 0.0
        self._before: dict[int, object] = {}

    def __enter__(self) -> "StopSignals":
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._handle)
        return self

    def _handle(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.received is None:
            self.received, self._since = number, now
        elif now > self._since + _ECHO_S:
            raise KeyboardInterrupt

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
