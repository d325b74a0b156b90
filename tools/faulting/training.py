"""Train Experts as a scene for faults: broken off anywhere and run again, it ends as if it had never been broken off.

Needs `guidance_pack` and ComfyUI to be importable.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from unittest import mock

import torch
from PIL import Image

from .operations import FailingOperation

NAME, COUNT, SIDE = "faulted", 4, 32


class TrainingScene:
    """One small training of the embedded classifier, in folders of its own.

    Args:
        folder: empty, for pictures, models and output.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._draw_pictures()
        with FailingOperation(None) as counted:
            self.run()
        self.operations = counted.count  # of a training without a fault
        self.whole = self.result()
        self.forget()

    def run(self) -> None:
        """Take the steps that are left and write the bank, as the node does. Raises whatever breaks it off."""
        from guidance_pack.guidance.training.lora_targets import Adaptation
        from guidance_pack.guidance.training.recipe import ExpertRecipe
        from guidance_pack.host.models.guides import load_guide
        from guidance_pack.host.training.dataset import PictureFolder
        from guidance_pack.host.training.train import Request, train_experts

        recipe = ExpertRecipe(2, 4, batch=2, schedule="cosine", adaptation=Adaptation(rank=2, alpha=2))
        pictures = PictureFolder(self.folder / "pictures", tuple(f"{i}.png" for i in range(COUNT)), (SIDE, SIDE))
        with self._folders(), torch.inference_mode():  # as ComfyUI runs nodes
            request = Request(load_guide("shapes-classifier"), pictures, NAME, recipe)
            train_experts(request, lambda training, report: None)

    def result(self) -> str:
        """The SHA-256 of the bank's file."""
        return hashlib.sha256((self.folder / "guides" / f"{NAME}.safetensors").read_bytes()).hexdigest()

    def forget(self) -> None:
        """Remove the bank and the training."""
        for place in ("guides", "output"):
            shutil.rmtree(self.folder / place)

    def wrong_after(self, at: int, error: BaseException) -> str:
        """What is wrong when operation number `at` fails and the training is run again; empty if nothing is."""
        # What leaves may be another error: out of memory is put in words, and libraries raise their own in its place.
        with suppress(type(error), Exception), FailingOperation(at, error):
            self.run()
        self.run()
        left = [file.name for file in self.folder.rglob("*") if file.suffix in (".partial", ".lock")]
        found = self.result()
        self.forget()
        if left:
            return f"{type(error).__name__} at operation {at} left {', '.join(left)}"
        return "" if found == self.whole else f"{type(error).__name__} at operation {at} gave another bank"

    def _draw_pictures(self) -> None:
        generator = torch.Generator().manual_seed(0)
        (self.folder / "pictures").mkdir(parents=True)
        for index in range(COUNT):
            pixels = torch.randint(256, (SIDE, SIDE, 3), generator=generator, dtype=torch.uint8)
            Image.fromarray(pixels.numpy()).save(self.folder / "pictures" / f"{index}.png")

    @contextmanager
    def _folders(self) -> Generator[None]:
        import folder_paths

        guides = {"guides": ([str(self.folder / "guides")], {".safetensors"})}
        with (
            mock.patch.dict(folder_paths.folder_names_and_paths, guides),
            mock.patch.object(folder_paths, "output_directory", str(self.folder / "output")),
        ):
            yield
