"""A LoRA as the difference: `.venv/bin/python benchmarks/toggle.py --comfyui FOLDER`.

Autoguidance of base + LoRA by the base, on SD 1.5's network with random weights (`--channels 320` is its full size, 860
million parameters), in three ways that are
run in turn in one process on the same noise and sigmas, one evaluation of each network per step:
  toggled    one resident network; the guide's difference is switched around its evaluations (host/lora)
  two        two resident networks
  swapped    one network, whose weights the host patches and restores at every step
Printed are medians over the repeats of seconds per step (on a CPU of processor time, so that other work on the machine
does not count; give OMP_NUM_THREADS=1 there), the bytes of all tensors alive in the middle of a run beside
those of a plain run of base + LoRA, the cost of the switch itself, and that of the unmerged LoRA beside the layers.
"""

from __future__ import annotations

import argparse
import gc
import platform
import statistics
import time
from pathlib import Path

from overhead import load_host


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--comfyui", type=Path, required=True, help="folder of ComfyUI")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--size", type=int, default=32, help="latent height and width")
    parser.add_argument("--channels", type=int, default=320, help="the network's width; SD 1.5 has 320")
    parser.add_argument("--rank", type=int, default=32)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    load_host(options.comfyui, options.device)
    import torch

    torch.set_grad_enabled(False)
    print(f"{platform.platform()}, torch {torch.__version__}, {options.device}, {torch.get_num_threads()} threads; "
          f"{options.channels} channels, latent {options.size} x {options.size}, "
          f"LoRA of rank {options.rank} on every layer of the transformers")
    measure(options)


def network(channels: int):
    """SD 1.5's network of some width; its weights are always the same."""
    import checkpoints
    import comfy.model_management
    import comfy.model_patcher
    import comfy.supported_models
    import host_models
    import torch

    config = comfy.supported_models.SD15({**checkpoints.SD15_UNET, "model_channels": channels})
    config.set_inference_dtype(torch.float32 if comfy.model_management.cpu_mode() else torch.float16, None)
    model = config.get_model({}, "", device="cpu")
    host_models.fill(model, 0)
    devices = comfy.model_management.get_torch_device(), comfy.model_management.unet_offload_device()
    return comfy.model_patcher.CoreModelPatcher(model.eval(), *devices)


def lora(model, rank: int) -> dict:
    """A LoRA file for the linear layers of the transformer blocks, as most LoRAs of this network are."""
    import lora_files
    import torch

    draw, file = torch.Generator().manual_seed(1), {}
    for name, weight in lora_files.layers(model).items():
        if "transformer_blocks" in name:
            file[f"{name}.lora_up.weight"] = 0.1 * torch.randn(weight.shape[0], rank, generator=draw) / rank**0.5
            file[f"{name}.lora_down.weight"] = torch.randn(rank, weight.shape[1], generator=draw) / weight.shape[1]**0.5
    return file


def swapping_guider(main_model, guide):
    """Autoguidance that has the host exchange the weights of one network before every evaluation."""
    import comfy.model_management
    import comfy.samplers

    class Swapping(comfy.samplers.CFGGuider):
        def predict_noise(self, x, timestep, model_options=None, seed=None):
            conds, found = [self.conds["positive"]], []
            for patcher in (guide, self.model_patcher):
                comfy.model_management.load_models_gpu([patcher])
                patcher.pre_run()
                (prediction,) = comfy.samplers.calc_cond_batch(self.inner_model, conds, x, timestep, model_options)
                found.append(prediction)
            return found[0] + 2.0 * (found[1] - found[0])

    return Swapping(main_model)


def guiders(base, twin, file) -> dict:
    """Name -> a guider ready to sample, and last the plain one."""
    import comfy.samplers
    import host_models
    from lora_files import loaded

    from guidance_pack.guidance.rules.autoguidance import Autoguidance
    from guidance_pack.host.engine.install import with_autoguidance

    model, rule = loaded(base, file), Autoguidance(2.0)
    found = {
        "toggled": comfy.samplers.CFGGuider(with_autoguidance(model, base, rule)),
        "two": comfy.samplers.CFGGuider(with_autoguidance(model, twin, rule)),
        "swapped": swapping_guider(model, base),
        "plain": comfy.samplers.CFGGuider(model),
    }
    positive = host_models.MODELS["sd15"].conditioning(1)
    for guider in found.values():
        guider.set_conds(positive, positive)
        guider.set_cfg(1.0)
    return found


