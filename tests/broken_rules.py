"""One right rule and, for every promise of `conformance`, rules like it that break it. None is registered."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from guidance_pack.guidance.branch import NEGATIVE, POSITIVE, Branch
from guidance_pack.guidance.noise_level import expand
from guidance_pack.guidance.rule import Term, param, schedule_field
from guidance_pack.guidance.schedule import Schedule


@dataclass(frozen=True)
class Good(Term):
    """D' = D + scale (D_positive - D_negative)      0000.00000 Eq. 1"""

    name: ClassVar[str] = "good"
    paper: ClassVar[str] = "0000.00000"
    off: ClassVar[dict] = {"scale": 0.0}
    uses: ClassVar[frozenset] = frozenset({POSITIVE, NEGATIVE})

    scale: float = param(1.0, "How far. 0 = off.", low=0.0, high=10.0)
    schedule: Schedule = schedule_field()

    def strength(self, level):
        return self.scale * self.schedule(level)

    def push(self, step):
        return step.branches[POSITIVE] - step.branches[NEGATIVE]

    def displacement(self, step, state):
        return expand(step.strength, step.x) * self.push(step), state

    def explain(self):
        return f"Good: {self.scale:g}"


class AlwaysAsks(Good):
    def acts(self, strength, cfg):
        return True


class IgnoresItsSchedule(Good):
    def strength(self, level):
        return torch.full_like(level.b, self.scale)


class DoesNothing(Good):
    def push(self, step):
        return 0 * (step.branches[POSITIVE] - step.branches[NEGATIVE])


class DividesByTheDifference(Good):
    def push(self, step):
        delta = step.branches[POSITIVE] - step.branches[NEGATIVE]
        return delta / delta.flatten(1).norm(dim=1).reshape(-1, *[1] * (delta.ndim - 1))


class NormOverTheBatch(Good):
    def push(self, step):
        return super().push(step) / (1 + super().push(step).norm())


class ExactOnTheDevice(Good):
    def push(self, step):
        return super().push(step).double().to(step.x.dtype)


class DrawsAsNoMacCan(Good):
    def push(self, step):
        return super().push(step) * (1 + torch.special.ndtri(torch.sigmoid(step.x)))


class NumbersOfTheCpu(Good):
    def push(self, step):
        return super().push(step) * torch.linspace(0.5, 1.5, step.x.shape[-1])


class FirstLevelForAll(Good):
    def displacement(self, step, state):
        return float(step.strength[0]) * self.push(step), state


class FirstCfgForAll(Good):
    def push(self, step):
        return float(step.cfg[0]) * super().push(step)


class WritesIntoABranch(Good):
    def push(self, step):
        return step.branches[POSITIVE].sub_(step.branches[NEGATIVE])


class KeepsABranchAsState(Good):
    def displacement(self, step, state):
        return super().displacement(step, state)[0], step.branches[POSITIVE]


class UnguardedNorm(Good):
    def push(self, step):
        positive = step.branches[POSITIVE]
        share = positive.flatten(1).norm(dim=1).reciprocal().clamp(max=1e30)
        return super().push(step) * expand(share * share, positive)


class UnbiasedSpread(Good):
    def push(self, step):
        values = step.x.flatten(1)
        spread = (values - values.mean(1, keepdim=True)).square().sum(1) / (values.shape[1] - 1)
        return super().push(step) * expand(spread, step.x)


class ThreeDimensionsOnly(Good):
    def push(self, step):
        delta = super().push(step)
        last = tuple(range(-min(3, delta.ndim - 1), 0))
        return delta / (1 + delta.square().sum(last, keepdim=True).sqrt())


class ThreeDimensionsOfVideo(Good):
    def push(self, step):
        delta = super().push(step)
        return delta / (1 + (delta.square().sum((-1, -2, -3), keepdim=True).sqrt() if delta.ndim > 4 else 0))


class SeesSpaceAcrossFrames(Good):
    sees = "space"

    def push(self, step):
        return super().push(step).cumsum(2)


class SumsInHalfPrecision(Good):
    def push(self, step):
        delta = super().push(step)
        total = (100 * delta).square().flatten(1).cumsum(1)[:, -1]
        return delta * expand(1 / (1 + total.sqrt() / 10000), delta)


class ReturnsFloat32(Good):
    def push(self, step):
        return super().push(step).float()


class AsksForMoreThanItReads(Good):
    def push(self, step):
        return step.x - step.branches[POSITIVE]


class ReadsMoreThanItAsksFor(Good):
    uses = frozenset({POSITIVE, NEGATIVE})

    def needs(self, turn, kept):
        return frozenset({POSITIVE})


class HidesWhatItUses(Good):
    uses = frozenset({POSITIVE})

    def needs(self, turn, kept):
        return frozenset({POSITIVE, NEGATIVE})


