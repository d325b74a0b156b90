"""Hostile files: what people download and put into ComfyUI's folders, spoilt, through the functions that nodes call."""

from __future__ import annotations

import collections
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import torch

from . import seeds
from .pool import Attempt
from .spoil import NAMES, spoil_bytes, spoil_json, spoil_safetensors

LARGEST = 64  # a guide that takes pictures up to this side is also run once
Spoilt = tuple[str, bool]  # what was done, and whether it must be refused


class Scene:
    """ComfyUI's folders, emptied before every input."""

    def __init__(self, folder: Path) -> None:
        import folder_paths

        self.valid, self.root = folder / "valid", folder / "models"
        seeds.write(self.valid)
        for name in seeds.FOLDERS:  # loading a family for the first time imports it, which is nobody's fault
            seeds.loaded(self.valid / name, name)
        self.guides, self.denoisers = self.root / "guides", self.root / "diffusion_models"
        self.pictures, self.weights = folder / "input" / "set", self.root / "guidance_weights"
        for name, place in (
            ("guides", self.guides), ("diffusion_models", self.denoisers), ("guidance_weights", self.weights)
        ):
            known = folder_paths.folder_names_and_paths.get(name, ([], set()))[1]
            folder_paths.folder_names_and_paths[name] = ([str(place)], known)
        folder_paths.folder_names_and_paths["checkpoints"] = ([], set())
        folder_paths.input_directory = str(folder / "input")
        folder_paths.temp_directory = str(folder / "temp")
        self.paths = folder_paths
        self.kinds: tuple[Callable[[Random], Attempt], ...] = (
            self._denoiser, self._denoiser, self._guide, self._guide, self._folder, self._folder, self._folder,
            self._bank, self._bank, self._weights, self._experts, self._picture, self._picture, self._average,
        )

    def draw(self, random: Random) -> Attempt:
        for place in (self.guides, self.denoisers, self.weights, self.pictures.parent):
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir(parents=True)
        self.paths.filename_list_cache.clear()
        return random.choice(self.kinds)(random)

    def _denoiser(self, random: Random) -> Attempt:
        from guidance_pack.host.models import denoisers
        from guidance_pack.host.models.convert import convert

        source = random.choice((
            "adm.safetensors", "adm.pt", "old.pt", "edm2.safetensors", "edm2.pkl", "edm2.pkl", "glide.safetensors",
            "glide.pt",
        ))
        target = self.denoisers / source
        words, refused = self._spoil(self.valid / source, target, random)

        def run() -> list[str]:
            if target.name not in denoisers.denoiser_names():
                return ["it is not listed"]
            denoisers.denoiser_problem(target.name)
            denoisers.fingerprint(target.name)
            model, _ = denoisers.load_denoiser(target.name)
            found = _odd(model.model.diffusion_model.state_dict())
            if target.suffix != ".safetensors":
                convert(target.name)
            return found + ["it should have been refused"] * refused

        return Attempt(f"{source}: {words}", run, _size(self.denoisers))

    def _guide(self, random: Random) -> Attempt:
        source = random.choice(("classifier.safetensors", "classifier.pt", "own.safetensors", "squeeze.safetensors"))
        target = self.guides / source
        words, refused = self._spoil(self.valid / source, target, random)
        return self._load(source, words, refused, random)

    def _bank(self, random: Random) -> Attempt:
        self._link("own.safetensors")
        words, refused = self._spoil(self.valid / "bank.safetensors", self.guides / "bank.safetensors", random)
        return self._load("bank.safetensors", words, refused, random)

    def _weights(self, random: Random) -> Attempt:
        from guidance_pack.guidance.noise_level import NoiseLevel
        from guidance_pack.host.models import guidance_weights

        name = "weights.safetensors"
        words, refused = self._spoil(self.valid / name, self.weights / name, random)

        def run() -> list[str]:
            guidance_weights.weights_names()
            guidance_weights.weights_file_problem(name)
            guidance_weights.weights_fingerprint(name)
            found = guidance_weights.load_weights(name)
            level = NoiseLevel.variance_exploding(torch.tensor([0.1, 5.0]))
            finite = bool(torch.isfinite(found.cfg.usual(level)).all())
            wrong = [] if finite else ["a weight is not finite"]
            return wrong + _odd(found.state_dict()) + ["it should have been refused"] * refused

        return Attempt(f"weights: {words}", run, _size(self.weights))

    def _folder(self, random: Random) -> Attempt:
        name = random.choice(seeds.FOLDERS)
        target = self.guides / name
        shutil.copytree(self.valid / name, target)
        words, refused = _spoil_folder(target, random)
        return self._load(name, words, refused, random)

    def _load(self, name: str, words: str, refused: bool, random: Random) -> Attempt:
        from guidance_pack.host.models import guides

        def run() -> list[str]:
            guides.guide_names()
            guides.guide_problem(name)
            guides.fingerprint(name)
            found = guides.load_guide(name)
            wrong = [word for patcher in found.patchers for word in _odd(patcher.model.state_dict())]
            return wrong + _asked(found) + ["it should have been refused"] * refused

        return Attempt(f"{name}: {words}", run, _size(self.guides))

    def _experts(self, random: Random) -> Attempt:
        from guidance_pack.host.models.ppap_import import expert_sets, experts_problem, import_experts, sets_fingerprint

        self._link("clean")
        words, refused = self._spoil(self.valid / "0_max2.ckpt", self.guides / "deit" / "0_max2.ckpt", random)
        shutil.copy(self.valid / "1_max2.ckpt", self.guides / "deit")

        def run() -> list[str]:
            (name, *_) = expert_sets()
            experts_problem(name, "team")
            sets_fingerprint(name)
            found, _ = import_experts(name, "clean", "team", torch.rand(2, 24, 24, 3))
            return _odd(found.patchers[0].model.state_dict()) + ["it should have been refused"] * refused

        return Attempt(f"experts: {words}", run, _size(self.guides))

    def _average(self, random: Random) -> Attempt:
        from guidance_pack.host.models.convert import average

        names = ("edm2-x-64-0.050.pkl", "edm2-x-64-0.100.safetensors")
        shutil.copy(self.valid / "edm2.pkl", self.denoisers / names[0])
        words, refused = self._spoil(self.valid / "edm2.safetensors", self.denoisers / names[1], random)

        def run() -> list[str]:
            average(names, 0.075)
            return ["it should have been refused"] * refused

        return Attempt(f"average: {words}", run, _size(self.denoisers))

    def _picture(self, random: Random) -> Attempt:
        from guidance_pack.host.training.pictures import folder_fingerprint, folder_problem, load_pictures

        self.pictures.mkdir(parents=True)
        source = self.valid / random.choice(("a.png", "b.jpg", "c.webp"))
        words = _spoil_picture(source, self.pictures, random)

        def run() -> list[str]:
            folder_problem("set")
            folder_fingerprint("set")
            found = load_pictures("set", 32, 32)
            pictures, _ = found.batch(range(len(found)))
            assert len(found.sha256) == 64
            return [] if bool(torch.isfinite(pictures).all()) else ["a picture is not finite"]

        return Attempt(f"{source.name}: {words}", run, _size(self.pictures))

    def _spoil(self, source: Path, target: Path, random: Random) -> Spoilt:
        """Write a spoilt copy."""
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.suffix == ".safetensors":
            words, data, refused = spoil_safetensors(source, random)
        elif source.suffix == ".pkl" or random.random() < 0.3:
            (words, data), refused = spoil_bytes(source.read_bytes(), random), False
        else:
            return _spoil_state(torch.load(source, weights_only=True), target, random)
        target.write_bytes(data)
        return words, refused

    def _link(self, name: str) -> None:
        (self.guides / name).symlink_to(self.valid / name)


