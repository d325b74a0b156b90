"""Which guiders can do what the components of a MODEL ask: before the run, in every step, and after it.

A guider is judged by what it has and does, not by its class: by the prompts that it was given, by what it evaluates,
and by the weight that it hands to the host's own functions.
"""

from __future__ import annotations

import torch
from comfy.samplers import CFGGuider

from ...guidance.branch import EMPTY, MAIN, NEGATIVE, POSITIVE
from ...guidance.compose import Acting, Guidance
from ...guidance.learned import LearnedRule
from ...guidance.noise_level import NoiseLevel
from ...guidance.rule import Rule, exactly_one, is_one
from ...guidance.rules.cfg import CFG
from ..common.uncopied import Uncopied
from .guider_weights import GuiderWeights, numbers, stated_weights
from .observer import Observer

PLAIN = "Use KSampler or CFGGuider"


def is_plain(guider: CFGGuider) -> bool:
    """Whether the guider's step is that of KSampler and CFGGuider."""
    return type(guider).predict_noise is CFGGuider.predict_noise and "negative" in guider.original_conds


def check_guider(guider: CFGGuider, guidance: Guidance) -> None:
    """Raise ValueError if the rules ask of this guider what it surely does not have."""
    _check_weight(guider, guidance)
    shaping = [rule for rule in guidance.rules if _shapes(rule)]
    if shaping and (lacking := _lacking(guider)):
        raise ValueError(_no_difference(shaping[0], f"{_title(guider)} {lacking}"))


def check_step(
    guider: CFGGuider, guidance: Guidance, may_act: tuple[Acting, ...], weights: GuiderWeights, observer: Observer,
    level: NoiseLevel,
) -> tuple[torch.Tensor, tuple[Acting, ...]]:
    """The weight of CFG [B] in the step that was observed (1 where nobody knows it), and which rules act at it.

    Raises:
        ValueError: the guider did not use the weight that the rules asked for, or a rule shapes a difference between
            two prompts, and there is none.
    """
    if weights.changed:
        _check_used(guider, guidance, weights, observer, level)
    used = weights.number if observer.weight is None or len(weights.wanted) > 1 else observer.weight
    cfg = exactly_one(torch.full_like(level.b, used)) if weights.each is None else weights.each
    if weights.each is not None and observer.evaluated:
        _check_difference(guider, CFG(), observer)
    acting = tuple(one for one in may_act if one.rule.acts(one.rule.strength(level), cfg))
    if observer.evaluated and not is_plain(guider):
        held = [rule for rule in guidance.combines if _shapes(rule) and bool((cfg != 1.0).any())]
        for rule in (*held, *(one.rule for one in acting if _shapes(one.rule))):
            _check_difference(guider, rule, observer)
    return cfg.nan_to_num(1.0), acting


class SkippedSteps(Uncopied):
    """Notices a guider that evaluates the network without asking the host's wrappers for the step.

    Such a guider would drop every component. Where its class shows that it may do so, the first evaluation is refused;
    otherwise `check` after the run, since other packs may evaluate something before the first step.
    matters: whether a component acts at some level of the run.
    """

    def __init__(self, guider: CFGGuider, matters: bool):
        self.guider, self.matters = guider, matters
        self.own = any(
            getattr(type(guider), name) is not getattr(CFGGuider, name) for name in ("__call__", "outer_predict_noise")
        )
        self.asked = self.evaluated = False  # a step; the network

    def calc_cond_batch(self, executor, model, *args):
        """The host's wrapper of an evaluation. Raises ValueError before one that no step has asked for."""
        self.evaluated = self.evaluated or model is self.guider.inner_model
        if self.own:
            self.check()
        return executor(model, *args)

    def check(self) -> None:
        """Raise ValueError if the network was evaluated, but no step was asked for."""
        if self.matters and self.evaluated and not self.asked:
            raise ValueError(
                f"{_title(self.guider)} evaluates the network past ComfyUI's wrappers of a step, so the guidance "
                f"components of this MODEL do nothing there. {PLAIN} instead of it, or remove the components."
            )


