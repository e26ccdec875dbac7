"""What a run leaves beside the data, so that the next one can go on from it and every report covers all of it.

Everything lies in OUT/.prepare: `settings.json`, `sequences/ID/type/view.json` (one `SequenceRecord` each), and the
reports. OpenGait looks for subjects in OUT by the names of its partition and reads every file of a sequence's folder,
so nothing of this may lie there, and a hidden folder beside the subjects is not looked at.

A sequence is made in `.prepare/making/...` and its folder then moves to its place with both arrays at once; the
record follows. Killed at any moment, a run leaves sequences that are whole or absent.
"""

import dataclasses
import json
import os
import pickle
import shutil
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import numpy as np

from common.runtime.files import write_text
from plugin.layout import KEYPOINTS_FILE, SILHOUETTES_FILE

__all__ = ["JointCounts", "Ledger", "SequenceRecord"]


@dataclass(kw_only=True)
class JointCounts:
    """How the joints of the kept frames fared: of one sequence, or of many."""

    size_mismatches: int = 0
    """Kept frames whose pose names another crop size than the PNG has; counted only."""

    no_person: int = 0
    """Kept frames in which nobody's pose was found; every joint is missing."""

    several_people: int = 0
    """Kept frames in which several people were found, and one was chosen."""

    missing_joints: int = 0
    """Joints of kept frames without a position, of 17 a frame."""

    confident_joints: int = 0
    joints_on_silhouette: int = 0
    """Confident joints, and how many of those lie on the silhouette widened by one pixel."""

    @property
    def on_share(self) -> float | None:
        """Share of confident joints on the silhouette; None without confident joints."""
        return self.joints_on_silhouette / self.confident_joints if self.confident_joints else None

    def add(self, other: "JointCounts") -> None:
        """Count the other's in."""
        for entry in dataclasses.fields(JointCounts):
            setattr(self, entry.name, getattr(self, entry.name) + getattr(other, entry.name))


@dataclass(kw_only=True)
class SequenceRecord(JointCounts):
    """What became of one sequence. Counts of frames are zero where its files could not even be listed."""

    sequence: str
    """ID/type/view."""

    settings: dict[str, object]
    """Fingerprint of the settings it was made with."""

    failed: str | None = None
    """Why nothing was written, or None."""

    frames: int = 0
    """Pairs written."""

    dropped: dict[str, int] = field(default_factory=dict)
    """Frames left out by reason, each frame under the first reason met."""

    examples: dict[str, str] = field(default_factory=dict)
    """For each reason, what was said of the first such frame."""

    estimated: bool = False
    """Whether the joints' place on the silhouette is an estimate: the silhouettes are normalised already, and the poses
    in pixels of a crop that is lost."""

    bytes_written: tuple[int, int] | None = None
    """Sizes of the silhouettes' and the keypoints' file, by which the next run knows them to be whole."""


def _read_record(path: Path) -> SequenceRecord | None:
    try:
        return SequenceRecord(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):  # absent or not of our making: the sequence is done anew
        return None


def _write_array(path: Path, array: np.ndarray) -> int:
    """As `save_array`, without a name of its own until it is whole: its folder has one. Returns the bytes written."""
    content = pickle.dumps(array, protocol=4)
    path.write_bytes(content)
    return len(content)


