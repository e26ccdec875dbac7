"""Figures to files, without pyplot's state, a window or a display."""

from pathlib import Path

from matplotlib.figure import Figure

from common.runtime.files import whole_file

__all__ = ["check_picture_path", "write_figure"]


def check_picture_path(path: str | Path) -> str:
    """The format (such as "png") that a picture's suffix names.

    Raises:
        ValueError: a suffix that no format has; those that there are, are listed.
    """
    kind = Path(path).suffix.lstrip(".").lower()
    known = Figure().canvas.get_supported_filetypes()
    if kind not in known:
        raise ValueError(f"{path}: a picture's suffix must be one of {', '.join(sorted(known))}")
    return kind


def write_figure(figure: Figure, path: str | Path) -> None:
    """Write a figure whole or not at all; the suffix names the format, missing folders are made.

    Raises:
        ValueError: a suffix that no format has.
        OSError: the disk is full, the folder not writable. `path` is untouched.
    """
    kind = check_picture_path(path)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as partial:
        figure.savefig(partial, format=kind, dpi="figure")
