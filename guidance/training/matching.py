"""Learning the weights of guidance for one model: its guided steps are to land where noise alone would have led.

Take a picture x0 to a noisy level t and, by one guided step of DDIM, to a cleaner level s; or take it to s at once.
Both should be distributed alike (2510.00815, self-consistency; equations as its summaries and reviews give them):

    L = 1/m^2 sum_jk |x~_j - x_k|^beta - lambda / (2 m (m - 1)) sum_(j != k) |x~_j - x~_k|^beta       m noises each
    "mmd": beta = 1, lambda = 1 (an energy distance)        "l2": beta = 2, lambda = 0
    L_total = L + gamma L_reward

Here |.| is the root mean square of the numbers in variance-preserving coordinates, so that models of all kinds and
sizes learn alike. The model is only evaluated: gradients reach the small network alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from ..asked import Asked
from ..branch import NEGATIVE, POSITIVE, Branch
from ..guide import variance_preserving
from ..noise_level import NoiseLevel, expand

Objective = Literal["mmd", "l2"]
OBJECTIVES: tuple[Objective, ...] = get_args(Objective)
EXPONENTS: dict[Objective, tuple[float, float]] = {"mmd": (1.0, 1.0), "l2": (2.0, 0.0)}  # beta, lambda
TINY = 1e-12  # of a mean square, below which a root has no slope


@dataclass(frozen=True)
class WeightRecipe:
    """What decides a training of weights, together with the model, the prompts and the pictures.

    Attributes:
        iterations, batch, particles: steps, pictures of each, and noises of every picture (m).
        learning_rate: of Adam; it falls straight to 0.
        objective: "mmd" or "l2".
        least_step: the least distance from t to s, as a share of the model's training timesteps. The paper's 0.1
            does better than the steps of a sampler.
        constant, guide_constant: the weights of CFG and of autoguidance that the training begins with; None: no guide.
        reach: by how much a weight may leave its constant.
        width: of the small network.
        reward: gamma.
        by_prompt: whether weights may differ between classes or prompts.

    Raises:
        ValueError: a number or word that cannot be, in words.
    """

    iterations: int = 300
    batch: int = 8
    particles: int = 4
    learning_rate: float = 0.01
    objective: Objective = "mmd"
    least_step: float = 0.1
    constant: float = 2.0
    guide_constant: float | None = None
    reach: float = 4.0
    width: int = 32
    reward: float = 0.0
    seed: int = 0
    by_prompt: bool = False

    def __post_init__(self) -> None:
        if self.objective not in OBJECTIVES:
            raise ValueError(f"objective is {self.objective!r}; it can be {', '.join(OBJECTIVES)}.")
        least = {"iterations": 1, "batch": 1, "particles": 2 if self.objective == "mmd" else 1, "width": 1}
        for word, low in least.items():
            if getattr(self, word) < low:
                raise ValueError(f"{word} is {getattr(self, word)}; with {self.objective} it must be {low} or more.")
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate is {self.learning_rate:g}; it must be above 0.")
        if not 0.0 < self.least_step < 1.0:
            raise ValueError(f"least_step is {self.least_step:g}; it must be above 0 and below 1. The paper's is 0.1.")

    def as_dict(self) -> dict[str, Any]:
        """Its fields; `by_prompt` only where it is on, as trainings that are older than it have none."""
        return {name: value for name, value in asdict(self).items() if name != "by_prompt" or value}


@dataclass(frozen=True)
class Lessons:
    """What weights are learned on.

    Attributes:
        levels: the model's training noise levels, noisy to clean, [T].
        count: of pictures.
        pictures: rows [N] -> the clean pictures as the model sees them, [N, ...].
        predict: rows [N], x [N, ...] and its levels -> the denoised estimate of each branch, without gradient.
        guide: the branch of a weaker network, if there is one.
        reward: guided estimates and clean pictures [N, ...] -> what is to become small, [N].
        asked: rows [N] -> what these pictures are asked to be; for a recipe `by_prompt`.
        reads: what the weights read of it, as `WeightNetwork` is built: classes or pooled.
    """

    levels: NoiseLevel
    count: int
    pictures: Callable[[Tensor], Tensor]
    predict: Callable[[Tensor, Tensor, NoiseLevel], Mapping[Branch, Tensor]]
    guide: Branch | None = None
    reward: Callable[[Tensor, Tensor], Tensor] | None = None
    asked: Callable[[Tensor], Asked] | None = None
    reads: Mapping[str, Any] = field(default_factory=dict)

    @property
    def branches(self) -> int:
        """Evaluations of networks for one noisy picture."""
        return 2 if self.guide is None else 3

    def differences(self, found: Mapping[Branch, Tensor]) -> dict[str, Tensor]:
        """What the weights multiply, by the part of the file that holds the weight."""
        own = {"cfg": found[POSITIVE] - found[NEGATIVE]}
        return own if self.guide is None else own | {"autoguidance": found[POSITIVE] - found[self.guide]}


@dataclass(frozen=True)
class Draw:
    """One batch: rows [N] with every picture m times, its levels t and s, and noise for both [N, ...]."""

    rows: Tensor
    start: NoiseLevel
    end: NoiseLevel
    places: Tensor  # of t among the lessons' levels, [N]

    @classmethod
    def of(cls, recipe: WeightRecipe, lessons: Lessons, generator: torch.Generator) -> Draw:
        """s is uniform up to least_step below the noisiest level, t is uniform above s + least_step."""
        size, last = recipe.batch, len(lessons.levels.b) - 1
        rows = torch.randint(lessons.count, (size,), generator=generator)
        shares = torch.rand(2, size, generator=generator, dtype=torch.float64)
        clean = shares[0] * (1.0 - recipe.least_step)
        noisy = clean + recipe.least_step + shares[1] * (1.0 - recipe.least_step - clean)
        places = ((1.0 - torch.stack([noisy, clean])) * last).round().long().repeat_interleave(recipe.particles, 1)
        start, end = (lessons.levels[place] for place in places)
        return cls(rows.repeat_interleave(recipe.particles), start, end, places[0])


def ddim_step(x: Tensor, denoised: Tensor, level: NoiseLevel, following: NoiseLevel) -> Tensor:
    """a' D + (b' / b) (x - a D), without noise of its own: x [B, ...] from a level to the following (2010.02502)."""
    noise = x - expand(level.a, x) * denoised
    return expand(following.a, x) * denoised + expand(following.b / level.b, x) * noise


def matching_loss(proposals: Tensor, targets: Tensor, beta: float, repulsion: float) -> Tensor:
    """How far m proposals are from m targets, each [B, m, ...]: [B]. repulsion: lambda."""
    count, proposed, wanted = proposals.shape[1], proposals.flatten(2), targets.flatten(2)
    attracted = _distance(proposed[:, :, None], wanted[:, None], beta).mean((1, 2))
    if not repulsion:
        return attracted
    first, second = torch.triu_indices(count, count, 1)
    return attracted - 0.5 * repulsion * _distance(proposed[:, first], proposed[:, second], beta).mean(1)


def batch_loss(
    weights: Mapping[str, Callable[[NoiseLevel, Tensor], Tensor]], gaps: Mapping[str, Tensor], recipe: WeightRecipe,
    lessons: Lessons, draw: Draw, clean: Tensor, noises: tuple[Tensor, Tensor], found: Mapping[Branch, Tensor],
) -> Tensor:
    """The mean loss of a batch, with a gradient for the weights alone.

    Args:
        weights: by part; from levels and gaps [N] to weights [N]. gaps: of the lessons' `differences` of `found`.
        clean: [N, ...]. noises: that of x at t, and that of the target at s. found: the model's estimates at x.
    """
    guided = found[POSITIVE]
    for part, difference in lessons.differences(found).items():
        guided = guided + expand(weights[part](draw.start, gaps[part]) - 1.0, difference) * difference
    proposals = ddim_step(noisy(clean, noises[0], draw.start), guided, draw.start, draw.end)
    targets = noisy(clean, noises[1], draw.end)
    seen = [variance_preserving(x, draw.end).unflatten(0, (-1, recipe.particles)) for x in (proposals, targets)]
    loss = matching_loss(seen[0], seen[1], *EXPONENTS[recipe.objective]).mean()
    if recipe.reward and lessons.reward is not None:
        loss = loss + recipe.reward * lessons.reward(guided, clean).mean()
    return loss


def noisy(clean: Tensor, noise: Tensor, level: NoiseLevel) -> Tensor:
    """a x0 + b n, [B, ...]."""
    return expand(level.a, clean) * clean + expand(level.b, clean) * noise


def _distance(a: Tensor, b: Tensor, beta: float) -> Tensor:
    """|a - b|^beta over the last axis."""
    return (a - b).square().mean(-1).clamp_min(TINY).pow(beta / 2)
