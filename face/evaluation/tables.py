"""The CSV files that say what an evaluation set consists of."""

import csv
from collections.abc import Sequence
from pathlib import Path

__all__ = ["read_table"]


def read_table(path: Path, columns: Sequence[str]) -> list[tuple[int, list[str]]]:
    """Rows of a CSV file with a fixed header, without spaces around their entries.

    Returns:
        (line number, entries) of each row that is not empty.

    Raises:
        FileNotFoundError: no such file.
        ValueError: another header, a row with other than one entry for each column or with an empty one, or no rows.
    """
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.reader(file)
        header = [entry.strip() for entry in next(reader, [])]
        if header != list(columns):
            raise ValueError(f"{path}: the header must be {','.join(columns)}, found {','.join(header) or 'no line'}")
        rows = []
        for row in reader:
            entries = [entry.strip() for entry in row]
            if not any(entries):
                continue
            if len(entries) != len(columns) or not all(entries):
                expected = f"{len(columns)} entries ({','.join(columns)})"
                raise ValueError(f"{path}, line {reader.line_num}: expected {expected}, found {','.join(row)}")
            rows.append((reader.line_num, entries))
    if not rows:
        raise ValueError(f"{path}: it has no rows below the header")
    return rows
