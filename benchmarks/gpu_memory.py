"""Real memory that runs out: `python benchmarks/gpu_memory.py --comfyui FOLDER`. Part of tools/gpu_check.py.

A guided run of SD 1.5's size (CFG, Autoguidance over a smaller network, a classifier's gradient at the noisy input) is
repeated with ever less of the card's memory allowed to this process. It ends well or in words of memory; the next plain
run is bit-identical, and no memory is kept.
"""

from __future__ import annotations

import argparse
import gc
import sys
from collections.abc import Callable
from pathlib import Path

from overhead import load_host, sd15

SHARES = (1.0, 0.8, 0.6, 0.45, 0.3, 0.2, 0.1)  # of what the first run took at its highest
SLACK = 8 * 2**20  # bytes that the allocator's rounding may keep


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--comfyui", type=Path, required=True, help="folder of ComfyUI")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda")
    options = parser.parse_args()
    load_host(options.comfyui, options.device)
    import torch

    if not torch.cuda.is_available():
        print("no CUDA here: nothing to run out of")
        return 0
    plain, guided = models()
    first = sampled(plain)
    sampled(guided)
    highest, whole = torch.cuda.max_memory_allocated(), torch.cuda.get_device_properties(0).total_memory
    print("| of its memory | MB | ended | plain run afterwards | MB kept |")
    print("| --- | --- | --- | --- | --- |")
    wrong = 0
    for share in SHARES:
        before = settled()
        torch.cuda.set_per_process_memory_fraction(min(1.0, share * highest / whole))
        ended = outcome(lambda: sampled(guided))
        torch.cuda.set_per_process_memory_fraction(1.0)
        same, kept = torch.equal(sampled(plain), first), settled() - before
        wrong += not same or kept > SLACK or ended.startswith("wrong words")
        print(f"| {share:.0%} | {share * highest / 2**20:.0f} | {ended} | {'same' if same else 'ANOTHER'} | "
              f"{kept / 2**20:.1f} |", flush=True)
    return 1 if wrong else 0


def models():
    """SD 1.5's size with random weights, and the same with components."""
    import engine_probe as probe
    import steering
    from host_models import MODELS
    from test_engine_gradients import steer

    plain = sd15(0)
    guided = probe.guided(plain, MODELS["sd15"].build(7), weight=2.0, cfg=False)
    return plain, steer(guided, steering.loaded(3), scale=1.0, at="noisy input", vae=steering.tiny_autoencoder())


def sampled(model):
    from host_models import MODELS, sample

    spec = MODELS["sd15"]
    return sample(model, spec.conditioning(1), spec.conditioning(2), spec.latent(1), steps=2, cfg=3.0)


def outcome(work: Callable) -> str:
    """How it ended, in a few words."""
    import comfy.model_management as management

    try:
        work()
    except (ValueError, RuntimeError, management.OOM_EXCEPTION) as error:
        words = str(error)
        return f"refused: {words[:90]}" if "memory" in words.lower() else f"wrong words: {words[:90]}"
    return "well"


def settled() -> int:
    """Bytes in use once everything that can go has gone."""
    import comfy.model_management as management
    import torch

    management.unload_all_models()
    gc.collect()
    management.soft_empty_cache()
    torch.cuda.synchronize()
    return torch.cuda.memory_allocated()


if __name__ == "__main__":
    sys.exit(main())
