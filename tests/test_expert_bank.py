"""Expert banks: one network with N small adapters. Changing, restoring, files, and what does not fit."""

import json
import os
import struct
from pathlib import Path

import pytest
import torch
from bank_adapters import by_hand, random_adapter, small, spec, state

from guidance_pack.guidance.experts.bank import (
    Adapter,
    ExpertBank,
    LowRank,
    adapter_names,
    adapter_tensors,
    own_tensors,
    problems,
)
from guidance_pack.guidance.experts.file import (
    BANK,
    BankFile,
    BankHeader,
    contents_sha256,
    map_tensors,
    read_bank,
    write_bank,
)
from guidance_pack.guidance.experts.guide import bank_guide
from guidance_pack.guidance.guide import Guide
from guidance_pack.guidance.networks.tiny.files import NetworkFileError
from guidance_pack.guidance.noise_level import NoiseLevel
from guidance_pack.guidance.preprocessing import Preprocessing

ADAPTERS = tuple(random_adapter(seed) for seed in range(3))
SHA = "ab" * 32


def copies(tensors):
    return {name: tensor.clone() for name, tensor in tensors.items()}


def bank(norm: str = "batch", adapters=ADAPTERS) -> ExpertBank:
    base = small(norm)
    return ExpertBank(base, adapters, own_tensors(base, adapter_names(adapters))).eval()


def header(**changed) -> BankHeader:
    given = {"base": "small", "base_sha256": SHA, "task": "classification", "schedule": "linear", "edges": (5.0, 0.25)}
    of_base = {"labels": spec().labels, "preprocessing": spec().preprocessing}
    return BankHeader(**{**given, "scale": 0.5, **of_base, **changed})


def a_file(**changed) -> BankFile:
    return BankFile("team", header(**changed), ADAPTERS, {"seed": 1}, {"workflow": '{"nodes": []}'})


def test_every_expert_is_the_network_with_its_own_weights():
    team, pictures = bank(), torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    for index in (2, 0, 1, 0):
        expected = by_hand(small(), ADAPTERS[index])(pictures.double())
        torch.testing.assert_close(team.use(index)(pictures).double(), expected, rtol=1e-4, atol=1e-5)


def test_the_base_comes_back_bit_for_bit():
    team, before = bank(), state(small())
    for order in ([0], [1, 2, 0, 1], [2, None, 2]):
        for index in order:
            team.use(index)
        team.use(None)
        after = state(team.base)
        assert all(torch.equal(after[name], before[name]) for name in before)


def test_an_expert_is_the_same_whoever_was_before():
    team, other = bank(), bank()
    first = state(team.use(1).base)
    for index in (0, 2, 1):
        other.use(index)
    assert all(torch.equal(tensor, first[name]) for name, tensor in state(other.base).items())


def test_a_failure_half_way_leaves_a_bank_that_can_be_put_right():
    wrong = LowRank(torch.randn(2, 3, 3, 3), torch.randn(7, 2, 1, 1), 1.0)
    broken = Adapter({"first.weight": wrong}, ADAPTERS[0].whole)
    team, before = bank(adapters=(*ADAPTERS, broken)), state(small())
    team.use(0)
    with pytest.raises(RuntimeError):
        team.use(3)
    assert team.active is None
    expected = state(bank().use(1).base)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in state(team.use(1).base).items())
    assert all(torch.equal(tensor, before[name]) for name, tensor in state(team.use(None).base).items())


def test_weights_made_in_inference_mode_can_change():
    with torch.inference_mode():
        base = small()
        for module in base.modules():
            for name, parameter in module._parameters.items():
                if parameter is not None:
                    module._parameters[name] = torch.nn.Parameter(parameter.clone(), requires_grad=False)
    team = ExpertBank(base, ADAPTERS, own_tensors(base, adapter_names(ADAPTERS)))
    assert base.first.weight.is_inference()
    expected = state(bank().use(2).base)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in state(team.use(2).base).items())


def test_only_the_base_is_moved_and_counted():
    team = bank()
    assert sum(p.numel() for p in team.parameters()) == sum(p.numel() for p in small().parameters())
    assert {*team.state_dict()} == {f"base.{name}" for name in small().state_dict()}


