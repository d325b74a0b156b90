"""The networks of the PPAP study: pictures, the transformer, and banks of experts; each made once, and resumable."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from ppap_transformer import transformer
from ppap_variants import CACHE, PICTURES, SMALL, TRANSFORMER, TRIED, WHOLE, Variant, recipe
from quality import ROOT
from safetensors.torch import load_file, save_file
from sampling import heun, noise_levels
from torch import Tensor, nn
from world import LABELS, render

from guidance_pack.guidance.checkpoints.guide_source import GuideSource
from guidance_pack.guidance.experts.bank import ExpertBank
from guidance_pack.guidance.experts.file import BankFile, read_bank, write_bank
from guidance_pack.guidance.experts.guide import bank_guide, source_sha256
from guidance_pack.guidance.guide import Guide, GuideSpec, with_noise
from guidance_pack.guidance.guides.tiny import TinyFile
from guidance_pack.guidance.networks.tiny.files import build, read_denoiser
from guidance_pack.guidance.networks.tiny.preconditioning import precondition
from guidance_pack.guidance.noise_level import NoiseLevel
from guidance_pack.guidance.noise_schedule import noise_schedule
from guidance_pack.guidance.training.checkpoint import bank_of
from guidance_pack.guidance.training.experts import ExpertsTraining, Pictures

ASSETS = ROOT / "assets"
NULL = len(LABELS)
GENERATED_SEED, RENDERED_SEED, FRESH_SEED = 555, 91_001, 91_002  # of worlds that no other training saw
STEPS = 10  # Heun, for the pictures to learn from
SAVE_SECONDS, TOLD = 60, 200
Denoise = Callable[[Tensor, float, Tensor], Tensor]


def denoiser() -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """The embedded one, a function of (x, sigma, y)."""
    file = read_denoiser(ASSETS / "shapes-edm.safetensors")
    return precondition(build(file), "edm", file.sigma_data)


@torch.no_grad()
def generated(count: int, batch: int = 125) -> Tensor:
    """The first of the pictures that the unconditional denoiser makes, [count, 3, 32, 32]; made once, 8 bits a colour.

    4,000 pictures take 2 minutes on one core.
    """
    path = CACHE / "pictures.safetensors"
    if not path.exists():
        main, made = denoiser(), []

        def unconditional(x: Tensor, sigma: float, y: Tensor) -> Tensor:
            return main(x, torch.full((len(x),), sigma), y)

        nothing = torch.full((batch,), NULL)
        for number in range(PICTURES // batch):
            generator = torch.Generator().manual_seed(GENERATED_SEED * PICTURES + number)
            noise = torch.randn(batch, 3, 32, 32, generator=generator)
            images = heun(unconditional, noise, nothing, noise_levels("edm", STEPS))
            made.append(((images.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8))
            print(f"pictures: {(number + 1) * batch} of {PICTURES}", flush=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({"pictures": torch.cat(made)}, path)
    return load_file(path)["pictures"][:count].float() / 127.5 - 1


def pictures(variant: Variant) -> Pictures:
    """What its experts learn from."""
    if variant.rendered:
        world = render(variant.count, RENDERED_SEED)
        return lambda rows: (world.images[rows], world.labels[rows])
    images = generated(variant.count)
    return lambda rows: (images[rows], None)


@dataclass(frozen=True)
class Base:
    """A clean network, what it says of itself, and the fingerprint of its file."""

    network: nn.Module
    spec: GuideSpec
    sha256: str


def base(name: str) -> Base:
    """A new copy of the clean network."""
    if name == TRANSFORMER:
        source, network, spec = transformer()
    else:
        source = GuideSource(ASSETS / f"{name}.safetensors")
        network, spec = TinyFile().load(source)
    return Base(network, spec, source_sha256(source))


def guide_of(variant: Variant) -> tuple[nn.Module, Guide]:
    """The variant's network and guide, trained if it was not yet."""
    clean = base(variant.base)
    if variant.recipe is None:
        return clean.network, Guide((clean.spec,))
    file = experts_of(variant)
    return bank_guide(file, clean.network, clean.spec, clean.sha256, copies)


def copies(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in tensors.items()}


