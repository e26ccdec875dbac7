"""A run's log: lines on the console (above the progress bar) and in a text file, and points in TensorBoard."""

import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from common.runtime.distribution import gather_lists

__all__ = ["RunLog"]

_FORMAT = logging.Formatter("[%(asctime)s] [%(levelname)s]: %(message)s", "%Y-%m-%d %H:%M:%S")


class _BarHandler(logging.Handler):
    """Writes lines so that a progress bar stays whole below them."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(self.format(record))


class RunLog:
    """Text log and TensorBoard of one run.

    Args:
        folder: the run's output folder; logs/ and summary/ are made in it.
        to_file: also write the text to logs/<date>.txt.
        active: False in all processes but the first: everything is then a no-op.
    """

    def __init__(self, folder: Path, to_file: bool, active: bool = True) -> None:
        self.folder = folder
        self.active = active
        self._logger = logging.Logger("kprpe", logging.INFO if active else logging.CRITICAL + 1)
        self._writer: SummaryWriter | None = None
        self._sums: dict[str, list[float]] = {}
        self._since = time.perf_counter()
        if not active:
            return
        handlers: list[logging.Handler] = [_BarHandler()]
        if to_file:
            (folder / "logs").mkdir(parents=True, exist_ok=True)
            handlers.append(logging.FileHandler(folder / "logs" / time.strftime("%Y-%m-%d-%H-%M-%S.txt")))
        for handler in handlers:
            handler.setFormatter(_FORMAT)
            self._logger.addHandler(handler)

    def log_info(self, message: Any) -> None:
        """A line of information."""
        self._logger.info(message)

    def log_to_file_only(self, message: Any) -> None:
        """A line of information that would be too long for the console."""
        record = self._logger.makeRecord("kprpe", logging.INFO, "", 0, str(message), (), None)
        for handler in self._logger.handlers:
            if isinstance(handler, logging.FileHandler):
                handler.handle(record)

    def log_warning(self, message: Any) -> None:
        """A line of warning."""
        self._logger.warning(message)

    def open_summary(self, first_iteration: int) -> None:
        """Start TensorBoard; points of an earlier run from that iteration on are dropped."""
        if self.active:
            self._writer = SummaryWriter(str(self.folder / "summary"), purge_step=first_iteration + 1)

    def collect(self, values: Mapping[str, Tensor | float]) -> None:
        """Add up `scalar/...` values until `report`. Only there are they read, so that no step waits for a GPU."""
        for name, value in values.items():
            self._sums.setdefault(name, []).append(value)  # type: ignore[arg-type]

    def report(self, iteration: int, extra: Mapping[str, float]) -> dict[str, float]:
        """A line, and a point in TensorBoard, of the means since the last report, over all processes.

        Every process must call it.
        """
        own = {
            name: float(np.mean([float(v.float().mean()) if isinstance(v, Tensor) else v for v in values]))
            for name, values in self._sums.items()
        }
        shares = gather_lists([own])
        means = {name: float(np.mean([share[name] for share in shares])) for name in own}
        means.update(extra)
        now = time.perf_counter()
        shown = ", ".join(f"{name.removeprefix('scalar/').replace('/', '_')}={v:.4g}" for name, v in means.items())
        self.log_info(f"Iteration {iteration:0>5}, Cost {now - self._since:.2f}s, {shown}")
        self._sums.clear()
        self._since = now
        self.scalars(iteration, means)
        return means

    def scalars(self, iteration: int, values: Mapping[str, float]) -> None:
        """Points in TensorBoard, under the names without `scalar/`."""
        if self._writer is not None:
            for name, value in values.items():
                self._writer.add_scalar(name.removeprefix("scalar/"), value, iteration)

    def images(self, iteration: int, name: str, images: Tensor) -> None:
        """A picture in TensorBoard: [k, 1 or 3, h, w] in [0, 1]."""
        if self._writer is not None:
            self._writer.add_images(name.removeprefix("image/"), images.clamp(0, 1).cpu(), iteration)

    def close(self) -> None:
        """Write out what is left and release the files."""
        if self._writer is not None:
            self._writer.close()
        for handler in list(self._logger.handlers):
            handler.close()
            self._logger.removeHandler(handler)
