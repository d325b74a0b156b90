"""Transformers folders that put pictures and texts into one space: CLIP, SigLIP, SigLIP 2."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ..checkpoints.guide_source import GuideFileError, GuideSource
from ..checkpoints.words import shown
from ..guide import GuideFamily, GuideSpec, family
from ..preprocessing import Preprocessing
from .folder import check_run, load_pretrained, preprocessing_of

_TYPES = ("clip", "siglip", "siglip2")
_MOST_PATCHES = 4096
_PATCHES = 256  # of a SigLIP 2 of variable resolution, where its folder does not say


class ImageTextNetwork(nn.Module):
    """Pictures to vectors, and texts to vectors of the same space.

    Attributes:
        patch: side of the patches that the network wants to be handed one by one (SigLIP 2); None = whole pictures.
    """

    def __init__(self, network: Any, source: GuideSource, patch: int | None = None) -> None:
        super().__init__()
        self.network: Any = network
        self.patch = patch
        self.source = source
        self._tokenizer: Any = None

    def forward(self, input: Tensor, timestep: Tensor | None = None) -> Tensor:
        """[B, 3, h, w] -> [B, E], not normalised."""
        if self.patch is None:
            return _plain(self.network.get_image_features(pixel_values=input))
        patches, grid = patches_of(input, self.patch)
        shapes = torch.tensor([grid] * len(input), device=input.device)
        seen = torch.ones(patches.shape[:2], dtype=torch.long, device=input.device)
        return _plain(self.network.get_image_features(
            pixel_values=patches, pixel_attention_mask=seen, spatial_shapes=shapes
        ))

    @torch.no_grad()
    def embed_text(self, texts: Sequence[str]) -> Tensor:
        """K texts -> [K, E] where the network's weights are, each as long as exp(logit_scale), by which the network
        weights the cosine.

        Raises:
            GuideFileError: the folder has no tokenizer, or one that cannot be read.
            ValueError: no texts.
        """
        if not texts:
            raise ValueError(f"{self.source.name} was given no text to compare with; write what the picture shows.")
        config = self.network.config
        by_siglip = config.model_type != "clip"
        # SigLIP was trained on texts filled up to full length, the filling seen as if it were text.
        lower = [text.lower() if config.model_type == "siglip2" else text for text in texts]
        tokens = self._read(
            lower, padding="max_length" if by_siglip else True, truncation=True, return_tensors="pt",
            max_length=config.text_config.max_position_embeddings,
        )
        device = next(self.parameters()).device
        mask = {} if by_siglip else {"attention_mask": tokens["attention_mask"].to(device)}
        found = _plain(self.network.get_text_features(input_ids=tokens["input_ids"].to(device), **mask))
        return F.normalize(found) * self.network.logit_scale.exp()

    def _read(self, texts: list[str], **how: Any) -> Any:
        if self._tokenizer is None:
            self._tokenizer = _tokenizer(self.source)
        return self._tokenizer(texts, **how)


@family("image and text")
@dataclass(frozen=True)
class ImageText(GuideFamily):
    """CLIP, SigLIP and SigLIP 2: the angle between a picture's vector and a text's says how well they agree."""

    title = "a transformers folder (CLIP or SigLIP)"

    def recognises(self, source: GuideSource) -> bool:
        both = source.config.get("model_type") in _TYPES and source.architecture.endswith("Model")
        return source.is_folder and both

    def load(self, source: GuideSource) -> tuple[nn.Module, GuideSpec]:
        return self.read(source)

    def read(self, source: GuideSource) -> tuple[ImageTextNetwork, GuideSpec]:
        """As `load`, for those who read features."""
        preprocessing = preprocessing_of(source)
        network = load_pretrained(source, "AutoModel")
        patch = None
        if source.config["model_type"] == "siglip2":
            patch = int(network.config.vision_config.patch_size)
            preprocessing = _square(preprocessing, source, patch)
        seen = ImageTextNetwork(network, source, patch).eval()
        check_run(source, seen, preprocessing)
        return seen, GuideSpec(source.name, "embedding", preprocessing=preprocessing, reads_text=True)


def patches_of(input: Tensor, side: int) -> tuple[Tensor, tuple[int, int]]:
    """[B, C, h, w] -> patches [B, N, side * side * C] row by row, colours last; and how many go down and across."""
    grid = (input.shape[-2] // side, input.shape[-1] // side)
    return rearrange(input, "b c (h p) (w q) -> b (h w) (p q c)", p=side, q=side), grid


def _square(preprocessing: Preprocessing, source: GuideSource, patch: int) -> Preprocessing:
    """The largest square of patches that the network may be handed."""
    most = (source.preprocessor or {}).get("max_num_patches", _PATCHES)
    if type(most) is not int or not 0 < most <= _MOST_PATCHES:
        raise GuideFileError(
            f"{source.name}: max_num_patches in its preprocessor_config.json is {shown(most)}; it can be 1 to "
            f"{_MOST_PATCHES}."
        )
    side = math.isqrt(most) * patch
    try:
        return replace(preprocessing, size=(side, side))
    except ValueError as error:
        raise GuideFileError(f"{source.name}: {error} (config.json); get the file again.") from None


def _tokenizer(source: GuideSource) -> Any:
    import transformers

    if not source.has_tokenizer:
        raise GuideFileError(
            f"{source.name} has no tokenizer, so it cannot read texts; copy tokenizer.json and tokenizer_config.json "
            f"into {source.path} from where you got the network, or compare with a picture instead."
        )
    try:
        return transformers.AutoTokenizer.from_pretrained(
            str(source.path), local_files_only=True, trust_remote_code=False
        )
    except (OSError, ValueError, LookupError, TypeError, AttributeError, ImportError) as error:
        words = shown(str(error), 160)
        raise GuideFileError(f"{source.name}: its tokenizer cannot be read ({words}); get it again.") from error


def _plain(found: Any) -> Tensor:
    """transformers 4 gives the features themselves, transformers 5 an output that holds them."""
    return found if isinstance(found, Tensor) else found.pooler_output
