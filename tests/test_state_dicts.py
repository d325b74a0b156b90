"""The safe readers: honest files come out as they went in, and what means harm runs nothing."""

import builtins
import collections
import io
import json
import os
import pickle
import struct
import sys

import checkpoint_writers as writers
import convert_checkpoint
import edm2_formulas as formulas
import pytest
import torch
from safetensors.torch import load_file, save_file

from guidance_pack.guidance.checkpoints import inert_pickle
from guidance_pack.guidance.checkpoints.edm2_pickle import read_edm2_pickle
from guidance_pack.guidance.checkpoints.state_dicts import CheckpointError, convert, open_checkpoint, sha256_of
from guidance_pack.guidance.networks.edm2.config import EDM2Config, config_of
from guidance_pack.guidance.networks.edm2.unet import EDM2

CONFIG = EDM2Config(
    img_resolution=16, label_dim=5, model_channels=16, channel_mult=(1, 4), num_blocks=1, attn_resolutions=(8,)
)
SETTINGS = {"img_resolution": 16, "img_channels": 4, "label_dim": 5, "model_channels": 16, "channel_mult": [1, 4],
            "num_blocks": 1, "attn_resolutions": [8], "dropout": 0.1, "use_fp16": True}  # fmt: skip
STORAGE = writers.named("torch.storage", "_load_from_bytes")


@pytest.fixture(scope="module")
def tensors():
    shapes = {name: tuple(value.shape) for name, value in EDM2(CONFIG, device="meta").state_dict().items()}
    return formulas.random_tensors(shapes)


@pytest.fixture
def canary(tmp_path):
    """A path that every payload tries to make a file of, and the words of Python that do it."""
    path = tmp_path / "it-ran"
    yield path
    assert not path.exists(), "the file's code was run"


def equal(found, expected):
    return list(found) == list(expected) and all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_a_snapshot_comes_out_as_it_went_in(tmp_path, tensors, canary, protocol):
    path = tmp_path / "edm2-img512-xs-2147483-0.050.pkl"
    writers.write_snapshot(path, tensors, SETTINGS, f"open({str(canary)!r}, 'w')", protocol)
    before = set(sys.modules)
    opened = open_checkpoint(path)
    assert opened.source == "EDM2 snapshot" and opened.dtype == torch.float16
    assert opened.shapes == {name: tuple(value.shape) for name, value in tensors.items()}
    assert opened.config == SETTINGS and opened.metadata["class_name"] == "Precond"
    found = opened.tensors()
    assert {name: value.shape for name, value in found.items()} == {name: v.shape for name, v in tensors.items()}
    assert all(torch.equal(found[name], value.half()) for name, value in tensors.items())
    assert config_of(opened.name, opened.shapes, opened.config) == CONFIG
    assert not {"dnnlib", "torch_utils"} & (set(sys.modules) - before)


def test_the_writer_writes_what_pythons_unpickler_would_run(tmp_path, tensors):
    """Otherwise the canaries would prove nothing."""
    path = tmp_path / "a.pkl"
    writers.write_snapshot(path, tensors, SETTINGS)
    with writers.nvidia_modules(), pytest.raises(AssertionError, match="called what the file names"):
        pickle.loads(path.read_bytes())
    flag = tmp_path / "flag"
    pickle.loads(pickle.dumps(writers.Call(os.system, f"touch {flag}")))
    assert flag.exists()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_conversion(tmp_path, tensors, dtype):
    source, out = tmp_path / "a.pt", tmp_path / "a.safetensors"
    torch.save({name: value.to(dtype) for name, value in tensors.items()}, source)
    convert(open_checkpoint(source), out)
    assert equal(dict(sorted(load_file(out).items())), {n: v.to(dtype) for n, v in sorted(tensors.items())})
    opened = open_checkpoint(out)
    assert opened.dtype == dtype and opened.source == "safetensors"
    assert opened.metadata["source"] == "a.pt" and opened.metadata["source_sha256"] == sha256_of(source)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.pt", "a.safetensors"]


