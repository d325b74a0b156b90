"""Where the files of a kind lie that people put into ComfyUI's models folder."""

from __future__ import annotations

from pathlib import Path

import folder_paths


def model_folders(kind: str) -> list[Path]:
    """The folders of a kind (models/<kind> and those of extra_model_paths.yaml), the first for new files."""
    return [Path(root) for root in folder_paths.get_folder_paths(kind)]