def _spoil_state(state: dict[Any, Any], target: Path, random: Random) -> Spoilt:
    """A torch file of what is no state dict of these weights."""
    name = random.choice(list(state))
    value = state[name]
    spoilt: dict[str, tuple[Any, bool]] = {
        "nan": (torch.full_like(value, float("nan")), True), "inf": (value / 0, True),
        "int8": (value.to(torch.int8), True), "scalar": (value.sum(), value.ndim > 0),
        "int64": (value.long(), True), "bool": (value > 0, True), "complex": (value.to(torch.complex64), True),
        "meta": (value.to("meta"), True), "sparse": (value.to_sparse(), True), "double": (value.double(), False),
        "fp8": (value.to(torch.float8_e4m3fn), False), "repeated": (value.flatten()[:1].expand(value.shape), False),
        "endless": (torch.zeros(1).expand(10**5, 10**5, 10**5), True), "no tensor": (3, True), "none": (None, True),
        "list": ([value], True), "parameter": (torch.nn.Parameter(value), False), "empty": (value[:0], True),
        "transposed": (value.clone().transpose(0, -1) if value.ndim else value, False),
        "deep": ({"a": {"b": value}}, True),
    }
    kind = random.choice((*spoilt, "name", "number", "drop", "prefix", "wrapped", "tuple"))
    refused = True
    if kind in spoilt:
        state[name], refused = spoilt[kind]
    elif kind == "name":
        state[random.choice(NAMES)] = state.pop(name)
    elif kind == "number":
        state[7] = state.pop(name)
    elif kind == "drop":
        del state[name]
    elif kind == "prefix":
        state, refused = {f"module.{key}": entry for key, entry in state.items()}, False
    elif kind == "wrapped":
        state, refused = {"state_dict": collections.OrderedDict(state), "step": 3}, False
    saved: Any = tuple(state.items()) if kind == "tuple" else state
    torch.save(saved, target)
    return f"{kind} at {name}", refused


