"""One operation of torch that fails: the n-th from now, on any device, forward, backward or in an optimiser."""

from __future__ import annotations

import sys

from torch.utils._python_dispatch import TorchDispatchMode

# ComfyUI's own way to take patches off: broken off in the middle it leaves layers that no later LoRA reaches, with and
# without us (comfy/model_patcher.py, `comfy_patched_weights`).
SPARED = "unpatch_model"


class FailingOperation(TorchDispatchMode):
    """While entered, counts operations and raises once, at number `at` (from 0); with None it only counts.

    Where that one is `SPARED` it is the first after it that is not.

    Attributes:
        count: of the operations so far.
    """

    def __init__(self, at: int | None, error: BaseException | None = None) -> None:
        super().__init__()
        self.at, self.error, self.count = at, error, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += 1
        if self.error is not None and self.at is not None and self.count > self.at and not _is_spared():
            error, self.error = self.error, None
            raise error
        return func(*args, **(kwargs or {}))


def _is_spared() -> bool:
    frame = sys._getframe()
    while frame is not None and frame.f_code.co_name != SPARED:
        frame = frame.f_back
    return frame is not None
