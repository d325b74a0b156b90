"""What the conformance suite feeds a rule: random predictions at several noise levels, and runs over positions.

A rule that asks for gradients gets an objective that needs no network: a bowl around zero in every element.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, get_args

import torch
from gradient_context import Lent
from torch import Tensor

from guidance_pack.guidance.branch import NEGATIVE, POSITIVE, Branch
from guidance_pack.guidance.compose import Guidance, Memory
from guidance_pack.guidance.learned import WeightNetwork
from guidance_pack.guidance.loss import Loss
from guidance_pack.guidance.noise_level import NoiseLevel
from guidance_pack.guidance.objective import At, Objective
from guidance_pack.guidance.rule import Rule, Term, Weigher
from guidance_pack.guidance.rules.cfg import CFG
from guidance_pack.guidance.schedule import Constant, Curve, Interval
from guidance_pack.guidance.step import Step

SIGMAS = (6.0, 2.0, 0.4)
SHAPE = (4, 3, 10)
CFG_WEIGHT = 4.0  # what the sampler asks for, where no CFG rule says otherwise
NOISY_HALF = Interval(math.inf, 1.0, "sigma_ve")
FALLING = Curve(((10.0, 1.0), (0.1, 0.2)), "sigma_ve")


@dataclass(frozen=True)
class Bowl(Loss):
    """L = 20 mean_i (sqrt(1 + x_i^2) - 1)"""

    name: ClassVar[str] = "bowl"
    title: ClassVar[str] = "bowl"
    reads: ClassVar[frozenset] = frozenset({"picture"})
    wants_target: ClassVar[bool] = False

    def compare(self, output: Tensor, target: None) -> Tensor:
        return 20 * ((1 + output.square()).sqrt() - 1).flatten(1).mean(1)


GRADIENT_CONTEXT = Lent(denoiser=lambda x: x.sin() + 0.2 * x)


@dataclass(frozen=True)
class Case:
    """One evaluation: the noisy input, its levels, and networks that give fixed predictions."""

    x: Tensor
    level: NoiseLevel
    predictions: Mapping[Branch, Tensor]

    def guide(self, rule: Rule | Guidance, memory: Memory | None = None) -> Tensor:
        """The guided estimate; a branch that is not there raises KeyError."""
        guidance = rule if isinstance(rule, Guidance) else Guidance((rule,))
        evaluate, context = self.predictions.__getitem__, GRADIENT_CONTEXT
        memory = self.earlier(guidance) if memory is None and guidance.weighers else memory
        return guidance.denoise(evaluate, self.x, self.level, CFG_WEIGHT, memory, gradient_context=context)

    def earlier(self, guidance: Guidance) -> Memory:
        """What rules know that change the weight of CFG, after a higher noise level where all predictions are alike."""
        memory = Memory()
        memory.move_to(1)
        alike = {branch: self.predictions[POSITIVE] + 1e-3 * found for branch, found in self.predictions.items()}
        level = NoiseLevel(self.level.a, 1.5 * self.level.b)
        guidance.denoise(alike.__getitem__, 1.5 * self.x, level, CFG_WEIGHT, memory, gradient_context=GRADIENT_CONTEXT)
        memory.move_to(2)
        return memory

    def change(self, how: Callable[[Tensor], Tensor], sigmas: NoiseLevel | None = None) -> Case:
        """The same with all tensors changed alike."""
        changed = {branch: how(tensor) for branch, tensor in self.predictions.items()}
        return Case(how(self.x), sigmas or self.level, changed)


class Seen(dict):
    """Branches that remember which were read."""

    def __init__(self, branches: Mapping[Branch, Tensor]) -> None:
        super().__init__(branches)
        self.read: set[Branch] = set()

    def __getitem__(self, branch: Branch) -> Tensor:
        self.read.add(branch)
        return super().__getitem__(branch)


def asks_a_guide(cls: type[Rule]) -> bool:
    """Whether the rule moves along the gradient of an objective, not along a difference of branches."""
    return any(field.name == "objective" for field in fields(cls))


def has_learned(cls: type[Rule]) -> bool:
    """Whether the rule's weights come from a network that was trained."""
    return any(field.name == "weights" for field in fields(cls))


def trained_weights(width: int = 8, seed: int = 0, **config: Any) -> WeightNetwork:
    """A network whose weights leave its constant, as training would make them."""
    generator = torch.Generator().manual_seed(seed)
    network = WeightNetwork(width=width, **config).requires_grad_(False)
    network.initialise(generator)
    network.layers[-1].weight.copy_(torch.randn(1, width, generator=generator, dtype=torch.float64))
    network.layers[-1].bias.fill_(1.0)
    return network


def sets_cfg(cls: type[Rule]) -> bool:
    """Whether the rule sets the weight of CFG in the sampler's place."""
    return cls is CFG or (issubclass(cls, Weigher) and cls.alone)


