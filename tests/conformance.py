"""What every guidance rule must do, written once: `CHECKS` holds one function per promise.

Each takes a rule class and raises AssertionError when the rule breaks the promise. A rule is judged by what it does to
predictions, through the law in `compose`, never by how it is written.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import FrozenInstanceError, fields, replace

import elsewhere
import torch
from cases import (
    CFG_WEIGHT,
    NOISY_HALF,
    SHAPE,
    SIGMAS,
    Seen,
    active,
    apply,
    asked,
    case,
    levels,
    run,
    same,
    sets_cfg,
    standard,
    step_of,
    tensors,
)
from torch import Tensor

from guidance_pack.guidance.branch import MAIN, POSITIVE, Branch
from guidance_pack.guidance.compose import Guidance, Memory, combine
from guidance_pack.guidance.rule import Rule, Term
from guidance_pack.guidance.rules.autoguidance import Autoguidance
from guidance_pack.guidance.rules.cfg import CFG
from guidance_pack.guidance.schedule import Constant, Interval
from guidance_pack.guidance.step import Step

TOLERANCE = {torch.float16: 2e-2, torch.bfloat16: 1.5e-1, torch.float32: 1e-5}  # of the largest number of the sample
CHECKS: dict[str, Callable[[type[Rule]], None]] = {}


def check(function: Callable[[type[Rule]], None]) -> Callable[[type[Rule]], None]:
    """Enter a promise under its function's name."""
    CHECKS[function.__name__] = function
    return function


@check
def off_is_exact_and_asks_for_nothing(cls: type[Rule]) -> None:
    for sampler in (1.0, CFG_WEIGHT):
        rule = replace(standard(cls), **cls.off)
        given = case(rule)
        cfg = Guidance((rule,)).cfg(given.level, sampler)
        assert asked(rule, given.level, cfg) == frozenset(), "off, it still asks for branches"
        step = Step(given.x, given.level, {}, cfg)
        acting = Guidance((rule,)).acting(given.level, cfg, Memory())
        assert not acting, "off, it still acts"
        steered = Guidance((rule,)).steer(given.x, step, Memory(), acting)
        assert torch.equal(steered, given.x), "off, it changes the prediction"
        if sets_cfg(cls):
            assert bool((cfg == 1.0).all()), "off, it still combines"
        else:
            assert torch.equal(given.guide(rule), given.guide(Guidance())), "off, it changes the guided estimate"


@check
def a_schedule_of_zero_is_off(cls: type[Rule]) -> None:
    for schedule in (Constant(0.0), Interval(0.3, 0.2, "sigma_ve")):
        rule = replace(standard(cls), schedule=schedule)
        given = case(rule)
        step = step_of(rule, given)
        assert not asked(rule, given.level, step.cfg), f"asks for branches where its schedule {schedule} is 0"
        untouched = given.predictions[POSITIVE] if sets_cfg(cls) else given.guide(Guidance())
        assert torch.equal(given.guide(rule), untouched), f"acts where its schedule {schedule} is 0"


@check
def it_does_something(cls: type[Rule]) -> None:
    given = case(standard(cls))
    plain = given.predictions[POSITIVE] if sets_cfg(cls) else given.guide(Guidance())
    alike = [same(given.guide(standard(cls)), plain, 1e-3)]
    alike += [same(*pair, 1e-3) for pair in zip(run(standard(cls)), run(standard(cls), guided=False), strict=True)]
    assert not all(alike), "its defaults change nothing"


@check
def equal_branches_leave_the_prediction(cls: type[Rule]) -> None:
    if not cls.compares:
        return  # it moves the prediction by what it shows, not by how branches differ
    for rule in active(cls):
        given = case(rule)
        for shared in (given.x, torch.zeros_like(given.x), torch.ones_like(given.x)):
            alike = replace(given, predictions=dict.fromkeys(given.predictions, shared))
            assert same(alike.guide(rule), shared), f"moves the prediction though nothing differs: {rule}"


@check
def a_batch_is_its_samples(cls: type[Rule]) -> None:
    for rule in active(cls):
        together = case(rule, sigmas=(2.0, 2.0, 2.0))
        whole = together.guide(rule)
        for i in range(3):
            alone = together.change(lambda t, i=i: t[i : i + 1], levels(2.0))
            assert same(alone.guide(rule), whole[i : i + 1]), f"sample {i} depends on the others of its batch: {rule}"


@check
def a_device_without_float64_gives_the_same(cls: type[Rule]) -> None:
    for rule in active(cls):
        given = case(rule, dtype=torch.float32)
        here, _ = apply(rule, given.x, step_of(rule, given))
        with elsewhere.device() as away:
            moved = given.change(lambda t: t.to(away))  # noqa: B023 - called at once
            try:
                there, _ = apply(rule, moved.x, step_of(rule, moved))
            except RuntimeError as error:
                raise AssertionError(f"does not run there: {error}") from error
            assert there.device == away, f"leaves the device of the prediction: {rule}"
        assert same(there.here, here, 1e-5), f"another device gives other numbers: {rule}"


