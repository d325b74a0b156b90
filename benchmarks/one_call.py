"""What a guide in the host's own call saves: `.venv/bin/python benchmarks/one_call.py --comfyui FOLDER`.

Runs side by side, interleaved, on the same network, noise and sigmas, at CFG 3:
  cfg       the host's step alone, two rows in one call
  apart     CFG + Autoguidance over a Degraded Model (identity attention), or with `--guide lora` of a MODEL with a LoRA
            of rank 32 by the MODEL without it, which is evaluated by itself, as any guide
  together  the same, the guide one more row of the host's call
  pag       the host's own PAG node, which makes a call of its own (SD 1.5's size alone)
The figures are medians over the repeats of time per step, and their quotients.
"""

from __future__ import annotations

import statistics
from contextlib import contextmanager

from overhead import begin, networks, parser_of, timed

CASES = {"tiny": (24, 15), "sd15": (3, 3)}  # steps per run, repeats


def main() -> None:
    parser = parser_of(__doc__, CASES)
    parser.add_argument("--size", type=int, default=16, help="latent height and width of the sd15 case")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--guide", choices=["degraded", "lora"], default="degraded")
    options = parser.parse_args()
    begin(options)
    print("| network, batch | ms per step, CFG | apart | together | host's PAG | together / CFG | together / apart |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for case in options.only:
        measure(case, options.size, options.batch, options.guide)


@contextmanager
def calls(apart: bool):
    """While inside, guides are evaluated by themselves, or as they are."""
    from guidance_pack.host.engine import observer

    before = observer.may_ride
    if apart:
        observer.may_ride = lambda *_: False
    try:
        yield
    finally:
        observer.may_ride = before


def models(main, guide: str) -> dict:
    """name -> the MODEL of that run."""
    if guide == "lora":
        return lora_models(main)
    from comfy_extras.nodes_pag import PerturbedAttentionGuidance

    from guidance_pack.guidance.rules.autoguidance import Autoguidance
    from guidance_pack.host.degrade.degrade import degrade
    from guidance_pack.host.engine.install import with_autoguidance

    guided = with_autoguidance(main, degrade(main, "identity attention", 1.0), Autoguidance(3.0))
    found = {"cfg": main, "apart": guided, "together": guided}
    if hasattr(main.model.diffusion_model, "middle_block"):
        found["pag"] = PerturbedAttentionGuidance.execute(main, 2.0).args[0]
    return found


def lora_models(main) -> dict:
    """The same with a LoRA on every layer of the transformers, guided by the MODEL without it."""
    from lora_files import loaded
    from toggle import lora

    from guidance_pack.guidance.rules.autoguidance import Autoguidance
    from guidance_pack.host.engine.install import with_autoguidance

    late = loaded(main, lora(main, 32))
    guided = with_autoguidance(late, main, Autoguidance(3.0))
    return {"cfg": late, "apart": guided, "together": guided}


def measure(case: str, size: int, batch: int, guide: str) -> None:
    """Print one row."""
    import comfy.samplers
    import torch

    steps, repeats = CASES[case]
    model, _, positive, negative, latent = networks(case)
    latent = torch.zeros(batch, 4, size, size) if latent is None else latent[:1].repeat(batch, 1, 1, 1)
    noise = torch.randn(latent.shape, generator=torch.Generator().manual_seed(0))
    sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "karras", steps)
    times, made = {}, models(model, guide)
    for repeat in range(repeats + 1):
        for name, each in made.items():
            guider = comfy.samplers.CFGGuider(each)
            guider.set_conds(positive, negative)
            guider.set_cfg(3.0)
            with calls(name == "apart"):
                elapsed = timed(guider, noise, latent, sigmas)
            if repeat:  # the first round warms up
                times.setdefault(name, []).append(elapsed / steps * 1000)
    middle = {name: statistics.median(values) for name, values in times.items()}
    cfg, apart, together = (middle[name] for name in ("cfg", "apart", "together"))
    pag = f"{middle['pag']:.2f}" if "pag" in middle else "-"
    print(
        f"| {case}, {batch} | {cfg:.2f} | {apart:.2f} | {together:.2f} | {pag} | {together / cfg:.2f} | "
        f"{together / apart:.2f} |"
    )


if __name__ == "__main__":
    main()
