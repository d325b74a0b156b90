"""What the workflows on large models share: files on the left, guidance above, prompt, sampler and result below it.

Their files are too large for the pack: each is named with its link in the note and in its loader, so that the page can
offer the download. The pack's nodes stand between loader and sampler; bypassed, they leave the plain workflow.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from workflow_graph import Node, Output, Workflow

HUB = "https://huggingface.co"
COMPARE = "**To compare**: right-click the group *Guidance*, *Bypass Group Nodes*, and run again. Values to start from."
SEED = 7
FLAWS = "blurry, text, watermark"


@dataclass(frozen=True)
class File:
    """A model file: its name, where it comes from, and its folder under models/."""

    name: str
    source: str
    folder: str

    @property
    def url(self) -> str:
        return f"{HUB}/{self.source}/{self.name}"


def split(name: str, repository: str, folder: str) -> File:
    """A file of Comfy-Org's repackaged models, which lie in folders named as ComfyUI's own."""
    return File(name, f"Comfy-Org/{repository}/resolve/main/split_files/{folder}", folder)


class Large(Workflow):
    """A workflow on a large model: its files on the left, guidance above, prompt, sampler and result below it."""

    def begin(self, words: str, licence: str, *files: File, height: int = 400) -> None:
        """The lane on the left, with a note that names the files; then the lane for guidance."""
        listed = "\n".join(f"- [{file.name}]({file.url}) in *models/{file.folder}*" for file in files)
        self.left = self.lane("Files")
        self.note(self.left, 0, f"{words}\n\n{COMPARE}\n\nNeeds ({licence}):\n\n{listed}", (420, height))
        self.guidance = self.lane("Guidance")

    def loader(self, kind: str, *files: File, **values: str) -> Node:
        """A loader of the host's, with the files that it needs."""
        node = self.add(kind, self.left, 0, size=(420, 82 + 24 * len(values)), **values)
        listed = [{"name": file.name, "url": file.url, "directory": file.folder} for file in files]
        node.data["properties"]["models"] = listed
        return node

    def checkpoint(self, file: File) -> Node:
        return self.loader("CheckpointLoaderSimple", file, ckpt_name=file.name)

    def network(self, file: File) -> Output:
        return self.loader("UNETLoader", file, unet_name=file.name)["MODEL"]

    def text_encoder(self, file: File, kind: str) -> Output:
        return self.loader("CLIPLoader", file, clip_name=file.name, type=kind)["CLIP"]

    def decoder(self, file: File) -> Output:
        return self.loader("VAELoader", file, vae_name=file.name)["VAE"]

    def shifted(self, model: Output, shift: float) -> Output:
        """Wan with the shift of its noise levels."""
        return self.add("ModelSamplingSD3", self.left, 0, size=(420, 64), model=model, shift=shift)["MODEL"]

    def component(self, column: int, kind: str, model: Output, /, **values: Any) -> Output:
        """A node of the pack, in the lane for guidance."""
        return self.add(kind, self.guidance, column, model=model, **values)["MODEL"]

    def prompt(self, clip: Output, text: str, title: str = "Prompt", height: int = 130) -> Output:
        node = self.add("CLIPTextEncode", self.drawn, 1, title=title, size=(330, height), clip=clip, text=text)
        return node["CONDITIONING"]

    def prompts(self, clip: Output, text: str, negative: str = FLAWS) -> dict[str, Output]:
        """Both prompts, in the lane for what is drawn."""
        self.drawn = self.lane("Picture")
        return {
            "positive": self.prompt(clip, text),
            "negative": self.prompt(clip, negative, "Negative prompt", 90),
        }

    def empty(self, kind: str, *size: int) -> Output:
        """Empty latents: width, height and, of a video, its length in pictures."""
        named: dict[str, Any] = dict(zip(("width", "height", "length"), size, strict=False))
        return self.add(kind, self.drawn, 1, size=(330, 64 + 24 * len(named)), **named)["LATENT"]

    def sample(self, kind: str = "KSampler", /, **values: Any) -> Output:
        return self.add(kind, self.drawn, 2, size=(300, 270 if kind == "KSampler" else 340), **values)["LATENT"]

    def picture(self, latent: Output, vae: Output) -> dict:
        """The saved picture; with it the workflow is whole."""
        decoded = self.add("VAEDecode", self.drawn, 3, samples=latent, vae=vae)
        self.add(
            "SaveImage", self.drawn, 3, size=(400, 420), images=decoded["IMAGE"],
            filename_prefix=f"guidance/{self.name}",
        )
        return self.build()

    def video(self, latent: Output, vae: Output) -> dict:
        """The saved video, at the 16 pictures a second of Wan; with it the workflow is whole."""
        decoded = self.add("VAEDecode", self.drawn, 3, samples=latent, vae=vae)
        video = self.add("CreateVideo", self.drawn, 3, images=decoded["IMAGE"], fps=16.0)
        self.add(
            "SaveVideo", self.drawn, 3, size=(400, 420), video=video["VIDEO"],
            filename_prefix=f"guidance/{self.name}",
        )
        return self.build()