def test_the_config_survives_conversion(tmp_path, tensors):
    source, out = tmp_path / "a.pkl", tmp_path / "a.safetensors"
    writers.write_snapshot(source, tensors, SETTINGS | {"res_balance": 0.4})
    convert(open_checkpoint(source), out)
    opened = open_checkpoint(out)
    assert config_of(opened.name, opened.shapes, opened.config).res_balance == 0.4
    assert opened.metadata["format"] == "guidance-components/checkpoint/1"


def test_the_converting_command(tmp_path, tensors, capsys):
    writers.write_snapshot(tmp_path / "a.pkl", tensors, SETTINGS)
    torch.save(tensors, tmp_path / "b.pt")
    assert convert_checkpoint.main([str(tmp_path / "a.pkl"), str(tmp_path / "b.pt")]) == 0
    assert "a.pkl -> " in capsys.readouterr().out
    assert equal(load_file(tmp_path / "b.safetensors"), dict(sorted(tensors.items())))
    assert convert_checkpoint.main([str(tmp_path / "b.pt")]) == 0, "the same again"
    torch.save({name: tensor + 1 for name, tensor in tensors.items()}, tmp_path / "b.pt")
    assert convert_checkpoint.main([str(tmp_path / "b.pt")]) == 1
    assert "b.safetensors exists already and was made of something else" in capsys.readouterr().err
    assert convert_checkpoint.main([str(tmp_path / "b.safetensors")]) == 1
    assert "b.safetensors is safetensors already" in capsys.readouterr().err


def test_the_averaging_command(tmp_path, tensors, capsys):
    """Two snapshots of one time by hand: shares by the exponents' products, buffers untouched."""
    names = [f"edm2-img512-xs-0001024-{std}.pkl" for std in ("0.050", "0.100")]
    for sign, name in zip((1, 2), names, strict=True):
        writers.write_snapshot(tmp_path / name, {k: sign * v for k, v in tensors.items()}, SETTINGS)
    assert convert_checkpoint.main(["--ema", "0.07", *(str(tmp_path / name) for name in names)]) == 0
    said = capsys.readouterr().out
    out = tmp_path / "edm2-img512-xs-0001024-0.070.safetensors"
    opened, shares = open_checkpoint(out), [float(line.split()[0]) for line in said.splitlines()[:2]]
    assert sum(shares) == pytest.approx(1, abs=2e-4) and 0 < shares[0] < 1 and opened.dtype == torch.float16
    expected = (shares[0] + 2 * shares[1]) * tensors["unet.out_conv.weight"].half().float()
    torch.testing.assert_close(opened.tensors()["unet.out_conv.weight"].float(), expected, atol=5e-3, rtol=2e-3)
    assert torch.equal(opened.tensors()["unet.emb_fourier.freqs"], (2 * tensors["unet.emb_fourier.freqs"]).half())
    assert [source["source"] for source in json.loads(opened.metadata["ema"])] == names
    assert config_of(opened.name, opened.shapes, opened.config) == CONFIG
    assert convert_checkpoint.main(["--ema", "0.5", *(str(tmp_path / name) for name in names)]) == 1


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before 1.6"])
@pytest.mark.parametrize("wrapped", [True, False], ids=["state_dict", "plain"])
def test_torch_files(tmp_path, tensors, zipped, wrapped):
    path = tmp_path / "a.ckpt"
    state = collections.OrderedDict(tensors)
    torch.save({"state_dict": state, "epoch": 3} if wrapped else state, path, _use_new_zipfile_serialization=zipped)
    opened = open_checkpoint(path)
    assert opened.source == "torch" and opened.dtype == torch.float32 and equal(opened.tensors(), tensors)


