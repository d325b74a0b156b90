"""What a run gives to rules that ask for gradients: guides, decoders and the denoiser, inside the scope of autograd."""

from __future__ import annotations

from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field

import comfy.model_management
import comfy.samplers
import torch
from comfy.latent_formats import LatentFormat
from comfy.model_patcher import ModelPatcher
from comfy.samplers import CFGGuider

from ...guidance.objective import Objective
from ..common.autograd import Aliases, check_resident, differentiable_options, scope
from ..common.decoders import VAE, copy_format, latents_of, size_of
from ..models.guides import network_of
from .plan import GradientRequest, plan_of
from .recompute import recomputed
from .targets import resolve_target

THROUGH = "through denoiser"
SMALLER = {
    "guide": "Use a smaller guide, or a smaller picture.",
    "vae": "Choose decoder = linear rgb, or connect a tiny autoencoder (Load VAE: taesd).",
    "model": "Choose at = denoised, which needs no gradient of the model.",
}


@dataclass
class Gradients:
    """The gradients of one run: prepared when all networks are on their devices, dropped when the run closes."""

    requests: dict[Objective, GradientRequest]
    networks: dict[str, list[ModelPatcher]]  # guides and VAEs by the key under which the MODEL holds them
    aliases: dict[Objective, Aliases] = field(default_factory=dict)
    targets: dict[Objective, torch.Tensor | None] = field(default_factory=dict)
    latents: LatentFormat = field(default_factory=LatentFormat)  # the model's own, once it is prepared
    short: bool = False  # whether memory is, so that the model's blocks are evaluated again in the backward

    @property
    def through(self) -> bool:
        """Whether a gradient passes through the main model."""
        return any(objective.at == THROUGH for objective in self.requests)

    def load(self) -> None:
        """Bring guides and decoders to their devices entirely, before the host shares out what memory is left."""
        patchers = [patcher for held in self.networks.values() for patcher in held]
        comfy.model_management.load_models_gpu(patchers, force_full_load=True)

    def prepare(self, guider: CFGGuider, shape: tuple[int, ...]) -> None:
        """Check that every network is there, and settle the targets. shape: of the latents, [B, C, ...].

        Raises:
            ValueError: a network that does not fit in memory, a target of another size than the picture.
        """
        with torch.inference_mode(False):
            self.latents = copy_format(latents_of(guider.model_patcher))
        for objective, request in self.requests.items():
            self._check(request, guider)
            self.targets[objective] = self._target(request, shape)
            roots = [patcher.model for patcher in self._patchers(request)]
            if objective.at == THROUGH:
                roots += [guider.inner_model, *(patcher.model for patcher in guider.loaded_models)]
            self.aliases[objective] = Aliases(*roots)

    def release(self) -> None:
        """Let go of every tensor and network."""
        self.aliases.clear()
        self.targets.clear()

    def decoder(self, request: GradientRequest) -> ModelPatcher | None:
        """The VAE's patcher, where this gradient passes through one."""
        return self.networks[request.decoder.key][0] if request.decoder.kind == VAE else None

    def guide(self, request: GradientRequest) -> list[ModelPatcher]:
        """The patchers of the guide's members; none without a guide."""
        return self.networks[request.key] if request.key else []

    def _patchers(self, request: GradientRequest) -> list[ModelPatcher]:
        vae = self.decoder(request)
        return [*self.guide(request), *([vae] if vae else [])]

    def _check(self, request: GradientRequest, guider: CFGGuider) -> None:
        for patcher in self.guide(request):
            check_resident(patcher, "The guide", SMALLER["guide"])
        vae = self.decoder(request)
        if vae is not None:
            check_resident(vae, "The VAE", SMALLER["vae"])
        if request.objective.at == THROUGH:
            check_resident(guider.model_patcher, "The model", SMALLER["model"])

    def _target(self, request: GradientRequest, shape: tuple[int, ...]) -> torch.Tensor | None:
        guide = request.objective.guide
        with torch.inference_mode(False):
            decoded = (0, 0)
            if request.target.spatial:
                request.target.check_size(size_of(self.latents, shape))
                decoded = self._decoded_size(request, shape)
            patchers = self.guide(request)
            return resolve_target(request.target, guide, patchers[0] if patchers else None, decoded)

    def _decoded_size(self, request: GradientRequest, shape: tuple[int, ...]) -> tuple[int, int]:
        if request.decoder.kind == VAE:
            return size_of(self.latents, shape)
        height, width = request.decoder.picture(torch.zeros(1, *shape[1:]), self.latents, None).shape[-2:]
        return height, width


@dataclass
class StepGradientContext:
    """One step's view of the run: implements `guidance.objective.GradientContext`."""

    gradients: Gradients
    guider: CFGGuider
    sigma: torch.Tensor  # [B] the model's own
    options: dict

    @contextmanager
    def scope(self, objective: Objective):
        comfy.model_management.throw_exception_if_processing_interrupted()
        with scope(self.gradients.aliases[objective], denoiser=objective.at == THROUGH):
            yield

    def target(self, objective: Objective) -> torch.Tensor | None:
        return self.gradients.targets[objective]

    def picture(self, denoised: torch.Tensor, objective: Objective) -> torch.Tensor:
        if objective.guide is not None and objective.guide.first.domain == "latent":
            return denoised
        request = self.gradients.requests[objective]
        vae = self.gradients.decoder(request)
        if vae is None:
            return request.decoder.picture(denoised, self.gradients.latents, None)
        seen = request.decoder.picture(denoised.to(vae.load_device), self.gradients.latents, vae.model)
        return seen.to(denoised.device)

    def denoise(self, x: torch.Tensor) -> torch.Tensor:
        options = differentiable_options(self.options)
        conds = [self.guider.conds["positive"]]
        network = self.guider.inner_model
        with recomputed(network.diffusion_model) if self.gradients.short else nullcontext():
            (out,) = comfy.samplers.calc_cond_batch(network, conds, x, self.sigma.clone(), options)
        return out

    def network(self, objective: Objective, member: int):
        patchers = self.gradients.guide(self.gradients.requests[objective])
        one = len(patchers) == 1  # one network, or one bank with all experts
        return network_of(patchers[0 if one else member], member if one else 0)


def gradients_of(model: ModelPatcher) -> Gradients | None:
    """The gradients that a MODEL's plan asks for, with the networks that this MODEL (perhaps a clone) holds."""
    plan = plan_of(model)
    if not plan.gradients:
        return None
    keys = {key for request in plan.gradients for key in (request.key, request.decoder.key) if key}
    networks = {key: model.get_additional_models_with_key(key) for key in sorted(keys)}
    return Gradients({request.objective: request for request in plan.gradients}, networks)