@check
def mixed_noise_levels_are_separate_calls(cls: type[Rule]) -> None:
    for rule in active(cls):
        for rules in ((rule,), (rule, CFG(3.0, NOISY_HALF))):
            mixed = case(rule)
            whole = mixed.guide(Guidance(rules))
            for i, sigma in enumerate(SIGMAS):
                alone = mixed.change(lambda t, i=i: t[i : i + 1], levels(sigma)).guide(Guidance(rules))
                assert same(alone, whole[i : i + 1]), f"sample {i} does not get its own noise level: {rules}"


@check
def inputs_stay_and_nothing_is_shared(cls: type[Rule]) -> None:
    for rule in active(cls):
        given, denoised, state = case(rule), case(rule, seed=1).x, None
        inputs = [given.x, denoised, *given.predictions.values()]
        for _ in range(3):
            before = [t.clone() for t in (*inputs, *tensors(state))]
            kept = list(tensors(state))
            steered, after = apply(rule, denoised, step_of(rule, given), state)
            now = [*inputs, *kept]
            assert all(torch.equal(a, b) for a, b in zip(before, now, strict=True)), f"changes an input: {rule}"
            given_away = {t.data_ptr() for t in now}
            fresh = [steered, *(t for t in tensors(after) if all(t is not k for k in kept))]
            assert all(t.data_ptr() not in given_away for t in fresh), f"hands back one of its inputs: {rule}"
            state = after


@check
def zeros_and_flat_pictures_stay_finite(cls: type[Rule]) -> None:
    for rule in active(cls):
        for shape in (SHAPE, (1, 1, 1)):
            given = case(rule, shape=shape, dtype=torch.float32)
            for flat in (0.0, 1e-30, 3.0):
                for branch in given.predictions:
                    one = replace(given, predictions={**given.predictions, branch: torch.full_like(given.x, flat)})
                    assert torch.isfinite(one.guide(rule)).all(), f"{branch} all {flat}: {rule}"
                    step = step_of(rule, one)
                    steered, _ = apply(rule, torch.full_like(given.x, flat), step)
                    assert torch.isfinite(steered).all(), f"a flat estimate of {flat}: {rule}"


@check
def ranks_mean_the_same(cls: type[Rule]) -> None:
    for rule in active(cls):
        given = case(rule, shape=(4, 30))
        first = given.guide(rule)
        for shape in ((4, 3, 10), (4, 5, 3, 2), (4, 1, 30), *[(120,)] * (rule.sees == "sample")):
            shaped = given.change(lambda t, shape=shape: t.reshape(-1, *shape)).guide(rule)
            assert shaped.shape[1:] == shape, f"{tuple(shaped.shape)} came out of [B, {shape}]"
            where = rule.sees == "space"
            assert where or same(shaped.flatten(1), first.flatten(1)), f"means something else on [B, *{shape}]: {rule}"
        if where:
            video = case(rule, shape=(4, 2, 7, 9))
            frames = [video.change(lambda t, i=i: t[:, :, i]).guide(rule) for i in range(2)]
            assert same(video.guide(rule), torch.stack(frames, 2)), f"a frame of a video is no picture: {rule}"


@check
def every_dtype_agrees_and_is_kept(cls: type[Rule]) -> None:
    for rule in active(cls):
        for dtype, tolerance in TOLERANCE.items():
            given = case(rule, dtype=dtype, shape=(4, 16, 16))
            found, exact = given.guide(rule), given.change(Tensor.double).guide(rule)
            assert found.dtype == dtype, f"{dtype} came out as {found.dtype}: {rule}"
            error = float((found.double() - exact).abs().max() / exact.abs().max())
            assert error <= tolerance, f"{dtype} is off by {error:.1e} of the largest number: {rule}"
            assert case(rule).guide(rule).dtype == torch.float64


@check
def it_reads_exactly_what_it_asks_for(cls: type[Rule]) -> None:
    for rule in active(cls):
        for sigmas in (SIGMAS, SIGMAS[:1], SIGMAS[2:]):
            given = case(rule, sigmas=sigmas)
            full = step_of(rule, given)
            needs = asked(rule, full.level, full.cfg)
            own = {b for b in needs if b.network == MAIN}
            assert own <= rule.uses, f"asks for {own - rule.uses}, which `uses` does not name"
            named = {getattr(rule, f.name) for f in fields(rule) if isinstance(getattr(rule, f.name), str)}
            assert {b.network for b in needs - own} <= named, "asks for a network that none of its fields names"
            handed = Seen({b: full.branches[b] for b in needs})
            if needs:
                apply(rule, given.x, replace(full, branches=handed))
                assert handed.read == needs, f"asks for {set(needs)} and reads {handed.read}: {rule}"


