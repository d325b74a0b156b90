"""What a bank of experts costs beside the one network that it is made of: memory, disk, time per guided step.

    python benchmarks/bank.py [--experts 5] [--size 224] [--batch 1] [--repeats 30]

A ResNet-50 of torchvision with random weights, experts at PPAP's settings (rank 16; random changes). Each figure is
taken in a process of its own, so that memory is counted from nothing; times are medians, side by side in one process.
Writes benchmarks/results/bank.json.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median

import torch
from quality import ROOT
from torch import Tensor, nn

from guidance_pack.guidance.experts.bank import ExpertBank, adapter_names, adapter_tensors, adapters_of, tensors_named
from guidance_pack.guidance.experts.file import BankFile, BankHeader, map_tensors, read_bank, write_bank
from guidance_pack.guidance.training.lora_targets import Adaptation
from guidance_pack.guidance.training.recipe import ExpertRecipe
from guidance_pack.guidance.training.student import Student


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experts", type=int, default=5)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "bank.json")
    parser.add_argument("--memory", choices=["single", "bank"], help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.memory:
        print(json.dumps(memory(options.memory, options.folder)))
        return
    with tempfile.TemporaryDirectory() as folder:
        found = measure(options, Path(folder))
    options.out.write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    print(json.dumps(found, indent=1))


def measure(options: argparse.Namespace, folder: Path) -> dict:
    """All figures."""
    make(folder, options.experts)
    of = {kind: alone(kind, folder) for kind in ("single", "bank")}
    share = (folder / "bank.safetensors").stat().st_size / (folder / "base.safetensors").stat().st_size
    return {
        "experts": options.experts, "size": options.size, "batch": options.batch,
        "machine": f"{platform.machine()}, {options.threads} thread(s), torch {torch.__version__}",
        "disk: bank over network": round(share, 4),
        "memory in MB": of,
        "memory: bank over network": round(of["bank"]["anonymous"] / of["single"]["anonymous"], 4),
        "memory, file pages counted": round(of["bank"]["all"] / of["single"]["all"], 4),
        **times(options, folder),
    }


def network(folder: Path | None = None) -> nn.Module:
    """A ResNet-50; with a folder, filled from its file."""
    from safetensors.torch import load_model
    from torchvision.models import resnet50

    built = resnet50()
    if folder is not None:
        load_model(built, folder / "base.safetensors")
    return built.eval().requires_grad_(False)


def make(folder: Path, experts: int) -> None:
    """The network's file and the bank's."""
    from safetensors.torch import save_model

    base = network()
    save_model(base, str(folder / "base.safetensors"))
    adapters = []
    for index in range(experts):
        student = Student(base, Adaptation(), torch.Generator().manual_seed(index))
        for name, tensor in student.trained.items():
            with torch.no_grad():
                tensor.add_(0.01 * torch.randn(tensor.shape)) if "lora_B" in name else None
        adapters.append(student.adapter())
    recipe = ExpertRecipe(experts=experts)
    header = BankHeader("base", "", "classification", "linear", recipe.edges, recipe.adaptation.scale)
    write_bank(folder / "bank.safetensors", BankFile("bank", header, tuple(adapters)))


def bank(folder: Path) -> ExpertBank:
    """As `host/models/guides.py` makes it: adapters and originals are views of files."""
    base, found = network(folder), read_bank(folder / "bank.safetensors")

    def kept(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return map_tensors(folder / f"kept-{time.monotonic_ns()}.safetensors", tensors)

    adapters = adapters_of(kept(adapter_tensors(found.adapters)), found.header.count, found.header.scale)
    originals = kept(tensors_named(base, adapter_names(adapters)))
    return ExpertBank(base, adapters, originals).eval()


def alone(kind: str, folder: Path) -> dict[str, float]:
    """`memory` in a new process."""
    command = [sys.executable, __file__, "--memory", kind, "--folder", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def memory(kind: str, folder: Path) -> dict[str, float]:
    """What holding the guide, with every expert used once, adds to this process, in MB."""
    import torchvision.models  # noqa: F401 - before counting

    torch.zeros(4).sum()
    before = resident()
    held = network(folder) if kind == "single" else bank(folder)
    if isinstance(held, ExpertBank):
        for index in range(len(held.adapters)):
            held.use(index)
    after = resident()
    return {key: round(after[key] - before[key], 1) for key in after}


def resident() -> dict[str, float]:
    """Memory of this process in MB: what only it can free (anonymous), and with the pages of files that it has read."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    anonymous, files = (int(lines[key].split()[0]) / 1024 for key in ("RssAnon", "RssFile"))
    return {"anonymous": anonymous, "all": anonymous + files}


def times(options: argparse.Namespace, folder: Path) -> dict:
    """Milliseconds of a gradient by the network and by the bank in turns, and of changing the expert."""
    picture = torch.randn(options.batch, 3, options.size, options.size)
    single, experts = network(folder), bank(folder)
    experts.use(0)
    steps: dict[str, Callable[[], object]] = {
        "network": lambda: gradient(single, picture),
        "bank": lambda: gradient(experts.use(0).base, picture),
    }
    taken: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(options.repeats):
        for name, step in steps.items():
            taken[name].append(timed(step))
    count = len(experts.adapters)
    changing = [timed(lambda i=index: experts.use(i % count)) for index in range(1, 2 * count + 1)]
    single_ms, bank_ms = median(taken["network"]), median(taken["bank"])
    return {
        "ms per gradient, network": round(single_ms, 2),
        "ms per gradient, bank": round(bank_ms, 2),
        "bank over network": round(bank_ms / single_ms, 4),
        "ms per change of expert": round(median(changing), 2),
    }


def gradient(guide: nn.Module, picture: Tensor) -> Tensor:
    """Of a log-probability with respect to the picture."""
    leaf = picture.clone().requires_grad_()
    return torch.autograd.grad(guide(leaf).log_softmax(1)[:, 0].sum(), leaf)[0]


def timed(step: Callable[[], object]) -> float:
    started = time.perf_counter()
    step()
    return 1000 * (time.perf_counter() - started)


if __name__ == "__main__":
    main()