def measure(options) -> None:
    import comfy.samplers
    import torch

    base, twin = (network(options.channels) for _ in range(2))
    file = lora(base, options.rank)
    latent = torch.zeros(1, 4, options.size, options.size)
    noise = torch.randn(latent.shape, generator=torch.Generator().manual_seed(0))
    sigmas = comfy.samplers.calculate_sigmas(base.get_model_object("model_sampling"), "karras", options.steps)
    times: dict[str, list[float]] = {}
    memory: dict[str, int] = {}
    results: dict[str, torch.Tensor] = {}
    apart = {id(parameter) for parameter in twin.model.parameters()}
    for repeat in range(options.repeats + 1):
        for name, guider in guiders(base, twin, file).items():
            others = set() if name == "two" else apart
            memory.setdefault(name, 0)
            spent, results[name] = timed(guider, noise, latent, sigmas, memory if repeat == 0 else {}, name, others)
            if repeat:  # the first round warms up and counts the memory
                times.setdefault(name, []).append(spent / options.steps)
    switch, layers = switch_time(base, file)
    show({name: statistics.median(values) for name, values in times.items()}, memory, switch, layers, file, results)


def timed(guider, noise, latent, sigmas, memory: dict, name: str, others: set):
    """(seconds of one run, its result); with `name` in `memory`, the bytes of all tensors alive at its second step."""
    import comfy.samplers
    import torch

    def callback(step, *_):
        if step == 1 and name in memory:
            memory[name] = alive(others)

    with torch.inference_mode():
        start = clock()
        result = guider.sample(noise, latent, comfy.samplers.sampler_object("euler"), sigmas, callback=callback,
                               disable_pbar=True, seed=0)
        if result.is_cuda:
            torch.cuda.synchronize()
        return clock() - start, result


def clock() -> float:
    """Seconds that count: of this process on a CPU, of the wall beside an accelerator."""
    import comfy.model_management

    return time.process_time() if comfy.model_management.cpu_mode() else time.perf_counter()


def alive(others: set) -> int:
    """Bytes of all tensors, without those of the network that this run does not use."""
    import torch

    storages = {}
    for thing in gc.get_objects():
        if issubclass(type(thing), torch.Tensor) and not thing.is_meta and id(thing) not in others:
            storages[thing.untyped_storage().data_ptr()] = thing.untyped_storage().nbytes()
    return sum(storages.values())


def switch_time(base, file) -> tuple[float, int]:
    """(seconds to switch the guide's weights on and off again, the number of layers)."""
    from lora_files import loaded

    from guidance_pack.host.lora import adapter_switch as toggled

    model = loaded(base, file)
    toggle = toggled.AdapterSwitch(model, toggled.switch_over(model, base))
    times = []
    for _ in range(200):
        start = time.perf_counter()
        with toggle.on():
            pass
        times.append(time.perf_counter() - start)
    return statistics.median(times), len(toggle.layers)


def show(seconds: dict, memory: dict, switch: float, layers: int, file: dict, results: dict) -> None:
    print("| way | s per step | beside two resident | MB beside a plain run |")
    print("| --- | --- | --- | --- |")
    for name in ("toggled", "two", "swapped"):
        more = (memory[name] - memory["plain"]) / 2**20
        print(f"| {name} | {seconds[name]:.3f} | {seconds[name] / seconds['two'] - 1:+.1%} | {more:+.0f} |")
    size = sum(tensor.nbytes for tensor in file.values()) / 2**20
    beside = seconds["toggled"] - seconds["two"] - switch
    scale = float(results["two"].abs().max())
    print(f"\nThe LoRA: {layers} layers, {size:.0f} MB. The switch: {switch * 1e6:.0f} us per step, "
          f"{switch / seconds['two']:.3%} of a step. The unmerged LoRA in the guide: {beside / seconds['two']:+.1%}.")
    for name in ("toggled", "swapped"):
        apart = float((results[name] - results["two"]).abs().max()) / scale
        print(f"Largest difference of {name} from two: {apart:.1e} of the largest value.")


if __name__ == "__main__":
    main()
