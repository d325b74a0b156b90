"""JSON from strangers: what is read, and what is refused before anything else meets it."""

import pytest

from guidance_pack.guidance.checkpoints.json_text import LARGEST_SEED, MOST_BYTES, parse_json, read_json
from guidance_pack.guidance.checkpoints.words import listed, quoted, shown, shown_shape


def test_what_is_read():
    assert parse_json('{"a": [1, 2.5, "\\u00e9", null, true]}', dict) == {"a": [1, 2.5, "é", None, True]}
    assert parse_json(f'{{"seed": {2**64 - 1}}}', dict, LARGEST_SEED) == {"seed": 2**64 - 1}
    assert parse_json("[" * 32 + "]" * 32, list) and parse_json("[]", list) == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[" * 33 + "]" * 33, "nested more than 32 deep"), ("[" * 100_000 + "]" * 100_000, "nested more than 32 deep"),
        ('{"a":' * 50_000 + "1" + "}" * 50_000, "nested more than 32 deep"), ("[" * 200_000, "nested|not JSON"),
        ('{"a": NaN}', "NaN is no number"), ('{"a": -Infinity}', "is no number"), ('{"a": 1e999}', "too large"),
        (f'{{"a": {10**30}}}', "number that is too large"), (f'{{"a": {"9" * 5000}}}', "not JSON"),
        ('{"a": "\\ud800"}', "half a character"), ('{"\\udc00": 1}', "half a character"),
        ("[1]", "must be a JSON object"), ("", "not JSON"), ("{", "not JSON"), (" " * MOST_BYTES + "{}", "at most"),
    ],
)
def test_what_is_refused(text, words):
    with pytest.raises(ValueError, match=words) as caught:
        parse_json(text, dict if text[:1] != "[" or text == "[1]" else list)
    assert len(str(caught.value)) < 250


def test_files(tmp_path):
    file = tmp_path / "a.json"
    file.write_bytes(b'{"a": "\xff"}')
    with pytest.raises(ValueError, match="not UTF-8"):
        read_json(file, dict)
    file.write_bytes(b" " * (MOST_BYTES + 1))
    with pytest.raises(ValueError, match="at most"):
        read_json(file, dict)


def test_what_a_file_says_is_short_in_messages():
    doubled = []
    for _ in range(100):
        doubled = [doubled, doubled]
    assert shown(doubled) == "a list" and shown(2**2000) == "a number of 2001 bits"
    assert len(shown("a" * 100_000)) == 80 and "\x1b" not in shown("\x1b[2J") and quoted("a\nb") == repr("a\ufffdb")
    assert shown_shape([2] * 70) == f"[{', '.join('2' * 8)}, ...]" and listed(list("abcde")) == "a, b, c and 2 more"
