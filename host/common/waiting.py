"""Waiting for what other processes are at work on."""

from __future__ import annotations

import time

import comfy.model_management

PAUSE = 0.2  # seconds, between looks at what others do


def wait_for_others(seconds: float = PAUSE) -> None:
    """Leave them some time. Raises the host's exception where the prompt was interrupted."""
    comfy.model_management.throw_exception_if_processing_interrupted()
    time.sleep(seconds)
