"""A guide during one run: prepared as its own model, evaluated as its own model, released in every case.

The host does this for the main model in CFGGuider.sample, outer_sample and inner_sample (comfy/samplers.py); a guide
gets the same with its own options, hooks and conditioning, never the main model's.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import comfy.patcher_extension
import comfy.sampler_helpers
import comfy.samplers
import torch
from comfy.model_patcher import ModelPatcher, create_model_options_clone
from comfy.patcher_extension import WrappersMP

from ...guidance.noise_level import NoiseLevel
from ..common.compatibility import check_batch, check_conditioning
from ..common.keys import KEY
from ..common.noise_levels import carry, same_coordinates
from ..common.step_cache import kept_on, without_step_cache
from ..lora.adapter_switch import AdapterSwitch
from .entries import Change


@dataclass
class GuideModel:
    """One guide of a running plan."""

    name: str
    patcher: ModelPatcher
    raw: dict[str, list[dict]]  # conditioning by name, converted but not encoded; "positive" is what it is asked for
    resident: ModelPatcher | None = None  # whose loaded network it is evaluated over, with its own weights switched on
    toggle: AdapterSwitch | None = None
    options: dict = field(default_factory=dict)
    conds: dict[str, list[dict]] = field(default_factory=dict)
    beside: bool = False  # over the main model's network, and behind the same wrapper of another pack
    main_sampling: Any = None  # the main model's model_sampling: the coordinates in which x and sigma arrive
    changes: Sequence[Change] | None = None  # all that makes it another network than the main one, if that is known
    reads_alike: bool = True  # whether it reads the sampler's prompts as the main network does
    opened: bool = False

    def prepare(self, main: ModelPatcher, main_options: dict, sigmas, noise, latent_image, denoise_mask, seed, shapes):
        """Encode the conditioning with the guide's own network, once per run (networks are loaded by now)."""
        check_conditioning(self.patcher, self.name, self.raw["positive"])
        check_batch(self.patcher, len(noise))
        self.opened = True
        # The host evaluates the positive on the areas of the other prompts too (create_cond_with_same_area_if_none).
        regions = {name: [cond for cond in conds if is_region(cond)] for name, conds in self.raw.items()}
        regions["positive"] = self.raw["positive"]
        conds = {name: [own_control(cond) for cond in found] for name, found in regions.items()}
        self.options = self._options(main_options, conds, sigmas)
        self.toggle = AdapterSwitch(self.resident, self.patcher) if self.resident is not None else None
        device = self.patcher.load_device
        if hasattr(self.patcher.model, "latent_shapes"):  # ComfyUI from 0.33 on, CFGGuider.inner_sample
            self.patcher.model.latent_shapes = shapes
        with self._current(), self._weights():
            self.patcher.pre_run()
            self.conds = comfy.samplers.process_conds(
                self.patcher.model, noise.to(device), conds, device, _to(latent_image, device),
                _to(denoise_mask, device), seed, latent_shapes=shapes,
            )
        self.main_sampling = main.get_model_object("model_sampling")
        wrapper = self.options.get("model_function_wrapper")
        same = wrapper is not None and wrapper is main_options.get("model_function_wrapper")
        self.beside = same and self.patcher.model is main.model

    def follows(self, guider: comfy.samplers.CFGGuider) -> bool:
        """Whether it is asked for the sampler's own prompts."""
        return self.raw is guider.original_conds

    def compare(self, guider: comfy.samplers.CFGGuider) -> None:
        """Find out whether it reads the sampler's prompts as the main network does, whose weights may be others."""
        read = (conds.get("positive", []) for conds in (guider.conds, self.conds))
        self.reads_alike = _equal(*([cond["model_conds"] for cond in conds] for conds in read))

    def _options(self, main_options: dict, conds: dict[str, list[dict]], sigmas) -> dict:
        """The options of the guide's evaluations, with the hooks that its conditioning brings."""
        out = create_model_options_clone(self.patcher.model_options)
        comfy.samplers.preprocess_conds_hooks(conds)
        comfy.sampler_helpers.prepare_model_patcher(self.patcher, conds, out)
        comfy.samplers.filter_registered_hooks_on_conds(conds, out)
        out = without_step_cache(out)
        comfy.samplers.cast_to_load_options(out, device=self.patcher.load_device, dtype=self.patcher.model_dtype())
        out["transformer_options"]["sample_sigmas"] = sigmas
        if "context_handler" in main_options and "context_handler" not in out:
            out["context_handler"] = copy.copy(main_options["context_handler"])
        return out

    def denoised(self, condition: str, x: torch.Tensor, sigma: torch.Tensor, level: NoiseLevel) -> torch.Tensor:
        """The guide's denoised estimate [B, ...] of the main model's x at the main model's sigma [B]."""
        own = self.patcher.get_model_object("model_sampling")
        if not same_coordinates(self.main_sampling, own):
            x, sigma = carry(x, level, self.main_sampling, own)
        self._check_kept()
        device = self.patcher.load_device
        try:
            with self._current(), self._weights():
                (out,) = comfy.samplers.calc_cond_batch(
                    self.patcher.model, [self.conds[condition]], x.to(device), sigma.to(device), self.options
                )
        except KeyError as error:
            if not (others := self._begun_elsewhere()):
                raise
            raise ValueError(
                f"guide_model ({self.name}) carries nodes of another pack ({', '.join(others)}) that keep {error} from "
                f"the beginning of sampling, and a guide is not sampled. Connect guide_model as it was before them; "
                f"the MODEL that is guided may keep them."
            ) from error
        return out.to(x.device)

    def _check_kept(self) -> None:
        """Raise ValueError if a cache that another pack keeps on the network would answer with the main model's."""
        if self.beside and (kept := kept_on(self.patcher.get_model_object("diffusion_model"))):
            raise ValueError(
                f"guide_model ({self.name}) and model are one network, on which another pack's node keeps "
                f"{', '.join(kept)} between evaluations (TeaCache does so): the guide would get the main model's. "
                f"Connect guide_model as it was before that node; the MODEL that is guided may keep it."
            )

    def _begun_elsewhere(self) -> list[str]:
        """The names under which other packs do something at the beginning of sampling, which a guide has none of."""
        wrappers = self.options["transformer_options"].get("wrappers", {}).get(WrappersMP.OUTER_SAMPLE, {})
        return [str(key) for key in wrappers if not str(key).startswith(KEY)]

    def release(self, cleaned: bool) -> None:
        """Undo `prepare`. `cleaned`: the host has finished and has called the patcher's cleanup itself."""
        self.toggle = None
        if not self.opened:
            return
        if not cleaned:
            with self._current():
                self.patcher.cleanup()
        for cond in (cond for conds in self.conds.values() for cond in conds):
            if "control" in cond:
                cond["control"].cleanup()
        comfy.samplers.cast_to_load_options(self.options, device=self.patcher.offload_device)
        self.patcher.restore_hook_patches()

    def _weights(self):
        """While inside, the network has the guide's weights."""
        return self.toggle.on() if self.toggle is not None else nullcontext()

    @contextmanager
    def _current(self):
        """While inside, the network answers as this patcher: it may be shared with the main model."""
        network = self.patcher.model
        before = network.current_patcher
        network.current_patcher = self.patcher
        try:
            yield
        finally:
            network.current_patcher = before


