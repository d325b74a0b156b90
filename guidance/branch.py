"""Branch: the name of one denoiser evaluation that a rule may ask for."""

from __future__ import annotations

from dataclasses import dataclass

MAIN = "main"


@dataclass(frozen=True)
class Branch:
    """Which network is evaluated on the noisy input, and on which conditioning.

    A guide has its own conditioning under the same word: its "positive" is the prompt of the main model, unless the
    guide was given another one.
    """

    network: str = MAIN
    condition: str = "positive"


POSITIVE = Branch()
NEGATIVE = Branch(condition="negative")
EMPTY = Branch(condition="empty")  # a prompt without words
