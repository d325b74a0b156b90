"""Time of one evaluation, measured without waiting for its device; and memory."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable

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


def memory_held(device: torch.device) -> int:
    """Bytes. On CUDA: the most that torch has had in tensors since ComfyUI started. Elsewhere: what the process has in
    memory now.
    """
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else _resident()


def _reader() -> Callable[[], int]:
    """What the process has in memory. On Linux psutil opens files for every answer; here one stays open."""
    if sys.platform != "linux":
        process = psutil.Process()
        return lambda: process.memory_info().rss
    file, page = os.open("/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC), os.sysconf("SC_PAGE_SIZE")
    return lambda: int(os.pread(file, 128, 0).split()[1]) * page


_resident = _reader()
