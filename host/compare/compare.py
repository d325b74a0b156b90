"""Compare Guidance: a grid of pictures over one or two settings, from the same noise, drawn by the host's own samplers.

Finished cells are kept while the MODEL lives, so that a grid that was interrupted, or grew, goes on with the rest.
"""

from __future__ import annotations

import json
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import comfy.model_management
import comfy.sample
import comfy.sd
import comfy.utils
import torch
from comfy.model_patcher import ModelPatcher

from ...guidance.compose import Guidance
from ..common.unfinished import show_unfinished
from ..engine.install import with_inspection, with_plan
from ..engine.plan import plan_of
from ..recording.inspection import Inspection
from .closer import cells_of
from .damage import with_damages
from .grid import Axis, Grid
from .settings import Settings, socket
from .sheet import Sheet


@dataclass(frozen=True, eq=False)
class Scene:
    """What all cells share."""

    models: tuple[ModelPatcher, ...]
    positive: list
    negative: list
    latent: dict[str, Any]
    vae: comfy.sd.VAE


@dataclass(frozen=True)
class Compared:
    """The grid as an IMAGE [1, H, W, 3]; every picture of every cell, row by row, [N, H, W, 3]; the table as CSV; what
    the page knows of each cell."""

    grid: torch.Tensor
    pictures: torch.Tensor
    table: str
    cells: list[dict[str, Any]]

    def for_page(self) -> dict[str, list[str]]:
        """The cells as a part of the node's `ui`: text, because the host counts anything else as a picture."""
        return {"guidance_cells": [json.dumps(self.cells)]}