def test_a_safetensors_header_alone_tells_the_shapes(tmp_path):
    path = tmp_path / "a.safetensors"
    values = {"a": torch.zeros(2, 3, dtype=torch.bfloat16), "n": torch.zeros(400, dtype=torch.int64)}
    save_file(values, path, {"k": "v"})
    opened = open_checkpoint(path)
    path.unlink()
    assert opened.shapes == {"a": (2, 3), "n": (400,)} and opened.dtype == torch.bfloat16
    assert opened.metadata == {"k": "v"} and opened.config == {}


def pickled(value):
    return pickle.dumps(value, protocol=4)


def call(function, *arguments):
    return pickled(writers.Call(function, *arguments))


def long_text(word):
    """The instruction that pushes a text of any length."""
    return b"X" + struct.pack("<I", len(word)) + word.encode()


def inner(payload):
    """A tensor's storage that is not a storage but a program of its own."""
    return writers.program(STORAGE, b"B" + struct.pack("<I", len(payload)) + payload, b"\x85R")


def snapshot_around(weight, name="w"):
    """An EDM2 snapshot whose single weight is what the given instructions push."""
    state = (b"}(" + writers.text("_parameters") + b"}(" + long_text(name) + weight + b"u"
             + writers.text("_buffers") + b"}" + writers.text("_modules") + b"}u")  # fmt: skip
    module = writers.named("torch.nn.modules.container", "ModuleDict") + b")\x81" + state + b"b"
    return writers.program(b"}(" + writers.text("ema") + module + b"u")


def storage(numbers, announced=None, kind=torch.float32):
    """A storage as torch writes it inside a pickle, with perhaps another length announced in it."""
    file = io.BytesIO()
    torch.save(torch.zeros(numbers, dtype=kind)._typed_storage(), file, _use_new_zipfile_serialization=False)
    found = file.getvalue()
    if announced is not None:
        old, new = b"K" + bytes([numbers]), b"\x8a\x08" + struct.pack("<q", announced)
        assert found.count(old + b"N") == 1
        found = found.replace(old + b"N", new + b"N").replace(struct.pack("<q", numbers), struct.pack("<q", announced))
    return STORAGE + b"B" + struct.pack("<I", len(found)) + found + b"\x85R"


def tensor(source, shape=b"K\x02\x85", stride=b"K\x01\x85", offset=b"K\x00"):
    return writers.named("torch._utils", "_rebuild_tensor_v2") + b"(" + source + offset + shape + stride + b"\x89NtR"


def harmful(canary):
    """Payloads by name, each with the words that its refusal must say."""
    system, python = f"touch {canary}", f"open({str(canary)!r}, 'w')"
    shell = writers.named("posix", "system") + writers.text(system) + b"\x85R"
    command = call(os.system, system)
    getattr_chain = call(getattr, writers.Call(__import__, "os"), "system")
    tuple_of_calls = (writers.Call(os.system, system), 0, (1,), (1,), False, collections.OrderedDict())
    nested = pickled(writers.Call(torch._utils._rebuild_tensor_v2, *tuple_of_calls))
    fake = "\n".join(["cdnnlib.util", "EasyDict", ""]).encode()
    return {
        "os.system": (command, "asks for posix.system"),
        "eval": (call(eval, python), "asks for builtins.eval"),
        "exec": (call(exec, python), "asks for builtins.exec"),
        "partial": (pickled(__import__("functools").partial(os.system, system)), "asks for functools.partial"),
        "in an allowed call's arguments": (nested, "asks for posix.system"),
        "in a weight": (snapshot_around(shell), "asks for posix.system"),
        "in a weight's storage": (snapshot_around(tensor(inner(command)[2:-1])), "asks for posix.system"),
        "storage with a list": (snapshot_around(tensor(inner(pickled([1]))[2:-1])), "ends too early"),
        "getattr chain": (getattr_chain, "asks for builtins.getattr"),
        "dotted name": (writers.program(writers.named("collections", "OrderedDict.__init__.__globals__")), "asks for"),
        "old global": (b"\x80\x02cos\nsystem\n.", "asks for os.system"),
        "inst": (b"\x80\x02(S'x'\nios\nsystem\n.", "the pickle instruction b'S'"),
        "obj": (b"\x80\x02(cdnnlib.util\nEasyDict\no.", "the pickle instruction b'o'"),
        "extension": (b"\x80\x02\x82\x01.", r"the pickle instruction b'\\x82'"),
        "state for a class": (b"\x80\x02" + fake + b"}" + writers.text("__init__") + b"Nsb.", "damaged pickle"),
        "state twice": (b"\x80\x02" + fake + b")\x81}b}b}b.", "damaged pickle|without a network"),
        "a call of a result": (b"\x80\x02" + fake + b")R)R.", "damaged pickle"),
        "module by a persistent id": (b"\x80\x02X\x02\x00\x00\x00osQ.", "without a network"),
        "protocol 0": (pickle.dumps(writers.Call(os.system, system), protocol=0), "no checkpoint"),
    }