def _equal(first: Any, second: Any) -> bool:
    """Equal nesting with equal tensors; conditions of the host (comfy/conds.py) by what they hold."""
    if isinstance(first, torch.Tensor) and isinstance(second, torch.Tensor):
        return first is second or torch.equal(first, second)
    if isinstance(first, dict) and isinstance(second, dict):
        return first.keys() == second.keys() and all(_equal(first[key], second[key]) for key in first)
    if isinstance(first, (list, tuple)) and isinstance(second, (list, tuple)):
        return len(first) == len(second) and all(map(_equal, first, second))
    return _equal(first.cond, second.cond) if hasattr(first, "cond") and hasattr(second, "cond") else first is second


def is_region(cond: dict) -> bool:
    """Whether a cond has an area, or will get one from its mask."""
    return "area" in cond or cond.get("set_area_to_bounds", False)


def own_control(cond: dict) -> dict:
    """The cond with copies of its ControlNets: a control keeps the state of the model that it was prepared for."""
    if "control" not in cond:
        return cond.copy()
    links, control = [], cond["control"]
    while control is not None:
        links.append(control.copy())
        control = control.previous_controlnet
    for link, previous in zip(links, links[1:], strict=False):
        link.set_previous_controlnet(previous)
    return {**cond, "control": links[0]}


def _to(tensor, device):
    return None if tensor is None else tensor.to(device)
