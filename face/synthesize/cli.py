"""Command line of face.synthesize: every field of SynthesisSettings is an option."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from common.runtime.synthesis import add_setting_options, make_orderly
from face.synthesize.dataset import NOTE, UNFINISHED, is_unfinished, synthesize
from face.synthesize.settings import SynthesisSettings

__all__ = ["main"]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m face.synthesize",
        description=f"Write a data set of faces: training images, test sets, landmarks. {NOTE}",
    )
    add_setting_options(parser, SynthesisSettings)
    text = "also draw a sheet of the first training identities (of --write wider: photographs) with their landmarks"
    parser.add_argument("--preview", type=Path, metavar="PICTURE", help=text)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run `python -m face.synthesize`.

    Returns:
        0 when done, 1 when a worker process died, 2 for what the user must put right, 130 after Ctrl-C, 143 after
        SIGTERM.
    """
    options = vars(_parser().parse_args(argv))
    out, workers, preview = (options.pop(name) for name in ("out", "workers", "preview"))

    def make() -> None:
        settings = SynthesisSettings(**options)
        if preview is not None:
            _check_picture(preview)
            if settings.parts == ("benchmarks",):
                raise ValueError("--preview draws training identities or photographs, --write benchmarks has neither")
        synthesize(settings, out, workers=workers, progress=True)
        if preview is not None:
            _write_picture(settings, preview)

    code = make_orderly(make, out, is_unfinished, UNFINISHED)
    if not code:
        print(f"{out}: {NOTE}")
    return code


# Matplotlib is loaded where a picture is asked for; the worker processes, which import this package, do without.
def _check_picture(path: Path) -> None:
    from common.runtime.figures import check_picture_path

    check_picture_path(path)


def _write_picture(settings: SynthesisSettings, path: Path) -> None:
    from face.synthesize.pictures import write_faces, write_photographs

    write = write_faces if settings.writes_identities else write_photographs
    write(settings, path)