@pytest.mark.parametrize("name", list(harmful("")))
def test_code_is_never_run(tmp_path, canary, name):
    content, words = harmful(canary)[name]
    path = tmp_path / "a.pkl"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=words):
        open_checkpoint(path)


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_torch_file_is_never_run(tmp_path, canary, zipped):
    path = tmp_path / "a.pt"
    payload = {"a": torch.zeros(1), "b": writers.Call(os.system, f"touch {canary}")}
    torch.save(payload, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match=r"wants more than tensors \((posix|os)\.system\)"):
        open_checkpoint(path)


def test_nothing_is_imported_or_called(tmp_path, monkeypatch, tensors):
    path = tmp_path / "a.pkl"
    writers.write_snapshot(path, tensors, SETTINGS)

    def refused(*arguments, **more):
        raise AssertionError("the reader runs something")

    for module, name in ((builtins, "eval"), (builtins, "exec"), (pickle, "loads"), (pickle, "load"),
                         (pickle, "Unpickler"), (torch, "load")):  # fmt: skip
        monkeypatch.setattr(module, name, refused)
    assert len(read_edm2_pickle(path).tensors()) == len(tensors)


def cyclic():
    """A module that contains itself."""
    own = writers.named("torch.nn.modules.container", "ModuleDict") + b")\x81q\x00}("
    state = writers.text("_modules") + b"}(" + writers.text("a") + b"h\x00uub"
    return writers.program(b"}(" + writers.text("ema") + own + state + b"u")


def doubling():
    """Settings in which each of 60 lists holds the one before twice."""
    lists = b"]q\x00" + b"".join(b"0](h" + bytes([i]) + b"h" + bytes([i]) + b"eq" + bytes([i + 1]) for i in range(60))
    state = b"}(" + writers.text("_init_kwargs") + b"}(" + writers.text("a") + lists + b"uu"
    module = writers.named("torch.nn.modules.container", "ModuleDict") + b")\x81" + state + b"b"
    return writers.program(b"}(" + writers.text("ema") + module + b"u")


def doubled(times, seed=b"]"):
    """Instructions that push a list (or tuple) whose text doubles so many times."""
    make = b"h\x00h\x00\x86q\x00" if seed == b")" else b"](h\x00h\x00eq\x00"
    return seed + b"q\x00" + b"0".join([b""] + [make] * times)


def ones(count):
    return b"(" + b"K\x01" * count + b"t"


LONG = b"\x8a\xfa" + b"\xff" * 249 + b"\x7f"  # near 2^2000


def persistent(class_name):
    """A module that says its class in its own way."""
    meta = b"}(" + writers.text("class_name") + class_name + writers.text("state") + b"}u"
    of = writers.named("torch_utils.persistence", "_reconstruct_persistent_obj")
    return writers.program(b"}(" + writers.text("ema") + of + meta + b"\x85Ru")


