"""The memory of a gradient in its places: `.venv/bin/python benchmarks/gradient_memory.py --comfyui FOLDER` (Linux).

One guided step on a network of SD 1.5's size with random weights, one picture, guide ResNet-50 at 224 px: the highest
memory beyond what was held before the step, which has the weights in it. On a CPU that of the process, on a GPU what
torch has in tensors.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parent)]
from gradient import cases, run  # noqa: E402  # also makes the tests' helpers importable
from overhead import load_host  # noqa: E402

PAGE = 4096


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--comfyui", type=Path, required=True, help="folder of ComfyUI")
    parser.add_argument("--size", type=int, default=32, help="latent height and width")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    options = parser.parse_args()
    load_host(options.comfyui, options.device)
    import torch
    from engine_probe import cfg_guider, sigmas_of

    from guidance_pack.host.engine import wrappers

    torch.set_grad_enabled(False)
    print("| step | MB beyond the weights | seconds |")
    print("| --- | --- | --- |")
    for index, case in enumerate(each for each in cases(options.size) if "tiny model" not in each.name):
        sigmas = sigmas_of(case.plain, 1, "karras")
        rows = [("bare step", case.plain, False)] if index == 0 else []
        rows.append((case.name, case.guided, False))
        if case.name.startswith("through"):
            rows.append((f"{case.name}, blocks evaluated again", case.guided, True))
        for name, model, short in rows:
            wrappers.is_short = lambda *_, short=short: short
            step = partial(run, cfg_guider(model, *case.conditioning, 1.0), case.latent, sigmas)
            highest, seconds = (peak if options.device == "cpu" else peak_on_gpu)(step)
            print(f"| {name} | {highest:.0f} | {seconds:.1f} |", flush=True)


def peak(work: Callable[[], None]) -> tuple[float, float]:
    """MB that the process holds at its highest beyond what it held before, and the seconds of it; the second time."""
    work()
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    before, seen, done = resident(), [0], threading.Event()

    def watch() -> None:
        while not done.wait(0.002):
            seen.append(resident())

    thread = threading.Thread(target=watch)
    thread.start()
    start = time.perf_counter()
    work()
    seconds = time.perf_counter() - start
    done.set()
    thread.join()
    return (max(seen) - before) / 2**20, seconds


def peak_on_gpu(work: Callable[[], None]) -> tuple[float, float]:
    """As `peak`, of what torch has in tensors on the GPU."""
    import torch

    work()
    gc.collect()
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    work()
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before) / 2**20, time.perf_counter() - start


def resident() -> int:
    """Bytes of the process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE


if __name__ == "__main__":
    main()
