"""Scenes of nodes that read and write files, in the host's own folders; training among them."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import host_scenes
import torch
from trials.components import use

from .sampling import family, sampled
from .trial import Scene

NAME = "faulting"
SMALL: dict[str, Any] = {
    "width": 16, "height": 16, "steps": 2, "cfg": 1.0, "sampler_name": "euler", "scheduler": "karras", "seed": 0,
}  # fmt: skip
RECIPE: dict[str, Any] = {"experts": 2, "iterations": 4, "batch": 2, "learning_rate": 1e-3, "schedule": "cosine"}


def pictures() -> Scene:
    """Make Pictures, of the embedded model, into a folder that may go on with what is there."""
    model, folder = tiny("shapes-edm"), output() / "pictures" / NAME

    def act():
        made = drawn(model)
        return [(made.path / file).read_bytes() for file in made.files]

    return Scene(
        act, lambda: tiny_sampled(model), lambda: shutil.rmtree(folder, ignore_errors=True),
        [model.model.diffusion_model], lambda: list(folder.glob("*.partial")),
    )  # fmt: skip


def training(warm_start: bool, precision: Literal["fp32", "fp16"]) -> Scene:
    """Train Experts: the next training, which may go on with a stopped one, is that which was never stopped."""
    from guidance_pack.guidance.training.lora_targets import Adaptation
    from guidance_pack.guidance.training.recipe import ExpertRecipe
    from guidance_pack.host.models.guides import bank_path, load_guide
    from guidance_pack.host.training import train

    model = tiny("shapes-edm")
    shown, guide = drawn(model), load_guide("shapes-classifier")
    recipe = ExpertRecipe(
        **RECIPE, adaptation=Adaptation(rank=2, alpha=2), warm_start=warm_start, precision=precision
    )
    bank, waiting = bank_path(NAME), output() / "unfinished experts"

    def act():
        with torch.inference_mode():
            made = train.train_experts(train.Request(guide, shown, NAME, recipe), lambda *_: None)
        return [made.path.read_bytes(), made.curves]

    def start():
        bank.unlink(missing_ok=True)
        shutil.rmtree(waiting, ignore_errors=True)

    networks = [model.model.diffusion_model, guide.patchers[0].model]
    return Scene(act, lambda: tiny_sampled(model), start, networks,
                 lambda: [*bank.parent.glob("*.partial*"), *waiting.glob("*.partial*")])  # fmt: skip


def weights() -> Scene:
    """Train Guidance: the next training, which may go on with a stopped one, is that which was never stopped."""
    from guidance_pack.guidance.training.matching import WeightRecipe
    from guidance_pack.host.models.guidance_weights import weights_path
    from guidance_pack.host.training.learn import WeightsRequest, train_weights, waiting_path

    model = tiny("shapes-edm")
    positive = use("GuidanceClassLabel", model=model, label="star")
    recipe = WeightRecipe(iterations=3, batch=2, particles=2, width=4)
    request = WeightsRequest(model, drawn(model), NAME, recipe, positive)
    file, waiting = weights_path(NAME), waiting_path(NAME)

    def act():
        with torch.inference_mode():
            train_weights(request, lambda *_: None)
        return file.read_bytes()

    def start():
        for path in (file, waiting):
            path.unlink(missing_ok=True)

    return Scene(act, lambda: tiny_sampled(model), start, [model.model.diffusion_model],
                 lambda: [*file.parent.glob("*.partial*"), *waiting.parent.glob("*.partial*")])  # fmt: skip


def converted() -> Scene:
    """Convert Checkpoint."""
    folder = models("diffusion_models")
    torch.save({"a": torch.arange(3.0), "b": torch.ones(2, dtype=torch.float16)}, folder / f"{NAME}.pt")
    return _written(lambda: use("GuidanceConvertCheckpoint", name=f"{NAME}.pt"), folder, f"{NAME}.safetensors")


def averaged() -> Scene:
    """Post-hoc EMA of three small snapshots."""
    from safetensors.torch import save_file

    folder = models("diffusion_models")
    names = [f"{NAME}-0033554-0.050", f"{NAME}-0067108-0.050", f"{NAME}-0067108-0.120"]
    for number, name in enumerate(names):
        save_file({"w": torch.tensor([1.0 + number])}, folder / f"{name}.safetensors")
    chosen = dict(zip(("first", "second", "third"), (f"{name}.safetensors" for name in names), strict=True))
    act = lambda: use("GuidancePostHocEMA", **chosen, std=0.1)  # noqa: E731
    return _written(act, folder, f"{NAME}-0067108-0.100.safetensors")


def imported() -> Scene:
    """Import Experts, of a small ViT and two experts of it."""
    import copy

    import ppap_networks

    from guidance_pack.host.models.guides import bank_path

    folder, network = bank_path(NAME).parent, ppap_networks.clean_vit()
    folder.mkdir(parents=True, exist_ok=True)
    ppap_networks.write_vit(folder / f"{NAME}-vit", network)
    (folder / f"{NAME}-deit").mkdir()
    for number in range(2):
        expert = ppap_networks.tuned(ppap_networks.Deit(copy.deepcopy(network)), number)
        torch.save(expert.state_dict(), folder / f"{NAME}-deit" / f"{number}_max2.ckpt")
    chosen = {"experts": f"{NAME}-deit/*_max2.ckpt", "base": f"{NAME}-vit", "name": f"{NAME}-imported"}
    return _written(lambda: use("GuidanceImportExperts", **chosen), folder, f"{NAME}-imported.safetensors")


def exported() -> Scene:
    """Export Experts of the embedded bank."""
    guide, folder = use("GuidanceLoadGuide", name="shapes-experts"), output() / NAME

    def act():
        use("GuidanceExportExperts", guide=guide, name=NAME)
        return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*.*"))}

    return Scene(act, start=lambda: shutil.rmtree(folder, ignore_errors=True),
                 networks=[guide.patchers[0].model],
                 stray=lambda: [path for path in folder.parent.iterdir() if "partial" in path.name])  # fmt: skip


def loaded_denoiser() -> Scene:
    """Load Denoiser (an ADM file), Class Label and a run."""
    import adm_files

    folder = models("diffusion_models")
    adm_files.write(adm_files.unet(2, classes=5), folder / f"{NAME}-adm.safetensors")

    def act():
        model = use("GuidanceLoadDenoiser", name=f"{NAME}-adm.safetensors")
        return _of_class(model, "3", cfg=1.0)

    return Scene(act, lambda: tiny_sampled(tiny("shapes-edm")))


def loaded_glide() -> Scene:
    """Load Denoiser (GLIDE's upsampler), GLIDE Prompt, Low Resolution and a run."""
    import adm_files
    import host_models

    folder = models("diffusion_models")
    adm_files.write(adm_files.glide(2, in_channels=6), folder / f"{NAME}-glide.safetensors")
    small = torch.rand(1, 4, 4, 3, generator=torch.Generator().manual_seed(1))

    def act():
        model = use("GuidanceLoadDenoiser", name=f"{NAME}-glide.safetensors")
        nothing = use("GuidanceGlidePrompt", text="", vocabulary="none (the text is empty)")
        asked = use("GuidanceLowResolution", conditioning=nothing, image=small)
        latent = {"samples": torch.zeros(1, 3, 16, 16)}
        return host_models.tensors(host_models.sample(model, asked, asked, latent, steps=2, cfg=2.0))

    return Scene(act, lambda: tiny_sampled(tiny("shapes-edm")))


def loaded_guides() -> Scene:
    """Load Guide, Expert Switch, Loss Guidance by depth, and a run of the embedded flow model."""
    model = tiny("shapes-flow")
    picture = torch.rand(1, 16, 16, 3, generator=torch.Generator().manual_seed(1))

    def act():
        experts = use("GuidanceLoadGuide", name="shapes-experts")
        out = use("GuidanceClassifier", model=model, guide=experts, label="circle")
        depth = use("GuidanceLoadGuide", name="shapes-depth")
        out = use("GuidanceLoss", model=out, guide=depth, loss="depth", target=picture, at="denoised")
        return tiny_sampled(out)

    return Scene(act, lambda: tiny_sampled(model), networks=[model.model.diffusion_model])


def compared() -> Scene:
    """Compare Guidance over two weights, and Guidance Report."""
    import compare_scene

    main, weak = tiny("shapes-edm"), tiny("shapes-edm-weak")

    def act():
        chain = compare_scene.chained(main, weak)
        made = compare_scene.compared(compare_scene.scene(chain), ("autoguidance weight", "1, 2"), size=64)
        return made.pictures, use("GuidanceReport", model=chain).__class__.__name__

    networks = [patcher.model.diffusion_model for patcher in (main, weak)]
    return Scene(act, lambda: [tiny_sampled(main), tiny_sampled(weak)], networks=networks)


def lora_training() -> Scene:
    """The host's Train LoRA on a MODEL with Loss Weighting. If it fails it keeps the MODEL, also without that."""
    import trainer

    models = family("sd15")

    def act():
        model = use("GuidanceLossWeighting", model=host_scenes.SD15.build(0), weighting="p2")
        record = trainer.Training("sd15", pictures=1).run(model)
        return [record.losses, record.lora]

    return Scene(act, lambda: sampled(models.main, *_prompts()), kept=2**25)


@functools.cache
def tiny(name: str) -> Any:
    return use("GuidanceTinyModel", name=name)


def drawn(model: Any):
    """A small set of pictures."""
    from guidance_pack.host.training.generate import Drawing, make_pictures

    with torch.inference_mode():
        return make_pictures(model, None, None, None, NAME, 3, 2, Drawing(**SMALL))


def tiny_sampled(model: Any) -> list[torch.Tensor]:
    """Two steps of an embedded model."""
    return _of_class(model, "circle")


def _of_class(model: Any, label: str, cfg: float = 2.0) -> list[torch.Tensor]:
    import host_models

    positive, negative = (use("GuidanceClassLabel", model=model, label=text) for text in (label, ""))
    latent = {"samples": torch.zeros(1, 3, 16, 16)}
    return host_models.tensors(host_models.sample(model, positive, negative, latent, steps=2, cfg=cfg))


def _prompts() -> tuple[list, list]:
    return host_scenes.SD15.conditioning(1), host_scenes.SD15.conditioning(2)


def _written(write: Callable[[], Any], folder: Path, file: str) -> Scene:
    """A node that writes one file of the folder."""

    def act():
        write()
        return (folder / file).read_bytes()

    before = {*folder.iterdir()}
    stray = lambda: [p for p in folder.iterdir() if p not in before and not p.name.startswith(NAME)]  # noqa: E731
    return Scene(act, start=lambda: (folder / file).unlink(missing_ok=True), stray=stray)


def output() -> Path:
    """Where the pack writes."""
    import folder_paths

    return Path(folder_paths.get_output_directory()) / "guidance"


def models(kind: str) -> Path:
    """The host's first folder of this kind of models."""
    import folder_paths

    folder = Path(folder_paths.get_folder_paths(kind)[0])
    folder.mkdir(parents=True, exist_ok=True)
    folder_paths.filename_list_cache.clear()
    return folder


SCENES: dict[str, Callable[[], Scene]] = {
    "make pictures": pictures,
    "train experts": functools.partial(training, True, "fp32"),
    "train experts anew": functools.partial(training, False, "fp32"),
    "train experts fp16": functools.partial(training, True, "fp16"),
    "train guidance": weights,
    "convert checkpoint": converted,
    "post-hoc ema": averaged,
    "import experts": imported,
    "export experts": exported,
    "load denoiser": loaded_denoiser, "load glide": loaded_glide,
    "load guides": loaded_guides,
    "compare": compared,
    "train lora": lora_training,
}