class AsksForAnUnnamedNetwork(Good):
    def needs(self, turn, kept):
        return frozenset({POSITIVE, Branch("hidden")})

    def push(self, step):
        return step.branches[POSITIVE] - step.branches[Branch("hidden")]


class RemembersRuns(Good):
    seen: ClassVar[list] = []

    def push(self, step):
        self.seen.append(1)
        return super().push(step) / len(self.seen)


class NeedsItsState(Good):
    """Asks for its difference once, and takes for granted that it is kept."""

    def needs(self, turn, kept):
        return self.uses if turn == 0 else frozenset()

    def displacement(self, step, state):
        push = self.push(step) if step.branches else state
        return expand(step.strength, step.x) * push, push


class CountsItsCalls(Good):
    """Its count starts anew with every run, but moves with every call."""

    def displacement(self, step, state):
        state = {"calls": 0} if state is None else state
        state["calls"] += 1
        return super().displacement(step, None)[0] / state["calls"], state


class DependsOnOrder(Good):
    last: ClassVar[list] = [0]

    def push(self, step):
        self.last[0] = 1 - self.last[0]
        return super().push(step) * (1 + self.last[0])


class NotFrozen(Good):
    __setattr__ = object.__setattr__


@dataclass(frozen=True, eq=False)
class NeverEqual(Good):
    __eq__ = object.__eq__
    __hash__ = object.__hash__


@dataclass(frozen=True)
class NoWords(Good):
    """D' = D + scale (D_positive - D_negative)      0000.00000 Eq. 1"""

    scale: float = 1.0


class NoEquation(Good):
    """Pushes away from the negative."""


class NoPaper(Good):
    """D' = D + scale (D_positive - D_negative)"""

    paper = "the one by those people"


class TakesAnyNumber(Good):
    def __post_init__(self):
        pass


class SaysTooLittle(Good):
    def __post_init__(self):
        if not 0 <= self.scale <= 10:
            raise ValueError("bad scale")


class ForgetsAField(Good):
    def __post_init__(self):
        object.__setattr__(self, "scale", 1.0)


BROKEN = [
    ("off_is_exact_and_asks_for_nothing", AlwaysAsks),
    ("a_schedule_of_zero_is_off", IgnoresItsSchedule),
    ("it_does_something", DoesNothing),
    ("equal_branches_leave_the_prediction", DividesByTheDifference),
    ("a_batch_is_its_samples", NormOverTheBatch),
    ("a_device_without_float64_gives_the_same", ExactOnTheDevice),
    ("a_device_without_float64_gives_the_same", DrawsAsNoMacCan),
    ("a_device_without_float64_gives_the_same", NumbersOfTheCpu),
    ("mixed_noise_levels_are_separate_calls", FirstLevelForAll),
    ("mixed_noise_levels_are_separate_calls", FirstCfgForAll),
    ("inputs_stay_and_nothing_is_shared", WritesIntoABranch),
    ("inputs_stay_and_nothing_is_shared", KeepsABranchAsState),
    ("zeros_and_flat_pictures_stay_finite", UnguardedNorm),
    ("zeros_and_flat_pictures_stay_finite", UnbiasedSpread),
    ("ranks_mean_the_same", ThreeDimensionsOnly),
    ("ranks_mean_the_same", ThreeDimensionsOfVideo),
    ("ranks_mean_the_same", SeesSpaceAcrossFrames),
    ("every_dtype_agrees_and_is_kept", SumsInHalfPrecision),
    ("every_dtype_agrees_and_is_kept", ReturnsFloat32),
    ("it_reads_exactly_what_it_asks_for", AsksForMoreThanItReads),
    ("it_reads_exactly_what_it_asks_for", ReadsMoreThanItAsksFor),
    ("it_reads_exactly_what_it_asks_for", HidesWhatItUses),
    ("it_reads_exactly_what_it_asks_for", AsksForAnUnnamedNetwork),
    ("two_runs_are_identical", RemembersRuns),
    ("the_state_moves_with_the_position", CountsItsCalls),
    ("a_lost_state_is_no_error", NeedsItsState),
    ("terms_commute_and_add", DependsOnOrder),
    ("it_is_frozen_and_complete", NotFrozen),
    ("it_is_frozen_and_complete", NeverEqual),
    ("it_is_frozen_and_complete", ForgetsAField),
    ("it_says_what_it_is", NoWords),
    ("it_says_what_it_is", NoEquation),
    ("it_says_what_it_is", NoPaper),
    ("numbers_out_of_range_are_refused_in_words", TakesAnyNumber),
    ("numbers_out_of_range_are_refused_in_words", SaysTooLittle),
]
