"""Seeds from keys: random numbers that are the same whenever the key is, whatever else was drawn."""

from __future__ import annotations

import hashlib

import torch


def seed_of(*key: int) -> int:
    """A seed below 2^32 for a key of whole numbers; another key gives an unrelated one.

    PyTorch's CPU generator reads only the lowest 32 bits of a seed, hence the digest.
    """
    words = " ".join(map(str, key))
    return int.from_bytes(hashlib.sha256(words.encode()).digest()[:4], "big")


def generator_of(*key: int) -> torch.Generator:
    """A generator on the CPU for a key of whole numbers."""
    return torch.Generator().manual_seed(seed_of(*key))
