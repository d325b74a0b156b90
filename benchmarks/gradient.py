"""What a gradient costs: `.venv/bin/python benchmarks/gradient.py --comfyui FOLDER [--device cuda]`.

Interleaved in one run, on the same inputs: a guided step of the host, against the sum of the bare host's step and of
the bare guide's forward and backward, written out by hand on ordinary tensors. Guide: ResNet-50 at 224 px with random
weights, one picture. Memory is what autograd keeps for the backward, counted at its saved tensors, beside the weights.
Switching: a team of five guides against one of them alone over the same steps. Figures are medians over the repeats.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parent)]
from overhead import load_host, sd15  # noqa: E402  # also makes the tests' helpers importable

STEPS, CLASS = 4, 1


@dataclass
class Case:
    """One way of taking a gradient: the MODEL with and without it, and the same work by hand."""

    name: str
    plain: Any
    guided: Any
    by_hand: Any  # function of the latent x that makes the forward and the backward
    conditioning: tuple
    latent: Any


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--comfyui", type=Path, required=True, help="folder of ComfyUI")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--size", type=int, default=32, help="latent height and width of the SD1.5-size network")
    options = parser.parse_args()
    load_host(options.comfyui, options.device)
    import torch

    torch.set_grad_enabled(False)
    print(f"{platform.platform()}, torch {torch.__version__}, {options.device}, {torch.get_num_threads()} threads")
    print("| gradient | host's step | by hand | guided step | ratio | kept for the backward |")
    print("| --- | --- | --- | --- | --- | --- |")
    for case in cases(options.size):
        row(case, options.repeats)
    switching(options.repeats)


def cases(size: int):
    """Every way, on a tiny model of pictures and on one of SD 1.5's size."""
    import host_models
    import steering
    import torch

    from guidance_pack.host.common.labels import class_conditioning
    from guidance_pack.host.models.tiny import load_tiny_model

    guide = resnet()
    network = steering.ordinary_copy(guide.patchers[0].model, torch.float32)
    tiny = steering.as_nodes_do(load_tiny_model, "shapes-edm")
    conds = class_conditioning(tiny, "circle"), class_conditioning(tiny, "")
    yield Case(
        "noisy input, tiny model of pictures", tiny, steered(tiny, guide, at="noisy input"),
        lambda x: backward(lambda leaf: judged(network, guide, leaf / 2.0), x), conds, torch.zeros(1, 3, 32, 32),
    )
    large, spec = steering.as_nodes_do(sd15, 0), host_models.MODELS["sd15"]
    conds, latent = (spec.conditioning(1), spec.conditioning(2)), torch.zeros(1, 4, size, size)
    latents, vae = large.get_model_object("latent_format"), steering.tiny_autoencoder()
    decoder = steering.ordinary_copy(vae.first_stage_model, torch.float32)
    factors = torch.tensor(latents.latent_rgb_factors)

    def linear(leaf):
        return judged(network, guide, torch.einsum("bchw,cd->bdhw", leaf, factors.to(leaf)))

    def taesd(leaf):
        return judged(network, guide, decoder.decode(latents.process_out(leaf)))

    yield Case(
        "denoised, linear RGB", large, steered(large, guide, at="denoised", decoder="linear rgb"),
        lambda x: backward(linear, x), conds, latent,
    )
    yield Case(
        "denoised, tiny autoencoder", large, steered(large, guide, at="denoised", vae=vae),
        lambda x: backward(taesd, x), conds, latent,
    )
    own = ordinary_denoiser(large, conds[0])
    yield Case(
        "through denoiser, linear RGB", large, steered(large, guide, at="through denoiser", decoder="linear rgb"),
        lambda x: backward(lambda leaf: linear(own(leaf)), x), conds, latent,
    )