def test_a_file_gives_back_exactly_what_was_written(tmp_path):
    write_bank(tmp_path / "team.safetensors", a_file())
    found = read_bank(tmp_path / "team.safetensors")
    assert found.header == header() and found.training == {"seed": 1} and found.workflow == a_file().workflow
    assert found.name == "team" and [own.names() for own in found.adapters] == [own.names() for own in ADAPTERS]
    mine, theirs = adapter_tensors(ADAPTERS), adapter_tensors(found.adapters)
    assert mine.keys() == theirs.keys() and all(torch.equal(mine[key], theirs[key]) for key in mine)
    assert [change.scale for adapter in found.adapters for change in adapter.low_rank.values()] == [0.5] * 9
    write_bank(tmp_path / "again.safetensors", found)
    assert (tmp_path / "again.safetensors").read_bytes() == (tmp_path / "team.safetensors").read_bytes()


def test_the_header_holds_the_preprocessing(tmp_path):
    special = Preprocessing(size=(32, 48), mean=(0.1, 0.2, 0.3), filter="bicubic", antialias=False, whole=True)
    write_bank(tmp_path / "team.safetensors", a_file(preprocessing=special))
    assert read_bank(tmp_path / "team.safetensors").header.preprocessing == special


def test_the_guide_takes_turns_at_the_edges(tmp_path):
    team, guide = bank_guide(a_file(), small(), spec(), SHA, copies)
    assert isinstance(guide, Guide) and guide.name == "team" and guide.experts.count == 3
    assert [member.sees for member in guide.members] == ["noisy"] * 3 and guide.first.schedule is not None
    edges = [edge**-0.5 for edge in (5.0, 0.25)]
    around = [edges[0] * 0.999, edges[0], edges[1] * 0.999, edges[1]]
    at = NoiseLevel.variance_exploding(torch.tensor(around, dtype=torch.float64))
    assert guide.experts.gate_weights(at).argmax(1).tolist() == [0, 1, 1, 2]
    assert team.active is None and not team.training


def test_originals_are_views_of_a_file_that_nobody_can_write_over(tmp_path):
    tensors = {"a": torch.randn(5, 4), "b": torch.tensor(3)}
    found = map_tensors(tmp_path / "kept.safetensors", tensors)
    assert all(torch.equal(found[key], tensors[key]) for key in tensors)
    assert not list(tmp_path.iterdir()), "its room is free when it is no longer used"


def test_where_a_file_in_use_keeps_its_name_equal_contents_are_one_file(tmp_path, monkeypatch):
    def in_use(path, missing_ok=False):
        if path.exists():
            raise PermissionError(13, "in use")

    monkeypatch.setattr(Path, "unlink", in_use)
    tensors = {"a": torch.randn(5, 4)}
    for _ in range(3):
        name = contents_sha256(dict(reversed(tensors.items())))
        assert torch.equal(map_tensors(tmp_path / name, tensors)["a"], tensors["a"])
    assert len(list(tmp_path.iterdir())) == 1


def test_what_is_in_tensors_has_one_name():
    tensors = {"a": torch.arange(4.0), "b": torch.tensor(3)}
    names = [
        contents_sha256(found)
        for found in (
            tensors, {**tensors, "a": torch.arange(4.0) + 1}, {**tensors, "a": torch.arange(4.0).view(2, 2)},
            {**tensors, "a": torch.arange(4.0).half()}, {"c": tensors["a"], "b": tensors["b"]},
        )
    ]
    assert len(set(names)) == 5 and contents_sha256(dict(reversed(tensors.items()))) == names[0]


def test_a_bank_stays_when_its_file_is_written_over_in_place(tmp_path):
    """A mapped view of a file that became shorter ends the process."""
    path = tmp_path / "team.safetensors"
    write_bank(path, a_file())

    def kept(tensors):
        return map_tensors(tmp_path / contents_sha256(tensors), tensors)

    team, _ = bank_guide(read_bank(path), small(), spec(), SHA, kept)
    expected = bank_guide(a_file(), small(), spec(), SHA, copies)[0]
    with open(path, "r+b") as file:
        file.truncate(10)
    seen = torch.randn(2, 3, 8, 8)
    for expert in (0, 2, None, 1):
        assert torch.equal(team.use(expert)(seen), expected.use(expert)(seen))


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"base_sha256": "cd" * 32}, "trained on another small"),
        ({"labels": ("one", "two", "three")}, "labels"),
        ({"task": "depth"}, "does classification"),
        ({"schedule": "no such"}, "no noise schedule"),
    ],
)
def test_another_base_is_refused_in_words(changed, words):
    with pytest.raises(NetworkFileError, match=words):
        bank_guide(a_file(**changed), small(), spec(), SHA, copies)


