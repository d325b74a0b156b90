"""One fault: an operation of a scene fails, and everything afterwards must be as if it had not."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import torch

from .operations import FailingOperation

KINDS = ("exception", "interrupt", "out of memory")
SLACK = 2**16  # bytes of tensors that may be alive beyond those before the fault
FINE = ("right", "no fault")


@dataclass
class Scene:
    """What is broken off.

    Attributes:
        act: uses the node, and what it gives, from the state that is there; gives tensors, texts or bytes.
        plain: uses the same networks without it.
        start: removes what earlier calls of `act` left on the disk.
        networks: whose weights must stay as they are.
        stray: files that may not be there after a failure.
        kept: bytes of tensors that the host itself keeps alive after a failure.
    """

    act: Callable[[], Any]
    plain: Callable[[], Any] = lambda: None
    start: Callable[[], None] = lambda: None
    networks: Sequence[torch.nn.Module] = ()
    stray: Callable[[], list[Path]] = list
    kept: int = 0


@dataclass
class Trial:
    """A scene with what it gives when nothing fails. The first call of everything is left to the constructor."""

    scene: Scene
    weights: list[list[torch.Tensor]] = field(init=False)

    def __post_init__(self):
        scene = self.scene
        self.plain = scene.plain()  # afterwards no LoRA of an earlier run is merged into the weights
        self.weights = [[weight.clone() for weight in network.state_dict().values()] for network in scene.networks]
        scene.start()
        scene.act()  # what is kept for good, such as loaded models, is there afterwards
        scene.start()
        with FailingOperation(None) as counted:
            self.result = scene.act()
        self.count = counted.count

    def run(self, random: Random) -> dict[str, Any]:
        """A record of one fault, of a kind and at a place that are drawn."""
        kind, at = random.choice(KINDS), random.randrange(self.count)
        before = self._alive()
        self.scene.start()
        raised = self._broken(at, kind)
        gc.collect()  # as the host does between prompts: torch's checkpoints leave hooks on until a broken forward goes
        wrong = self.wrong()
        more = self._alive() - before if not wrong else 0
        if more > SLACK + self.scene.kept:
            wrong.append(f"{more} bytes of tensors stay alive")
        outcome = "wrong" if wrong else "right" if raised else "no fault"
        label = {"kind": kind, "at": at, "of": self.count, "raised": raised}
        return {**label, "outcome": outcome, "words": "; ".join(wrong)}

    def wrong(self) -> list[str]:
        """What is not as it was; found by running again, where nothing may fail."""
        found = [f"{path.name} is left behind" for path in self.scene.stray()]
        found += left_on()
        try:
            if not alike(self.scene.plain(), self.plain):
                found.append("the next plain run differs")
            found += self._changed()
            if not alike(self.scene.act(), self.result):
                found.append("the next run differs")
        except (Exception, SystemExit) as error:  # whatever fails now is what is looked for
            found.append(f"the next run fails: {type(error).__name__}: {error}")
        return found

    def _alive(self) -> int:
        """Bytes of tensors, with the scene's networks loaded as they are and no more: a training unloads them."""
        self.scene.plain()
        return tensor_bytes()

    def _changed(self) -> list[str]:
        held = [list(network.state_dict().values()) for network in self.scene.networks]
        return [] if alike(held, self.weights) else ["weights have changed"]

    def _broken(self, at: int, kind: str) -> str:
        """The name of what came out of the scene; empty if the failure was answered inside."""
        try:
            with FailingOperation(at, error_of(kind)):
                self.scene.act()
        except BaseException as raised:  # an interrupt is one
            return type(raised).__name__
        return ""


def error_of(kind: str) -> BaseException:
    """A new exception of the kind."""
    import comfy.model_management as management

    if kind == "interrupt":
        return management.InterruptProcessingException()
    return torch.OutOfMemoryError("injected") if kind == "out of memory" else RuntimeError("injected")


def left_on() -> list[str]:
    """Switches of torch and the host that are not as a node finds them."""
    import comfy.model_management as management

    switches = {
        "in_training": management.in_training, "inference mode": torch.is_inference_mode_enabled(),
        "no gradients": not torch.is_grad_enabled(),
    }  # fmt: skip
    return [f"{name} is left on" for name, on in switches.items() if on]


def tensor_bytes() -> int:
    """Of all tensors that are alive, each storage once; a subclass holds its numbers in such tensors, or has none."""
    gc.collect()
    tensors = (held for held in gc.get_objects() if type(held) in (torch.Tensor, torch.nn.Parameter))
    storages = (tensor.untyped_storage() for tensor in tensors if tensor.device.type != "meta")
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def alike(first: Any, second: Any) -> bool:
    """Equal nesting with equal leaves, tensors bit for bit."""
    if isinstance(first, torch.Tensor):
        return isinstance(second, torch.Tensor) and first.dtype == second.dtype and torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(alike(first[key], second[key]) for key in first)
    if isinstance(first, (list, tuple)):
        return len(first) == len(second) and all(map(alike, first, second))
    return bool(first == second)
