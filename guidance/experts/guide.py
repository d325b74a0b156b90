"""An expert bank and its base as one guide."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ..checkpoints.guide_source import GuideSource
from ..checkpoints.state_dicts import sha256_of
from ..checkpoints.weights import misfit, shapes_of
from ..checkpoints.words import shown
from ..guide import Guide, GuideSpec
from ..networks.tiny.files import NetworkFileError
from ..networks.tiny.latent_head import LatentHead
from ..noise_schedule import noise_schedule
from ..routing import Experts
from .bank import ExpertBank, adapter_names, adapter_tensors, adapters_of, problems, tensors_named
from .file import BankFile

Keep = Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]]


def bank_guide(file: BankFile, base: nn.Module, spec: GuideSpec, sha256: str, keep: Keep) -> tuple[ExpertBank, Guide]:
    """The bank over its base, and what the experts say of themselves: noise-aware, taking turns at the bank's edges.

    Args:
        base: becomes part of the bank.
        spec, sha256: what the base says of itself, and its fingerprint.
        keep: copies tensors to where they stay: the experts' own, and for changing back the base's that they change.

    Raises:
        NetworkFileError: the base is not the network that the bank was trained on, in words.
    """
    header = file.header
    if sha256 != header.base_sha256:
        raise NetworkFileError(
            f"{file.name} was trained on another {shown(header.base)}: its sha256 begins with "
            f"{shown(header.base_sha256[:12])}, that of the one here with {sha256[:12]}. Put that network in its "
            f"place, or train the bank again."
        )
    if (spec.task, spec.labels) != (header.task, header.labels):
        raise NetworkFileError(
            f"{file.name} is for {shown(header.task)} with {len(header.labels)} labels; its base {spec.name} does "
            f"{spec.task} with {len(spec.labels)}, or with other names."
        )
    wrong = problems(base, file.adapters)
    if wrong:
        more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
        raise NetworkFileError(f"{file.name} does not fit its base {spec.name}: it {wrong[0]}{more}.")
    originals = keep(tensors_named(base, adapter_names(file.adapters)))
    adapters = adapters_of(keep(adapter_tensors(file.adapters)), header.count, header.scale)
    return ExpertBank(base, adapters, originals).eval(), _guide(file, spec)


def new_head(channels: int, task: str, outputs: int, seed: int) -> LatentHead:
    """What experts that look at latents begin as: a small network with weights drawn by the seed."""
    head = LatentHead(channels, task, outputs)
    head.initialise(seed)
    return head.eval()


def latent_base(file: BankFile) -> tuple[nn.Module, GuideSpec]:
    """The network of experts that look at latents, with the first of them in it, and what it says of itself.

    Raises:
        NetworkFileError: a header that cannot be right, or tensors that are not those of its head, in words.
    """
    header = file.header
    try:
        with torch.device("meta"):  # nothing is allocated for a network that the file does not hold
            head = LatentHead(**(header.head or {}))
        if head.settings["task"] != header.task:
            raise ValueError("its head has another task")
        task: Any = header.task
        spec = GuideSpec(header.base, task, domain="latent", labels=header.labels, latents=header.latents)
    except (TypeError, ValueError) as error:  # arguments that are missing, unknown or of another kind
        words = shown(str(error), 200)
        raise NetworkFileError(f"{file.name}: its header cannot be right ({words}); get the file again.") from None
    own = shapes_of(head.state_dict())
    wrong = next((problem for adapter in file.adapters if (problem := misfit(own, shapes_of(adapter.whole)))), "")
    if wrong or any(adapter.low_rank for adapter in file.adapters):
        raise NetworkFileError(f"{file.name} does not fit its own head: {wrong or 'it has LoRA'}. Get the file again.")
    weights = {name: tensor.to(torch.float32, copy=True) for name, tensor in file.adapters[0].whole.items()}
    head.load_state_dict(weights, assign=True)
    return head.eval().requires_grad_(False), spec


def source_sha256(source: GuideSource) -> str:
    """The sha256 of a guide's tensors as they lie on disk: of the one file; of several, and
    of those of its backbone, of their names and sha256s."""
    files = [*source.files, *(source.backbone.files if source.backbone else ())]
    sums = [(path.name, sha256_of(path)) for path in files]
    if len(sums) == 1:
        return sums[0][1]
    return hashlib.sha256("".join(f"{name} {digest}\n" for name, digest in sums).encode()).hexdigest()


def _guide(file: BankFile, spec: GuideSpec) -> Guide:
    header = file.header
    try:
        schedule, experts = noise_schedule(header.schedule), Experts(header.sigmas)
    except ValueError as error:
        raise NetworkFileError(f"{file.name}: its header cannot be right. {shown(str(error), 200)}") from None
    member = replace(spec, name=file.name, sees="noisy", schedule=schedule, preprocessing=header.preprocessing)
    return Guide((member,) * header.count, experts)