def test_parts_of_another_network_are_refused_in_words():
    assert problems(small(), ADAPTERS) == []
    with pytest.raises(NetworkFileError, match="does not fit its base small: it has the unknown norm.num_batches"):
        bank_guide(a_file(), small("group"), spec(), SHA, copies)
    wrong = Adapter({"first.weight": LowRank(torch.zeros(2, 3, 3, 3), torch.zeros(9, 2, 1, 1), 1.0)})
    assert problems(small(), [wrong]) == ["has a change of first.weight that does not give its shape [8, 3, 3, 3]"]


@pytest.mark.parametrize("edges", [(0.25, 5.0), (5.0, 5.0), (-1.0, 0.5), (float("nan"), 0.5), (float("inf"), 1.0)])
def test_edges_out_of_order_are_refused(edges):
    with pytest.raises(ValueError, match="edges"):
        header(edges=edges)


def rewritten(path, change) -> None:
    """Change the header of a safetensors file: change(metadata) -> metadata."""
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    found = json.loads(data[8 : 8 + length])
    found["__metadata__"] = change(found["__metadata__"])
    text = json.dumps(found).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])


def changed_bank(**values):
    return lambda old: {**old, "bank": json.dumps({**json.loads(old["bank"]), **values})}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda old: {**old, "format": BANK[:-1] + "9"}, "version 1; update"),
        (lambda old: {**old, "format": "something"}, "no expert bank"),
        (lambda old: {key: value for key, value in old.items() if key != "bank"}, "no readable bank"),
        (lambda old: {**old, "bank": "[1]"}, "must be a JSON object"),
        (lambda old: {**old, "training": "{"}, "training in its header is not JSON"),
        (changed_bank(edges=[0.25, 5.0]), "must fall"),
        (changed_bank(edges=["a", "b"]), "cannot be right"),
        (changed_bank(edges=[5.0]), "has the unknown tensor expert.2"),
        (changed_bank(edges=[5.0, 0.25, 0.1]), "nothing of expert 3"),
        (changed_bank(unknown=1), "cannot be right"),
        (changed_bank(preprocessing={"no": 1}), "cannot be right"),
        (changed_bank(preprocessing=3), "cannot be right"),
    ],
)
def test_a_header_that_cannot_be_right_is_refused_in_words(tmp_path, change, words):
    path = tmp_path / "team.safetensors"
    write_bank(path, a_file())
    rewritten(path, change)
    with pytest.raises(NetworkFileError, match=words):
        read_bank(path)


def test_damaged_tensors_are_refused_in_words(tmp_path):
    path = tmp_path / "team.safetensors"
    spoilt = Adapter(ADAPTERS[0].low_rank, {**ADAPTERS[0].whole, "head.bias": torch.tensor([1.0, float("nan"), 0.0])})
    write_bank(path, BankFile("team", header(), (spoilt, *ADAPTERS[1:])))
    with pytest.raises(NetworkFileError, match="expert.0.whole.head.bias is not finite"):
        read_bank(path)
    write_bank(path, a_file())
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(NetworkFileError, match="damaged"):
        read_bank(path)


def test_others_may_read_a_bank_as_they_may_read_any_new_file(tmp_path):
    path, plain = tmp_path / "team.safetensors", tmp_path / "plain"
    before = os.umask(0o027)
    try:
        for _ in range(2):  # new, and in the place of another
            write_bank(path, a_file())
        plain.touch()
    finally:
        os.umask(before)
    assert path.stat().st_mode == plain.stat().st_mode


def test_what_was_there_survives_a_full_disk(tmp_path, monkeypatch):
    from guidance_pack.guidance.checkpoints import atomic as whole_file

    path = tmp_path / "team.safetensors"
    write_bank(path, a_file())
    before = path.read_bytes()

    def full(tensors, target, metadata):
        target.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(whole_file, "save_file", full)
    with pytest.raises(OSError, match="No space left"):
        write_bank(path, a_file(base="another"))
    assert path.read_bytes() == before and [entry.name for entry in tmp_path.iterdir()] == ["team.safetensors"]