def resnet(seed: int = 0):
    """ResNet-50 at 224 px with random weights, as a GUIDE."""
    import host_models
    import steering
    import torch
    import torchvision

    from guidance_pack.guidance.guide import Guide, GuideSpec
    from guidance_pack.guidance.preprocessing import Preprocessing
    from guidance_pack.host.models.guides import LoadedGuide

    class Plain(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.network = torchvision.models.resnet50(weights=None)

        def forward(self, picture, timestep=None):
            return self.network(picture)

    labels = tuple(str(i) for i in range(1000))
    spec = GuideSpec(f"resnet50 {seed}", "classification", preprocessing=Preprocessing((224, 224)), labels=labels)
    with torch.inference_mode():
        network = Plain()
        host_models.fill(network, seed)
        return LoadedGuide(Guide((spec,)), (steering.patcher_of(network.eval().requires_grad_(False)),))


def steered(model, guide, **where):
    from test_engine_gradients import steer

    return steer(model, guide, str(CLASS), scale=1.0, **where)


def judged(network, guide, picture):
    """log p of the class, by hand."""
    return network(guide.guide.first.preprocessing(picture)).log_softmax(1)[:, CLASS]


def backward(score, x):
    """The gradient of the sum of score at x, on ordinary tensors."""
    import torch

    with torch.inference_mode(False), torch.enable_grad():
        leaf = x.clone().requires_grad_()
        return torch.autograd.grad(score(leaf).sum(), leaf)[0]


def ordinary_denoiser(model, conditioning):
    """The network as a plain function of x at sigma 2, on ordinary weights that share nothing with the MODEL."""
    import steering
    import torch

    network = steering.ordinary_copy(model.model.diffusion_model, torch.float32)
    sampling, context = model.model.model_sampling, conditioning[0][0].clone()
    with torch.inference_mode(False):
        time_ = torch.tensor([float(sampling.timestep(torch.tensor([2.0])))])

    def denoise(x):
        return x - 2.0 * network(x / 5.0**0.5, time_, context=context.to(x))

    return denoise


def row(case: Case, repeats: int) -> None:
    """Time the three side by side and print a line."""
    from engine_probe import cfg_guider, sigmas_of

    sigmas, times = sigmas_of(case.plain, STEPS, "karras"), {"plain": [], "hand": [], "guided": []}
    x = case.latent + 1.0
    for repeat in range(repeats + 1):
        found = {
            "plain": timed(lambda: run(cfg_guider(case.plain, *case.conditioning, 1.0), case.latent, sigmas)) / STEPS,
            "hand": timed(lambda: case.by_hand(x)),
            "guided": timed(lambda: run(cfg_guider(case.guided, *case.conditioning, 1.0), case.latent, sigmas)) / STEPS,
        }
        for name, value in found.items():
            if repeat:  # the first round warms up
                times[name].append(value * 1000)
    plain, hand, guided = (statistics.median(values) for values in times.values())
    ratio = guided / (plain + hand)
    print(f"| {case.name} | {plain:.1f} ms | {hand:.1f} ms | {guided:.1f} ms | {ratio:.3f} | {kept(case, x):.0f} MB |",
          flush=True)


def kept(case: Case, x) -> float:
    """MB that autograd holds until the backward."""
    import torch

    sizes: dict[int, int] = {}

    def pack(tensor):
        if not isinstance(tensor, torch.nn.Parameter):
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        case.by_hand(x)
    return sum(sizes.values()) / 2**20


def switching(repeats: int) -> None:
    """What it costs that five experts take turns."""
    import steering
    from engine_probe import cfg_guider, sigmas_of

    from guidance_pack.guidance.noise_schedule import noise_schedule
    from guidance_pack.guidance.routing import equal_ranges
    from guidance_pack.host.common.labels import class_conditioning
    from guidance_pack.host.models.tiny import load_tiny_model

    tiny = steering.as_nodes_do(load_tiny_model, "shapes-edm")
    conds = class_conditioning(tiny, "circle"), class_conditioning(tiny, "")
    edges = equal_ranges(5, noise_schedule("linear")).edges
    guides = {"one": steering.loaded(0, sees="noisy"), "five": steering.team(range(5), edges, sees="noisy")}
    latent, sigmas = conds[0][0][0].new_zeros(1, 3, 32, 32), sigmas_of(tiny, 40, "karras")
    times: dict[str, list[float]] = {name: [] for name in guides}
    for repeat in range(4 * repeats + 1):
        for name, guide in guides.items():
            guided = steering_of(tiny, guide)
            seconds = timed(lambda m=guided: run(cfg_guider(m, *conds, 1.0), latent, sigmas))
            if repeat:
                times[name].append(seconds * 1000 / 40)
    one, five = (statistics.median(values) for values in times.values())
    print(f"\nFive experts taking turns over 40 steps: {five:.2f} ms per step, one guide alone {one:.2f} ms; "
          f"switching costs {five - one:+.2f} ms per step and no evaluation.")


def steering_of(model, guide):
    from test_engine_gradients import steer

    return steer(model, guide, "dog", scale=1.0, at="noisy input")


def run(guider, latent, sigmas) -> None:
    import comfy.samplers
    import torch

    noise = torch.randn(latent.shape, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        guider.sample(noise, latent, comfy.samplers.sampler_object("euler"), sigmas, disable_pbar=True, seed=0)


def timed(work) -> float:
    """Seconds that it takes, on the device too."""
    import torch

    for_device = torch.cuda.synchronize if torch.cuda.is_available() else (lambda: None)
    for_device()
    start = time.perf_counter()
    work()
    for_device()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
