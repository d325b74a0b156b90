"""A text as GLIDE's tokens. The vocabulary is GPT-2's, in the user's own folder; an empty text needs none.

Source: Nichol et al. 2021 (2112.10741): the text in small letters, byte pairs of GPT-2's vocabulary, no token for its
start or end. The files are those of https://huggingface.co/openai-community/gpt2.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from ...guidance.checkpoints.json_text import MOST_BYTES, read_json
from ...guidance.networks.adm.glide import VOCABULARY
from ...guidance.networks.adm.tokens import bits_of
from ..common.places import is_text, placed, walk
from .folders import model_folders

if TYPE_CHECKING:
    from tokenizers import Tokenizer

FOLDER, PLACE = "text_encoders", "models/text_encoders"
WORDS, PAIRS = "vocab.json", "merges.txt"
NONE = "none (the text is empty)"
_KNOWN = {"hello": 31373, "Ġworld": 995}  # by which GPT-2's vocabulary is told from others of its size
_GET = (
    f"GPT-2's {WORDS} and {PAIRS} from https://huggingface.co/openai-community/gpt2 belong into {PLACE}/gpt2; press R "
    f"then"
)


def vocabularies() -> list[str]:
    """The folders that hold a vocabulary of byte pairs, and NONE."""
    found = {
        place.relative_to(root).as_posix()
        for root in model_folders(FOLDER)
        for place, _, files in walk(root)
        if {WORDS, PAIRS} <= set(files) and place != root
    }
    return [*sorted(name for name in found if is_text(name)), NONE]


def prompt_problem(text: str | None, vocabulary: str | None) -> str | None:
    """What is wrong with the widgets, in words; None if nothing is, or if a value is linked and not known yet."""
    try:
        if vocabulary is not None and vocabulary != NONE:
            _folder(vocabulary)
    except ValueError as error:
        return str(error)
    if vocabulary == NONE and text is not None and text.strip():
        return f"A text needs GPT-2's vocabulary, and vocabulary is {NONE!r}. Choose a folder that has it. {_GET}."
    return None


def prompt_conditioning(text: str, vocabulary: str) -> list:
    """CONDITIONING for a text; spaces around it do not count.

    Raises:
        ValueError: no such folder, another vocabulary than GPT-2's, or a text that is too long, in words.
    """
    text = text.strip()
    if not text:
        return [[bits_of([]), {}]]
    if problem := prompt_problem(text, vocabulary):
        raise ValueError(problem)
    folder = _folder(vocabulary)
    files = [folder / name for name in (WORDS, PAIRS)]
    state = tuple((file.stat().st_mtime_ns, file.stat().st_size) for file in files)
    return [[bits_of(_tokenizer(folder, state).encode(text.lower()).ids), {}]]


@lru_cache(maxsize=1)
def _tokenizer(folder: Path, state: tuple[tuple[int, int], ...]) -> Tokenizer:
    """state: of its files, so that new ones are read anew."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    words, pairs = _words(folder), _pairs(folder)
    if not all(first in words and second in words and first + second in words for first, second in pairs):
        raise ValueError(f"{folder / PAIRS} and {WORDS} beside it are of two vocabularies. {_GET}.")
    made = Tokenizer(models.BPE(words, pairs))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return made


def _words(folder: Path) -> dict[str, int]:
    file = folder / WORDS
    try:
        words = read_json(file, dict)
    except ValueError as error:
        raise ValueError(f"{file} {error}. {_GET}.") from None
    known = len(words) == VOCABULARY and _KNOWN.items() <= words.items()
    if not known or set(map(str, words.values())) != set(map(str, range(VOCABULARY))):
        raise ValueError(f"{file} has {len(words)} tokens and is not GPT-2's, which GLIDE reads. {_GET}.")
    return words


def _pairs(folder: Path) -> list[tuple[str, str]]:
    file = folder / PAIRS
    if file.stat().st_size > MOST_BYTES:
        raise ValueError(f"{file} has {file.stat().st_size} bytes; at most {MOST_BYTES} are read. {_GET}.")
    lines = file.read_bytes().decode("utf-8", errors="replace").split("\n")
    pairs = [line.rstrip("\r").split(" ") for line in lines if line.strip() and not line.startswith("#version")]
    if any(len(pair) != 2 for pair in pairs):
        raise ValueError(f"{file} is no list of pairs, one in a line. {_GET}.")
    return [(first, second) for first, second in pairs]


def _folder(vocabulary: str) -> Path:
    """Raises ValueError, naming the nearest, for a folder that is not there or holds no vocabulary."""
    folder = placed(model_folders(FOLDER), vocabulary, "vocabulary", PLACE, vocabularies)
    missing = [name for name in (WORDS, PAIRS) if not (folder / name).is_file()]
    if missing:
        raise ValueError(f"{folder} has no {missing[0]}. {_GET}.")
    return folder