def torch_file(kind):
    """A storage whose kind is what the instructions push."""
    parts = (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})
    head = b"".join(pickle.dumps(value, protocol=2) for value in parts)
    head += b"\x80\x02(" + writers.text("storage") + kind + writers.text("0") + writers.text("cpu") + b"K\x02tQ."
    found = head + pickle.dumps([], protocol=2)
    return STORAGE + b"B" + struct.pack("<I", len(found)) + found + b"\x85R"


def shared(count):
    """A module with many weights that are one storage."""
    others = b"".join(long_text(f"w{n}") + tensor(b"h\x07", b"K\x40\x85") for n in range(1, count))
    return snapshot_around(tensor(storage(64) + b"q\x07", b"K\x40\x85") + others)


EXCESSIVE = {
    "a long text": (b"\x80\x04\x8d" + struct.pack("<Q", 2**40), "a text of 1099511627776 bytes"),
    "long bytes": (b"\x80\x04\x8e" + struct.pack("<Q", 2**62) + b"x.", "ends too early: it announces"),
    "a far memo": (b"\x80\x02Nr\xff\xff\xff\xff.", "without a network"),
    "a huge storage": (snapshot_around(tensor(storage(2, announced=2**40))), "ends too early"),
    "a negative storage": (snapshot_around(tensor(storage(2, announced=-5))), "ends too early"),
    "a huge tensor": (snapshot_around(tensor(storage(2), shape=b"J\xff\xff\xff\x7f\x85")), "does not fit into its 2"),
    "a repeated number": (snapshot_around(tensor(storage(2), stride=b"K\x00\x85")), "with the strides"),
    "a far offset": (snapshot_around(tensor(storage(2), offset=b"K\x01")), "does not fit into its 2"),
    "a negative offset": (snapshot_around(tensor(storage(2), offset=b"J\xff\xff\xff\xff")), "does not fit"),
    "nested lists": (b"\x80\x04" + b"]" * 200_000 + b"a" * 199_999 + b".", "without a network"),
    "endless nesting": (b"\x80\x04" + b"]" * 600_000, "more than 500000 instructions"),
    "nested marks": (b"\x80\x04" + b"(" * 100_000 + b".", "damaged pickle"),
    "itself inside": (cyclic(), "nested more than 16 deep"),
    "doubling": (doubling(), "nested more than 16 deep"),
    "unhashable key": (b"\x80\x04}]Ns.", "damaged pickle"),
    "a name of doubling lists": (b"\x80\x04" + doubled(60) + writers.text("x") + b"\x93.", "damaged pickle"),
    "a class of doubling lists": (persistent(doubled(60)), "a name in it is no text"),
    "a kind of doubling lists": (snapshot_around(tensor(torch_file(doubled(60)))), "contradicts itself"),
    "a setting under a doubling key": (b"\x80\x04}" + doubled(60, b")") + b"Ns.", "damaged pickle"),
    "2000 long dimensions": (snapshot_around(tensor(storage(2), b"(" + LONG * 2000 + b"t", ones(2000))), "most 8 dim"),
    "20000 twos and a zero": (snapshot_around(tensor(storage(2), b"(" + b"K\x02" * 20_000 + b"K\x00t", ones(20_001))),
                              "at most 8 dim"),
    "a dimension of 0": (snapshot_around(tensor(storage(2), b"K\x00\x85")), "none of them 0"),
    "a long name": (snapshot_around(tensor(storage(2)), "w" * 2000), "a name in it is no text of at most 1024"),
    "one number for many weights": (shared(40), "its weights share their numbers"),
}


@pytest.mark.many
@pytest.mark.parametrize("name", list(EXCESSIVE))
def test_excess_is_refused(tmp_path, name):
    content, words = EXCESSIVE[name]
    path = tmp_path / "a.pkl"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=words):
        open_checkpoint(path)