def compare(scene: Scene, first: Settings, x: Axis, y: Axis, size: int, node: str) -> Compared:
    """Every cell of x and y. first: the settings of the widgets, of the first MODEL. size: of a cell, in pixels.

    node: under which the finished cells are kept.

    Raises:
        ValueError: settings that these MODELs cannot have, before anything is drawn; in words.
    """
    grid = Grid.of(scene.models, first, x, y)
    wanted = grid.keys()
    kept = _kept(scene, node, wanted)
    watch = _CellProgress(grid, kept, size)
    matched = {replace(settings, plain=False) for settings in wanted if settings.plain}
    for settings in grid.to_draw():
        if settings.bare() not in kept:
            kept[settings.bare()] = _cell(scene, settings, kept, matched, watch.step)
        watch.finish(settings)
    pictures = torch.cat([kept[settings.bare()].pictures for settings in grid.cells])
    weights = {settings: cell.weight for settings, cell in kept.items() if cell.weight is not None}
    table = grid.table(len(pictures) // len(grid.cells), weights)
    return Compared(watch.sheet.picture(), pictures, table, cells_of(grid, watch.sheet, scene.models))


@dataclass(frozen=True, eq=False)
class Cell:
    """A finished cell. weight: that at which plain CFG is as strong, where that is asked for."""

    pictures: torch.Tensor  # [B, H, W, 3]
    weight: float | None = None


def _cell(scene: Scene, settings: Settings, kept: dict[Settings, Cell], matched: set[Settings], callback) -> Cell:
    """One cell, drawn. matched: the cells, bare, whose weight is asked for."""
    if not settings.plain:
        measured = settings.bare() in matched
        return draw_measured(scene, settings, callback) if measured else Cell(draw(scene, settings, callback))
    own = replace(settings, plain=False)
    known = kept.get(own.bare())
    if known is None or known.weight is None:
        known = draw_measured(scene, own, None)
    assert known.weight is not None
    plain = replace(own, rules=(), cfg=known.weight)
    return Cell(draw(scene, plain, callback), known.weight)


def draw_measured(scene: Scene, settings: Settings, callback) -> Cell:
    """A cell and the weight at which plain CFG is as strong. Raises ValueError if no step tells, in words."""
    inspection = Inspection()
    pictures = draw(scene, settings, callback, inspection)
    weight = inspection.record(0).effective_weight
    if weight is None:
        raise ValueError(
            "equal strength asks for the weight at which plain CFG would go as far, and no step of "
            f"{socket(settings.model)} evaluated both prompts ({'; '.join(settings.components()) or 'no components'}, "
            f"cfg {settings.cfg:g}). It is known where CFG is on: raise cfg, or compare something else."
        )
    return Cell(pictures, weight)


def draw(scene: Scene, settings: Settings, callback, inspection: Inspection | None = None) -> torch.Tensor:
    """The pictures of one cell, [B, H, W, 3]: what the nodes, KSampler and VAE Decode give with these settings."""
    model = with_settings(scene.models[settings.model], settings)
    model = model if inspection is None else with_inspection(model, inspection)
    latent = scene.latent
    samples = comfy.sample.fix_empty_latent_channels(
        model, latent["samples"], latent.get("downscale_ratio_spacial"), latent.get("downscale_ratio_temporal")
    )
    noise = comfy.sample.prepare_noise(samples, settings.seed, latent.get("batch_index"))
    samples = comfy.sample.sample(
        model, noise, settings.steps, settings.cfg, settings.sampler_name, settings.scheduler, scene.positive,
        scene.negative, samples, denoise=settings.denoise, noise_mask=latent.get("noise_mask"), callback=callback,
        disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED, seed=settings.seed,
    )
    images = scene.vae.decode(samples.unbind()[0] if samples.is_nested else samples)
    return images.reshape(-1, *images.shape[-3:])  # frames of videos beside each other


def with_settings(model: ModelPatcher, settings: Settings) -> ModelPatcher:
    """A clone of the MODEL whose components and degraded guides have these settings; the MODEL itself if they have them
    already."""
    model = with_damages(model, settings.degraded)
    plan = plan_of(model)
    if plan.guidance.rules == settings.rules:
        return model
    return with_plan(model, replace(plan, guidance=Guidance(settings.rules)))


class _CellProgress:
    """Progress over all steps of all cells, and the grid as it fills."""

    def __init__(self, grid: Grid, kept: dict[Settings, Cell], size: int):
        self.grid, self.kept, self.size = grid, kept, size
        self.steps = [settings.steps for settings in grid.to_draw()]
        self.bar = comfy.utils.ProgressBar(sum(self.steps))
        self.finished = 0
        self.shape: torch.Size
        self.sheet: Sheet

    def step(self, step: int, denoised: torch.Tensor, x: torch.Tensor, steps: int) -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()
        before, now = sum(self.steps[: self.finished]), self.steps[self.finished]
        self.bar.update_absolute(before + min(now, round(now * (step + 1) / steps)))

    def finish(self, settings: Settings) -> None:
        """Show the cells of these settings."""
        comfy.model_management.throw_exception_if_processing_interrupted()
        pictures = self.kept[settings.bare()].pictures
        if not self.finished:
            self.shape, self.sheet = pictures.shape, Sheet(self.grid.words(), pictures.shape, self.size)
        if pictures.shape != self.shape:
            raise ValueError(
                f"{socket(settings.model)} gives pictures of shape {tuple(pictures.shape)}, the MODELs before it "
                f"{tuple(self.shape)} (pictures, height, width, colours). Compare models of one size and one VAE."
            )
        self.finished += 1
        for column, row in self.grid.places(settings):
            self.sheet.put(column, row, pictures)
        self.bar.update_absolute(sum(self.steps[: self.finished]))
        if self.finished < len(self.steps):
            show_unfinished(self.sheet.image)


@dataclass(eq=False)
class _Shelf:
    """The finished cells of a node, and what they were made of; nothing of it is kept alive that the graph let go."""

    sources: list[weakref.ref]
    prompts: tuple[Any, ...]
    cells: dict[Settings, Cell] = field(default_factory=dict)

    def fits(self, scene: Scene) -> bool:
        """Whether the cells were made of these very objects; a node that ran again gives others."""
        same = (scene.positive, scene.negative, scene.latent)
        return _are([ref() for ref in self.sources], (*scene.models, scene.vae)) and _are(self.prompts, same)


# By the first MODEL, with which they go; then by node.
_shelves: weakref.WeakKeyDictionary[ModelPatcher, dict[str, _Shelf]] = weakref.WeakKeyDictionary()


def _kept(scene: Scene, node: str, wanted: frozenset[Settings]) -> dict[Settings, Cell]:
    """The finished cells of this node that are wanted still; new ones are to be added."""
    shelves = _shelves.setdefault(scene.models[0], {})
    if node not in shelves or not shelves[node].fits(scene):
        sources = [weakref.ref(source) for source in (*scene.models, scene.vae)]
        shelves[node] = _Shelf(sources, (scene.positive, scene.negative, scene.latent))
    cells = shelves[node].cells
    for settings in cells.keys() - wanted:
        del cells[settings]
    return cells


def _are(first: Sequence[Any], second: Sequence[Any]) -> bool:
    return len(first) == len(second) and all(a is b for a, b in zip(first, second, strict=True))
