"""Time of one evaluation, measured without waiting for its device; and memory."""

from __future__ import annotations

import time

import psutil
import torch


class Meter:
    """Runs from when it is made until `stop`."""

    def __init__(self, device: torch.device):
        self.device = device
        self.marks = [torch.cuda.Event(enable_timing=True) for _ in range(2)] if device.type == "cuda" else []
        self.times = [0.0, 0.0]
        self._mark(0)

    def stop(self) -> None:
        """The work is queued on the device, or done."""
        self._mark(1)

    def seconds(self) -> float:
        """Waits for the device, if it has not come so far."""
        if not self.marks:
            return self.times[1] - self.times[0]
        self.marks[1].synchronize()
        return self.marks[0].elapsed_time(self.marks[1]) / 1000.0

    def _mark(self, index: int) -> None:
        if self.marks:
            self.marks[index].record(torch.cuda.current_stream(self.device))
        else:
            self.times[index] = time.perf_counter()


def held(device: torch.device) -> int:
    """Bytes. On CUDA: the most that torch has had in tensors since ComfyUI started. Elsewhere: what the process has in
    memory now.
    """
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else _PROCESS.memory_info().rss


_PROCESS = psutil.Process()
