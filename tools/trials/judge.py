"""One cell of the matrix on the real host: what it does, and whether that is right."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import engine_probe
import host_models
import steering
import torch
from fuzzing.verdict import refusal

from .cells import Cell
from .components import COMPONENTS, Component, Models

STEPS = 3
CFG = 3.0
APART = 1e-3  # how far a picture of a batch may be from the same picture alone, relative to its largest value
DRAWING = ("dpmpp_2m_sde", "lcm", "ddpm")  # samplers that add noise of their own
FINE = ("right", "refused", "host")
NO_NUMBERS = "values that are no numbers"  # of what the engine says when a run ends in NaN


@dataclass(frozen=True)
class Outcome:
    """kind: "right", "refused" (in words of ours), "host" (ComfyUI alone cannot run this), or a fault: "crash",
    "off" (not bit-exact, or not free), "after" (a plain run afterwards differs), "apart" (a picture depends on its
    batch), "nothing" (without effect), "numbers" (not finite where the host alone is), "outside" (changed where the
    mask keeps the picture)."""

    kind: str
    words: str = ""


@dataclass
class Bench:
    """One family, built once, with what the host alone gives."""

    spec: host_models.HostModel
    components: Mapping[str, Component] = field(default_factory=lambda: COMPONENTS)
    plain: dict[tuple[str, str, int, bool], Plain] = field(default_factory=dict)

    def __post_init__(self):
        main, guide = (steering.as_nodes_do(self.spec.build, seed) for seed in (0, 7))
        self.models = Models(self.spec, main, guide, _picture(main, self.spec))
        self.first = self._first()

    def judge(self, cell: Cell) -> Outcome:
        """Every failure is what is looked for, so that none is raised."""
        return self._caught(cell, self._judged)

    def glance(self, cell: Cell) -> Outcome:
        """`judge` in a third of its time: whether the component is refused, or else runs, acts and gives numbers."""
        return self._caught(cell, self._glanced)

    def _caught(self, cell: Cell, judged: Callable[[Cell], Outcome]) -> Outcome:
        try:
            return judged(cell)
        except (Exception, SystemExit) as error:
            found = refusal(error)
            numbers = NO_NUMBERS in found.words
            if found.outcome == "refused" and not numbers:
                return Outcome("refused", found.words)
            plain = self._plain(cell)
            return plain if isinstance(plain, Outcome) else Outcome("numbers" if numbers else "crash", found.words)

    def _glanced(self, cell: Cell) -> Outcome:
        component = self.components[cell.component]
        whole = run(component.on(self.models), self.models, cell, masked=component.masked)
        plain = self._plain(cell)
        return plain if isinstance(plain, Outcome) else self._effect(cell, whole, plain) or Outcome("right")

    def _judged(self, cell: Cell) -> Outcome:
        component = self.components[cell.component]
        model = component.on(self.models)
        whole = run(model, self.models, cell, masked=component.masked)
        plain = self._plain(cell)
        if isinstance(plain, Outcome):
            return plain
        if not _equal(self._first(), self.first):
            return Outcome("after", "the plain run afterwards is another")
        off = component.off(self.models)
        if off is not self.models.main:  # a node that gives its MODEL back has nothing that could act
            same, cost = self._counted(off, cell)
            if not _equal(same, plain.whole) or cost > plain.cost:
                return Outcome("off", f"{_distance(same, plain.whole):.2e} away, {cost} rows instead of {plain.cost}")
        return self._effect(cell, whole, plain) or self._alone(cell, model, whole, plain)

    def _effect(self, cell: Cell, whole: list[torch.Tensor], plain: Plain) -> Outcome | None:
        """What is wrong with a guided picture beside the plain one."""
        component = self.components[cell.component]
        if not _finite(whole):
            return Outcome("numbers", "inf or NaN")
        if cell.guider in component.acts and _equal(whole, plain.whole):
            return Outcome("nothing", "the picture is that of the plain run, bit for bit")
        if component.masked and (moved := _distance(*(_outside(parts) for parts in (whole, plain.whole)))) > APART:
            return Outcome("outside", f"{moved:.2e} away from the plain run outside the mask")
        return None

    def _alone(self, cell: Cell, model: Any, whole: list[torch.Tensor], plain: Plain) -> Outcome:
        """The last picture of a batch again, alone."""
        if cell.batch == 1:
            return Outcome("right")
        lone = self._plain(replace(cell, guider="basic"))  # a guide is asked for one prompt, too
        if max(held.apart for held in (plain, lone) if isinstance(held, Plain)) > APART:
            return Outcome("right", "the host alone mixes the pictures of a batch")
        masked = self.components[cell.component].masked
        apart = _apart(whole, lambda row: run(model, self.models, cell, row, masked))
        most = max(APART, 30 * plain.apart)
        return Outcome("right") if apart <= most else Outcome("apart", f"{apart:.2e}; the host alone {plain.apart:.2e}")

    def _plain(self, cell: Cell) -> Plain | Outcome:
        masked = cell.component in self.components and self.components[cell.component].masked
        key = cell.sampler, cell.guider, cell.batch, masked
        if key not in self.plain:
            try:
                whole, cost = self._counted(self.models.main, cell)
            except (Exception, SystemExit) as error:
                return Outcome("host", f"{type(error).__name__}: {error}"[:300])
            if not _finite(whole):
                return Outcome("host", "inf or NaN")
            alone = lambda row: run(self.models.main, self.models, cell, row, masked)  # noqa: E731
            self.plain[key] = Plain(whole, cost, _apart(whole, alone) if cell.batch > 1 else 0.0)
        return self.plain[key]

    def _first(self) -> list[torch.Tensor]:
        """A plain run that is the same before and after everything."""
        return run(self.models.main, self.models, Cell(self.spec.name, "", "euler", "cfg", 1))

    def _counted(self, model: Any, cell: Cell) -> tuple[list[torch.Tensor], int]:
        with host_models.count_forwards(self.models.main) as count:
            return run(model, self.models, cell, masked=self.components[cell.component].masked), count.rows


@dataclass(frozen=True)
class Plain:
    """What the host alone gives: the latents, the rows that its network was asked for, the effect of the batch."""

    whole: list[torch.Tensor]
    cost: int
    apart: float


def run(
    model: Any, models: Models, cell: Cell, row: int | None = None, masked: bool = False
) -> list[torch.Tensor]:
    """The sampled latents; of one picture of the batch alone, if `row` names it; `masked`: of one half of it."""
    setting = engine_probe.setting_of(models.main, models.spec, steps=STEPS, batch=cell.batch, latent_seed=3)
    packed = _packed_shape(setting.noise)
    if row is not None:
        setting.latent, setting.noise = (_picked(held, row) for held in (setting.latent, setting.noise))
    setting.sigmas = setting.sigmas if cell.sampler != "uni_pc" else _last_dropped(models, models.spec)
    sampler = sampler_named(cell.sampler, packed, row)
    guider = guider_of(cell.guider, model, models)
    inputs = setting.noise, setting.latent, sampler, setting.sigmas
    with torch.inference_mode():
        mask = _half(host_models.tensors(setting.latent)[0]) if masked else None
        return host_models.tensors(guider.sample(*inputs, mask, disable_pbar=True, seed=setting.seed))


def _half(latent: torch.Tensor) -> torch.Tensor:
    """The mask [1, 1, ...] of a latent's second half; of several latents the host masks the first."""
    mask = torch.zeros(1, 1, *latent.shape[2:])
    mask[..., latent.shape[-1] // 2 :] = 1.0
    return mask


def _outside(parts: list[torch.Tensor]) -> list[torch.Tensor]:
    """Where that mask keeps the latent."""
    return [parts[0][..., : parts[0].shape[-1] // 2]]


def sampler_named(name: str, shape: tuple[int, ...], row: int | None):
    """A sampler of the host whose noise is that of the whole batch [B, ...], also for one picture of it."""
    import comfy.samplers

    def noise(sigma, _following):
        seed = zlib.crc32(f"{float(sigma):.5e}".encode())
        drawn = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
        return drawn if row is None else drawn[row : row + 1]

    if name in DRAWING:
        return comfy.samplers.ksampler(name, {"noise_sampler": noise})
    return comfy.samplers.sampler_object(name)


def guider_of(kind: str, model: Any, models: Models):
    """A GUIDER from the host's own node."""
    from comfy_extras.nodes_custom_sampler import BasicGuider, CFGGuider, DualCFGGuider, DualModelGuider
    from comfy_extras.nodes_perpneg import PerpNegGuider

    one, two, three = (models.spec.conditioning(seed) for seed in (1, 2, 3))
    made: dict[str, Callable] = {
        "cfg": lambda: CFGGuider.execute(model, one, two, CFG),
        "basic": lambda: BasicGuider.execute(model, one),
        "dual": lambda: DualCFGGuider.execute(model, one, three, two, CFG, CFG - 1.0, "regular"),
        "dual model": lambda: DualModelGuider.execute(model, one, CFG, models.guide, two),
        "perp neg": lambda: PerpNegGuider.execute(model, one, two, three, CFG, 0.7),
    }
    return made[kind]().args[0]


def _last_dropped(models: Models, spec) -> torch.Tensor:
    """KSampler leaves the last level but one out for this sampler."""
    sigmas = engine_probe.sigmas_of(models.main, STEPS + 1, spec.scheduler)
    return torch.cat([sigmas[:-2], sigmas[-1:]])


def _picture(main: Any, spec) -> torch.Tensor:
    """A picture of the size that the family's latents become; sound has none, and gets a small one."""
    from guidance_pack.host.common.decoders import latents_of, size_of

    shape = (1, *spec.latents[0])
    height, width = size_of(latents_of(main), shape) if len(shape) > 3 else (32, 32)
    return torch.rand(1, height, width, 3, generator=torch.Generator().manual_seed(8))


def _packed_shape(noise) -> tuple[int, ...]:
    import comfy.utils

    return tuple(comfy.utils.pack_latents(noise.unbind())[0].shape) if noise.is_nested else tuple(noise.shape)


def _picked(samples, row: int):
    import comfy.nested_tensor

    parts = [part[row : row + 1] for part in host_models.tensors(samples)]
    return comfy.nested_tensor.NestedTensor(parts) if samples.is_nested else parts[0]


def _apart(whole: list[torch.Tensor], alone: Callable[[int], list[torch.Tensor]]) -> float:
    """How far the last picture of a batch is from the same picture alone."""
    row = len(whole[0]) - 1
    return _distance(alone(row), [part[row : row + 1] for part in whole])


def _distance(first: list[torch.Tensor], second: list[torch.Tensor]) -> float:
    return max(engine_probe.far_apart(*pair) for pair in zip(first, second, strict=True))


def _equal(first: list[torch.Tensor], second: list[torch.Tensor]) -> bool:
    return all(torch.equal(*pair) for pair in zip(first, second, strict=True))


def _finite(parts: list[torch.Tensor]) -> bool:
    return all(bool(torch.isfinite(part).all()) for part in parts)
