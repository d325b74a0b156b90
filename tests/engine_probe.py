"""Checks the engine from outside: every guided step is recorded, then evaluated again without the engine, by hand.

A guided run is recorded at its outermost PREDICT_NOISE wrapper: what came in (x, sigma) and what went out. `replay`
sends the same (x, sigma) through any other graph of the real host, without our engine; so the host's own prediction,
the bare branches of the main network and the guide alone are each evaluated by the host itself, and the law is checked:

    D' = D_host + (w - 1)(D_main - D_guide)

Take the `comfy` fixture before calling anything here.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch

TOLERANCE = 2e-5  # of the largest value: float32 rounding of networks evaluated in batches of different sizes


@dataclass
class Call:
    """One evaluation of the guided denoiser, on the CPU."""

    x: torch.Tensor
    sigma: torch.Tensor
    denoised: torch.Tensor

    @property
    def level(self) -> float:
        return float(self.sigma.flatten()[0])


@dataclass
class Setting:
    """What a run needs beside its guider."""

    sigmas: torch.Tensor
    latent: torch.Tensor
    noise: torch.Tensor
    mask: torch.Tensor | None = None
    sampler: str = "euler"
    seed: int = 5
    options: dict = field(default_factory=dict)

    def run(self, guider, sampler=None) -> torch.Tensor:
        """What SamplerCustomAdvanced does with a guider."""
        import comfy.samplers

        chosen = sampler or comfy.samplers.ksampler(self.sampler, self.options)
        with torch.inference_mode():
            return guider.sample(
                self.noise, self.latent, chosen, self.sigmas, denoise_mask=self.mask, seed=self.seed
            )


def recorded(model):
    """A clone of the MODEL whose evaluations are written down, outside everything that other nodes added."""
    from comfy.patcher_extension import WrappersMP

    calls = []

    def write_down(executor, x, timestep, *rest):
        denoised = executor(x, timestep, *rest)
        calls.append(Call(*(tensor.to("cpu", copy=True) for tensor in (x, timestep, denoised))))
        return denoised

    out = model.clone()
    others = out.wrappers.get(WrappersMP.PREDICT_NOISE, {})
    out.wrappers[WrappersMP.PREDICT_NOISE] = {"probe": [write_down], **others}
    return out, calls


def replay(guider, setting: Setting, calls: list[Call], cfg: Callable[[float], float] | None = None) -> list:
    """What the guider predicts at the recorded inputs. cfg: the weight at a sigma, where it is not the guider's own."""
    from comfy.samplers import KSAMPLER

    found = []

    def again(model, noise, sigmas, extra_args, **others):
        names = ("cfg1", "cfg2") if hasattr(guider, "cfg1") else ("cfg",)
        own = [getattr(guider, name) for name in names]
        for call in calls:
            for name, value in zip(names, own, strict=True):
                setattr(guider, name, value if cfg is None else 1.0 + (value - 1.0) * cfg(call.level))
            at = call.x.to(noise.device), call.sigma.to(noise.device)
            denoised = guider(*at, model_options=extra_args["model_options"], seed=extra_args["seed"])
            found.append(denoised.to("cpu", copy=True))
        return noise

    setting.run(guider, KSAMPLER(again))
    return found


def cfg_guider(model, positive, negative, cfg):
    """The guider that KSampler uses."""
    import comfy.samplers

    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(positive, negative)
    guider.set_cfg(cfg)
    return guider


def alone(model, positive, setting: Setting, calls: list[Call]) -> list:
    """What one network predicts for one prompt at the recorded inputs."""
    return replay(cfg_guider(model, positive, positive, 1.0), setting, calls)


def far_apart(first: torch.Tensor, second: torch.Tensor) -> float:
    """The largest difference relative to the largest value."""
    return float((first - second).abs().max() / second.abs().max().clamp_min(1e-30))


def assert_law(calls, host, main, guide, weight: Callable[[float], float], tolerance=TOLERANCE) -> None:
    """Every recorded evaluation is the host's own plus the guide's term, and the term is no rounding error."""
    assert calls and len(calls) == len(host) == len(main) == len(guide)
    terms = [(weight(call.level) - 1.0) * (m - g) for call, m, g in zip(calls, main, guide, strict=True)]
    for call, own, term in zip(calls, host, terms, strict=True):
        scale = max(float(t.abs().max()) for t in (call.x, own, own + term))
        error = float((call.denoised - (own + term)).abs().max())
        assert error <= tolerance * scale, f"at sigma {call.level:g} off by {error / scale:.2e}"
    sizes = [far_apart(own + term, own) for own, term in zip(host, terms, strict=True)]
    assert max(sizes) > 100 * tolerance, "the guide's term is too small to tell anything"


def sigmas_of(model, steps: int, scheduler: str = "normal") -> torch.Tensor:
    """The noise levels of KSampler."""
    import comfy.samplers

    return comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), scheduler, steps)


def noise_like(shape, seed: int = 11) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def setting_of(model, spec, *, steps=3, batch=1, latent_seed=None, **more) -> Setting:
    """A run of a family of host_models, from pure noise unless `latent_seed` is given."""
    import comfy.sample

    latent = spec.latent(batch, latent_seed)["samples"]
    noise = comfy.sample.prepare_noise(latent, 11)
    return Setting(sigmas_of(model, steps, spec.scheduler), latent, noise, **more)


def guided(main, guide, *, weight=2.0, cfg=None, schedule=None, cfg_schedule=None, positive=None):
    """The MODEL with Autoguidance and, unless cfg is False, CFG Combine (cfg None = the sampler's weight)."""
    from guidance_pack.guidance.rules.autoguidance import Autoguidance
    from guidance_pack.guidance.rules.cfg import CFG
    from guidance_pack.guidance.schedule import ALWAYS
    from guidance_pack.host.engine.install import with_autoguidance, with_rule

    out = with_autoguidance(main, guide, Autoguidance(weight, schedule or ALWAYS), positive)
    return out if cfg is False else with_rule(out, CFG(cfg, cfg_schedule or ALWAYS))