def _spoil_folder(folder: Path, random: Random) -> Spoilt:
    """Another config.json, preprocessor_config.json or weights, or files that are none."""
    config, preprocessor = "config.json", "preprocessor_config.json"
    kind = random.choice((config, config, config, preprocessor, preprocessor, "weights", "file", "bytes"))
    if kind.endswith(".json"):
        words, text = spoil_json((folder / kind).read_text("utf-8"), random)
        (folder / kind).write_bytes(text.encode("utf-8", "surrogatepass"))
        return f"{kind}: {words}", False
    if kind == "weights":
        words, data, _ = spoil_safetensors(folder / "model.safetensors", random)
        (folder / "model.safetensors").write_bytes(data)
        return words, any(sign in words for sign in ("nan in", "inf in"))
    file = random.choice(sorted(folder.iterdir()))
    if kind == "bytes":
        words, data = spoil_bytes(file.read_bytes(), random)
        file.write_bytes(data)
        return f"{file.name}: {words}", False
    return f"{file.name}: {_replace(file, random)}", False


def _replace(file: Path, random: Random) -> str:
    """What is no plain file in the place of one, or beside it."""
    kind = random.choice(("gone", "folder", "loop", "dangling", "fifo", "links", "index", "name"))
    beside = file.parent
    if kind in ("gone", "folder", "loop", "dangling", "fifo"):
        file.unlink()
    if kind == "folder":
        file.mkdir()
    elif kind in ("loop", "dangling"):
        file.symlink_to(file if kind == "loop" else file.parent / "nowhere")
    elif kind == "fifo":
        os.mkfifo(file)
    elif kind == "links":
        for name in ("one", "two"):
            (beside / name).symlink_to(beside, target_is_directory=True)
    elif kind == "index":
        (beside / "model.safetensors").unlink(missing_ok=True)
        named = random.choice(('"x.safetensors"', "[1]", '"../a.safetensors"', '"\\u0000"'))
        (beside / "model.safetensors.index.json").write_text(f'{{"weight_map": {{"a": {named}}}}}')
    elif kind == "name":
        Path(os.fsdecode(bytes(beside / "a") + b"\xff\xfe" + file.suffix.encode())).write_bytes(b"x")
    return kind


def _spoil_picture(source: Path, folder: Path, random: Random) -> str:
    from PIL import Image

    target, kind = folder / source.name, random.choice(("bytes", "bytes", "bytes", "format", "mode", "file", "size"))
    if kind == "format":
        chosen = random.choice(("GIF", "TIFF", "BMP", "PPM", "ICO", "EPS", "PDF", "TGA", "PCX", "JPEG", "PNG", "WEBP"))
        Image.open(source).convert("RGB").save(target, chosen)
        return f"is {chosen}"
    if kind == "mode":
        mode = random.choice(("1", "L", "LA", "P", "RGBA", "I;16", "CMYK"))
        target = target.with_suffix(".jpg" if mode == "CMYK" else ".png")
        Image.open(source).convert("L" if mode == "I;16" else "RGB").convert(mode).save(target)
        return f"mode {mode}"
    if kind == "size":
        size = random.choice(((1, 1), (1, 5000), (9000, 9000), (13000, 13000), (20000, 20000)))
        Image.new("1" if max(size) > 5000 else random.choice(("1", "L", "RGBA")), size).save(target, "PNG")
        return f"of {size}"
    shutil.copy(source, target)
    if kind == "file":
        return _replace(target, random)
    words, data = spoil_bytes(target.read_bytes(), random)
    target.write_bytes(data)
    return words


def _odd(state: dict[str, Any]) -> list[str]:
    """What cannot be a weight in a network that was loaded."""
    found = []
    for name, value in state.items():
        if value.is_meta or (value.is_floating_point() and not bool(torch.isfinite(value.float()).all())):
            found.append(f"{name} is {'meta' if value.is_meta else 'not finite'}")
        elif not value.is_floating_point() and name.endswith((".weight", ".bias")):
            found.append(f"{name} is {value.dtype}")
    return found[:3]


def _asked(found: Any) -> list[str]:
    """Ask a small guide about a picture once."""
    from guidance_pack.guidance.noise_level import NoiseLevel

    spec = found.guide.first
    if spec.preprocessing.size is None or max(spec.preprocessing.size) <= LARGEST:
        level = NoiseLevel.variance_exploding(torch.full((1,), 0.5, dtype=torch.float64))
        network = found.patchers[0].model
        with torch.inference_mode():
            said = spec.output(network, torch.zeros(1, 3, 40, 40), level)
        return [] if bool(torch.isfinite(said).all()) else ["what it says of a picture is not finite"]
    return []


def _size(folder: Path) -> int:
    """Bytes of the files below a folder."""
    return sum(os.lstat(os.path.join(place, name)).st_size for place, _, names in os.walk(folder) for name in names)
