"""`python -m plugin.embed`: embeddings of sequences by a trained model, as a file."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from plugin.runtime.settings import GaitSettings
    from plugin.sequences import SequenceFolder

__all__ = ["add_model_options", "main"]

_DESCRIPTION = """Write the embeddings of gait sequences, computed as a test of the run would, into one .npz file, for
`python -m plugin.identify` and for programs of your own (plugin.embeddings.load_embeddings)."""


def add_model_options(parser: argparse.ArgumentParser, required: bool) -> None:
    """Options that say which model runs, and where."""
    parser.add_argument("--cfgs", type=Path, required=required, metavar="FILE", help="YAML of the run")
    weights = parser.add_mutually_exclusive_group(required=required)
    weights.add_argument("--weights", type=Path, metavar="FILE", help="a checkpoint of the run")
    weights.add_argument("--iter", type=int, metavar="N", help="iteration of the checkpoint in the run's output folder")
    parser.add_argument(
        "--output", type=Path, default=Path("output"), metavar="DIR", help="of the run (default: output)"
    )
    parser.add_argument("--device", metavar="NAME", help="such as cpu or cuda:1 (default: a GPU if there is one)")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m plugin.embed", description=_DESCRIPTION, allow_abbrev=False)
    add_model_options(parser, required=True)
    parser.add_argument("--data", type=Path, required=True, metavar="DIR",
                        help="prepared sequences (ROOT/ID/TYPE/VIEW), or folders of silhouette PNGs")  # fmt: skip
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help=".npz file to write")
    parser.add_argument("--partition", type=Path, metavar="FILE", help="only subjects of this file's TEST_SET")
    parser.add_argument("--role", choices=("all", "probe", "gallery"), default="all",
                        help="only those sequences, as the run's protocol tells them; needs --partition")  # fmt: skip
    return parser


def pick_sequences(settings: "GaitSettings", data: Path, partition: Path | None, role: str) -> "list[SequenceFolder]":
    """The sequences of a folder that are meant, each of them looked at.

    Raises:
        FileNotFoundError, ValueError: no such folder or partition, no sequence left, or sequences that cannot be used.
    """
    from plugin.partition import read_partition
    from plugin.sequences import check_all, find_sequence_folders

    if partition is None:
        if role != "all":
            raise ValueError(f"--role {role} needs --partition")
        sequences = find_sequence_folders(data)
    else:
        split = read_partition(partition)
        sequences = find_sequence_folders(data, split.test)
        if role != "all":
            protocol = settings.protocol(split.probes)
            triples = [(sequence.label, sequence.type, sequence.view) for sequence in sequences]
            labels, types, views = (list(column) for column in zip(*triples, strict=True))
            wanted = protocol.roles(labels, types, views)[("probe", "gallery").index(role)]
            sequences = [sequence for sequence, use in zip(sequences, wanted, strict=True) if use]
            if not sequences:
                raise ValueError(f"{data}: none of the {len(wanted)} sequences is {role} by {partition}")
    names_twice = len(sequences) - len({sequence.name for sequence in sequences})
    if names_twice:
        raise ValueError(f"{data}: {names_twice} sequence(s) have the name of another one (ID-TYPE-VIEW)")
    check_all(sequences)
    return sequences


def main(argv: Sequence[str] | None = None) -> int:
    """The command line. Returns the exit code: 0, 2 for wrong input, 130 after Ctrl-C."""
    args = _parser().parse_args(argv)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # Imported late, so that --help and typing errors do not wait for torch.
    from plugin.embeddings import save_embeddings
    from plugin.inference import embed_folders, find_checkpoint, load_model, pick_device
    from plugin.runtime.settings import load_gait_settings

    try:
        if args.out.suffix != ".npz" or not args.out.absolute().parent.is_dir():
            raise ValueError(f"--out {args.out}: expected a name that ends in .npz, in a folder that exists")
        settings = load_gait_settings(args.cfgs)
        device = pick_device(args.device)
        sequences = pick_sequences(settings, args.data, args.partition, args.role)
        model = load_model(settings, find_checkpoint(settings, args.weights, args.iter, args.output))
        content = embed_folders(model, settings, sequences, device, args.data)
        save_embeddings(args.out, content)
    except (ValueError, OSError, FloatingPointError) as error:
        from common.runtime.errors import error_text

        print(f"error: {error_text(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted, nothing was written", file=sys.stderr)
        return 130
    print(f"{args.out}: embeddings of {len(sequences)} sequences, {list(content.embeddings.shape)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
