"""Train Guidance: pictures and prompts as lessons for the weights of a MODEL's guidance, and the training itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import monotonic
from typing import Any

import comfy.model_management
import comfy.utils
import folder_paths
import torch
from comfy.model_patcher import ModelPatcher
from PIL import Image

from ...guidance.asked import Asked
from ...guidance.branch import Branch
from ...guidance.learned import MOST_SHOWN, LearnedWeights, WeightNetwork
from ...guidance.noise_level import NoiseLevel
from ...guidance.training.distillation import distillation_loss
from ...guidance.training.matching import OBJECTIVES as _OBJECTIVES
from ...guidance.training.matching import Lessons, WeightRecipe
from ...guidance.training.weights import WeightsFiles, WeightsTraining, facts_of_weights
from ..common.compatibility import describe
from ..common.decoders import LINEAR, copy_format, decoder_for, latents_of
from ..common.labels import class_conditioning
from ..common.noise_levels import convertible, level_of
from ..common.unfinished import show_unfinished
from ..engine.listen import BranchEvaluator
from ..engine.plan import plan_of
from ..engine.prompts import asked_in
from ..models.guidance_weights import FOLDER, weights_name_problem, weights_path
from ..models.guides import LoadedGuide, build, source_of
from ..report.identity import digest, facts_of_model
from ..report.plot import draw_curves
from ..report.report import Series
from .dataset import PictureFolder
from .keeping import kept
from .loss_weighting import trained_levels
from .source import DEALT, PictureSource, deal
from .train import page_of

OBJECTIVES: list[str] = [*_OBJECTIVES]
CURVE_SECONDS = 2.0
SHOWN = 100  # noise levels of a curve
MOST_SINGLE = 2  # classes with a line of their own
OnStep = Callable[[WeightsTraining, float], None]


@dataclass(frozen=True, eq=False)
class WeightsRequest:
    """What weights are to be learned for.

    Attributes:
        positive, negative, vae: as Make Pictures takes them. positive may be left open where the folders of pictures
            are named as the model's classes.
        name: of the file in models/guidance_weights, without its ending.
        guide_model, guide_positive: a weaker network whose weight is learned too.
        reward: a guide whose opinion counts too.
        workflow: the page's "workflow" and "prompt" as JSON, kept in the file.
    """

    model: ModelPatcher
    pictures: PictureFolder
    name: str
    recipe: WeightRecipe
    positive: list | None = None
    negative: list | None = None
    vae: Any = None
    guide_model: ModelPatcher | None = None
    guide_positive: list | None = None
    reward: LoadedGuide | None = None
    workflow: Mapping[str, str] = field(default_factory=dict)


def train_weights(request: WeightsRequest, watch: OnStep) -> LearnedWeights:
    """Train, from where it was stopped, and save. watch: called after every step; it may raise to stop.

    Raises:
        ValueError: what cannot be learned, in words, before the first evaluation.
        OSError: the file cannot be written; the training waits to be taken up again.
    """
    source = _source(request)
    reward = None if request.reward is None or not request.recipe.reward else Reward(request.model, request.reward)
    files = WeightsFiles(weights_path(request.name), waiting_path(request.name), _facts(request, source),
                         f"in models/{FOLDER}")  # fmt: skip
    found = files.finished()
    if found is None:
        with files.reserved():
            found = files.finished() or _train(request, source, reward, files, watch)  # another may have been faster
    return found


def _train(
    request: WeightsRequest, source: PictureSource, reward: Reward | None, files: WeightsFiles, watch: OnStep
) -> LearnedWeights:
    with torch.inference_mode(False), torch.enable_grad():
        training = WeightsTraining(request.recipe, HostedLessons(request, source, reward).lessons())
        files.resume(training)
        with kept(training, files) as keep:
            for loss in training.steps():
                watch(training, loss)
                comfy.model_management.throw_exception_if_processing_interrupted()
                keep()
            return files.finish(training, request.workflow)


class HostedLessons:
    """Pictures as latents, and what the MODEL makes of them with noise."""

    def __init__(self, request: WeightsRequest, source: PictureSource, reward: Reward | None) -> None:
        self.source, self.request, self.reward = source, request, reward
        self._evaluate = BranchEvaluator(request.model, request.guide_model, request.guide_positive)
        self._known: dict[int, tuple[torch.Tensor, int]] = {}  # latent, and its row among the prompts

    def lessons(self) -> Lessons:
        levels = trained_levels(self.request.model.get_model_object("model_sampling"))
        reads = reading_of(self.request.model, self.source) if self.request.recipe.by_prompt else {}
        return Lessons(levels, len(self.request.pictures), self.pictures, self.predict, self._evaluate.guide,
                       self.reward, self.asked, reads)  # fmt: skip

    def asked(self, rows: torch.Tensor) -> Asked:
        """What pictures [N] are asked to be."""
        classes = self.request.pictures.classes(rows)
        places = rows if classes is None else classes
        ((_, entry),) = deal(self.source.positive, places.tolist())
        return asked_in(entry).over(len(rows))

    def pictures(self, rows: torch.Tensor) -> torch.Tensor:
        """Rows [N] -> latents [N, C, h, w] as the network sees them, on the CPU."""
        missing = sorted({int(row) for row in rows} - self._known.keys())
        if missing:
            shown, classes = self.request.pictures.batch(missing)
            with torch.inference_mode():
                encoded = self.source.vae.encode(((shown + 1.0) / 2.0).movedim(1, -1))
                latents = self.request.model.model.process_latent_in(encoded)
            places = missing if classes is None else classes.tolist()
            self._known |= {
                row: (latent.float().cpu().clone(), place)
                for row, latent, place in zip(missing, latents, places, strict=True)
            }
        return torch.stack([self._known[int(row)][0] for row in rows])

    def predict(self, rows: torch.Tensor, x: torch.Tensor, level: NoiseLevel) -> dict[Branch, torch.Tensor]:
        """The estimates of both prompts, and of the weaker network, each row with its own prompt."""
        places = [self._known[int(row)][1] for row in rows]
        return self._evaluate(x, level, deal(self.source.positive, places), deal(self.source.negative, places))


def reading_of(model: ModelPatcher, source: PictureSource) -> dict[str, Any]:
    """What weights can read of the prompts, as `WeightNetwork` is built. Raises ValueError for nothing, in words."""
    if len(source.positive) != 1:
        raise ValueError(
            f"by_prompt is on, and positive is a combination of {len(source.positive)} prompts. Connect one prompt, "
            f"or several as one (Class Label), or switch by_prompt off."
        )
    asked, labels = asked_in(source.positive[0][1]), getattr(model.model, "labels", None)
    if labels and asked.classes is not None:
        return {"classes": list(labels)}
    if asked.pooled is None or labels is not None:
        raise ValueError(
            f"by_prompt is on, and the prompt of {describe(model)} has no class and no pooled vector that weights "
            f"could read. Switch by_prompt off."
        )
    return {"pooled": asked.pooled.shape[1]}


class Reward:
    """What a guide thinks of the guided estimate: how far that is from what it thinks of the picture itself.

    Raises:
        ValueError: a guide that cannot look at clean pictures of this MODEL, in words.
    """

    def __init__(self, model: ModelPatcher, guide: LoadedGuide) -> None:
        spec = guide.guide.first
        if guide.guide.sees_noise or spec.domain != "pixels" or len(guide.guide.members) > 1:
            raise ValueError(
                f"{guide.guide.name} looks at noise or latents; the reward is asked about clean pictures. Connect a "
                f"guide of clean pictures (Load Guide), or leave reward_guide open."
            )
        self.decoder, self.spec = decoder_for(model, LINEAR, None), spec
        with torch.inference_mode(False):
            self.network = build(source_of(spec.name))[0].requires_grad_(False)
            self.format = copy_format(latents_of(model))
        self.loss = distillation_loss("task", spec.task, 1.0)

    def __call__(self, guided: torch.Tensor, clean: torch.Tensor) -> torch.Tensor:
        """[N]"""
        device = comfy.model_management.get_torch_device()
        self.network.to(device)
        with torch.no_grad():
            wanted = self._opinion(clean.to(device))
        return self.loss(self._opinion(guided.to(device)), wanted).to(guided)

    def _opinion(self, denoised: torch.Tensor) -> torch.Tensor:
        picture = self.decoder.picture(denoised, self.format, None)
        return self.network(self.spec.prepare(picture), None).float()


class WeightsProgress:
    """Shows how a training goes: called after every step."""

    def __init__(self, request: WeightsRequest) -> None:
        self.model = request.model
        self.bar = comfy.utils.ProgressBar(request.recipe.iterations)
        self.shown_at = monotonic()

    def __call__(self, training: WeightsTraining, loss: float) -> None:
        if monotonic() - self.shown_at > CURVE_SECONDS:
            self.shown_at = monotonic()
            picture = weights_plot(self.model, training.settle())
            show_unfinished(Image.fromarray((picture[0] * 255).round().to(torch.uint8).numpy()))
        self.bar.update_absolute(len(training.losses))


def weights_plot(model: ModelPatcher, weights: LearnedWeights) -> torch.Tensor:
    """The weights over the model's noise, at the gaps that were usual, beside their constants: an IMAGE."""
    sampling: Any = model.get_model_object("model_sampling")
    sigmas = [float(sampling.percent_to_sigma((i + 0.5) / SHOWN)) for i in range(SHOWN)]
    level = level_of(sampling, torch.tensor(sigmas, dtype=torch.float64))
    networks = {"CFG": weights.cfg, "autoguidance": weights.autoguidance}
    series = [
        line for name, network in networks.items() if network is not None
        for line in (
            Series(f"{name}, {_kind(network)}", tuple(network.usual(level).tolist())),
            Series(f"{name}, constant", (network.constant,) * SHOWN),
        )
    ]  # fmt: skip
    if weights.autoguidance is None:  # else there are lines enough
        named = enumerate(weights.cfg.classes[:MOST_SINGLE]) if len(weights.cfg.classes) <= MOST_SHOWN else ()
        series += [Series(name[:16], tuple(weights.cfg.usual(level, place).tolist())) for place, name in named]
    return draw_curves(tuple(series), tuple(sigmas), "weight, 1 = off")


