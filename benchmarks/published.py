"""What loading and running the papers' networks costs: `.venv/bin/python benchmarks/published.py --comfyui FOLDER`.

Files of the released layouts with random weights are written first: ADM 64x64 and GLIDE (.pt, float32), EDM2-XS img64
(.pkl, float16). Each is loaded in a process of its own: time, and the highest resident memory above what was there
before, against the file's size. Then the network's forward as ComfyUI calls it, against the same network made of
torch.nn with the same weights in the same dtype, interleaved, medians.
"""

from __future__ import annotations

import argparse
import multiprocessing
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parent)]
from overhead import load_host  # noqa: E402  # also makes the tests' helpers importable

CASES = {"ADM 64x64": "adm", "EDM2-XS img64": "edm2", "GLIDE 64x64": "glide"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--comfyui", type=Path, required=True, help="folder of ComfyUI")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    print("| network | file | load | peak memory / file | forward in ComfyUI | plain PyTorch | ratio |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for title, kind in CASES.items():
        with tempfile.TemporaryDirectory() as folder:
            for work in (write, measure):  # a process each, so that memory is counted from nothing
                arguments = (kind, Path(folder) / FILES[kind], title, options.comfyui, options.device, options.repeats)
                process = multiprocessing.get_context("spawn").Process(target=work, args=arguments)
                process.start()
                process.join()
    print(f"\n{platform.platform()}, {options.device}")


FILES = {"adm": "64x64_diffusion.pt", "edm2": "edm2-img64-xs-0134217-0.110.pkl", "glide": "base.pt"}


def plain(kind: str):
    """The network made of torch.nn, with random weights."""
    import host_models

    from guidance_pack.guidance.networks.adm.config import DENOISERS
    from guidance_pack.guidance.networks.adm.glide import GLIDE, GlideUNet
    from guidance_pack.guidance.networks.adm.unet import AdmUNet
    from guidance_pack.guidance.networks.edm2.config import EDM2Config
    from guidance_pack.guidance.networks.edm2.unet import EDM2

    if kind == "edm2":
        made = EDM2(EDM2Config(img_channels=3))
    elif kind == "glide":
        made = GlideUNet(**GLIDE["GLIDE's base"].as_dict())
    else:
        made = AdmUNet(**DENOISERS["64x64_diffusion"].as_dict())
    host_models.fill(made, 0)
    return made.eval().requires_grad_(False)


def write(kind: str, path: Path, title: str, comfyui: Path, device: str, repeats: int) -> None:
    """The file in the layout that was published."""
    load_host(comfyui, device)
    import torch

    tensors = dict(plain(kind).state_dict())
    if kind != "edm2":
        torch.save(tensors, path)
    else:
        import checkpoint_writers

        settings = {"img_resolution": 64, "img_channels": 3, "label_dim": 1000, "model_channels": 128}
        checkpoint_writers.write_snapshot(path, tensors, settings)


def measure(kind: str, path: Path, title: str, comfyui: Path, device: str, repeats: int) -> None:
    """Load the file and run it, and print a row."""
    load_host(comfyui, device)
    import comfy.model_management as management
    import torch

    from guidance_pack.host.models import adm, edm2, glide

    torch.set_grad_enabled(False)
    before = peak()
    started = time.perf_counter()
    model, _ = {"adm": adm, "edm2": edm2, "glide": glide}[kind].load(str(path), path.name)
    seconds, size = time.perf_counter() - started, path.stat().st_size
    held = (peak() - before) / size
    management.load_models_gpu([model])
    hosted, other = model.model.diffusion_model, plain(kind)
    other.load_state_dict({key: value.float() for key, value in hosted.state_dict().items()})
    other.to(hosted.dtype).to(model.load_device)
    x = torch.randn(1, 3, 64, 64, dtype=hosted.dtype, device=model.load_device)
    t, y = torch.tensor([1.0], device=model.load_device), torch.tensor([3], device=model.load_device)
    tokens = torch.full((1, 128), -1, device=model.load_device)
    # EDM2 takes a row per class; its MODEL makes it of the number.
    told = {"adm": {"y": y}, "edm2": {"y": torch.nn.functional.one_hot(y, 1000)}, "glide": {"y": tokens}}[kind]
    asked = {"tokens": tokens} if kind == "glide" else {"y": y}
    times: dict[str, list[float]] = {"hosted": [], "plain": []}
    with torch.inference_mode():
        for repeat in range(repeats + 1):
            for name, network, given in (("hosted", hosted, asked), ("plain", other, told)):
                started = time.perf_counter()
                network(x, t, **given)
                if repeat:  # the first round warms up
                    times[name].append((time.perf_counter() - started) * 1000)
    ours, theirs = (statistics.median(values) for values in times.values())
    print(f"| {title} | {size / 2**20:.0f} MB {path.suffix} | {seconds:.2f} s | {held:.2f} | {ours:.0f} ms | "
          f"{theirs:.0f} ms | {ours / theirs:.3f} |", flush=True)


def peak() -> int:
    """The highest resident memory of this process so far, in bytes."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main()