def standard(cls: type[Rule], at: At = "denoised") -> Rule:
    """The rule with its defaults in a run, and an objective or a trained network where it wants one."""
    wanted: dict[str, Any] = {"objective": Objective(Bowl(), at)} if asks_a_guide(cls) else {}
    usual = cls(**wanted | ({"weights": trained_weights()} if has_learned(cls) else {}))
    return usual.over(levels(9.0, *SIGMAS, 0.1, 0.0))


def active(cls: type[Rule]) -> Iterator[Rule]:
    """The rule with its defaults, with each number half-way to off, and on schedules that differ over noise.

    Also with each choice that it has taken, each count one higher, and each other number half-way up its range.
    """
    usual = standard(cls)
    yield usual
    for name, off in cls.off.items():
        yield replace(usual, **{name: (getattr(usual, name) + off) / 2})
    for field in fields(cls):
        if field.default is False:
            yield replace(usual, **{field.name: True})
        elif isinstance(field.default, int):
            yield replace(usual, **{field.name: field.default + 1})
        elif isinstance(field.default, float) and field.name not in cls.off:
            yield replace(usual, **{field.name: (field.metadata["min"] + field.metadata["max"]) / 2})
    if asks_a_guide(cls):
        yield from (standard(cls, at) for at in get_args(At) if at != "denoised")
    yield replace(usual, schedule=NOISY_HALF)
    yield replace(usual, schedule=FALLING)


def levels(*sigmas: float) -> NoiseLevel:
    return NoiseLevel.variance_exploding(torch.tensor(sigmas, dtype=torch.float64))


def branches_of(rule: Rule) -> frozenset[Branch]:
    """All branches that a rule may ever read, and those of the host's own step."""
    everywhere = replace(rule, schedule=Constant(1.0))
    return {POSITIVE, NEGATIVE} | asked(everywhere, levels(1.0), torch.full((1,), CFG_WEIGHT, dtype=torch.float64))


def asked(rule: Rule, level: NoiseLevel, cfg: Tensor) -> frozenset[Branch]:
    """What a rule asks for at the first position of a run."""
    return rule.needs(0, False) if rule.acts(rule.strength(level), cfg) else frozenset()


def case(rule: Rule, sigmas: tuple[float, ...] = SIGMAS, shape=SHAPE, dtype=torch.float64, seed: int = 0) -> Case:
    """Random predictions, of another size and mean in every branch and sample."""
    generator = torch.Generator().manual_seed(seed)

    def draw() -> Tensor:
        size = torch.rand(len(sigmas), *[1] * len(shape), generator=generator, dtype=torch.float64) + 0.5
        return (size * torch.randn(len(sigmas), *shape, generator=generator, dtype=torch.float64) + 0.3).to(dtype)

    ordered = sorted(branches_of(rule), key=str)
    return Case(draw(), levels(*sigmas), {branch: draw() for branch in ordered})


def step_of(rule: Rule, given: Case) -> Step:
    """What the law hands to the rule in this case, with every branch there."""
    cfg = Guidance((rule,)).cfg(given.level, CFG_WEIGHT)
    strength = rule.strength(given.level)
    return Step(given.x, given.level, given.predictions, cfg, gradient_context=GRADIENT_CONTEXT, strength=strength)


def apply(rule: Rule, denoised: Tensor, step: Step, state: Any = None) -> tuple[Tensor, Any]:
    """One call of the rule's own method: the changed estimate and the state after it."""
    if isinstance(rule, Term):
        displacement, state = rule.displacement(step, state)
        return denoised + displacement, state
    if isinstance(rule, Weigher):
        return denoised.clone(), rule.learn(step, state)
    return rule.transform(denoised, step, state)


def same(found: Tensor, expected: Tensor, tolerance: float = 1e-12) -> bool:
    return bool(torch.isfinite(found).all()) and torch.allclose(found, expected, rtol=tolerance, atol=tolerance)


def tensors(state: Any) -> Iterator[Tensor]:
    """All tensors of a state, however it is nested."""
    if isinstance(state, Tensor):
        yield state
    elif isinstance(state, Mapping):
        for value in state.values():
            yield from tensors(value)
    elif isinstance(state, tuple | list):
        for value in state:
            yield from tensors(value)


def run(rule: Rule, calls: int = 1, guided: bool = True) -> list[Tensor]:
    """Four noise levels, each evaluated several times; gives the last estimate at each. guided: whether by the rule."""
    memory, found = Memory(), []
    for position, sigma in enumerate((6.0, 2.0, 0.8, 0.3)):
        memory.move_to(position)
        for call in reversed(range(calls)):  # the last call at every position is the same in all runs
            given = case(rule, sigmas=(sigma, sigma), seed=10 * position + call)
            estimate = given.guide(rule if guided else Guidance(), memory)
        found.append(estimate)
    return found
