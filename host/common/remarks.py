"""A grey line of words on a node of the page, where something is allowed but seldom meant."""

from __future__ import annotations

from typing import Any

from comfy_execution.utils import get_executing_context


def page_server() -> Any:
    """The server of the page that queued what is running now; None where no page did."""
    if get_executing_context() is None:
        return None
    from server import PromptServer

    return vars(PromptServer)["instance"]


def remark(words: str) -> None:
    """Show words on the node that is being executed."""
    server, context = page_server(), get_executing_context()
    if server is not None and context is not None:
        server.send_progress_text(words, context.node_id, server.client_id)