def _check_weight(guider: CFGGuider, guidance: Guidance) -> None:
    own = any(rule.weight is not None and not is_one(rule.weight) for rule in guidance.combines)
    if own and "negative" not in guider.original_conds:
        raise ValueError(
            f"{_asker(guidance)} needs a negative prompt, and {_title(guider)} takes none. {PLAIN} instead of it, or "
            f"remove that component."
        )
    if own and hasattr(guider, "cfg1"):
        combine = "Choose weight_from = sampler in CFG Combine (its interval then applies to both), or use CFGGuider."
        raise ValueError(
            f"{_title(guider)} mixes two prompts with two weights of its own, so {_asker(guidance)} cannot set one "
            f"weight. {f'{PLAIN}.' if _learned(guidance) else combine}"
        )
    if (guidance.combines or guidance.weighers) and not all(map(numbers, stated_weights(guider))):
        kept = ", ".join(type(weight).__name__ for weight in stated_weights(guider))
        raise ValueError(
            f"{_asker(guidance)} works with a weight that is a number or a list of numbers, and "
            f"{_title(guider)} keeps something else there ({kept}). {PLAIN}, or remove that component."
        )


def _check_used(
    guider: CFGGuider, guidance: Guidance, weights: GuiderWeights, observer: Observer, level: NoiseLevel
) -> None:
    used = observer.weight
    if used is not None and weights.allow(used):
        return
    if used is None and not observer.evaluated:  # a cache has answered for the guider
        return
    if used is None and weights.allow(1.0) and NEGATIVE not in observer.seen:
        return
    asked = " or ".join(f"{number:g}" for weight in weights.wanted for number in numbers(weight))
    found = "does not tell the host which one it used" if used is None else f"used {used:g}"
    why = (
        "another node of this MODEL sets the weight too (CFG Override does). Remove one of them."
        if is_plain(guider) else f"{_title(guider)} chooses its weight by itself. {PLAIN}, or set the weight there and "
        f"remove that component."
    )
    raise ValueError(
        f"{_asker(guidance)} asked for the CFG weight {asked} at sigma {float(level.b[0]):g}, and "
        f"the guider {found}: {why}"
    )


def _check_difference(guider: CFGGuider, rule: Rule, observer: Observer) -> None:
    others = sorted(b.condition for b in observer.seen if b.network == MAIN and b not in (POSITIVE, NEGATIVE, EMPTY))
    if others:
        raise ValueError(_no_difference(rule, f"{_title(guider)} evaluates others too ({', '.join(others)})"))
    if NEGATIVE not in observer.seen or POSITIVE not in observer.seen:
        raise ValueError(_no_difference(rule, f"{_title(guider)} did not evaluate both with this MODEL"))
    if observer.weight is None:
        raise ValueError(_no_difference(rule, f"{_title(guider)} does not tell the host its weight"))


def _asker(guidance: Guidance) -> str:
    """The nodes that set the weight of CFG."""
    if _learned(guidance):
        return "Learned Weight"
    return "CFG Combine (or CFG + Autoguidance)" if guidance.combines else "Adaptive Weight"


def _learned(guidance: Guidance) -> bool:
    return any(isinstance(rule, LearnedRule) for rule in guidance.rules)


def _shapes(rule: Rule) -> bool:
    """Whether a rule shapes the difference that CFG adds, or holds it to a part of the picture."""
    return NEGATIVE in rule.uses and (not isinstance(rule, CFG) or rule.region is not None)


def _lacking(guider: CFGGuider) -> str:
    """Why there is no one difference between a positive and a negative prompt, as far as that is known before a run."""
    prompts = guider.original_conds.keys()
    if "negative" not in prompts:
        return "takes no negative prompt"
    if others := sorted(prompts - {"positive", "negative"}):
        return f"combines more prompts than these ({', '.join(others)})"
    if getattr(guider, "uncond_model_patcher", None) is not None:
        return "evaluates the negative prompt with another MODEL"
    return ""


def _no_difference(rule: Rule, why: str) -> str:
    return (
        f"{rule.title} works on the difference between one positive and one negative prompt, and {why}. {PLAIN}, or "
        f"remove this component."
    )


def _title(guider: CFGGuider) -> str:
    """The guider by the name of its node."""
    kind = type(guider).__name__
    return kind.removeprefix("Guider_") + "Guider" if kind.startswith("Guider_") else kind
