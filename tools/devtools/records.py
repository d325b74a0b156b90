"""Files of records, one JSON object per line, that a command goes on with where it was stopped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def read_records(path: Path | None) -> list[dict[str, Any]]:
    """What was written; nothing without a file."""
    if path is None or not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def append_record(path: Path | None, record: dict[str, Any]) -> None:
    """Write one more down, if there is a file to keep."""
    if path is not None:
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
