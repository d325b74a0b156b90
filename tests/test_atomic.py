"""Files that several processes write at once: whole always, never overwritten where they must not be."""

import errno
import os

import pytest
import torch
from another_process import begun, said
from safetensors import safe_open

from guidance_pack.guidance.checkpoints.atomic import (
    NameInUseError,
    atomic_save,
    disk_words,
    name_lock,
    publish,
    require_room,
    unfinished,
)
from guidance_pack.guidance.checkpoints.snapshot import read_snapshot

TENSORS = {"a": torch.arange(5.0)}
def header(path) -> dict:
    with safe_open(path, framework="pt") as file:
        return file.metadata()


@pytest.mark.slow
def test_two_writers_and_a_reader_of_one_name_see_whole_files_alone(tmp_path):
    path = tmp_path / "team.safetensors"
    atomic_save(path, {"a": torch.full((9000,), 0.0)}, {"who": "0"})
    writers = [
        begun(
            """
            input()
            for _ in range(60):
                atomic_save(path, {"a": torch.full((9000,), float(sys.argv[2]))}, {"who": sys.argv[2]})
            """,
            path, who,
        )
        for who in (1, 2)
    ]
    for writer in writers:
        writer.stdin.write("go\n")
        writer.stdin.flush()
    seen = set()
    while any(writer.poll() is None for writer in writers):
        metadata, tensors = read_snapshot(path)
        who = metadata["who"]
        assert tensors["a"].unique().tolist() == [float(who)], "a mixed file"
        seen.add(who)
    for writer in writers:
        said(writer)
    assert seen & {"1", "2"} and [entry.name for entry in tmp_path.iterdir()] == ["team.safetensors"]


@pytest.mark.slow
def test_of_two_that_publish_one_name_one_wins_and_the_other_is_told(tmp_path):
    path = tmp_path / "team.safetensors"
    code = """
        input()
        try:
            atomic_save(path, {"a": torch.full((9000,), float(sys.argv[2]))}, {"who": sys.argv[2]}, overwrite=False)
            print("won")
        except FileExistsError:
            print("lost")
        """
    writers = [begun(code, path, who) for who in (1, 2)]
    for writer in writers:
        writer.stdin.write("go\n")
        writer.stdin.flush()
    answers = [said(writer).strip() for writer in writers]
    assert sorted(answers) == ["lost", "won"]
    assert header(path)["who"] == str(1 + answers.index("won"))
    assert [entry.name for entry in tmp_path.iterdir()] == ["team.safetensors"]


@pytest.mark.slow
def test_a_name_is_one_process_s_until_it_ends_or_dies(tmp_path):
    path = tmp_path / "folder" / "team.safetensors"
    other = begun("with name_lock(path):\n    print('mine', flush=True)\n    input()", path)
    assert other.stdout.readline() == "mine\n"
    with pytest.raises(NameInUseError, match=r"Another ComfyUI or command is at work on .*team"), name_lock(path):
        pass
    with name_lock(path.with_name("another")):
        pass
    other.kill()
    other.wait()
    with name_lock(path), pytest.raises(NameInUseError), name_lock(path):
        pass
    assert list(path.parent.iterdir()) == [], "no lock is left behind"


@pytest.mark.slow
def test_many_that_want_one_name_have_it_one_after_another(tmp_path):
    path = tmp_path / "team"
    code = """
        for _ in range(40):
            try:
                with name_lock(path):
                    with open(path, "x"):
                        pass
                    path.unlink()
            except NameInUseError:
                pass
        """
    for process in [begun(code, path) for _ in range(3)]:
        said(process)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("links", [True, False])
def test_publishing_never_overwrites(tmp_path, monkeypatch, links):
    def refused(*args):
        raise OSError(errno.EPERM, "Operation not permitted")

    if not links:
        monkeypatch.setattr(os, "link", refused)
    path = tmp_path / "team.safetensors"
    atomic_save(path, TENSORS, {"who": "first"}, overwrite=False)
    with pytest.raises(FileExistsError):
        atomic_save(path, TENSORS, {"who": "second"}, overwrite=False)
    assert header(path) == {"who": "first"} and [entry.name for entry in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("there", ["file", "empty", "full"])
def test_a_folder_is_published_where_there_is_nothing(tmp_path, there):
    path = tmp_path / "made"

    def made():
        with unfinished(path) as partial:
            partial.mkdir()
            (partial / "inside").write_text("new")
            publish(partial, path)

    made()
    assert (path / "inside").read_text() == "new"
    (path / "inside").unlink()
    if there == "file":
        path.rmdir()
    if there != "empty":
        (path if there == "file" else path / "mine").write_text("mine")
    with pytest.raises(FileExistsError):
        made()
    assert [entry.name for entry in tmp_path.iterdir()] == ["made"]
    assert path.is_file() or [entry.name for entry in path.iterdir()] == (["mine"] if there == "full" else [])


def test_equal_contents_are_equal_bytes(tmp_path):
    for name in "ab":
        atomic_save(tmp_path / name, TENSORS, {key: key for key in "zyxwvu"})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_what_cannot_be_written_is_said_in_words(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError):
        atomic_save(tmp_path / "file" / "team.safetensors", TENSORS, {})
    with pytest.raises(OSError):
        atomic_save(tmp_path / "missing" / "team.safetensors", TENSORS, {})
    for number, words in ((errno.ENOSPC, "The disk is full at"), (errno.EROFS, "Nothing can be written at")):
        with pytest.raises(OSError) as raised, disk_words(tmp_path, "Do this."):
            raise OSError(number, "what the system says")
        assert str(raised.value) == f"{words} {tmp_path} (what the system says). Do this."
        assert raised.value.errno == number
    with pytest.raises(FileExistsError, match="exists"), disk_words(tmp_path, "Do this."):
        raise FileExistsError(errno.EEXIST, "exists")
    require_room(tmp_path, 1, "it")
    with pytest.raises(OSError, match="MB left, and the bank needs"):
        require_room(tmp_path, 2**80, "the bank")
