"""From a name to a place: one check for the names that people give, one way to what lies under one."""

import os
from pathlib import PureWindowsPath

import pytest

from guidance_pack.host.common import places
from guidance_pack.host.common.places import inside, is_text, name_problem, placed, walk


def problem(name, example="mine/team"):
    return name_problem(name, example, "models/guides", ".safetensors")


@pytest.mark.parametrize("name", ["team", "mine/ppap-resnet50", "wörter 2", "実験", "a.b", "console", "com10"])
def test_good_names(name):
    assert problem(name) is None


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("", "is empty"), ("..", "is . or .."), ("../x", "is . or .."), ("a//b", "is empty"), ("/etc/x", "is empty"),
        ("a\\b", "holds one of"), ("a:b", "holds one of"), ("a\0b", "no text"), ("a\nb", "no text"),
        ("\udcff", "no text"),
        ("a\u202eb", "no text"), (" a", "begins or ends with a space"), ("a.", "ends with a full stop"),
        ("CON", "device on Windows"), ("mine/nul.txt", "device on Windows"), ("lpt1", "device on Windows"),
        ("a" * 101, "longer than 100"), ("実" * 80, "longer than"), ("/".join(["a" * 60] * 5), "has 304 characters"),
        ("team.safetensors", "ends in .safetensors"), ("TEAM.SAFETENSORS", "ends in .safetensors"),
    ],
)
def test_bad_names(name, words):
    found = problem(name)
    assert words in found and found.startswith("name is ") and "such as mine/team" in found
    assert len(found) < 400 and found.isprintable()


@pytest.mark.parametrize("name", [
    "CON", "con.a.b", "PRN", "aux", "NUL ", "CONIN$", "conout$.x", "COM1", "com9.txt", "LPT\xb2", "COM\xb9.x",
])  # fmt: skip
def test_what_windows_reserves_is_refused(name):
    assert PureWindowsPath(name).is_reserved() and problem(name) and problem(f"mine/{name}")


@pytest.mark.parametrize("name", ["C:x", "C:\\x", "\\\\server\\share\\x", "mine\\x", "..\\x", "\\x", "/x", "a/../../x"])
def test_no_name_leads_out_of_its_folder_on_windows(tmp_path, name):
    joined = PureWindowsPath("D:/models/guides") / name
    assert not joined.is_relative_to("D:/models/guides") or ".." in joined.parts or "\\" in name
    assert problem(name)
    with pytest.raises(ValueError, match="outside"):
        inside([tmp_path], name)


def test_a_set_has_no_folders_of_its_own():
    assert problem("mine/team", "shapes-64") is not None


def test_what_lies_outside_is_not_found(tmp_path):
    (tmp_path / "in" / "sub").mkdir(parents=True)
    (tmp_path / "secret").touch()
    root = tmp_path / "in"
    assert inside([root], "sub") == root / "sub" and inside([root], "nothing") is None and inside([root], "") is None
    for name in ("../secret", "sub/../../secret", str(tmp_path / "secret"), "C:\\x", "\\\\server\\x"):
        with pytest.raises(ValueError, match="outside"):
            inside([root], name)
    for name in ("a\0b", "\udcff", "x" * 300, "実" * 100, "a/" * 2000):
        with pytest.raises(ValueError, match="no name"):
            inside([root], name)
    with pytest.raises(ValueError, match="There is no guide 'sup' in models/guides; did you mean sub?") as caught:
        placed([root], "sup", "guide", "models/guides", lambda: ["sub"])
    assert len(str(caught.value)) < 100
    with pytest.raises(ValueError, match="would lie outside models/guides; choose one") as caught:
        placed([root], "../" + "x" * 100_000, "guide", "models/guides", list)
    assert len(str(caught.value)) < 200


def test_links_that_lead_round_in_circles_end(tmp_path, monkeypatch):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "file").touch()
    for name in ("one", "two"):
        (tmp_path / "a" / "b" / name).symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "again").symlink_to(tmp_path / "a", target_is_directory=True)
    (tmp_path / "self").symlink_to(tmp_path / "self")
    found = [(place / file).relative_to(tmp_path).as_posix() for place, _, files in walk(tmp_path) for file in files]
    assert sorted(found) == ["a/file", "again/file", "self"], "every folder once below itself, links followed"
    monkeypatch.setattr(places, "_FOLDERS", 2)
    with pytest.raises(ValueError, match="more than 2 folders"):
        list(walk(tmp_path))


def test_names_that_are_no_text():
    assert is_text("photo é 実.png") and not is_text(os.fsdecode(b"a\xff.png")) and not is_text("a\nb")
