"""What the tests of Compare Guidance share: a small scene on the embedded model, and cells made by the nodes alone."""

from dataclasses import replace

import torch

SIZE = 16


def given(node, **values):
    """The MODEL that a node gives with these inputs, the others as it has them when it is dragged in."""
    widgets = {i.id: getattr(i, "default", None) for i in node.GET_SCHEMA().inputs}
    firsts = {i.id: i.options[0] for i in node.GET_SCHEMA().inputs if getattr(i, "options", None)}
    known = {key: value for key, value in {**firsts, **widgets}.items() if value is not None}
    return node.execute(**{**firsts, **known, **values}).result[0]


def chained(model, weak, cfg=2.0, auto=2.0, **interval):
    """CFG Combine in an interval, then Autoguidance."""
    from guidance_pack.nodes.cfg import GuidanceCFG
    from guidance_pack.nodes.weak_model import GuidanceAutoguidance

    model = given(GuidanceCFG, model=model, weight_from="node", weight=cfg, **interval)
    return given(GuidanceAutoguidance, model=model, guide_model=weak, weight=auto)


def scene(*models, batch=2, label="star, moon"):
    """The prompts, latents and VAE of every test, for these MODELs."""
    from guidance_pack.host.common.labels import class_conditioning
    from guidance_pack.host.compare.compare import Scene
    from guidance_pack.host.models.tiny import pixel_vae

    latent = {"samples": torch.zeros(batch, 4, SIZE // 8, SIZE // 8), "downscale_ratio_spacial": 8}
    prompts = class_conditioning(models[0], label), class_conditioning(models[0], "")
    return Scene(models, *prompts, latent, pixel_vae())


def widgets(**changed):
    from guidance_pack.host.compare.settings import Settings

    first = Settings(0, (), cfg=1.0, steps=3, seed=5, denoise=1.0, sampler_name="euler", scheduler="karras")
    return replace(first, **changed)


def compared(over, x, y=("none", ""), node="1", size=64, name="", **changed):
    """Compare Guidance: x and y are (parameter, values) or (parameter, values, which)."""
    from guidance_pack.host.compare.compare import compare
    from guidance_pack.host.compare.grid import Axis

    with torch.inference_mode():
        return compare(over, widgets(**changed), Axis("x", *x), Axis("y", *y), size, node, name)


def sampled(over, model, **changed):
    """The host's own KSampler and VAE Decode: [B, H, W, 3]."""
    import nodes

    s = widgets(**changed)
    with torch.inference_mode():
        (latent,) = nodes.KSampler().sample(
            model, s.seed, s.steps, s.cfg, s.sampler_name, s.scheduler, over.positive, over.negative, over.latent,
            s.denoise,
        )  # fmt: skip
        return nodes.VAEDecode().decode(over.vae, latent)[0]
