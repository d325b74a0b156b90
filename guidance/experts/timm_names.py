"""Where transformers keeps the tensors of a ViT that timm names."""

from __future__ import annotations

import re
from collections.abc import Iterable

_BLOCK = r"blocks\.(\d+)\."
# timm's name, and the same below the root of transformers' network, in the names of its versions.
_NAMES: tuple[tuple[re.Pattern[str], tuple[tuple[str, ...], ...]], ...] = tuple(
    (re.compile(name), places)
    for name, places in (
        (r"cls_token", (("embeddings.cls_token",),)),
        (r"pos_embed", (("embeddings.position_embeddings",),)),
        (r"patch_embed\.proj\.(.+)", ((r"embeddings.patch_embeddings.projection.\1",),)),
        (r"norm\.(.+)", ((r"layernorm.\1",),)),
        (_BLOCK + r"norm1\.(.+)", ((r"\1.layernorm_before.\2",),)),
        (_BLOCK + r"norm2\.(.+)", ((r"\1.layernorm_after.\2",),)),
        (
            _BLOCK + r"attn\.qkv\.(.+)",
            (
                tuple(rf"\1.attention.{part}_proj.\2" for part in "qkv"),
                tuple(rf"\1.attention.attention.{part}.\2" for part in ("query", "key", "value")),
            ),
        ),
        (_BLOCK + r"attn\.proj\.(.+)", ((r"\1.attention.o_proj.\2",), (r"\1.attention.output.dense.\2",))),
        (_BLOCK + r"mlp\.fc1\.(.+)", ((r"\1.mlp.fc1.\2",), (r"\1.intermediate.dense.\2",))),
        (_BLOCK + r"mlp\.fc2\.(.+)", ((r"\1.mlp.fc2.\2",), (r"\1.output.dense.\2",))),
    )
)
_LAYERS = ("layers.", "encoder.layer.")


def places_of(name: str, held: Iterable[str]) -> tuple[str, ...]:
    """The names of a timm tensor in transformers' ViT for image classification, whatever the version.

    Its rows are those of the tensors named, in order: one, or query, key and value. Empty where there is none.

    Args:
        held: the names that the network has, perhaps below a prefix.
    """
    held = set(held)
    root = next((key.removesuffix("embeddings.cls_token") for key in held if key.endswith("embeddings.cls_token")), "")
    if name.startswith("head."):  # beside the root, not below it
        beside = root[: root.rfind(".", 0, -1) + 1] + name.replace("head.", "classifier.")
        return (beside,) if beside in held else ()
    for pattern, versions in _NAMES:
        match = pattern.fullmatch(name)
        if match is None:
            continue
        for layers in _LAYERS if name.startswith("blocks.") else ("",):
            for version in versions:
                places = tuple(root + layers + match.expand(place) for place in version)
                if held.issuperset(places):
                    return places
    return ()
