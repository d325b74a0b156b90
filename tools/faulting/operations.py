"""One operation of torch that fails: the n-th from now, on any device, forward, backward or in an optimiser."""

from __future__ import annotations

from torch.utils._python_dispatch import TorchDispatchMode


class FailingOperation(TorchDispatchMode):
    """While entered, counts operations and raises once, at number `at` (from 0); with None it only counts.

    Attributes:
        count: of the operations so far.
    """

    def __init__(self, at: int | None, error: BaseException | None = None) -> None:
        super().__init__()
        self.at, self.error, self.count = at, error, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += 1
        if self.error is not None and self.count - 1 == self.at:
            raise self.error
        return func(*args, **(kwargs or {}))
