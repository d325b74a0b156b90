"""A text's tokens for GLIDE as an embedding travels: numbers that become the empty text where a node zeroes them, and
that show it where a node mixes them with others, as averages of embeddings do."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .glide import CONTEXT, PADDING, GlideConfig

BITS = 16


def bits_of(tokens: Sequence[int]) -> Tensor:
    """Tokens as [1, CONTEXT, BITS] in {0, 1}: each token and one in binary, and zeros where the text is over.

    Raises:
        ValueError: more tokens than GLIDE reads, in words.
    """
    if len(tokens) > CONTEXT:
        raise ValueError(
            f"the text is {len(tokens)} tokens long, and GLIDE reads {CONTEXT}. Take some words out, about "
            f"{(len(tokens) - CONTEXT) * 3 // 4 + 1}."
        )
    padded = torch.tensor([*tokens, *[PADDING] * (CONTEXT - len(tokens))], dtype=torch.int64) + 1
    return (padded[:, None] >> torch.arange(BITS) & 1).float()[None]


def tokens_of(bits: Tensor | None, config: GlideConfig) -> Tensor:
    """The tokens int64 [K, context] of such an embedding, PADDING where the text is over.

    Raises:
        ValueError: the embedding is another encoder's, or was mixed or joined with others, in words.
    """
    if bits is None or bits.ndim != 3 or bits.shape[-1] != BITS:
        raise ValueError(
            "GLIDE reads a text with a transformer of its own, and its conditioning was made for another network. "
            "Connect GLIDE Prompt to positive and negative (an empty text needs no vocabulary)."
        )
    if bool(((bits != 0) & (bits != 1)).any()):
        raise ValueError(
            "GLIDE reads whole tokens, and this conditioning is a mixture of several texts (Conditioning Average). "
            "Connect GLIDE Prompt itself; Conditioning Combine and areas work."
        )
    if bits.shape[1] != config.context:
        raise ValueError(
            f"GLIDE reads {config.context} tokens, and this conditioning has {bits.shape[1]}: texts were joined "
            f"(Conditioning Concat). Write them into one GLIDE Prompt."
        )
    tokens = (bits.long() << torch.arange(BITS, device=bits.device)).sum(-1) - 1
    if bool((tokens >= config.vocabulary).any()):
        raise ValueError(
            f"This GLIDE network knows {config.vocabulary} tokens, and the text has the token {int(tokens.max())}. Use "
            f"a released network, or an empty text."
        )
    return tokens
