"""`python -m face.pack`: a folder for each identity into a RecordIO set, and back; see face.data.packing. And a folder
of image pairs into a `.bin` file; see face.evaluation.bin_packing.

python -m face.pack faces records --landmarks faces/landmarks.csv
python -m face.pack --unpack records faces
python -m face.pack --bin lfw lfw.bin
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from common.runtime.workers import exit_code, sigterm_interrupts
from face.data import FolderSource, RecordSource, read_landmarks
from face.data.packing import SKIPPED_FILE, PackSettings, pack, unpack

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run `python -m face.pack`.

    Returns:
        0 when done, 1 when a worker process died, 2 for what the user must put right, 130 after Ctrl-C, 143 after
        SIGTERM.
    """
    parser = _parser()
    options = parser.parse_args(argv)
    if options.bin and (options.unpack or options.reencode or options.no_header or options.skip_broken):
        parser.error("--bin takes no other option than --landmarks")
    try:
        settings = PackSettings(
            reencode=options.reencode,
            quality=options.quality,
            header=not options.no_header,
            skip_broken=options.skip_broken,
            workers=options.workers,
        )
        with sigterm_interrupts():
            _run(options, settings)
    except KeyboardInterrupt as interrupt:
        print("interrupted: nothing was written", file=sys.stderr)
        return exit_code(interrupt)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        print(f"error: a worker process was killed, perhaps for its memory: {error}", file=sys.stderr)
        return 1
    return 0


def _run(options: argparse.Namespace, settings: PackSettings) -> None:
    if options.bin:
        from face.evaluation.bin_packing import pack_bin

        packed = pack_bin(options.folder, options.out, options.landmarks, progress=True)
        print(f"{options.out}: {packed.pairs} pairs of {packed.images} images, {packed.with_landmarks} with landmarks")
        return
    if options.unpack:
        records = RecordSource(options.folder)
        landmarks = read_landmarks(options.landmarks, records) if options.landmarks else None
        count = unpack(records, options.out, landmarks)
        print(f"{options.out}: {count} images of {records.num_classes} identities")
        return
    source = FolderSource(options.folder)
    landmarks = read_landmarks(options.landmarks, source) if options.landmarks else None
    report = pack(source, options.out, settings, landmarks)
    print(f"{options.out}: {report.images} images of {report.identities} identities")
    if report.skipped:
        print(f"{len(report.skipped)} image(s) that do not decode were left out, see {options.out / SKIPPED_FILE}")
    if report.other_sizes:
        print(f"{report.other_sizes} image(s) have another size than the first one, which is in property")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m face.pack",
        description="Write a folder for each identity as a RecordIO set (train.rec, train.idx, property, train.tsv), "
        "which insightface and CVLface read, too; or, with --unpack, a RecordIO set as such folders; or, with --bin, a "
        "folder of image pairs as the .bin file of a verification set.",
    )
    add = parser.add_argument
    add(
        "folder",
        type=Path,
        metavar="FOLDER",
        help="folder for each identity; with --unpack a RecordIO set; with --bin a folder with pairs.csv or pairs.txt",
    )
    add("out", type=Path, metavar="OUT", help="folder to write to; with --bin the file")
    add("--unpack", action="store_true", help="from a RecordIO set to folders")
    add("--bin", action="store_true", help="from a folder of pairs to a .bin file, landmarks beside it in OUT.csv")
    add("--landmarks", type=Path, metavar="FILE", help="landmarks of the images, written with them")
    add("--reencode", choices=("jpg", "png"), help="encode images anew (default: keep their bytes)")
    add("--quality", type=int, default=95, metavar="N", help="of JPEG, with --reencode jpg (default: %(default)s)")
    add("--no-header", action="store_true", help="CVLface's convention, images alone from key 0 on")
    add("--skip-broken", action="store_true", help=f"leave out images that do not decode; {SKIPPED_FILE} lists them")
    cores = os.cpu_count() or 1
    add("--workers", type=int, default=cores, metavar="N", help="processes that read images (default: all cores)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
