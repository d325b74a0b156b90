"""A weaker version of a MODEL, of the same weights: one APPLY_MODEL wrapper in the options of a clone.

The wrapper stands around every evaluation of the network. It changes the noisy input, or adds patches to the copy of
transformer_options that this evaluation alone sees: nothing is left on the network, and no other MODEL sees it.
"""

from __future__ import annotations

from dataclasses import dataclass

import comfy.model_sampling
import torch
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP, add_wrapper_with_key

from ...guidance.perturbation import add_noise, as_flow, noisier
from ..common.keys import DEGRADED
from ..common.model_options import wrapping
from ..common.noise_levels import convertible, level_of
from ..common.remarks import remark
from .attention import ATTENTION_KINDS, DegradedAttention
from .blocks import BLOCK_KINDS, Blocks
from .draws import Draws
from .layers import BLOCKS_ALONE, SUPPORTED, Layer, Layout, central, chosen, layout_of
from .tokens import SHUFFLED, ShuffledTokens

INPUT_NOISE = "input noise"
KINDS = (*ATTENTION_KINDS, *BLOCK_KINDS, INPUT_NOISE, SHUFFLED)
DRAWN = ("random blocks", "dropout", INPUT_NOISE, SHUFFLED)  # at random
HIGHEST = 0.9  # of what is drawn at random: at 1 nothing would be left


@dataclass(frozen=True, eq=False)
class Perturbation:
    """What is done to the network, and the wrapper that does it.

    rows: bool [rows], the rows of the batch that it is for; None for all of them. text: how the layers were asked for.
    """

    kind: str
    strength: float
    layers: tuple[Layer, ...]
    layout: Layout
    seed: int
    spread: float
    factor: int
    rows: torch.Tensor | None = None
    text: str = ""

    def __call__(
        self, executor, x, t, c_concat=None, c_crossattn=None, control=None, transformer_options=None, **more
    ):
        """One evaluation. x: [rows, ...]; t: the model's own sigma [rows]."""
        # Read from the device only where something is drawn: whoever asks waits for it.
        draws = Draws(self.seed, tuple(t.tolist()) if self.kind in DRAWN else ())
        if self.kind == INPUT_NOISE:
            x, t = _noisier(executor.class_obj.model_sampling, x, t, self.strength, draws)
            return executor(x, t, c_concat, c_crossattn, control, transformer_options or {}, **more)
        options = {**(transformer_options or {})}
        options["patches"] = {**options.get("patches", {})}
        options["patches_replace"] = {name: {**at} for name, at in options.get("patches_replace", {}).items()}
        if self.kind in BLOCK_KINDS:
            Blocks(self.kind, self.strength, self.layers, draws, self.rows).put_on(options, self.layout)
        elif self.kind == SHUFFLED:
            ShuffledTokens(self.strength, self.layers, draws, self.rows).put_on(options, self.layout)
        else:
            spatial = tuple(x.shape[2:])
            chosen = self.kind, self.strength, self.layers, self.spread, self.factor
            attention = DegradedAttention(*chosen, spatial, self.rows)
            attention.put_on(options, self.layout)
        return executor(x, t, c_concat, c_crossattn, control, options, **more)


def degrade(
    model: ModelPatcher, kind: str, strength: float, layers: str = "", seed: int = 0, blur: float = 10.0,
    pooling: int = 2,
) -> ModelPatcher:
    """A weaker clone of the MODEL; at strength 0 the MODEL itself.

    Raises ValueError, in words, for settings that cannot be and for networks that do not offer what the kind needs.
    """
    problem = strength_problem(kind, strength)
    if problem is not None:
        raise ValueError(problem)
    if strength == 0.0:
        return model
    layout = layout_of(model)
    there = layers_for(model, kind, layers, layout)
    perturbation = Perturbation(kind, strength, there, layout, seed, blur, pooling, text=layers)
    out = model.clone()
    add_wrapper_with_key(WrappersMP.APPLY_MODEL, DEGRADED, perturbation, out.model_options, is_model_options=True)
    add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, DEGRADED, _as_main, out.model_options, is_model_options=True)
    return out


def perturbations_in(model_options: dict) -> list[Perturbation]:
    """What Degraded Models have put into the options of a MODEL, outermost first."""
    return wrapping(model_options, WrappersMP.APPLY_MODEL).get(DEGRADED, [])


def _as_main(executor, *args, **kwargs):
    """Around a run of a sampler whose own MODEL, not its guide, is degraded."""
    if perturbations_in(executor.class_obj.model_options):
        remark("This draws with a Degraded Model. It is meant for guide_model of Autoguidance.")
    return executor(*args, **kwargs)


def layers_for(model: ModelPatcher, kind: str, text: str, layout: Layout) -> tuple[Layer, ...]:
    """The layers to perturb. Raises ValueError if the network does not support the kind, or has no such layers."""
    if kind == INPUT_NOISE:
        if not convertible(model.get_model_object("model_sampling")):
            raise ValueError("This model's input is not a picture with noise, so kind = input noise cannot be used.")
        return ()
    places = {
        **dict.fromkeys(ATTENTION_KINDS, layout.attention), **dict.fromkeys(BLOCK_KINDS, layout.blocks),
        SHUFFLED: () if layout.unet else layout.attention,
    }  # fmt: skip
    there = places[kind]
    if not there:
        able = ", ".join([*(other for other, layers in places.items() if layers), INPUT_NOISE])
        alone = f" and {BLOCKS_ALONE}" if kind in BLOCK_KINDS else ""
        known = SUPPORTED.partition(", ")[2] if kind == SHUFFLED else SUPPORTED
        name = type(model.get_model_object("diffusion_model")).__name__
        raise ValueError(f"kind = {kind} cannot be used with this model ({name}); it supports {able}. "
                         f"{kind.capitalize()} works with {known}{alone}.")
    if text.strip():
        return chosen(text, there)
    return there if kind in ("random blocks", "dropout") else central(there)


def strength_problem(kind: str | None, strength: float | None) -> str | None:
    """What is wrong with these widgets, in words; None if nothing is, or if a value is linked and not known yet."""
    if kind is not None and kind not in KINDS:
        return f"kind is {kind!r}; it can be {', '.join(KINDS)}."
    if strength is None or kind is None:
        return None
    if not 0.0 <= strength <= 1.0:
        return f"strength is {strength:g}; it goes from 0 (off) to 1."
    if kind in ("random blocks", "dropout") and strength > HIGHEST:
        return (
            f"strength is {strength:g} and kind is {kind}, so that next to nothing of the network would be left. "
            f"Use at most {HIGHEST:g}; usual are 0.05 to 0.2."
        )
    return None


def _noisier(model_sampling, x: torch.Tensor, sigma: torch.Tensor, extra: float, draws: Draws):
    """x and sigma with more noise, in the model's own coordinates, within the noise levels that it was trained for."""
    level = level_of(model_sampling, sigma)
    highest = level_of(model_sampling, torch.as_tensor(model_sampling.sigma_max).reshape(1)).sigma
    more, added = noisier(level, extra, float(highest))
    x = add_noise(x, added, draws.normal(x, "input"))
    own = more.b
    if isinstance(model_sampling, comfy.model_sampling.CONST):
        x, own = as_flow(x, more, getattr(model_sampling, "noise_scale", 1.0))
    return x, own.to(sigma.dtype).to(sigma.device)
