"""Perturbation: what makes a network worse on purpose, on plain tensors. Draws depend on a key alone.

Sources: dropout and input noise 2406.02507 section 5.1; identity attention 2403.17377 Eq. 8; blurred queries 2408.00760
Eq. 12; blocks left out 2508.12880; shuffled tokens 2506.10036. Attention tensors are [..., tokens, channels], tokens
row by row of a grid (frames, height, width).
"""

from __future__ import annotations

import hashlib
import math

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from .noise_level import NoiseLevel, expand

Grid = tuple[int, int, int]  # frames, height, width, in tokens
LOW = 0xFFFFFFFF


def key_of(seed: int, sigma: float, place: str) -> int:
    """A number of 64 bits for one draw: another seed, noise level or place gives an unrelated one."""
    return int.from_bytes(hashlib.blake2b(f"{seed}/{sigma!r}/{place}".encode(), digest_size=8).digest(), "big")


def chance(key: int) -> float:
    """The key as one uniform number in [0, 1)."""
    return (key >> 11) * 2.0**-53


def uniform(shape: torch.Size | tuple[int, ...], key: int, device: torch.device | str = "cpu") -> Tensor:
    """Uniform float32 numbers in (0, 1): a hash of each element's index, the same on every device.

    No generator: one on the CPU would take longer than a large network's step, one on the device would draw otherwise.
    """
    index = torch.arange(math.prod(shape), dtype=torch.int64, device=device)
    mixed = _mix(_mix(index ^ (key & LOW)) ^ (key >> 32))
    return ((mixed >> 9).to(torch.float32) + 0.5).mul_(2.0**-23).reshape(tuple(shape))


def normal(shape: torch.Size | tuple[int, ...], key: int, device: torch.device | str = "cpu") -> Tensor:
    """Standard normal float32 numbers, to rounding the same on every device."""
    # Exact: the uniform numbers are odd multiples of 2^-24. ndtri, which is this, does not exist on a Mac's GPU.
    return (2.0 * uniform(shape, key, device) - 1.0).erfinv_().mul_(math.sqrt(2.0))


def _mix(z: Tensor) -> Tensor:
    """A bijection of 32-bit numbers in which every bit of z decides every bit (the end of MurmurHash3)."""
    z = ((z ^ (z >> 16)) * 0x85EBCA6B) & LOW
    z = ((z ^ (z >> 13)) * 0xC2B2AE35) & LOW
    return z ^ (z >> 16)


def order(count: int, share: float, key: int, device: torch.device | str = "cpu") -> Tensor:
    """The numbers 0 to count - 1, of which a share has changed places among themselves, at random; int64 [count]."""
    draws = uniform((2, count), key, device)
    places = torch.arange(count, device=device)
    moving = places[draws[0] < share]
    places[moving] = moving[draws[1][moving].argsort()]
    return places


def drop(before: Tensor, after: Tensor, rate: float, draws: Tensor) -> Tensor:
    """Dropout of what a block adds: before + mask (after - before) / (1 - rate). draws: uniform, broadcast over rows.

    With `before` of another shape than `after` there is no such difference: raises ValueError.
    """
    _check_residual(before, after)
    kept = (draws >= rate).to(after.dtype) / (1.0 - rate)
    return before + kept * (after - before)


def skip_block(before: Tensor, after: Tensor, share: Tensor) -> Tensor:
    """A block that does only 1 - share of its work. share: [B], 1 = the block is skipped."""
    _check_residual(before, after)
    return torch.lerp(after, before, expand(share, after))


def _check_residual(before: Tensor, after: Tensor) -> None:
    if before.shape != after.shape:
        raise ValueError(
            f"This block turns {tuple(before.shape)} into {tuple(after.shape)}, so it cannot be left out. "
            f"Choose other layers."
        )


