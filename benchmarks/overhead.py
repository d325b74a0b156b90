"""What the engine costs beside the networks: `.venv/bin/python benchmarks/overhead.py --comfyui FOLDER`.

Three runs side by side, interleaved, on the same networks, noise and sigmas, each through a guider of the host:
  bare      a guider that makes the same network evaluations by hand and throws the second one away: no engine
  engine    the same evaluations asked for by CFG + Autoguidance on a MODEL
  dual      the host's own DualModelGuider, for one evaluation of each network (autoguidance without CFG)
The figures are medians over the repeats of time per step.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import sys
import time
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tools")]

from devtools.host import load_host  # noqa: E402

CASES = {"tiny": (24, 15), "sd15": (3, 3)}  # steps per run, repeats


def main() -> None:
    parser = parser_of(__doc__, CASES)
    parser.add_argument("--size", type=int, default=16, help="latent height and width of the sd15 case")
    options = parser.parse_args()
    begin(options)
    print("| network | evaluations, main + guide | the same without the engine | ms per step | engine | overhead |")
    print("| --- | --- | --- | --- | --- | --- |")
    for case in options.only:
        measure(case, options.size)


def parser_of(words: str, cases: Iterable[str]) -> argparse.ArgumentParser:
    """The arguments of a benchmark on the host."""
    parser = argparse.ArgumentParser(description=words, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--comfyui", type=Path, required=True, help="folder of ComfyUI")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--only", nargs="+", choices=cases, default=list(cases))
    return parser


def begin(options: argparse.Namespace) -> None:
    """Load the host, switch gradients off, and say what this runs on."""
    load_host(options.comfyui, options.device)
    import torch

    torch.set_grad_enabled(False)
    print(f"{platform.platform()}, torch {torch.__version__}, {options.device}, {torch.get_num_threads()} threads")


def networks(case: str):
    """(main, guide, positive, negative, latent) of a case."""
    import torch

    if case == "tiny":
        from guidance_pack.host.common.labels import class_conditioning
        from guidance_pack.host.models.tiny import load_tiny_model

        model = load_tiny_model("shapes-edm")
        return (model, load_tiny_model("shapes-edm-weak"), class_conditioning(model, "circle"),
                class_conditioning(model, ""), torch.zeros(4, 3, 32, 32))
    import host_models

    spec = host_models.MODELS["sd15"]
    return sd15(0), sd15(1), spec.conditioning(1), spec.conditioning(2), None


def sd15(seed: int):
    """A network of SD 1.5's full size with random weights, 860 million parameters."""
    import checkpoints
    import comfy.model_management
    import comfy.model_patcher
    import comfy.supported_models
    import host_models
    import torch

    config = comfy.supported_models.SD15({**checkpoints.SD15_UNET})
    dtype = torch.float32 if comfy.model_management.cpu_mode() else torch.float16
    config.set_inference_dtype(dtype, None)
    model = config.get_model({}, "", device="cpu")
    host_models.fill(model, seed)
    devices = comfy.model_management.get_torch_device(), comfy.model_management.unet_offload_device()
    return comfy.model_patcher.CoreModelPatcher(model.eval(), *devices)


def guiders(main, guide, positive, negative) -> dict:
    """The guiders of the comparison: name -> a guider ready to sample."""
    import comfy.samplers
    from comfy_extras.nodes_custom_sampler import Guider_DualModel

    from guidance_pack.guidance.rules.autoguidance import Autoguidance
    from guidance_pack.host.engine.install import with_autoguidance

    class Bare(Guider_DualModel):
        """The host's own step, and the second network's evaluation beside it."""

        def predict_noise(self, x, timestep, model_options=None, seed=None):
            comfy.samplers.calc_cond_batch(self.uncond_inner, [self._uncond_conds], x, timestep, model_options)
            return comfy.samplers.CFGGuider.predict_noise(self, x, timestep, model_options, seed)

    def ready(guider, cfg, second):
        guider.set_conds(positive, second)
        guider.set_cfg(cfg)
        return guider

    guided = with_autoguidance(main, guide, Autoguidance(2.0))
    return {
        "bare 2 + 1": ready(Bare(main, guide), 3.0, negative),
        "engine 2 + 1": ready(comfy.samplers.CFGGuider(guided), 3.0, negative),
        "dual 1 + 1": ready(Guider_DualModel(main, guide), 2.0, positive),
        "engine 1 + 1": ready(comfy.samplers.CFGGuider(guided), 1.0, negative),
    }


def measure(case: str, size: int) -> None:
    """Print one row per number of evaluations."""
    import comfy.samplers
    import torch

    steps, repeats = CASES[case]
    model, guide, positive, negative, latent = networks(case)
    latent = torch.zeros(1, 4, size, size) if latent is None else latent
    noise = torch.randn(latent.shape, generator=torch.Generator().manual_seed(0))
    sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "karras", steps)
    times: dict[str, list[float]] = {}
    for repeat in range(repeats + 1):
        for name, guider in guiders(model, guide, positive, negative).items():
            elapsed = timed(guider, noise, latent, sigmas)
            if repeat:  # the first round warms up
                times.setdefault(name, []).append(elapsed / steps * 1000)
    middle = {name: statistics.median(values) for name, values in times.items()}
    rows = [("2 + 1", "bare evaluations", "bare 2 + 1"), ("1 + 1", "DualModelGuider", "dual 1 + 1")]
    for evaluations, words, other in rows:
        theirs, ours = middle[other], middle[f"engine {evaluations}"]
        print(f"| {case} | {evaluations} | {words} | {theirs:.2f} | {ours:.2f} | {ours / theirs - 1:+.2%} |")


def timed(guider, noise, latent, sigmas) -> float:
    """Seconds of one run, as SamplerCustomAdvanced makes it."""
    import comfy.samplers
    import torch

    with torch.inference_mode():
        start = time.perf_counter()
        guider.sample(noise, latent, comfy.samplers.sampler_object("euler"), sigmas, disable_pbar=True, seed=0)
        return time.perf_counter() - start


if __name__ == "__main__":
    main()
