"""Records of a file by their offset, from any process and thread."""

import os
import weakref
from pathlib import Path

from face.data.records.format import HEAD_BYTES, MAGIC, RecordError, read_head

__all__ = ["RecordFile"]

_CHUNK = 1 << 16  # one read gets a whole record of a face, most of them being a few KiB
_MAGIC_BYTES = MAGIC.to_bytes(4, "little")


class RecordFile:
    """A RecordIO file, opened when first read from, anew in every process (it pickles, and it survives a fork).

    Reads carry their place with them (`os.pread`), so processes and threads do not disturb each other.

    Raises:
        FileNotFoundError: no such file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        status = path.stat()
        self.size = status.st_size
        self.modified_ns = status.st_mtime_ns
        self._opened: tuple[int, int] | None = None

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_opened": None}

    def where(self, offset: int, key: int) -> str:
        """What messages about a record begin with."""
        return f"{self.path}, record {key}, offset {offset}"

    def read_record(self, offset: int, key: int, reach: int = _CHUNK) -> bytes:
        """The payload of the record at `offset`, its parts joined.

        Args:
            offset: of the record's first byte.
            key: of the record, for messages.
            reach: bytes up to where the next record probably begins; a wrong guess costs another read.

        Raises:
            RecordError: no record begins there, or the file ends within it.
        """
        chunk = self._read(min(reach, _CHUNK), offset)
        if chunk[:4] == _MAGIC_BYTES:  # nearly all records are of one part, and read as a whole
            end = HEAD_BYTES + int.from_bytes(chunk[4:HEAD_BYTES], "little")
            if HEAD_BYTES <= end <= len(chunk):
                return chunk[HEAD_BYTES:end]
        return self._join_parts(chunk, offset, self.where(offset, key))

    def _join_parts(self, chunk: bytes, offset: int, where: str) -> bytes:
        begin = 0
        payloads: list[bytes] = []
        while True:
            if len(chunk) < begin + HEAD_BYTES:
                chunk += self._read(begin + HEAD_BYTES - len(chunk), offset + len(chunk))
            part = read_head(chunk[begin : begin + HEAD_BYTES], first=not payloads, where=where)
            begin += HEAD_BYTES
            missing = begin + part.length - len(chunk)
            if missing > 0:
                chunk += self._read(missing, offset + len(chunk))
            payload = chunk[begin : begin + part.length]
            if len(payload) < part.length:
                raise RecordError(
                    f"{where}: the file is cut off: the record needs {part.length} bytes from {offset + begin} on, "
                    f"the file ends at {self.size}"
                )
            payloads.append(payload)
            if part.ends_record:
                return _MAGIC_BYTES.join(payloads)
            begin += part.padded

    def record_bytes(self, offset: int, key: int) -> int:
        """How many bytes the record at `offset` takes, its padding included, seen from the heads of its parts.

        Raises:
            RecordError: see `read_record`.
        """
        where = self.where(offset, key)
        place, part = offset, None
        while part is None or not part.ends_record:
            part = read_head(self._read(HEAD_BYTES, place), first=part is None, where=where)
            place += HEAD_BYTES + part.padded
        if place > self.size:
            raise RecordError(f"{where}: the file is cut off: the record reaches to {place}, the file to {self.size}")
        return place - offset

    def _read(self, count: int, offset: int) -> bytes:
        pieces = []
        while count > 0:
            piece = os.pread(self._descriptor(), count, offset)
            if not piece:
                break
            pieces.append(piece)
            count -= len(piece)
            offset += len(piece)
        return b"".join(pieces) if len(pieces) != 1 else pieces[0]

    def _descriptor(self) -> int:
        pid = os.getpid()
        if self._opened is None or self._opened[0] != pid:
            descriptor = os.open(self.path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
            weakref.finalize(self, _close, descriptor, pid)
            status = os.fstat(descriptor)
            if (status.st_size, status.st_mtime_ns) != (self.size, self.modified_ns):
                raise RecordError(f"{self.path}: changed since it was opened")
            self._opened = (pid, descriptor)
        return self._opened[1]


def _close(descriptor: int, pid: int) -> None:
    if os.getpid() == pid:
        os.close(descriptor)
