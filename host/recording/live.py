"""While a queued run goes on: the newest evaluation in words on the inspector."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from .record import Evaluation, Record
from .text import in_words


@dataclass
class Live:
    """Speaks to whoever queued the prompt. nodes: ids of the inspectors on the page."""

    nodes: list[str]
    server: Any = field(init=False)

    def __post_init__(self) -> None:
        from server import PromptServer

        page: Any = PromptServer  # it gets its instance when ComfyUI starts
        self.server = page.instance

    def tell(self, evaluation: Evaluation, record: Record) -> None:
        """The newest evaluation."""
        for node in self.nodes:
            self.server.send_progress_text(in_words(evaluation, record), node, self.server.client_id)