def _kind(network: WeightNetwork) -> str:
    """Whose weights its line shows."""
    if not network.reading:
        return "learned"
    return "class mean" if network.classes else "prompt mean"


def run_training(request: WeightsRequest, workflow: Any, prompt: Any) -> LearnedWeights:
    """Train with progress on the page. workflow, prompt: of the page, kept in the file."""
    request = replace(request, workflow=page_of(workflow, prompt))
    return train_weights(request, WeightsProgress(request))


def recipe_of_weights(settings: Mapping[str, Any], with_guide: bool) -> WeightRecipe:
    """The recipe that the node's widgets describe. Raises ValueError for what cannot be, in words."""
    given = dict(settings)
    batch, constant, guide_constant = (given.pop(key) for key in ("batch_size", "weight", "guide_weight"))
    return WeightRecipe(
        **given, batch=batch, constant=constant, guide_constant=guide_constant if with_guide else None
    )  # fmt: skip


def training_problem(name: str | None, particles: int | None, objective: Any) -> str | None:
    """What is wrong with the widgets, in words; None if nothing is, or if a value is linked and not known yet."""
    if name is not None and (problem := weights_name_problem(name)):
        return problem
    if particles is not None and objective is not None:
        try:
            WeightRecipe(particles=particles, objective=objective)
        except ValueError as error:
            return str(error)
    return None