def noisier(level: NoiseLevel, extra: float, highest: float) -> tuple[NoiseLevel, Tensor]:
    """The level after more noise on the same signal, and how much: sigma' = (1 + extra) sigma, at most `highest`.

    Args:
        highest: the largest sigma (noise to signal) that the network was trained for; inf = any.

    Returns:
        (a, b') and the standard deviation [B] of the noise to add to x, sqrt(b'^2 - b^2).
    """
    limit = (highest * level.a / level.b).nan_to_num(nan=math.inf)  # without signal (a = 0) nothing is the highest
    grown = level.b * limit.clamp(1.0, 1.0 + extra)
    return NoiseLevel(level.a, grown), (grown**2 - level.b**2).clamp(min=0).sqrt()


def add_noise(x: Tensor, added: Tensor, noise: Tensor) -> Tensor:
    """x [B, ...] and fresh noise of standard deviation `added` [B]."""
    return x + expand(added, x) * noise.to(x.dtype)


def as_flow(x: Tensor, level: NoiseLevel, noise_scale: float) -> tuple[Tensor, Tensor]:
    """x and its time t [B] in a flow model's coordinates, where a + b / noise_scale = 1; a may be 0."""
    total = level.a + level.b / noise_scale
    return x * expand(1.0 / total, x), level.b / noise_scale / total


def blend(whole: Tensor, perturbed: Tensor, strength: float) -> Tensor:
    """Between the unperturbed (strength 0) and the perturbed (1)."""
    return perturbed if strength == 1.0 else torch.lerp(whole, perturbed.to(whole.dtype), strength)


def blur(tokens: Tensor, grid: Grid, spread: float) -> Tensor:
    """Every frame of a token grid blurred by a Gaussian of `spread` tokens, normalised at the borders."""
    frames, height, width = grid
    out = rearrange(tokens, "... (t h w) c -> ... t h w c", t=frames, h=height, w=width)
    rows, columns = (_gaussian(count, spread, tokens) for count in (height, width))
    out = torch.einsum("ij,...jwc->...iwc", rows, out)
    return torch.einsum("ij,...hjc->...hic", columns, out).reshape(tokens.shape)


def _gaussian(count: int, spread: float, like: Tensor) -> Tensor:
    place = torch.arange(count, dtype=torch.float32)
    weights = torch.exp(-((place[:, None] - place) ** 2) / (2 * spread**2))
    return (weights / weights.sum(1, keepdim=True)).to(like.device, like.dtype)


def pool(tokens: Tensor, grid: Grid, factor: int) -> Tensor:
    """Every frame of a token grid averaged over squares of factor x factor tokens; fewer tokens come back."""
    frames, height, width = grid
    maps = rearrange(tokens, "... (t h w) c -> (... t) c h w", t=frames, h=height, w=width)
    small = F.avg_pool2d(maps, factor, ceil_mode=True, count_include_pad=False)
    return rearrange(small, "b c h w -> b h w c").reshape(*tokens.shape[:-2], -1, tokens.shape[-1])


def identity_attention(q: Tensor, k: Tensor, v: Tensor, text: int, mask: Tensor | None = None) -> Tensor:
    """What picture tokens get when they see no other picture token, only themselves and the text.

    Args:
        q, k, v: [B, heads, text + picture tokens, channels], the text first; text 0 gives v.
        mask: added to the scores, broadcastable to [B, heads, tokens, tokens].

    Returns:
        [B, heads, picture tokens, channels].
    """
    own = v[..., text:, :]
    if text == 0:
        return own
    scale = q.shape[-1] ** -0.5
    asked = q[..., text:, :] * scale
    scores = asked @ k[..., :text, :].transpose(-1, -2)
    self_score = (asked * k[..., text:, :]).sum(-1, keepdim=True)
    if mask is not None:
        full = mask.expand(*mask.shape[:-2], q.shape[-2], k.shape[-2])
        scores = scores + full[..., text:, :text]
        self_score = self_score + full.diagonal(dim1=-2, dim2=-1)[..., text:, None]
    weights = torch.cat([self_score, scores], -1).float().softmax(-1).to(v.dtype)
    return weights[..., :1] * own + weights[..., 1:] @ v[..., :text, :]