@pytest.mark.parametrize(("spoil", "words"), [
    (lambda t: torch.full_like(t, float("nan")), "not finite"), (lambda t: t / 0, "not finite"),
    (lambda t: t.to(torch.int8), "is of int8; weights are floating-point"), (lambda t: t > 0, "is of bool"),
    (lambda t: t.to(torch.uint8), "is of uint8"), (lambda t: t.long(), "is of int64"),
    (lambda t: t.to(torch.complex64), "is of complex64"), (lambda t: t.to("meta"), "sparse, quantised or empty"),
    (lambda t: t.to_sparse(), "sparse, quantised"), (lambda t: torch.rand(1).expand(t.shape), "repeats numbers"),
])  # fmt: skip
def test_what_is_no_weight_is_refused(tmp_path, spoil, words):
    own = {"a": torch.rand(3, 4), "n": torch.tensor(5)}
    torch.save({**own, "a": spoil(own["a"])}, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=words):
        open_checkpoint(tmp_path / "a.pt").weights(own)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2])
def test_every_floating_point_is_a_weight(tmp_path, dtype):
    own = {"a": torch.rand(3, 4), "n": torch.tensor(5)}
    torch.save({**own, "a": own["a"].to(dtype)}, tmp_path / "a.pt")
    assert open_checkpoint(tmp_path / "a.pt").weights(own)["a"].dtype == dtype


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_the_wrapper_of_a_training_is_taken_off(tmp_path, prefix, suffix):
    path, tensors = tmp_path / f"a{suffix}", {f"{prefix}a": torch.rand(2), f"{prefix}b": torch.rand(3)}
    (torch.save if suffix == ".pt" else save_file)(tensors, path)
    opened = open_checkpoint(path)
    assert opened.shapes == {"a": (2,), "b": (3,)} and list(opened.tensors()) == ["a", "b"]


def test_the_writers_of_excess_can_also_write_honestly(tmp_path):
    path = tmp_path / "a.pkl"
    path.write_bytes(snapshot_around(tensor(storage(2))))
    assert read_edm2_pickle(path).tensors()["w"].tolist() == [0.0, 0.0]


@pytest.mark.parametrize("share", [0.02, 0.3, 0.7, 0.999])
def test_every_kind_cut_short(tmp_path, tensors, share):
    names = ("a.pkl", "a.pt", "b.pt", "a.safetensors")
    writers.write_snapshot(tmp_path / "a.pkl", tensors, SETTINGS)
    torch.save(tensors, tmp_path / "a.pt")
    torch.save(tensors, tmp_path / "b.pt", _use_new_zipfile_serialization=False)
    save_file(tensors, tmp_path / "a.safetensors")
    for name in names:
        path = tmp_path / name
        path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
        with pytest.raises(CheckpointError, match="download it again"):
            open_checkpoint(path).tensors()


@pytest.mark.many
@pytest.mark.parametrize("seed", range(60))
def test_damage_is_told_in_words(tmp_path, tensors, seed):
    """A changed byte is refused in words, or changes nothing but a number."""
    path = tmp_path / "a.pkl"
    writers.write_snapshot(path, {k: v for k, v in tensors.items() if "block" not in k}, SETTINGS)
    content = bytearray(path.read_bytes())
    place = int(torch.randint(len(content), (), generator=torch.Generator().manual_seed(seed)))
    content[place] ^= 1 << seed % 8
    path.write_bytes(content)
    try:
        open_checkpoint(path).tensors()
    except CheckpointError as error:
        assert "a.pkl" in str(error)


