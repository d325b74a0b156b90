"""Which widgets the page shows: one that does nothing under a node's present choices is left out of sight."""

from __future__ import annotations

from collections.abc import Sequence

from comfy_api.latest import io

SHOWN_FOR = "guidance_shown_for"  # js/guidance_nodes.js reads it


def shown_for(
    choice: str, values: Sequence[str | bool], *inputs: io.Input, or_filled: bool = False
) -> list[io.Input]:
    """These inputs, shown only while the widget `choice` of the same node is one of `values`, or where one is wired.

    Only the page's looks change: values stay in their place in saved workflows and in prompts, so under other choices
    the node must read none of them.

    or_filled: shown also while it is neither empty nor 0, for what the node refuses under other choices.
    """
    for entry in inputs:
        entry.extra_dict[SHOWN_FOR] = {"choice": choice, "values": [*values], "or_filled": or_filled}
    return [*inputs]
