"""Hostile states: what the pack writes for itself, spoilt - stopped trainings, finished banks, manifests of picture
sets - through the functions that take it up again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import torch
from PIL import Image

from . import seeds
from .pool import Attempt
from .spoil import read_safetensors, spoil_bytes, spoil_json, spoil_safetensors, written


class Scene:
    """A training of two experts that was stopped at its third step and finished once, and a set of two pictures."""

    def __init__(self, folder: Path) -> None:
        import folder_paths

        self.guides, self.output, self.valid = folder / "guides", folder / "output", folder / "valid"
        for place in (self.guides, self.output, self.valid):
            place.mkdir(parents=True, exist_ok=True)
        folder_paths.folder_names_and_paths["guides"] = ([str(self.guides)], set())
        folder_paths.output_directory = str(self.output)
        folder_paths.temp_directory = str(folder / "temp")
        self.pictures = _pictures(folder / "pictures")
        seeds.guide_files.tiny(self.guides / "own", timestep=False)
        self.waiting = self.output / "guidance" / "unfinished experts" / "team.safetensors"
        self.bank, self.set = self.guides / "team.safetensors", self.output / "guidance" / "pictures" / "set"
        self._write()
        self.kinds: tuple[Callable[[Random], Attempt], ...] = (
            self._stopped, self._stopped, self._finished, self._manifest
        )

    def draw(self, random: Random) -> Attempt:
        for file in (self.waiting, self.bank):
            file.unlink(missing_ok=True)
        return random.choice(self.kinds)(random)

    def _write(self) -> None:
        """The valid files, by the pack's own hand."""
        if not (self.valid / "bank.safetensors").exists():
            try:
                self._train(stop_after=3)
            except KeyboardInterrupt:
                shutil.move(self.waiting, self.valid / "stopped.safetensors")
            self._train()
            shutil.move(self.bank, self.valid / "bank.safetensors")
        if not (self.valid / "set").exists():
            self._draw()
            shutil.copytree(self.set, self.valid / "set")

    def _train(self, stop_after: int | None = None) -> Any:
        from guidance_pack.guidance.training.lora_targets import Adaptation
        from guidance_pack.guidance.training.recipe import ExpertRecipe
        from guidance_pack.host.models.guides import load_guide
        from guidance_pack.host.training.train import Request, train_experts

        def watch(training: Any, report: Any) -> None:
            if len(training.losses) == stop_after:
                raise KeyboardInterrupt

        recipe = ExpertRecipe(experts=2, iterations=4, batch=1, adaptation=Adaptation(rank=1, alpha=1))
        with torch.inference_mode():
            return train_experts(Request(load_guide("own.safetensors"), self.pictures, "team", recipe), watch)

    def _draw(self) -> Any:
        from guidance_pack.host.models.tiny import load_tiny_model, pixel_vae
        from guidance_pack.host.training.generate import Drawing, make_pictures

        drawing = Drawing(16, 16, 1, 1.0, "euler", "normal", 0)
        with torch.inference_mode():
            return make_pictures(load_tiny_model("shapes-edm-weak"), None, None, pixel_vae(), "set", 2, 2, drawing)

    def _stopped(self, random: Random) -> Attempt:
        words, data, refused = _spoil_state(self.valid / "stopped.safetensors", random)
        self.waiting.write_bytes(data)

        def run() -> list[str]:
            trained = self._train()
            return _odd(trained) + ["it should have been refused"] * refused

        return Attempt(f"stopped training: {words}", run, len(data))

    def _finished(self, random: Random) -> Attempt:
        words, data, refused = spoil_safetensors(self.valid / "bank.safetensors", random)
        self.bank.write_bytes(data)

        def run() -> list[str]:
            return _odd(self._train()) + ["it should have been refused"] * refused

        return Attempt(f"finished bank: {words}", run, len(data))

    def _manifest(self, random: Random) -> Attempt:
        from guidance_pack.host.training.generate import MANIFEST, set_fingerprint

        shutil.rmtree(self.set)
        shutil.copytree(self.valid / "set", self.set)
        file = self.set / MANIFEST
        if random.random() < 0.3:
            words, data = spoil_bytes(file.read_bytes(), random)
        else:
            words, text = spoil_json(file.read_text("utf-8"), random)
            data = text.encode("utf-8", "surrogatepass")
        file.write_bytes(data)
        if random.random() < 0.2:
            picture = random.choice(sorted(self.set.glob("*.png")))
            picture.write_bytes(spoil_bytes(picture.read_bytes(), random)[1])
            words += f", {picture.name} too"

        def run() -> list[str]:
            set_fingerprint("set")
            made = self._draw()
            pictures, _ = made.batch([0, 1])
            return [] if bool(torch.isfinite(pictures).all()) else ["a picture is not finite"]

        return Attempt(f"manifest: {words}", run, len(data))


def _spoil_state(path: Path, random: Random) -> tuple[str, bytes, bool]:
    """A stopped training with another place, other facts or other tensors."""
    kind = random.choice(("tensors", "tensors", "facts", "facts", "at"))
    if kind == "tensors":
        return spoil_safetensors(path, random)
    header, numbers = read_safetensors(path)
    if kind == "facts":
        words, header["__metadata__"]["facts"] = spoil_json(header["__metadata__"]["facts"], random)
        return f"facts: {words}", written(header, numbers), False
    start, end = header["at"]["data_offsets"]
    at = [random.choice((-1, 0, 1, 2, 3, 5, 2**40, -(2**62), 2**62)) for _ in range(2)]
    changed = b"".join(number.to_bytes(8, "little", signed=True) for number in at)
    return f"at {at}", written(header, numbers[:start] + changed + numbers[end:]), at != [1, 1]


def _pictures(folder: Path) -> Any:
    from guidance_pack.host.training.dataset import read_folder

    folder.mkdir(exist_ok=True)
    for number in range(2):
        Image.new("RGB", (40, 40), (number * 90, 50, 200)).save(folder / f"{number}.png")
    return read_folder(folder, 40, 40)


def _odd(trained: Any) -> list[str]:
    """What cannot be in a bank and its curves."""
    state = trained.guide.patchers[0].model.state_dict()
    names = [name for name, t in state.items() if t.is_floating_point() and not bool(torch.isfinite(t).all())]
    curves = json.dumps(trained.curves)
    odd = "NaN" in curves or "Infinity" in curves
    return [f"{name} is not finite" for name in names[:3]] + ["a curve is not finite"] * odd