@pytest.mark.parametrize(("content", "name", "words"), [
    (b"<!DOCTYPE html><html>", "a.pt", "a.pt is a web page"),
    (b"  <?xml version='1.0'?><Error>", "a.safetensors", "is a web page"),
    (b"version https://git-lfs.github.com/spec/v1", "a.pkl", "is a Git LFS pointer"),
    (b"", "a.pth", "is empty"),
    (b"GIF89a....", "a.ckpt", "is no checkpoint or was not copied whole"),
    (b"PK\x03\x04 and no more", "a.pt", "is no torch file or was not copied whole"),
    (b"\x80\x04N.", "a.safetensors", "is no checkpoint"),
    (b"PK", "a.gguf", r"a.gguf ends in .gguf; expected is"),
])  # fmt: skip
def test_what_is_no_checkpoint(tmp_path, content, name, words):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=words):
        open_checkpoint(tmp_path / name)


def test_places_without_a_file(tmp_path):
    with pytest.raises(CheckpointError, match="is a folder; expected is"):
        open_checkpoint(tmp_path)
    with pytest.raises(CheckpointError, match="There is no file"):
        open_checkpoint(tmp_path / "a.pt")


@pytest.mark.parametrize(("value", "words"), [
    ({}, "holds no tensors"), ([torch.zeros(1)], "holds a list, not a dict"),
    ({"step": 3, "a": torch.zeros(1)}, r"holds more than tensors \(step\), as a training state does"),
    ({"unet.a.lora_A.weight": torch.zeros(1), "unet.a.lora_B.weight": torch.zeros(1), "unet.a.alpha": torch.zeros(1)},
     "is a LoRA, a change to a network's weights"),
])  # fmt: skip
def test_torch_files_without_a_network(tmp_path, value, words):
    torch.save(value, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=words):
        open_checkpoint(tmp_path / "a.pt")


def test_a_network_with_lora_parts_is_no_lora(tmp_path):
    torch.save({"conv1.lora_A": torch.zeros(1), "conv1.conv.weight": torch.zeros(1)}, tmp_path / "a.pt")
    assert len(open_checkpoint(tmp_path / "a.pt").shapes) == 2


def test_other_pickles_of_the_same_library(tmp_path, tensors):
    """The toy experiment's file is a network itself, without the dict around it."""
    path = tmp_path / "iter4096.pkl"
    with writers.nvidia_modules():
        path.write_bytes(pickle.dumps(writers.module_tree(tensors)))
    with pytest.raises(CheckpointError, match="iter4096.pkl is a pickle without a network under the name 'ema'"):
        open_checkpoint(path)


def test_a_config_that_is_no_json(tmp_path):
    save_file({"a": torch.zeros(1)}, tmp_path / "a.safetensors", {"config": "{"})
    with pytest.raises(CheckpointError, match="config in its header that is not JSON"):
        open_checkpoint(tmp_path / "a.safetensors").config  # noqa: B018 - it is what raises
    save_file({"a": torch.zeros(1)}, tmp_path / "a.safetensors", {"config": json.dumps([1])})
    with pytest.raises(CheckpointError, match="config in its header that must be a JSON object"):
        open_checkpoint(tmp_path / "a.safetensors").config  # noqa: B018


def test_every_instruction_is_known_to_python():
    """No instruction of the reader means anything else than in Python's own list of them."""
    import pickletools

    known = {op.code.encode("latin-1"): op.name for op in pickletools.opcodes}
    names = {known[code] for code in inert_pickle._INSTRUCTIONS}
    assert names == {
        "PROTO", "FRAME", "NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "BINFLOAT", "LONG1",
        "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "SHORT_BINBYTES", "BINBYTES", "BINBYTES8", "BYTEARRAY8",
        "EMPTY_DICT", "EMPTY_LIST", "EMPTY_SET", "EMPTY_TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "TUPLE", "MARK", "POP",
        "POP_MARK", "APPEND", "APPENDS", "ADDITEMS", "SETITEM", "SETITEMS", "DICT", "BINPUT", "LONG_BINPUT", "MEMOIZE",
        "BINGET", "LONG_BINGET", "GLOBAL", "STACK_GLOBAL", "REDUCE", "NEWOBJ", "BUILD", "BINPERSID",
    }  # fmt: skip
