"""Guides: networks whose gradient steers. What a guide says of itself, and the register of guide families."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor

from .noise_level import NoiseLevel, expand
from .noise_schedule import NoiseSchedule
from .preprocessing import Preprocessing
from .register import Register
from .routing import Experts

Task = Literal["classification", "depth", "segmentation", "embedding", "score"]
Sees = Literal["clean", "noisy", "timestep"]
Domain = Literal["pixels", "latent"]
LONGEST_LABEL = 500  # characters; ImageNet's longest has 121
Network = Callable[[Tensor, Tensor | None], Tensor]  # (input [B, C, h, w], timestep [B] or None) -> output


@dataclass(frozen=True, eq=False)
class GuideSpec:
    """What one guide network is.

    Attributes:
        name: what people call it.
        task: what it gives. classification: logits [B, K]; depth: a map [B, 1, h, w] of any scale; segmentation:
            logits [B, K, h, w]; embedding: vectors [B, E]; score: one number [B, 1], more is better.
        domain: pictures [B, 3, H, W] in [-1, 1], or a model's latents [B, C, H, W].
        sees: clean pictures; noisy ones in VP coordinates, sqrt(alpha_bar) x0 + sqrt(1 - alpha_bar) n; or noisy ones
            together with a timestep of `schedule`.
        preprocessing: from a picture to the network's input; latents are taken as they are.
        labels: names of the K classes, by index; empty where it has none.
        schedule: the noise that it was trained on; must be given where it sees a timestep.
        latents: of which latent format it looks at latents; "" where it looks at pictures.
        reads_text: whether its network has `embed_text`: K texts -> vectors [K, E] of the pictures' space.
    """

    name: str
    task: Task
    domain: Domain = "pixels"
    sees: Sees = "clean"
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    labels: tuple[str, ...] = ()
    schedule: NoiseSchedule | None = None
    reads_text: bool = False
    latents: str = ""

    def __post_init__(self) -> None:
        for word, value, kinds in (
            ("task", self.task, Task), ("domain", self.domain, Domain), ("sees", self.sees, Sees)
        ):
            if value not in get_args(kinds):
                raise ValueError(f"{self.name}: {word} is {value!r}; it can be {', '.join(get_args(kinds))}.")
        wrong = [label for label in self.labels if not isinstance(label, str) or len(label) > LONGEST_LABEL]
        if wrong:
            raise ValueError(f"{self.name}: a label is no text of at most {LONGEST_LABEL} characters; get it again.")
        if self.sees == "timestep" and self.schedule is None:
            raise ValueError(f"{self.name} takes a timestep, so it must name the noise schedule that counts it.")

    def prepare(self, picture: Tensor) -> Tensor:
        """The network's input: [B, 3, H, W] in [-1, 1] -> [B, 3, h, w]; latents unchanged."""
        return self.preprocessing(picture) if self.domain == "pixels" else picture

    def output(self, network: Network, picture: Tensor, level: NoiseLevel) -> Tensor:
        """What the network says of pictures [B, C, H, W], in VP coordinates at `level` where it sees noise."""
        timestep = None
        if self.sees == "timestep" and self.schedule is not None:
            timestep = self.schedule.timestep(level.sigma).to(picture.dtype).to(picture.device)
        return network(self.prepare(picture), timestep)


@dataclass(frozen=True, eq=False)
class Guide:
    """One network, or several that take turns by noise level."""

    members: tuple[GuideSpec, ...]
    experts: Experts = field(default_factory=Experts)

    def __post_init__(self) -> None:
        if len(self.members) != self.experts.count:
            raise ValueError(
                f"{len(self.members)} guides need {len(self.members) - 1} edges between them; "
                f"got {self.experts.count - 1}."
            )
        for word in ("task", "domain", "labels"):
            values = [getattr(member, word) for member in self.members]
            if any(value != values[0] for value in values):
                raise ValueError(
                    f"Guides that take turns must have the same {word}; "
                    + "; ".join(f"{m.name} has {_shown(v)}" for m, v in zip(self.members, values, strict=True)) + "."
                )

    @property
    def first(self) -> GuideSpec:
        """Task, domain and labels are those of every member."""
        return self.members[0]

    @property
    def sees_noise(self) -> bool:
        return any(member.sees != "clean" for member in self.members)

    @property
    def name(self) -> str:
        return " / ".join(dict.fromkeys(member.name for member in self.members))


def with_noise(picture: Tensor, noise: Tensor, level: NoiseLevel) -> Tensor:
    """A clean picture at a level, in VP coordinates: sqrt(alpha_bar) x0 + sqrt(1 - alpha_bar) n."""
    kept = level.alpha_bar
    return expand(kept.sqrt(), picture) * picture + expand((1 - kept).sqrt(), picture) * noise


def variance_preserving(x: Tensor, level: NoiseLevel) -> Tensor:
    """A noisy input in VP coordinates: x / sqrt(a^2 + b^2)."""
    return x * expand((level.a**2 + level.b**2).rsqrt(), x)


@dataclass(frozen=True)
class GuideFamily:
    """A kind of guide network that can be loaded. Subclasses are registered with `@family("name")`, one per file.

    `name` is the family's name, `title` what messages call it. `is_head`: it reads the features of another network,
    the source's `backbone`.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    is_head: ClassVar[bool] = False

    def recognises(self, source: Any) -> bool:
        """Whether this family can load the source: a `networks.guide_source.GuideSource`. Reads its header alone."""
        raise NotImplementedError

    def load(self, source: Any) -> tuple[torch.nn.Module, GuideSpec]:
        """The network, in evaluation mode and float32, called as `Network`; and what it is.

        Raises:
            GuideFileError: the file is damaged or is not what it says it is, in words.
        """
        raise NotImplementedError


family: Register[GuideFamily] = Register("guide family", f"{__package__}.guides")


def families() -> dict[str, type[GuideFamily]]:
    """Every guide family of the package `guides`, by name."""
    return family.all()


def _shown(value: Any) -> str:
    return f"{len(value)} labels" if isinstance(value, tuple) else str(value)