class Ledger:
    """The files of one output folder, and the settings that all of it must share."""

    def __init__(self, out: Path, fingerprint: dict[str, object]) -> None:
        self.out = out
        self.folder = out / ".prepare"
        self.fingerprint = fingerprint

    def claim(self) -> None:
        """Enter the settings, or compare with those that the folder was begun with.

        As long as no sequence has been written, other settings take the place of the former ones; what those made
        fail is forgotten.

        Raises:
            ValueError: the folder holds sequences of other settings, or cannot be written.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            probe = self.folder / f"writable-{uuid.uuid4().hex}"
            probe.touch()
            probe.unlink()
            if not self._settings_path.exists():
                self._enter_settings()
            elif self._begun() != self.fingerprint and not any(self.out.glob(f"*/*/*/{SILHOUETTES_FILE}")):
                self._enter_settings()
                self._forget_failures()
        except OSError as error:
            raise ValueError(f"{self.out}: cannot be written: {error}") from error
        self.check()

    def check(self) -> None:
        """See that the folder is still that of these settings.

        Raises:
            ValueError: it is not.
        """
        self._compare(self._begun())

    @property
    def _settings_path(self) -> Path:
        return self.folder / "settings.json"

    def _begun(self) -> dict[str, object]:
        try:
            return json.loads(self._settings_path.read_text())
        except (OSError, ValueError) as error:
            raise ValueError(f"{self._settings_path}: not the settings of an earlier run: {error}") from error

    def _enter_settings(self) -> None:
        write_text(self._settings_path, json.dumps(self.fingerprint, indent=1) + "\n")

    def _forget_failures(self) -> None:
        """Only those of other settings: another shard may have started with these ones already."""
        for path in (self.folder / "sequences").glob("*/*/*.json"):
            record = _read_record(path)
            if record is None or record.settings != self.fingerprint:
                path.unlink(missing_ok=True)

    def _compare(self, found: dict[str, object]) -> None:
        differing = [
            f"{name} {found.get(name)!r}, now {self.fingerprint.get(name)!r}"
            for name in sorted({*found, *self.fingerprint})
            if found.get(name) != self.fingerprint.get(name)
        ]
        if differing:
            raise ValueError(
                f"{self.out}: holds sequences made with other settings ({'; '.join(differing)}); "
                "use those, or another output folder"
            )

    def read(self, sequence: str) -> SequenceRecord | None:
        """The record of a sequence that is whole or has failed; None where it is still to be done.

        Raises:
            ValueError: it was made with other settings (by a run that began in the same moment as this one).
        """
        record = _read_record(self._record_path(sequence))
        if record is None:
            return None
        if record.failed is not None:
            return record if record.settings == self.fingerprint else None
        self._compare(record.settings)
        return record if self._is_whole(record) else None

    def _is_whole(self, record: SequenceRecord) -> bool:
        folder = self.out / record.sequence
        try:
            sizes = [os.stat(folder / name).st_size for name in (SILHOUETTES_FILE, KEYPOINTS_FILE)]
        except FileNotFoundError:
            return False
        return record.bytes_written is not None and sizes == list(record.bytes_written)

    def store(self, record: SequenceRecord, silhouettes: np.ndarray, keypoints: np.ndarray) -> None:
        """Write both arrays, then the record, in which the sizes of the files are entered.

        Raises:
            ValueError: the sequence's folder holds files of others, which OpenGait would read as streams.
            OSError: the disk refuses.
        """
        self.discard(record.sequence)
        making = self.folder / "making" / quote(record.sequence, safe="")
        shutil.rmtree(making, ignore_errors=True)
        making.mkdir(parents=True)
        record.bytes_written = (
            _write_array(making / SILHOUETTES_FILE, silhouettes),
            _write_array(making / KEYPOINTS_FILE, keypoints),
        )
        place = self.out / record.sequence
        try:
            os.rename(making, place)
        except FileNotFoundError:  # the first of its subject and type
            place.parent.mkdir(parents=True, exist_ok=True)
            os.rename(making, place)
        self.write(record)

    def write(self, record: SequenceRecord) -> None:
        """Write one record."""
        path, text = self._record_path(record.sequence), json.dumps(vars(record))
        try:
            write_text(path, text)
        except FileNotFoundError:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_text(path, text)

    def discard(self, sequence: str) -> None:
        """Remove what an earlier run wrote of this sequence.

        Raises:
            ValueError: the folder holds files that no run of this command writes.
        """
        self._record_path(sequence).unlink(missing_ok=True)
        place = self.out / sequence
        if not place.exists():
            return
        others = sorted(set(os.listdir(place)) - {SILHOUETTES_FILE, KEYPOINTS_FILE})
        if others:
            raise ValueError(f"{place} holds {', '.join(others)}, which OpenGait would read as streams; not touched")
        shutil.rmtree(place)

    def count(self) -> int:
        """Number of sequences with a record, of whatever partition and input."""
        return sum(1 for _ in (self.folder / "sequences").glob("*/*/*.json"))

    def _record_path(self, sequence: str) -> Path:
        return self.folder / "sequences" / f"{sequence}.json"
