"""What a run says in the end: counts over all records, sequences to look at, and what an evaluation would miss."""

import dataclasses
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from common.runtime.files import write_text
from plugin.partition import Partition
from plugin.prepare.raw import NUM_JOINTS
from plugin.prepare.records import JointCounts, Ledger, SequenceRecord

__all__ = ["Report", "build_report", "probe_warnings", "write_report"]

_LISTED = 20


@dataclass(kw_only=True)
class Report(JointCounts):
    """Counts over a set of sequences: those of one shard, or all of an output folder."""

    settings: dict[str, object]
    planned: int
    """Sequences of the partition's subjects found in the input."""

    written: int = 0
    pending: int = 0
    """Planned sequences that no run has come to yet."""

    subjects_left_out: int = 0
    """Subjects in the input that the partition does not name."""

    subjects_absent: int = 0
    """Subjects that the partition names and the input lacks."""

    frames: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    examples: dict[str, str] = field(default_factory=dict)
    """For each reason, the first sequence with such a frame and what was said of it."""

    estimated: int = 0
    """Written sequences whose joints are placed by estimate."""

    low_share: float
    low_sequences: dict[str, float] = field(default_factory=dict)
    """Share of confident joints on the silhouette, lowest first, of the sequences below `low_share`."""

    failed: dict[str, str] = field(default_factory=dict)
    """Reason by sequence."""

    warnings: list[str] = field(default_factory=list)

    def to_json(self) -> str:
        """All of it, the share included."""
        return json.dumps({**dataclasses.asdict(self), "on_share": self.on_share}, indent=1) + "\n"

    def to_text(self) -> str:
        """For people: everything counted, the worst sequences, every failure and warning."""
        lines = [
            f"sequences: {self.planned} found, {self.written} written, {len(self.failed)} failed, "
            f"{self.pending} not done yet",
            f"subjects: {self.subjects_left_out} left out (not in the partition), "
            f"{self.subjects_absent} of the partition absent",
            f"frames: {self.frames} kept, {sum(self.dropped.values())} dropped",
            *(
                f"  {reason}: {count} (first: {self.examples.get(reason, '')})"
                for reason, count in self.dropped.items()
            ),
            f"frames whose pose names another crop size than the PNG has: {self.size_mismatches} (kept)",
            f"joints: {NUM_JOINTS * self.frames}, of which {self.missing_joints} missing; "
            f"{self.confident_joints} with confidence >= {self.settings['confident']}, "
            f"of which {_percent(self.on_share)} on the silhouette",
        ]
        if self.no_person:
            lines.append(f"frames without a person in their pose: {self.no_person} (kept, every joint missing)")
        if self.several_people:
            lines.append(f"frames with several people: {self.several_people} (the one on the silhouette is taken)")
        if self.estimated:
            lines.append(
                f"sequences whose joints are placed by estimate, their silhouettes' crop being lost: {self.estimated}"
            )
        if self.low_sequences:
            lines.append(f"sequences with less than {_percent(self.low_share)}: {len(self.low_sequences)}")
            lines += [f"  {name}: {_percent(share)}" for name, share in [*self.low_sequences.items()][:_LISTED]]
            if len(self.low_sequences) > _LISTED:
                lines.append(f"  and {len(self.low_sequences) - _LISTED} more, all in the JSON report")
        lines += [f"failed {name}: {reason}" for name, reason in self.failed.items()]
        lines += [f"warning: {warning}" for warning in self.warnings]
        return "\n".join(lines) + "\n"


def _percent(share: float | None) -> str:
    return "none" if share is None else f"{100 * share:.1f}%"


def build_report(
    records: Iterable[SequenceRecord],
    *,
    planned: int,
    settings: Mapping[str, object],
    low_share: float,
    subjects_left_out: int = 0,
    subjects_absent: int = 0,
) -> Report:
    """Add up records; the order they come in does not matter."""
    report = Report(
        settings=dict(settings),
        planned=planned,
        low_share=low_share,
        subjects_left_out=subjects_left_out,
        subjects_absent=subjects_absent,
    )
    dropped: Counter = Counter()
    low: list[tuple[float, str]] = []
    ordered = sorted(records, key=lambda record: record.sequence)
    for record in ordered:
        dropped.update(record.dropped)
        for reason, example in record.examples.items():
            named = example if record.sequence in example else f"{record.sequence}: {example}"
            report.examples.setdefault(reason, named)
        if record.failed is not None:
            report.failed[record.sequence] = record.failed
            continue
        report.written += 1
        report.frames += record.frames
        report.add(record)
        report.estimated += record.estimated
        if record.on_share is not None and record.on_share < low_share:
            low.append((record.on_share, record.sequence))
    report.dropped = dict(sorted(dropped.items()))
    report.examples = dict(sorted(report.examples.items()))
    report.low_sequences = {name: share for share, name in sorted(low)}
    report.pending = planned - len(ordered)
    return report


def probe_warnings(partition: Partition, written: Iterable[str]) -> list[str]:
    """Probes that an evaluation would count as missed, whatever the model: no gallery sequence of their subject."""
    probes = set(partition.probes)
    names = [name for name in sorted(written) if name.split("/")[0] in partition.test]
    with_gallery = {name.split("/")[0] for name in names if name.replace("/", "-") not in probes}
    return [
        f"probe {name.replace('/', '-')} has no gallery sequence of the same subject"
        for name in names
        if name.replace("/", "-") in probes and name.split("/")[0] not in with_gallery
    ]


def write_report(ledger: Ledger, report: Report, name: str = "report") -> None:
    """Write OUT/.prepare/NAME.txt and NAME.json."""
    write_text(ledger.folder / f"{name}.txt", report.to_text())
    write_text(ledger.folder / f"{name}.json", report.to_json())
