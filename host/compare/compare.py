"""Compare Guidance: a grid of pictures over one or two settings, from the same noise, drawn by the host's own samplers.

Finished cells are kept while the MODEL lives, so that a grid that was interrupted, or grew, goes on with the rest;
under a name they are kept on disk too.
"""

from __future__ import annotations

import json
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import comfy.model_management
import comfy.sample
import comfy.sd
import comfy.utils
import torch
from comfy.model_patcher import ModelPatcher

from ...guidance.compose import Guidance
from ..common.unfinished import show_unfinished
from ..common.waiting import wait_for_others
from ..engine.install import with_inspection, with_plan
from ..engine.plan import plan_of
from ..recording.inspection import Inspection
from .cell_files import CellFiles, Sampled
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


def compare(scene: Scene, first: Settings, x: Axis, y: Axis, size: int, node: str, name: str = "") -> Compared:
    """Every cell of x and y. first: the settings of the widgets, of the first MODEL. size: of a cell, in pixels.

    node: under which the finished cells are kept in memory. name: under which they are kept on disk, unless empty.

    Raises:
        ValueError: settings that these MODELs cannot have, before anything is drawn; in words.
        OSError: the disk is full or cannot be written, in words.
    """
    grid = Grid.of(scene.models, first, x, y)
    cells = _Cells(scene, grid, _kept(scene, node, grid.keys()), name)
    watch = _CellProgress(grid, size)
    left = grid.to_draw()
    while left:
        others = []  # that another ComfyUI draws at this moment
        for settings in left:
            cell = cells.find(settings, watch.step_of(settings))
            if cell is None:
                others.append(settings)
            else:
                watch.finish(settings, cell.pictures)
        if others == left:
            wait_for_others()
        left = others
    pictures = torch.cat([cells.kept[settings.bare()].pictures for settings in grid.cells])
    weights = {settings: cell.weight for settings, cell in cells.kept.items() if cell.weight is not None}
    table = grid.table(len(pictures) // len(grid.cells), weights)
    return Compared(watch.sheet.picture(), pictures, table, cells_of(grid, watch.sheet, scene.models))


@dataclass(frozen=True, eq=False)
class Cell:
    """A finished cell. weight: that at which plain CFG is as strong, where that is asked for."""

    sampled: Sampled
    pictures: torch.Tensor  # [B, H, W, 3]
    weight: float | None = None


class _Cells:
    """The cells of a grid, each from memory, from disk or drawn. kept: those of memory; new ones are added."""

    def __init__(self, scene: Scene, grid: Grid, kept: dict[Settings, Cell], name: str):
        self.scene, self.kept = scene, kept
        self.measured = {replace(settings, plain=False).bare() for settings in grid.cells if settings.plain}
        self.files = CellFiles.of(name, scene.positive, scene.negative, scene.latent)

    def find(self, settings: Settings, callback) -> Cell | None:
        """One cell; None while another ComfyUI draws it, or what it is to be as strong as."""
        known = self.kept.get(settings.bare())
        if known is not None:
            self._keep(settings, known)
            return known
        weight = self._weight(replace(settings, plain=False)) if settings.plain else None
        if settings.plain and weight is None:
            return None
        measured = not settings.plain and settings.bare() in self.measured
        sampled = self._sampled(_run_of(settings, weight), callback, measured)
        if sampled is None:
            return None
        found = Cell(sampled, _decoded(self.scene, sampled.latents), weight if settings.plain else sampled.weight)
        return self.kept.setdefault(settings.bare(), found)

    def _weight(self, settings: Settings) -> float | None:
        """The weight at which plain CFG is as strong as these settings."""
        known = self.kept.get(settings.bare())
        if known is not None and known.weight is not None:
            return known.weight
        sampled = self._sampled(settings, None, True)
        return None if sampled is None else sampled.weight

    def _sampled(self, settings: Settings, callback, measured: bool) -> Sampled | None:
        """From disk, or of the sampler."""
        model = with_settings(self.scene.models[settings.model], settings)
        sample = partial(measure if measured else _sample, self.scene, model, settings, callback)
        return self.files.sampled(model, settings, measured, sample)

    def _keep(self, settings: Settings, known: Cell) -> None:
        """What memory has is kept on disk too, where it was drawn before the cells had this name."""
        if self.files.folder is not None:
            run = _run_of(settings, known.weight)
            self.files.keep(with_settings(self.scene.models[run.model], run), run, known.sampled)


def _run_of(settings: Settings, weight: float | None) -> Settings:
    """The settings that the sampler is given for a cell. weight: of a plain one, its CFG's."""
    return replace(settings, plain=False, rules=(), cfg=weight) if settings.plain else settings


def measure(scene: Scene, model: ModelPatcher, settings: Settings, callback) -> Sampled:
    """Sampled, with the weight at which plain CFG is as strong. Raises ValueError if no step tells, in words."""
    inspection = Inspection()
    found = _sample(scene, with_inspection(model, inspection), settings, callback)
    weight = inspection.record(0).effective_weight
    if weight is None:
        raise ValueError(
            "equal strength asks for the weight at which plain CFG would go as far, and no step of "
            f"{socket(settings.model)} evaluated both prompts ({'; '.join(settings.components()) or 'no components'}, "
            f"cfg {settings.cfg:g}). It is known where CFG is on: raise cfg, or compare something else."
        )
    return Sampled(found.latents, weight)


def draw(scene: Scene, settings: Settings, callback) -> torch.Tensor:
    """The pictures of one cell, [B, H, W, 3]: what the nodes, KSampler and VAE Decode give with these settings."""
    model = with_settings(scene.models[settings.model], settings)
    return _decoded(scene, _sample(scene, model, settings, callback).latents)


def _sample(scene: Scene, model: ModelPatcher, settings: Settings, callback) -> Sampled:
    """What KSampler gives. model: with the settings."""
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
    return Sampled(samples.unbind()[0] if samples.is_nested else samples)


def _decoded(scene: Scene, latents: torch.Tensor) -> torch.Tensor:
    """Pictures [B, H, W, 3]; frames of videos beside each other."""
    images = scene.vae.decode(latents)
    return images.reshape(-1, *images.shape[-3:])


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

    def __init__(self, grid: Grid, size: int):
        self.grid, self.size = grid, size
        self.steps = sum(settings.steps for settings in grid.to_draw())
        self.bar = comfy.utils.ProgressBar(self.steps)
        self.done = 0
        self.shape: torch.Size | None = None
        self.sheet: Sheet

    def step_of(self, settings: Settings) -> Callable[[int, torch.Tensor, torch.Tensor, int], None]:
        """What the sampler calls at every step of a cell."""

        def step(step: int, denoised: torch.Tensor, x: torch.Tensor, steps: int) -> None:
            comfy.model_management.throw_exception_if_processing_interrupted()
            self.bar.update_absolute(self.done + min(settings.steps, round(settings.steps * (step + 1) / steps)))

        return step

    def finish(self, settings: Settings, pictures: torch.Tensor) -> None:
        """Show the cells of these settings."""
        comfy.model_management.throw_exception_if_processing_interrupted()
        if self.shape is None:
            self.shape, self.sheet = pictures.shape, Sheet(self.grid.words(), pictures.shape, self.size)
        if pictures.shape != self.shape:
            raise ValueError(
                f"{socket(settings.model)} gives pictures of shape {tuple(pictures.shape)}, the MODELs before it "
                f"{tuple(self.shape)} (pictures, height, width, colours). Compare models of one size and one VAE."
            )
        self.done += settings.steps
        for column, row in self.grid.places(settings):
            self.sheet.put(column, row, pictures)
        self.bar.update_absolute(self.done)
        if self.done < self.steps:
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
