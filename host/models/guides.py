"""Guides on the real host: where they lie, and their networks in the care of ComfyUI's memory manager."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import comfy.model_management
import folder_paths
import torch
from comfy.model_patcher import ModelPatcher

from ...guidance.checkpoints.atomic import disk_words, make_folder
from ...guidance.checkpoints.guide_source import SINGLE, GuideFileError, GuideSource
from ...guidance.checkpoints.words import shown
from ...guidance.experts.bank import ExpertBank
from ...guidance.experts.file import BANK, BankFile, contents_sha256, is_bank, map_tensors, read_bank, read_header
from ...guidance.experts.guide import bank_guide, latent_base, source_sha256
from ...guidance.guide import Guide, GuideFamily, GuideSpec, Network, families
from ...guidance.networks.tiny.files import GUIDE, facts_of, format_of
from ...guidance.noise_level import NoiseLevel
from ...guidance.routing import Experts
from ..common.labels import offered
from ..common.places import is_text, name_problem, placed, walk
from .folders import model_folders
from .tiny import ASSETS

FOLDER = "guides"
NONE = "none"
OVER = " | "  # in the name of a head, before the network whose features it reads; no file's name has it on Windows
CLEAN = 1e-3  # the sigma at which a noise-aware guide looks at a finished picture

folder_paths.add_model_folder_path(FOLDER, os.path.join(folder_paths.models_dir, FOLDER))


@dataclass(frozen=True, eq=False)
class LoadedGuide:
    """What travels on a GUIDE wire: what the guide is, and its networks.

    One ModelPatcher per member, in the same order, whose `model` is the network itself, called as
    `guidance.guide.Network`; or one for all members, whose `model` is an ExpertBank.
    """

    guide: Guide
    patchers: tuple[ModelPatcher, ...]

    def get_models(self) -> list[ModelPatcher]:
        """What ComfyUI's memory manager finds behind the wire."""
        return list(self.patchers)


def network_of(patcher: ModelPatcher, expert: int | None = None) -> Network:
    """A guide's network as it is on its device; its answer comes back to where the picture is.

    expert: of a bank, the one in charge; None for its clean base.
    """
    network = patcher.model
    if isinstance(network, ExpertBank):
        network.use(expert)
    weight = next(network.parameters())

    def call(picture: torch.Tensor, timestep: torch.Tensor | None) -> torch.Tensor:
        out = network(picture.to(weight), None if timestep is None else timestep.to(weight))
        return out.to(picture.device)

    return call


def clean_output(patcher: ModelPatcher, spec: GuideSpec, pictures: torch.Tensor) -> torch.Tensor:
    """What a guide that is on its device says of finished pictures [B, 3, H, W] in [-1, 1]."""
    clean = NoiseLevel.variance_exploding(torch.full((len(pictures),), CLEAN))
    return spec.output(network_of(patcher), pictures, clean)


def guide_names() -> list[str]:
    """The embedded guides, then what lies in models/guides: folders with a config.json, .safetensors and .pt files."""
    found: dict[str, None] = {}
    for root in model_folders(FOLDER):
        for place, folders, files in walk(root):
            weights = sorted(file for file in files if file.endswith(SINGLE))
            if "config.json" in files:
                folders.clear()
                whole = any(file.endswith(".safetensors") for file in weights)
                weights = [""] if whole and place != root else []
            folders.sort()
            found |= dict.fromkeys((place / file).relative_to(root).as_posix() for file in weights)
    embedded = _embedded_names()
    return [*embedded, *sorted(name for name in found if is_text(name) and name not in embedded)]


def embedded_classes() -> dict[str, dict]:
    """What the page offers as classes of each embedded guide, by its name. Reads headers alone, once."""
    return _classes_in(ASSETS)


@cache
def _classes_in(assets: Path) -> dict[str, dict]:
    found = {}
    for name in _embedded_names():
        path = assets / f"{name}.safetensors"
        facts = vars(read_header(path)) if _is_bank(path) else facts_of(path)
        found[name] = offered(facts["labels"] if facts["task"] == "classification" else ())
    return found


def classes_of(guide: LoadedGuide) -> dict:
    """What the page offers as classes of a guide: none where it is no classifier."""
    spec = guide.guide.first
    return offered(spec.labels if spec.task == "classification" else ())


def file_names() -> list[str]:
    """The guides that are single files of models/guides, as heads are."""
    return [name for name in guide_names() if name.endswith(SINGLE)]


def backbone_names() -> list[str]:
    """What a head may read the features of: nothing, and the folders of models/guides."""
    embedded = _embedded_names()
    return [NONE, *(name for name in guide_names() if not name.endswith(SINGLE) and name not in embedded)]


def name_over(name: str, backbone: str) -> str:
    """The name of a guide over the network that was chosen for it; its own where none was, or where it is no file."""
    return f"{name}{OVER}{backbone}" if backbone != NONE and name.endswith(SINGLE) else name


def guide_problem(name: str | None, backbone: str | None = NONE) -> str | None:
    """Why there is no guide of this name, in words; None if there is one, or it is not known yet. Nothing is read."""
    try:
        for part in name_over(name, backbone or NONE).split(OVER) if name is not None else ():
            _path(part)
    except ValueError as error:
        return str(error)
    return None


def fingerprint(name: str) -> str:
    """Changes when the guide's files do, or those of the network that a bank's experts are changes of."""
    first, *over = name.split(OVER)
    path = _path(first)
    if over:
        return "; ".join(map(fingerprint, (first, *over)))
    if _is_bank(path):
        base = read_header(path).base
        of_base = fingerprint(base) if guide_problem(base) is None else "missing"
        return f"{path.stat().st_mtime_ns} {path.stat().st_size}; {of_base}"
    entries = sorted(entry for entry in path.iterdir() if entry.is_file()) if path.is_dir() else [path]
    return "; ".join(f"{entry.name} {entry.stat().st_mtime_ns} {entry.stat().st_size}" for entry in entries)


