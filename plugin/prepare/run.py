"""A whole run: find the sequences, do those that are not done, in one process or several, and report on all."""

import os
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial

from common.runtime.progress import progress_bar
from common.runtime.workers import work_all
from plugin.layout import find_sequences
from plugin.partition import Partition, read_partition
from plugin.prepare.records import Ledger, SequenceRecord
from plugin.prepare.report import (
    Report,
    build_report,
    probe_warnings,
    write_report,
)
from plugin.prepare.sequence import prepare_sequence
from plugin.prepare.settings import PrepareSettings
from plugin.prepare.streams import check_streams

__all__ = ["prepare"]


def prepare(settings: PrepareSettings) -> Report:
    """Prepare every sequence of the partition's subjects (or of one shard) that is not prepared yet.

    Sequences that cannot be prepared do not stop the run, they are in the report. Reports are written to
    OUT/.prepare: `report.txt` and `report.json` over everything there, by whichever run or shard, and
    `report-I-of-N.*` for a shard alone.

    Returns:
        The report of this run's sequences, those done by earlier runs included.

    Raises:
        ValueError: input folders or partition missing, malformed or swapped, no subject of the
            partition in the input, the output not writable or holding sequences made with other settings. Nothing
            has been written then, unless another run took over the output with other settings meanwhile.
        OSError: the output cannot be written (any more). What is written is whole, and a rerun goes on from it.
        BrokenProcessPool: a worker process died, killed for its memory perhaps. Again a rerun goes on.
    """
    partition = read_partition(settings.partition)
    subjects = _subjects(settings)
    named = partition.subjects
    if not named & subjects:
        raise ValueError(
            f"{settings.partition}: names none of the {len(subjects)} subjects under {settings.silhouettes}"
        )
    plan = _plan(settings, named)
    if not plan:
        raise ValueError(f"{settings.silhouettes}: no ID/type/view folders of the partition's subjects")
    check_streams(plan, settings)
    ledger = Ledger(settings.out, settings.fingerprint())
    ledger.claim()

    index, shards = settings.shard or (1, 1)
    share = plan[index - 1 :: shards]
    records = {name: record for name in share if (record := ledger.read(name)) is not None}
    todo = [name for name in share if name not in records or records[name].failed is not None]
    work: Callable[[str], SequenceRecord] = partial(prepare_sequence, settings=settings)
    finished = len(share) - len(todo)
    with (
        progress_bar(total=len(share), initial=finished, unit="sequence", disable=not settings.progress) as bar,
        closing(work_all(work, todo, settings.workers)) as done,
    ):
        for record in done:
            records[record.sequence] = record
            bar.update()

    report = partial(
        build_report,
        settings=settings.fingerprint(),
        low_share=settings.low_share,
        subjects_left_out=len(subjects - named),
        subjects_absent=len(named - subjects),
    )
    own = report(records.values(), planned=len(share))
    if shards > 1:
        write_report(ledger, own, f"report-{index}-of-{shards}")
        others = {name: record for name in plan if name not in records and (record := ledger.read(name)) is not None}
        merged = report([*records.values(), *others.values()], planned=len(plan))
        written = [name for name, record in {**records, **others}.items() if record.failed is None]
    else:
        merged = own
        written = [name for name, record in records.items() if record.failed is None]
    merged.warnings = _warnings(merged, partition, written, ledger)
    write_report(ledger, merged)
    return own


def _subjects(settings: PrepareSettings) -> set[str]:
    for option, root in (("--silhouettes", settings.silhouettes), ("--poses", settings.poses)):
        if not root.is_dir():
            raise ValueError(f"{option} {root}: no such folder")
        out, inner = settings.out.resolve(), root.resolve()
        if out == inner or inner in out.parents:
            raise ValueError(f"--out {settings.out}: lies in {option} {root}; give a folder of its own")
    return {name for name in os.listdir(settings.silhouettes) if (settings.silhouettes / name).is_dir()}


def _plan(settings: PrepareSettings, named: frozenset[str]) -> list[str]:
    """Every sequence that either stream has: one that the other lacks is a failure to report."""
    found = {*find_sequences(settings.silhouettes, named), *find_sequences(settings.poses, named)}
    return ["/".join(sequence) for sequence in sorted(found)]


def _warnings(report: Report, partition: Partition, written: Sequence[str], ledger: Ledger) -> list[str]:
    if report.pending and partition.probes:
        return ["probes without gallery are looked for when every sequence is done"]
    warnings = probe_warnings(partition, written)
    strangers = ledger.count() - report.planned
    if strangers > 0 and not report.pending:
        warnings.append(f"{strangers} sequences in {ledger.out} are of earlier runs with another input or partition")
    return warnings
