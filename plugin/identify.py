"""`python -m plugin.identify`: who is it? The gallery ranked for each probe, as a table, a CSV and a picture.

Gallery and probes are embeddings files, or folders of prepared or raw sequences that a model embeds on the spot. A
sequence is never its own match: a probe that is in the gallery too (by its name, ID-TYPE-VIEW, or by its path) is left
out of its own ranking.
Shape letters: n probes, m gallery sequences, k matches shown.
"""

import argparse
import csv
import io
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from plugin.embed import add_model_options

if TYPE_CHECKING:
    import torch

    from plugin.embeddings import Embeddings
    from plugin.sequences import SequenceFolder

__all__ = ["Match", "main", "rank_gallery"]

_DESCRIPTION = """Rank the gallery for each probe. Either side is one file of embeddings (.npz of plugin.embed), or
folders: prepared sequences or whole data sets of them, or folders of silhouette PNGs, with or without poses (.txt)
beside them. Folders need a model (--cfgs and --weights or --iter); files need none."""


@dataclass(frozen=True)
class Match:
    """One gallery sequence of a probe's ranking."""

    index: int
    """In the gallery."""

    distance: float

    same: bool | None
    """Whether the identities agree; None where one of them is not known."""


@dataclass(frozen=True)
class _Side:
    """The gallery or the probes."""

    content: "Embeddings"

    folders: "list[SequenceFolder] | None"
    """Where the sequences lie, where that is known."""


def rank_gallery(
    gallery: "Embeddings", probe: "Embeddings", top: int, device: "torch.device"
) -> tuple[list[list[Match]], list[bool | None]]:
    """The nearest gallery sequences of each probe, itself left out.

    Args:
        gallery: m.
        probe: n, of the same model.
        top: k, cut to what the gallery has.
        device: where distances are computed.

    Returns:
        For each probe: its matches, nearest first, equal distances by place in the gallery; and whether the first is
        right, None where the probe's identity is not known or not in the rest of the gallery.

    Raises:
        ValueError: a probe for which the gallery holds nothing but itself (named).
    """
    import torch

    from plugin.evaluation.distance import distance_strips
    from plugin.evaluation.retrieval import nearest

    gallery_names = np.array(gallery.names)
    rankings: list[list[Match]] = []
    first_right: list[bool | None] = []
    probes, others = (torch.from_numpy(side.embeddings).to(device) for side in (probe, gallery))
    for rows, strip in distance_strips(probes, others, gallery.metric):
        distances = strip.cpu().numpy()
        itself = np.array(probe.names[rows])[:, None] == gallery_names[None]
        distances[itself] = np.inf
        found = nearest(distances, min(top, len(gallery_names)))
        for row, columns in enumerate(found.tolist()):
            number = rows.start + row
            label = probe.labels[number]
            matches = [
                Match(index, float(distances[row, index]), _same(label, gallery.labels[index]))
                for index in columns
                if not itself[row, index]
            ]
            if not matches:
                raise ValueError(f"{probe.names[number]}: the gallery holds nothing but the probe itself")
            rankings.append(matches)
            rest = (who for who, own in zip(gallery.labels, itself[row], strict=True) if not own)
            first_right.append(matches[0].same if label and label in rest else None)
    return rankings, first_right