@check
def a_lost_state_is_no_error(cls: type[Rule]) -> None:
    for rule in active(cls):
        given = case(rule)
        full = step_of(rule, given)
        for turn in range(4):
            handed = {b: full.branches[b] for b in rule.needs(turn, kept=False)}
            steered, _ = apply(rule, given.x, replace(full, branches=handed))
            assert same(steered, apply(rule, given.x, full)[0]), f"without a state it gives something else: {rule}"


@check
def two_runs_are_identical(cls: type[Rule]) -> None:
    for rule in active(cls):
        assert all(torch.equal(a, b) for a, b in zip(run(rule), run(rule), strict=True)), f"remembers a run: {rule}"


@check
def the_state_moves_with_the_position(cls: type[Rule]) -> None:
    for rule in active(cls):
        once = run(rule)
        for calls in (2, 3):
            repeated = run(rule, calls)
            assert all(torch.equal(a, b) for a, b in zip(once, repeated, strict=True)), (
                f"{calls} evaluations at one noise level do not give what one gives: {rule}"
            )


@check
def terms_commute_and_add(cls: type[Rule]) -> None:
    others = (CFG(3.0), Autoguidance(2.5, guide="another"))
    for rule in active(cls):
        for other in others:
            given = case(rule)
            given = replace(given, predictions={**given.predictions, Branch("another"): case(rule, seed=7).x})
            first, last = Guidance((rule, other)), Guidance((other, rule))
            for _ in range(2):
                assert same(given.guide(first), given.guide(last)), f"the order of {rule} and {other} matters"
        if isinstance(rule, Term) and not isinstance(rule, CFG):
            step = step_of(rule, given)
            guidance = Guidance((rule, others[1], rule))
            acting = guidance.acting(step.level, step.cfg, Memory())
            together = guidance.steer(combine(step), step, Memory(), acting)
            other = replace(step, strength=others[1].strength(step.level))
            alone = 2 * rule.displacement(step, None)[0] + others[1].displacement(other, None)[0]
            assert same(together, combine(step) + alone), f"two of it are not twice its displacement: {rule}"


@check
def it_is_frozen_and_complete(cls: type[Rule]) -> None:
    rule = cls()
    assert rule == cls() and hash(rule) == hash(cls()), "two with the same settings differ"
    assert replace(rule) == rule, "replace() loses something"
    for field in fields(rule):
        try:
            setattr(rule, field.name, getattr(rule, field.name))
        except FrozenInstanceError:
            continue
        raise AssertionError(f"{field.name} can be changed after the rule was made")
    for name, off in cls.off.items():
        changed = replace(rule, **{name: off})
        assert getattr(changed, name) == off and changed != rule, f"{name} cannot be replaced, or is off by default"


@check
def it_says_what_it_is(cls: type[Rule]) -> None:
    source = r"\d{4}\.\d{4,5}|github\.com/[\w.-]+/[\w.-]+"
    assert re.fullmatch(source, cls.paper), f"paper is {cls.paper!r}, neither an arXiv number nor a repository"
    first = (cls.__doc__ or "").partition("\n")[0]
    assert " = " in first and cls.paper in first, "the docstring does not start with the equation and its source"
    for field in fields(cls):
        # Numbers are typed into widgets made of their param(); the rest have sockets and words of their own.
        if field.name not in ("schedule", "guide", "objective") and not isinstance(field.default, bool):
            assert str(field.metadata.get("doc", "")).endswith("."), f"{field.name} has no words in its param()"
    rule = cls()
    assert rule.explain().strip() and "\n" not in rule.explain(), "explain() is one line"
    strength = rule.strength(levels(*SIGMAS))
    assert strength.dtype == torch.float64 and strength.shape == (3,), "strength is float64 [B]"
    quiet = replace(rule, **cls.off).strength(levels(*SIGMAS))
    assert bool(((quiet == 0.0) | (quiet == 1.0)).all()), "strength when off is 1 for a weight, 0 for a scale"


@check
def numbers_out_of_range_are_refused_in_words(cls: type[Rule]) -> None:
    for field in fields(cls):
        if "min" not in field.metadata:
            continue
        low, high = field.metadata["min"], field.metadata["max"]
        for edge in (low, high):
            assert getattr(cls(**{field.name: edge}), field.name) == edge
        for value in (low - 1, high + 1, math.nan, math.inf):
            try:
                cls(**{field.name: value})
            except ValueError as error:
                words = str(error)
            else:
                raise AssertionError(f"{field.name} accepts {value}; it goes from {low} to {high}")
            for part in (field.name, f"{value:g}", f"{low:g}", f"{high:g}"):
                assert part in words, f"the message does not say {part!r}: {words}"