def load_guide(name: str) -> LoadedGuide:
    """One guide by its name in `guide_names`, not yet on its device.

    Raises:
        ValueError: there is no such guide, or (GuideFileError) its files cannot be used, in words.
    """
    path = _path(name.split(OVER)[0])
    if _is_bank(path) and OVER not in name:
        return load_bank(read_bank(path))
    patcher, spec = _load(name)
    return LoadedGuide(Guide((spec,)), (patcher,))


def load_bank(file: BankFile) -> LoadedGuide:
    """The experts of a bank, over their base from models/guides; those that look at latents need none.

    Raises:
        ValueError: the base is not here or is another network, in words.
    """
    if file.header.head is not None:
        with torch.inference_mode(False):
            base, spec = latent_base(file)
            bank, guide = bank_guide(file, base, spec, file.header.base_sha256, _map_originals)
        return LoadedGuide(guide, (manage(bank),))
    if missing := guide_problem(file.header.base):
        base = shown(file.header.base)
        raise ValueError(f"{file.name} is a bank of experts of {base}, which is missing. {missing}")
    source = source_of(file.header.base)
    base, spec = build(source)
    with torch.inference_mode(False):
        bank, guide = bank_guide(file, base, spec, source_sha256(source), _map_originals)
    return LoadedGuide(guide, (manage(bank),))


def _is_bank(path: Path) -> bool:
    return path.suffix == ".safetensors" and is_bank(format_of(path))


def _map_originals(tensors: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
    """In a file of ComfyUI's temporary folder, which it empties at every start."""
    folder = Path(folder_paths.get_temp_directory())
    make_folder(folder)
    name = f"guidance-bank-{contents_sha256(tensors)}-{os.getpid()}.safetensors"
    with disk_words(folder, "Make room there (ComfyUI's --temp-directory says where it is) and load the bank again."):
        return map_tensors(folder / name, tensors)


def switch(guides: Sequence[LoadedGuide], experts: Experts) -> LoadedGuide:
    """Several guides as one; each is in charge of its own noise levels, the first of the cleanest pictures.

    Raises:
        ValueError: nothing to switch, a guide that is a bank already, or guides of different kinds, in words.
    """
    if not guides:
        raise ValueError("Connect the guides that are to take turns, the one for the cleanest pictures first.")
    for guide in guides:
        if len(guide.guide.members) > 1:
            raise ValueError(
                f"{guide.guide.name} is a bank of {len(guide.guide.members)} guides already; connect its members "
                f"themselves to one Expert Switch."
            )
    members = tuple(guide.guide.first for guide in guides)
    return LoadedGuide(Guide(members, experts), tuple(patcher for guide in guides for patcher in guide.patchers))


def _load(name: str, disable_dynamic: bool = True) -> tuple[ModelPatcher, GuideSpec]:
    """The patcher is never a dynamic one, whatever is asked for: a gradient needs plain weights that stay in place."""
    network, spec = build(source_of(name))
    patcher = manage(network)
    patcher.cached_patcher_init = (_load, (name,), 0)
    return patcher, spec


def manage(network: torch.nn.Module) -> ModelPatcher:
    return ModelPatcher(
        network, load_device=comfy.model_management.get_torch_device(),
        offload_device=comfy.model_management.unet_offload_device(),
    )


def source_of(name: str) -> GuideSource:
    """What lies on disk under a guide's name, or under a `name_over`. Raises ValueError as `load_guide` does."""
    first, _, over = name.partition(OVER)
    return GuideSource(_path(first), name, GuideSource(_path(over), over) if over else None)


def build(source: GuideSource) -> tuple[torch.nn.Module, GuideSpec]:
    """A guide's network, new and nobody else's, and what it says of itself. Raises GuideFileError in words."""
    # Weights made in inference mode, which ComfyUI runs nodes in, could not take part in a gradient.
    with torch.inference_mode(False):
        return _family(source).load(source)


def _family(source: GuideSource) -> GuideFamily:
    known = [family() for family in families().values()]
    able = [family for family in known if family.recognises(source)]
    if not able:
        what = f"a {source.architecture or 'network without a name'}" if source.is_folder else "a file of another kind"
        raise GuideFileError(
            f"{source.name} is {what}, no guide. Choose another one; a guide can be: "
            f"{'; '.join(family.title for family in known)}."
        )
    if source.backbone is not None and not able[0].is_head:
        raise GuideFileError(
            f"{source.name.split(OVER)[0]} is a whole network, {able[0].title}; it reads the features of no other. Set "
            f"clip to {NONE}."
        )
    return able[0]


def _embedded_names() -> list[str]:
    return sorted(path.stem for path in ASSETS.glob("*.safetensors") if format_of(path) in (GUIDE, BANK))


def _path(name: str) -> Path:
    """Where a guide lies. Raises ValueError, naming the nearest, if there is none or it would lie outside."""
    if name in _embedded_names():
        return ASSETS / f"{name}.safetensors"
    return placed(model_folders(FOLDER), name, "guide", f"models/{FOLDER}", guide_names)


def bank_path(name: str) -> Path:
    """Where a bank of this name lies or will lie. Raises ValueError for a name that is none or points elsewhere."""
    problem = bank_name_problem(name)
    if problem:
        raise ValueError(problem)
    return model_folders(FOLDER)[0] / f"{name}.safetensors"


def bank_name_problem(name: str) -> str | None:
    """What is wrong with the name of a bank, in words."""
    return name_problem(name, "mine/ppap-resnet50", f"models/{FOLDER}", ".safetensors")