def _same(label: str, other: str) -> bool | None:
    return label == other if label and other else None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m plugin.identify", description=_DESCRIPTION, allow_abbrev=False)
    for side in ("gallery", "probe"):
        parser.add_argument(f"--{side}", type=Path, required=True, nargs="+", metavar="PATH",
                            help="one .npz file, or folders")  # fmt: skip
    add_model_options(parser, required=False)
    parser.add_argument("--top", type=int, default=5, metavar="K", help="matches of each probe (default: 5)")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write the table of all probes here")
    parser.add_argument("--out", type=Path, metavar="FILE", help="picture of the matches: .png, .pdf, .svg")
    parser.add_argument("--data", type=Path, nargs="+", default=[], metavar="DIR",
                        help="where sequences of embeddings files lie, for the picture")  # fmt: skip
    parser.add_argument("--shown", type=int, default=20, metavar="N",
                        help="probes in the printed table and the picture at most (default: 20)")  # fmt: skip
    parser.add_argument("--frames", type=int, default=3, metavar="N", help="of each sequence drawn (default: 3)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """The command line. Returns the exit code: 0, 2 for wrong input, 130 after Ctrl-C."""
    args = _parser().parse_args(argv)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        return _run(args)
    except (ValueError, OSError, FloatingPointError) as error:
        from common.runtime.errors import error_text

        print(f"error: {error_text(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def _run(args: argparse.Namespace) -> int:
    from common.runtime.files import write_text
    from plugin.inference import pick_device

    _check_arguments(args)
    device = pick_device(args.device)
    gallery, probe = _open_sides(args, device)
    if args.out is not None:  # found out now, not after the ranking
        gallery, probe = (_locate(side, args.data) for side in (gallery, probe))
    rankings, first_right = rank_gallery(gallery.content, probe.content, args.top, device)
    print(_table(gallery.content, probe.content, rankings[: args.shown]))
    if len(rankings) > args.shown:
        print(f"... and {len(rankings) - args.shown} more probes (--csv writes all, --shown prints more)")
    known = [right for right in first_right if right is not None]
    if known:
        print(f"Rank-1: {100 * sum(known) / len(known):.2f} % of {len(known)} probes whose identity is in the gallery")
    if args.csv is not None:
        write_text(args.csv, _csv(gallery.content, probe.content, rankings))
        print(args.csv)
    if args.out is not None:
        _draw(args, gallery, probe, rankings[: args.shown])
        print(args.out)
    return 0


def _check_arguments(args: argparse.Namespace) -> None:
    from common.runtime.figures import check_picture_path

    for name in ("top", "shown", "frames"):
        if getattr(args, name) < 1:
            raise ValueError(f"--{name} must be >= 1, got {getattr(args, name)}")
    for path in (args.out, args.csv):
        if path is not None and not path.absolute().parent.is_dir():
            raise ValueError(f"{path}: no such folder to write to: {path.parent}")
    if args.out is not None:
        check_picture_path(args.out)
    folders = [path for paths in (args.gallery, args.probe) for path in paths if path.suffix != ".npz"]
    for side in ("gallery", "probe"):
        paths = getattr(args, side)
        if len(paths) > 1 and any(path.suffix == ".npz" for path in paths):
            raise ValueError(f"--{side}: expected one .npz file, or folders, got {', '.join(map(str, paths))}")
    if folders and (args.cfgs is None or (args.weights is None and args.iter is None)):
        raise ValueError(f"{folders[0]}: folders need a model: give --cfgs, and --weights or --iter")


def _open_sides(args: argparse.Namespace, device: "torch.device") -> tuple[_Side, _Side]:
    """Gallery and probes; everything is looked at before anything is embedded."""
    from plugin.embeddings import Embeddings, load_embeddings, require_same_model
    from plugin.inference import embed_folders, find_checkpoint, load_model, model_fingerprint
    from plugin.runtime.settings import load_gait_settings

    files: dict[str, Embeddings] = {}
    found: dict[str, list[SequenceFolder]] = {}
    for side in ("gallery", "probe"):
        paths = getattr(args, side)
        if paths[0].suffix == ".npz":
            files[side] = load_embeddings(paths[0])
        else:
            found[side] = _find(paths, side)
    sides = {side: _Side(content, None) for side, content in files.items()}
    if found:
        settings = load_gait_settings(args.cfgs)
        model = load_model(settings, find_checkpoint(settings, args.weights, args.iter, args.output))
        fingerprint = model_fingerprint(settings, model)
        for side, content in files.items():
            if content.fingerprint != fingerprint:
                raise ValueError(
                    f"{getattr(args, side)[0]}: made by another model ({content.fingerprint[:12]}) than "
                    f"{args.cfgs} with these weights ({fingerprint[:12]}); embeddings of the two cannot be compared"
                )
        for side, sequences in found.items():
            content = embed_folders(model, settings, sequences, device, Path.cwd())
            sides[side] = _Side(content, sequences)
    require_same_model({str(getattr(args, side)[0]): sides[side].content for side in ("gallery", "probe")})
    return sides["gallery"], sides["probe"]


def _find(paths: list[Path], side: str) -> "list[SequenceFolder]":
    from plugin.sequences import check_all, find_sequence_folders

    found: dict[Path, SequenceFolder] = {}
    for path in paths:
        for sequence in find_sequence_folders(path):
            found[sequence.folder.resolve()] = sequence
    sequences = list(found.values())
    check_all(sequences)
    if len({sequence.name for sequence in sequences}) < len(sequences):
        raise ValueError(f"--{side}: two sequences have one name (ID-TYPE-VIEW): {', '.join(map(str, paths))}")
    return sequences


def _locate(side: _Side, roots: list[Path]) -> _Side:
    """The folders of the sequences of an embeddings file, so that they can be drawn."""
    from plugin.sequences import open_sequence

    if side.folders is not None:
        return side
    if not roots:
        raise ValueError(
            "--out draws silhouettes, which embeddings files do not hold: give --data, or leave --out away"
        )
    folders = []
    for name, place in zip(side.content.names, side.content.folders, strict=True):
        opened = (open_sequence(root / place, root) for root in roots)
        sequence = next((candidate for candidate in opened if candidate is not None), None)
        if sequence is None:
            raise ValueError(f"--data: {name} is not in {', '.join(str(root / place) for root in roots)}")
        folders.append(sequence)
    return _Side(side.content, folders)


def _table(gallery: "Embeddings", probe: "Embeddings", rankings: list[list[Match]]) -> str:
    width = max(len(gallery.names[match.index]) for matches in rankings for match in matches)
    lines = []
    for name, matches in zip(probe.names, rankings, strict=False):
        lines.append(name)
        for rank, match in enumerate(matches, start=1):
            verdict = {True: "same", False: "other", None: ""}[match.same]
            lines.append(
                f"  {rank:>3}  {gallery.names[match.index]:<{width}}  {match.distance:10.4f}  {verdict}".rstrip()
            )
    return "\n".join(lines)


def _csv(gallery: "Embeddings", probe: "Embeddings", rankings: list[list[Match]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["probe", "probe_identity", "rank", "match", "match_identity", "distance", "same_identity"])
    for name, label, matches in zip(probe.names, probe.labels, rankings, strict=True):
        for rank, match in enumerate(matches, start=1):
            verdict = {True: "yes", False: "no", None: ""}[match.same]
            other = gallery.labels[match.index]
            writer.writerow([name, label, rank, gallery.names[match.index], other, f"{match.distance:.6f}", verdict])
    return text.getvalue()


def _draw(args: argparse.Namespace, gallery: _Side, probe: _Side, rankings: list[list[Match]]) -> None:
    from plugin.pictures import MatchPicture, draw_matches

    assert gallery.folders is not None
    assert probe.folders is not None
    rows = []
    for number, matches in enumerate(rankings):
        row = [MatchPicture(label=probe.content.names[number], silhouettes=_frames(probe.folders[number], args.frames))]
        for match in matches:
            row.append(
                MatchPicture(
                    label=gallery.content.names[match.index],
                    silhouettes=_frames(gallery.folders[match.index], args.frames),
                    distance=match.distance,
                    same=match.same,
                )
            )
        rows.append(row)
    draw_matches(args.out, rows)


def _frames(sequence: "SequenceFolder", count: int) -> np.ndarray:
    """A few silhouettes, evenly chosen."""
    silhouettes, _ = sequence.read()
    return silhouettes[np.unique(np.linspace(0, len(silhouettes) - 1, count).round().astype(int))]


if __name__ == "__main__":
    sys.exit(main())