def experts_of(variant: Variant) -> BankFile:
    """Its experts: read, or trained from where a training was stopped."""
    path = CACHE / "banks" / f"{variant.name}.safetensors"
    wanted = facts(variant)
    if path.exists():
        found = read_bank(path)
        if {key: found.training.get(key) for key in wanted} == wanted:
            return found
    path.parent.mkdir(parents=True, exist_ok=True)
    clean = base(variant.base)
    training = ExpertsTraining(clean.network, clean.spec, variant.recipe)
    seconds = follow(variant, training)
    of_base = {"base": variant.base, "base_sha256": clean.sha256}
    file = bank_of(training, variant.name, {**of_base, "pictures": wanted["pictures"]}, {})
    more = {**wanted, "seconds": round(seconds)}
    write_bank(path, BankFile(file.name, file.header, file.adapters, {**file.training, **more}))
    return read_bank(path)


def facts(variant: Variant) -> dict:
    """What a cached bank must say of itself, as JSON gives it back."""
    made = f"rendered, seed {RENDERED_SEED}" if variant.rendered else f"unconditional shapes-edm, Heun, {STEPS} steps"
    known = {"recipe": variant.recipe.as_dict(), "pictures": {"count": variant.count, "made": made}}
    return json.loads(json.dumps(known))


def follow(variant: Variant, training: ExpertsTraining) -> float:
    """Train to the end, saving what is needed to go on; returns the seconds that this took since the last stop."""
    waiting = CACHE / "banks" / f"{variant.name}.{recipe_key(variant)}.training"
    if waiting.exists():
        training.restore(load_file(waiting))
    started = saved = time.monotonic()
    for report in training.steps(pictures(variant), variant.count):
        if report.step % TOLD == 0 or report.step == training.recipe.steps:
            recent = sum(training.losses[-100:]) / len(training.losses[-100:])
            print(
                f"{variant.name}: expert {report.expert + 1} of {training.recipe.experts}, step {report.step}, "
                f"loss {recent:.3f}, {time.monotonic() - started:.0f} s", flush=True,
            )
        if time.monotonic() - saved > SAVE_SECONDS:
            save_file({name: t.contiguous() for name, t in training.tensors().items()}, waiting)
            saved = time.monotonic()
    waiting.unlink(missing_ok=True)
    return time.monotonic() - started


def recipe_key(variant: Variant) -> str:
    """Short and different for different trainings, so that a stopped one is never continued as another."""
    return hashlib.sha256(json.dumps(facts(variant), sort_keys=True).encode()).hexdigest()[:8]


@torch.no_grad()
def calibrations(network: nn.Module, guide: Guide, schedule: str = "cosine", bins: int = 10) -> list[float]:
    """Share of 1,000 fresh rendered pictures named correctly, for each tenth of the schedule, from clean to noise."""
    fresh = render(1000, FRESH_SEED)
    generator = torch.Generator().manual_seed(FRESH_SEED)
    sigmas, shares = noise_schedule(schedule).sigmas, []
    width = len(sigmas) // bins
    for number in range(bins):
        rows = torch.randint(number * width, (number + 1) * width, (len(fresh.labels),), generator=generator)
        level = NoiseLevel.variance_exploding(sigmas[rows])
        seen = with_noise(fresh.images, torch.randn(fresh.images.shape, generator=generator), level)
        charge = guide.experts.gate_weights(level).argmax(1)
        right = 0
        for expert in charge.unique().tolist():
            mine = charge == expert
            at_work = network.use(expert) if isinstance(network, ExpertBank) else network
            found = guide.members[expert].output(at_work, seen[mine], level[mine]).argmax(1)
            right += int((found == fresh.labels[mine]).sum())
        shares.append(right / len(fresh.labels))
    return shares


def try_rates(which: str) -> None:
    """Print what a single network reads of noisy pictures after as many steps as each of five experts takes, for whole
    networks and LoRA at each rate."""
    for efficient, rates in TRIED.items():
        for rate in rates:
            usual = recipe(which, 5, SMALL if efficient else WHOLE)
            short = replace(usual, experts=1, iterations=usual.steps, learning_rate=rate)
            kind = "lora" if efficient else "whole"
            variant = Variant(f"rate-{which}-{kind}-{rate:g}", "", which, short)
            shares = calibrations(*guide_of(variant))
            told = " ".join(f"{share:.2f}" for share in shares)
            print(f"rate {rate:g}, {kind}: {sum(shares) / len(shares):.4f} right; {told}", flush=True)
            _remember(which, kind, rate, sum(shares) / len(shares))


def _remember(which: str, kind: str, rate: float, right: float) -> None:
    path = CACHE / "rates.json"
    tried = json.loads(path.read_text("utf-8")) if path.exists() else {}
    tried.setdefault(f"{which}, {kind}", {})[f"{rate:g}"] = round(right, 4)
    path.write_text(json.dumps(tried), "utf-8")
