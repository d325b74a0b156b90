"""The guides that come with the pack, and others of their kind: one safetensors file of format tiny-guide."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from ..checkpoints.guide_source import GuideFileError, GuideSource
from ..checkpoints.words import quoted, shown
from ..guide import GuideFamily, GuideSpec, family
from ..networks.tiny.files import GUIDE, NetworkFile, NetworkFileError, build, read_guide
from ..networks.tiny.guide import STRIDE, TinyGuide
from ..noise_schedule import noise_schedule
from ..preprocessing import Preprocessing


@family("tiny")
@dataclass(frozen=True)
class TinyFile(GuideFamily):
    """A TinyGuide in a file as `networks.files` writes it, which says itself what it sees and what its classes are."""

    title = "one of this pack's own guides, such as shapes-classifier"

    def recognises(self, source: GuideSource) -> bool:
        # Whatever the version, so that a file of another one is refused in words that say so.
        return source.metadata.get("format", "").startswith(GUIDE.rpartition("/")[0])

    def load(self, source: GuideSource) -> tuple[nn.Module, GuideSpec]:
        try:
            file = read_guide(source.path)
            network = build(file)
        except NetworkFileError as error:
            raise GuideFileError(str(error)) from error
        return network, _spec(source.name, file, network)


def _spec(name: str, file: NetworkFile, network: TinyGuide) -> GuideSpec:
    config, sees, schedule = network.config, file.metadata["sees"], file.metadata["schedule"]
    if config.timestep != (sees == "timestep"):
        raise GuideFileError(
            f"{name}: its header says that it sees {quoted(sees)}, but its network has "
            f"{'a' if config.timestep else 'no'} timestep; get the file again."
        )
    classes = {"classification": config.num_classes, "segmentation": config.num_classes + 1}.get(config.task, 0)
    if len(file.labels) != classes:
        raise GuideFileError(f"{name} names {len(file.labels)} labels and has {classes} classes; get the file again.")
    try:
        return GuideSpec(
            name, config.task, sees=sees, preprocessing=Preprocessing(multiple=STRIDE, black=-1.0, white=1.0),
            labels=file.labels, schedule=None if schedule is None else noise_schedule(shown(schedule)),
        )
    except ValueError as error:
        raise GuideFileError(f"{name}: its header cannot be right. {error}") from None