def waiting_path(name: str) -> Path:
    """Where a stopped training of this name waits."""
    return Path(folder_paths.get_output_directory()) / "guidance" / "unfinished weights" / f"{name}.safetensors"


def _source(request: WeightsRequest) -> PictureSource:
    """The MODEL with its prompts and its VAE. Raises ValueError where they do not go together, in words."""
    model = request.model
    sampling: Any = model.get_model_object("model_sampling")
    if plan_of(model).guidance.rules:
        raise ValueError(
            "This MODEL carries guidance components already, and the weights are to be learned for the bare model. "
            "Connect the MODEL as it was before them; a weaker network for autoguidance goes to guide_model."
        )
    if not convertible(sampling):
        raise ValueError(
            "This model's noisy input is not a picture plus noise, so there is no noise level that weights could "
            "depend on. Use CFG Combine with a schedule instead."
        )
    positive = request.positive
    if not positive and getattr(model.model, "labels", None) is not None:
        if not request.pictures.labels:
            raise ValueError(
                f"positive is not connected, and the pictures lie in no folders of classes, so {describe(model)} "
                f"would be asked for nothing twice. Connect Class Label with the classes in the pictures' order, or "
                f"give every class a folder of its name."
            )
        positive = class_conditioning(model, ", ".join(request.pictures.labels))
    elif positive:
        _check_rows(positive, request.pictures)
    sigmas = torch.stack([sampling.sigma_max, sampling.sigma_min]).float()
    source = PictureSource.of(model, positive, request.negative, request.vae, request.pictures.size, sigmas, 2.0)
    if request.recipe.by_prompt:
        reading_of(model, source)
    return source


def _check_rows(positive: list, pictures: PictureFolder) -> None:
    """Raise ValueError where several prompts are given for folders of classes, and not one for each."""
    dealt = [value for _, more in positive for key, value in more.items() if key in DEALT and value is not None]
    rows = max(map(len, dealt), default=1)
    if pictures.labels and rows not in (1, len(pictures.labels)):
        raise ValueError(
            f"positive holds {rows} prompts, and the pictures lie in {len(pictures.labels)} folders of classes "
            f"({', '.join(pictures.labels[:4])}, ...). Give one for each folder in this order, one for all, or none."
        )


def _facts(request: WeightsRequest, source: PictureSource) -> dict[str, Any]:
    """What decides the outcome."""
    pause = comfy.model_management.throw_exception_if_processing_interrupted
    more: dict[str, Any] = {}
    if request.guide_model is not None:
        more["guide"] = digest([facts_of_model(request.guide_model), request.guide_positive])
    if request.reward is not None and request.recipe.reward:
        more["reward"] = request.reward.guide.name
    return facts_of_weights(
        request.recipe, source.facts, request.pictures.take_sha256(pause), len(request.pictures), **more
    )
