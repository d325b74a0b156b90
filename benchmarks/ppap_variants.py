"""What the PPAP study compares: each network by name, and what decides its training."""

from __future__ import annotations

from dataclasses import dataclass, replace

from quality import ROOT

from guidance_pack.guidance.training.lora_targets import Adaptation
from guidance_pack.guidance.training.recipe import ExpertRecipe

CACHE = ROOT / ".cache" / "study"
CONVOLUTION, TRANSFORMER = "shapes-classifier", "transformer"
MAPS = ("depth", "segmentation")
# In all, whatever the number of experts. Steps of the transformer and of the networks of maps take twice as long.
ITERATIONS = {CONVOLUTION: 1500, TRANSFORMER: 1000, "shapes-depth": 1000, "shapes-segmentation": 1000}
PICTURES = 4000
# Rank 4 gives the paper's share of own parameters, 5 % per expert (ResNet-50: 5.7 %); its rank 16 here gives 20 %.
SMALL, LARGE, WHOLE = Adaptation(rank=4, alpha=4), Adaptation(rank=16, alpha=16), Adaptation(efficient=False)
# Of the rates that `ppap.py --rates` tried, for LoRA and for whole networks.
RATES = {(CONVOLUTION, True): 5e-3, (CONVOLUTION, False): 2e-3, (TRANSFORMER, True): 2e-3, (TRANSFORMER, False): 5e-4}
TRIED = {False: (5e-4, 2e-3), True: (2e-3, 5e-3)}


@dataclass(frozen=True)
class Variant:
    """One guide of the study.

    Attributes:
        name: on the command line and of its files.
        title: in tables.
        base: the clean network: the name of an asset, or "transformer", which the study trains itself.
        recipe: how its experts are trained; None for the clean network as it is.
        count: how many pictures they learn from.
    """

    name: str
    title: str
    base: str
    recipe: ExpertRecipe | None = None
    count: int = PICTURES

    @property
    def rendered(self) -> bool:
        """Whether the pictures are the renderer's, with labels; otherwise the denoiser made them."""
        return self.recipe is not None and self.recipe.learn_from == "labels"


def recipe(base: str, experts: int, adaptation: Adaptation = SMALL, labels: bool = False) -> ExpertRecipe:
    """The study's recipe: the same number of iterations in all, whatever the number of experts."""
    kind = CONVOLUTION if base != TRANSFORMER else TRANSFORMER
    return ExpertRecipe(
        experts, ITERATIONS[base], batch=32, learning_rate=RATES[kind, adaptation.efficient],
        learn_from="labels" if labels else "task", schedule="cosine", adaptation=adaptation,
    )


def _convolution() -> list[Variant]:
    base = CONVOLUTION
    five, labelled = recipe(base, 5), recipe(base, 5, WHOLE, labels=True)
    return [
        Variant("naive", "naive off-the-shelf", base),
        Variant("single", "single, transfer (PPAP-1), rank 16", base, recipe(base, 1, LARGE)),
        Variant("ppap-5", "PPAP-5", base, five),
        Variant("multi-5", "multi-experts-5, labels, whole networks", base, labelled),
        Variant("single-labels", "single, labels, whole network", base, recipe(base, 1, WHOLE, labels=True)),
        Variant("ppap-2", "PPAP-2", base, recipe(base, 2)),
        Variant("ppap-8", "PPAP-8", base, recipe(base, 8)),
        Variant("multi-5-lora", "multi-experts-5, labels", base, recipe(base, 5, labels=True)),
        Variant("ppap-5-whole", "PPAP-5, whole networks", base, recipe(base, 5, WHOLE)),
        Variant("ppap-5-tenth", f"PPAP-5, {PICTURES // 10} pictures", base, five, PICTURES // 10),
        Variant("ppap-5-cold", "PPAP-5, each from the clean network, rank 16", base,
                replace(recipe(base, 5, LARGE), warm_start=False)),
        Variant("multi-5-cold", "multi-experts-5, labels, each from the clean network", base,
                replace(labelled, warm_start=False)),
    ]  # fmt: skip


def _transformer() -> list[Variant]:
    base = TRANSFORMER
    return [
        Variant("vit-naive", "naive off-the-shelf", base),
        Variant("vit-single-labels", "single, labels, whole network", base, recipe(base, 1, WHOLE, labels=True)),
        Variant("vit-ppap-5", "PPAP-5", base, recipe(base, 5)),
        Variant("vit-multi-5", "multi-experts-5, labels, whole networks", base, recipe(base, 5, WHOLE, labels=True)),
    ]


def _maps(task: str) -> list[Variant]:
    base = f"shapes-{task}"
    return [
        Variant(f"{task}-naive", "naive off-the-shelf", base),
        Variant(f"{task}-single", "single, transfer (PPAP-1)", base, recipe(base, 1)),
        Variant(f"{task}-ppap-5", "PPAP-5", base, recipe(base, 5)),
        Variant(f"{task}-ppap-5-mse", "PPAP-5, plain squared error", base, replace(recipe(base, 5), learn_from="mse")),
    ]


def again(variant: Variant, seed: int) -> Variant:
    """The same training with another seed."""
    assert variant.recipe, "a clean network is not trained here"
    words = f"{variant.title}, training seed {seed}"
    return replace(variant, name=f"{variant.name}-seed-{seed}", title=words, recipe=replace(variant.recipe, seed=seed))


CLASSIFIERS = {CONVOLUTION: _convolution(), TRANSFORMER: _transformer()}
CLASSIFIERS[CONVOLUTION] += [again(v, 1) for v in CLASSIFIERS[CONVOLUTION] if v.name in ("ppap-5", "single", "multi-5")]
MAP_GUIDES = {task: _maps(task) for task in MAPS}
GROUPS = (*CLASSIFIERS.values(), *MAP_GUIDES.values())
VARIANTS = {variant.name: variant for group in GROUPS for variant in group}
