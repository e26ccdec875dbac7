"""RecordIO sets of faces, as insightface and CVLface keep them, read and written without MXNet."""

from face.data.records.format import RecordError
from face.data.records.index import rebuild_index
from face.data.records.source import RecordSource
from face.data.records.writer import RecordWriter

__all__ = ["RecordError", "RecordSource", "RecordWriter", "rebuild_index"]
