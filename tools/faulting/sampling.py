"""Scenes of sampling: every component, alone and beside what other packs put on a MODEL."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import host_models
import host_scenes
import steering
import torch
from trials.cells import Cell
from trials.components import COMPONENTS, Models, use
from trials.judge import Bench, run

from .trial import Scene

BESIDE = ("LoRA", "ControlNet", "areas", "prompts in turns", "all at once")
MAIN = "flux"  # the family of every component; its small network is the quickest
PIXELS, OF_PICTURES = "pixel_dit", ("classifier noisy", "clamp")
OTHERS = ("sd15", "wan", "stable_audio")
ACROSS = ("autoguidance", "cfg", "skipped layers", "loss through")


@functools.cache
def family(name: str) -> Models:
    from host_families import BUILT

    return Bench(BUILT[name]).models


def component(name: str, on: str) -> Scene:
    """A component made by its node and sampled through, from its inputs on."""
    models, cell = family(on), Cell(on, name, "euler", "cfg", 1)
    return _scene(models, lambda: run(COMPONENTS[name].on(models), models, cell), lambda m: run(m, models, cell))


def beside(name: str) -> Scene:
    """Autoguidance, CFG and APG on a MODEL that carries other things, through KSampler."""
    models, other = family("sd15"), host_scenes.SCENES[name]

    def act():
        main = other.patch(other.network(models.main))
        model = use("GuidanceAutoguidance", model=main, guide_model=other.network(models.guide), weight=2.0)
        return sampled(use("GuidanceAPG", model=use("GuidanceCFG", model=model, start=0.3)), *other.conds())

    return _scene(models, act, lambda model: sampled(model, *_prompts()))


def shared() -> Scene:
    """A guide that is the MODEL without its LoRA: one network, two sets of weights."""
    models = family("sd15")

    def act():
        changed = host_scenes.lora(models.main)
        return sampled(use("GuidanceAutoguidance", model=changed, guide_model=models.main, weight=2.0), *_prompts())

    return _scene(models, act, lambda model: sampled(model, *_prompts()))


def decoded(through: bool) -> Scene:
    """A classifier that looks through a VAE."""
    models, vae = family("sd15"), steering.autoencoder()
    more: dict[str, Any] = {"decoder": "vae", "at": "through denoiser" if through else "denoised", "vae": vae}

    def act():
        guide = steering.loaded(3)
        return sampled(use("GuidanceClassifier", model=models.main, guide=guide, label="cat", **more), *_prompts())

    made = _scene(models, act, lambda model: sampled(model, *_prompts()))
    made.networks = (*made.networks, vae.first_stage_model)
    return made


def inspected() -> Scene:
    """Inspect, a run and what Inspection shows of it."""
    models = family("sd15")

    def act():
        from guidance_pack.host.report.show import show
        from guidance_pack.nodes.inspect import GuidanceInspect

        chain = use("GuidanceCFG", model=use("GuidanceRescale", model=models.main))
        model, inspection = GuidanceInspect.execute(chain, True).args
        latent = sampled(model, *_prompts())
        return latent, show(inspection, 0).strip

    return _scene(models, act, lambda model: sampled(model, *_prompts()))


def sampled(model: Any, positive: list, negative: list) -> list[torch.Tensor]:
    """What KSampler gives."""
    latent = host_scenes.SD15.latent(1)
    return host_models.tensors(host_models.sample(model, positive, negative, latent, steps=2, cfg=3.0))


def _prompts() -> tuple[list, list]:
    return host_scenes.SD15.conditioning(1), host_scenes.SD15.conditioning(2)


def _scene(models: Models, act: Callable[[], Any], plain: Callable[[Any], Any]) -> Scene:
    networks = [patcher.model.diffusion_model for patcher in (models.main, models.guide)]
    return Scene(act, lambda: [plain(models.main), plain(models.guide)], networks=networks)


SCENES: dict[str, Callable[[], Scene]] = {
    **{name: functools.partial(component, name, PIXELS if name in OF_PICTURES else MAIN) for name in COMPONENTS},
    **{f"{name} on {on}": functools.partial(component, name, on) for on in OTHERS for name in ACROSS
       if (name, on) not in {("loss through", "stable_audio")}},
    **{f"beside {name}": functools.partial(beside, name) for name in BESIDE},
    "shared network": shared,
    "vae": functools.partial(decoded, False),
    "through denoiser and vae": functools.partial(decoded, True),
    "inspection": inspected,
}  # fmt: skip
