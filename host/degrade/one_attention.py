"""One attention among those of a network, changed through the host's public points; what others put there is called."""

from __future__ import annotations

from collections.abc import Callable

import torch
from comfy.ldm.modules.attention import optimized_attention
from einops import rearrange

Attend = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor | None], torch.Tensor]


def unet_attention(inner: Callable | None, extra: dict) -> Attend:
    """The attention of a U-Net's layer, or what another pack (`inner`) has put in its place. extra: the layer's."""

    def plain(q, k, v, mask):
        if inner is not None:
            return inner(q, k, v, extra) if mask is None else inner(q, k, v, extra, mask=mask)
        precision = extra.get("attn_precision")
        return optimized_attention(
            q, k, v, extra["n_heads"], mask=mask, attn_precision=precision, transformer_options=extra
        )

    return plain


def overriding(
    before: Callable | None, meant: Callable[[int, int], bool], attend: Callable[..., torch.Tensor], leave: int = 0,
    most: float = 1,
) -> Callable:
    """An `optimized_attention_override` for one attention of a block, or several; the others stay as they are.

    Args:
        before: the override that stood there.
        meant: whether it may be that one, from the number of tokens that ask and that are asked.
        attend: (q, k, v, mask, heads, plain) -> the changed attention; all [B, tokens, heads * channels], mask to be
            added. plain: the attention as it was.
        leave: how many that look the same come first.
        most: how many are meant.
    """
    passed = 0

    def override(func, q, k, v, heads, mask=None, *args, skip_reshape=False, skip_output_reshape=False, **more):
        nonlocal passed
        call = func if before is None else (lambda *given, **named: before(func, *given, **named))
        at = 2 if skip_reshape else 1  # [B, heads, tokens, channels]; or [B, tokens, ...], heads flat or apart
        passed += (mine := meant(q.shape[at], k.shape[at]))
        if not mine or not leave < passed <= leave + most:
            return call(q, k, v, heads, mask, *args, skip_reshape=skip_reshape,
                        skip_output_reshape=skip_output_reshape, **more)
        q, k, v = ((part.transpose(1, 2) if skip_reshape else part).flatten(2) for part in (q, k, v))

        def plain(q, k, v, mask):
            return call(q, k, v, heads, mask, *args, **more)

        out = attend(q, k, v, additive(mask, q), heads, plain)
        return split(out, heads) if skip_output_reshape else out

    return override


def split(tokens: torch.Tensor, heads: int) -> torch.Tensor:
    """[B, tokens, heads * channels] -> [B, heads, tokens, channels]."""
    return rearrange(tokens, "b n (heads c) -> b heads n c", heads=heads)


def additive(mask: torch.Tensor | None, like: torch.Tensor) -> torch.Tensor | None:
    """A mask as a number to add to the scores, [B or 1, heads or 1, tokens or 1, tokens]; a bool means "may see"."""
    if mask is None:
        return None
    if mask.dtype == torch.bool:
        mask = torch.zeros_like(mask, dtype=like.dtype).masked_fill_(~mask, -torch.finfo(like.dtype).max)
    return mask.reshape(-1, 1, *mask.shape[-2:]) if mask.ndim < 4 else mask
