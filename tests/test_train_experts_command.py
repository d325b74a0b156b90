"""The training command: the file of the node, stopping and going on, and two real processes against one."""

import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from bank_adapters import small
from guide_files import randomise
from PIL import Image
from world import LABELS, render

from devtools.server import free_port
from guidance_pack.guidance.experts.bank import adapter_tensors
from guidance_pack.guidance.experts.file import read_bank
from guidance_pack.guidance.training.distributed import mean_gradients, sync_batch_norm

ROOT = Path(__file__).resolve().parent.parent
COMMAND = str(ROOT / "tools" / "train_experts.py")
CLASSIFIER = ROOT / "assets" / "shapes-classifier.safetensors"
RATE = 0.001
SETTINGS = ["--experts", "2", "--iterations", "6", "--rank", "2", "--alpha", "2", "--learning-rate", str(RATE), "--cpu"]
ACCELERATE = "from accelerate.commands.accelerate_cli import main; main()"


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """24 pictures of the shapes world, one folder per class."""
    folder = tmp_path_factory.mktemp("pictures")
    drawn = render(24)
    for index, (image, label) in enumerate(zip(drawn.images, drawn.labels, strict=True)):
        place = folder / LABELS[int(label)]
        place.mkdir(exist_ok=True)
        Image.fromarray(((image + 1) * 127.5).round().byte().movedim(0, -1).numpy()).save(place / f"{index}.png")
    return folder


def arguments(guide, pictures, out, batch, *more):
    where = ["--guide", guide, "--pictures", pictures, "--out", out, "--work", out.parent / "work", "--size", 32, 32]
    return [str(part) for part in (*where, "--batch", batch, *SETTINGS, *more)]


def surroundings():
    return {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true", "CUDA_VISIBLE_DEVICES": ""}


def run(*given, works=True):
    """The command in this process."""
    import train_experts

    assert (train_experts.main(list(given)) == 0) == works


def accelerated(*given):
    """Two machines of one process, on this one: `accelerate launch` on each, the ranks given as MPI and Slurm do."""
    port = str(free_port())
    how = ["launch", "--cpu", "--num_processes", "2", "--num_machines", "1", "--main_process_port", port]
    how += ["--mixed_precision", "no", "--dynamo_backend", "no", "--num_cpu_threads_per_process", "1"]
    running = [
        subprocess.Popen(
            [sys.executable, "-c", ACCELERATE, *how, COMMAND, *given], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, env={**surroundings(), "RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank)},
        )
        for rank in range(2)
    ]
    told = "".join(process.communicate(timeout=300)[0] for process in running)
    assert not any(process.returncode for process in running), told
    return told


def torchrun(*given, command=COMMAND):
    how = ["-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", str(free_port())]
    done = subprocess.run([sys.executable, *how, command, *given], capture_output=True, text=True, env=surroundings())
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(("norm", "started"), [("batch", accelerated), ("group", torchrun)])
def test_two_processes_are_one_with_twice_the_batch(norm, started, pictures, tmp_path):
    """Float32 sums in another order differ in their last digits. A bias before a norm has no gradient but those
    digits, of which Adam makes steps of up to the learning rate; the norm's mean takes what it adds away."""
    guide = CLASSIFIER if norm == "batch" else group_guide(tmp_path)
    told = started(*arguments(guide, pictures, tmp_path / "two.safetensors", 4))
    assert "6 steps of 2 process(es) on cpu" in told and told.count("wrote") == 1
    run(*arguments(guide, pictures, tmp_path / "one.safetensors", 8))
    two, one = (read_bank(tmp_path / f"{name}.safetensors") for name in ("two", "one"))
    assert two.header == one.header and two.training["processes"] == 2
    for mine, theirs in zip(two.training["loss"], one.training["loss"], strict=True):
        assert mine == pytest.approx(theirs, rel=1e-4)
    here, there = adapter_tensors(two.adapters), adapter_tensors(one.adapters)
    assert here.keys() == there.keys() and any("running_mean" in name for name in here) == (norm == "batch")
    for name, tensor in here.items():
        free = name.endswith(("conv_in.bias", "conv_out.bias", "down.0.bias", "down.1.bias", "running_mean"))
        torch.testing.assert_close(tensor, there[name], rtol=1e-4, atol=6 * RATE if free else 1e-5, msg=name)


@pytest.mark.slow
def test_nothing_of_the_process_group_is_left_after_its_end(tmp_path):
    """Gloo's threads abort a process that ends before them, now and then: 6 of 80 processes that had kept the group."""
    script = tmp_path / "ended.py"
    script.write_text(f"""
import sys
sys.path.insert(0, {str(Path(COMMAND).parent)!r})
import psutil
import torch
from train_experts import Processes
threads = psutil.Process().num_threads
before = threads()
group = Processes(cpu=True)
parameter = torch.nn.Parameter(group.mean(torch.ones(3)))
torch.optim.AdamW([parameter])
during = threads()
group.accelerator.end_training()
print(during > before, threads() - before)
""", encoding="utf-8")
    assert torchrun(command=str(script)).splitlines() == ["True 0"] * 2


def group_guide(folder):
    """A clean classifier without BatchNorm."""
    from guidance_pack.guidance.networks.tiny import files
    from guidance_pack.guidance.networks.tiny.guide import TinyGuide

    network = TinyGuide(num_classes=len(LABELS), width=8)
    randomise(network)
    facts = dict.fromkeys(files.REQUIRED[files.GUIDE], 1) | {
        "labels": list(LABELS), "task": "classification", "sees": "clean", "schedule": None
    }
    path = folder / "guide.safetensors"
    files.write_network(path, files.GUIDE, network.config.as_dict(), facts, network.state_dict(), torch.float32)
    return path


class Threads:
    """Workers that are threads of this process."""

    def __init__(self, rank, shared):
        self.rank, self.count, self.shared = rank, len(shared["given"]), shared

    def mean(self, tensor):
        self.shared["given"][self.rank] = tensor.detach()
        self.shared["barrier"].wait(20)
        found = torch.stack(self.shared["given"]).mean(0)
        self.shared["barrier"].wait(20)
        return found


def test_shared_statistics_are_those_of_all_pictures():
    """In float64, to the last digits: output, running statistics and every gradient are BatchNorm's of both halves."""
    generator = torch.Generator().manual_seed(0)
    pictures = 100 + torch.randn(6, 3, 8, 8, generator=generator, dtype=torch.float64)  # a mean far above the spread
    whole = small().double().requires_grad_(True)
    whole.norm.train()
    whole(pictures).square().mean().backward()
    shared = {"given": [None, None], "barrier": threading.Barrier(2)}
    networks = [small().double().requires_grad_(True) for _ in range(2)]

    def work(rank):
        network, workers = networks[rank], Threads(rank, shared)
        network.norm.train()
        sync_batch_norm(network, workers)
        network(pictures[3 * rank : 3 * rank + 3]).square().mean().backward()
        mean_gradients(network.parameters(), workers)

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for network in networks:
        for (name, mine), theirs in zip(network.named_parameters(), whole.parameters(), strict=True):
            torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-9, atol=1e-9, msg=name)
        for (name, mine), theirs in zip(network.named_buffers(), whole.buffers(), strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12, msg=name)


@pytest.mark.slow
def test_the_command_writes_the_file_of_the_node(comfy, pictures, tmp_path, monkeypatch):
    import folder_paths

    from guidance_pack.guidance.training.lora_targets import Adaptation
    from guidance_pack.guidance.training.recipe import ExpertRecipe
    from guidance_pack.host.models.guides import load_guide
    from guidance_pack.host.training.dataset import read_folder
    from guidance_pack.host.training.train import Request, train_experts

    (tmp_path / "guides").mkdir()
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "guides", ([str(tmp_path / "guides")], set()))
    recipe = ExpertRecipe(
        experts=2, iterations=6, batch=4, learning_rate=RATE, adaptation=Adaptation(rank=2, alpha=2)
    )
    request = Request(load_guide("shapes-classifier"), read_folder(pictures, 32, 32), "team", recipe)
    made = train_experts(request, lambda *_: None).path
    run(*arguments(CLASSIFIER, pictures, tmp_path / "team.safetensors", 4))
    if torch.cuda.is_available():  # the node trains where ComfyUI computes
        assert read_bank(made).header == read_bank(tmp_path / "team.safetensors").header
    else:
        assert made.read_bytes() == (tmp_path / "team.safetensors").read_bytes()


@pytest.mark.slow
def test_a_command_that_was_stopped_goes_on_to_the_same_file(pictures, tmp_path, capsys):
    run(*arguments(CLASSIFIER, pictures, tmp_path / "whole.safetensors", 4))
    again = arguments(CLASSIFIER, pictures, tmp_path / "stopped.safetensors", 4)
    waiting = tmp_path / "work" / "stopped.safetensors"
    for _ in range(2):
        run(*again, "--steps", "2")
        assert waiting.exists() and not (tmp_path / "stopped.safetensors").exists()
    run(*again)
    assert "6 steps of 1 process(es) on cpu, 4 of them taken before" in capsys.readouterr().out
    assert not waiting.exists()
    assert (tmp_path / "stopped.safetensors").read_bytes() == (tmp_path / "whole.safetensors").read_bytes()
    run(*again)
    assert "is finished already" in capsys.readouterr().out


@pytest.mark.slow
def test_ctrl_c_waits_for_the_step_and_saves(pictures, tmp_path):
    given = arguments(CLASSIFIER, pictures, tmp_path / "long.safetensors", 4, "--iterations", "100000")
    running = subprocess.Popen(
        [sys.executable, COMMAND, *given], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=surroundings()
    )
    lines = [running.stdout.readline(), running.stdout.readline()]
    running.send_signal(signal.SIGINT)
    rest, errors = running.communicate(timeout=300)
    assert running.returncode == 0, errors
    assert "step 1 of 50000" in lines[1] and "the same command goes on from" in rest
    assert (tmp_path / "work" / "long.safetensors").exists()


@pytest.mark.slow
def test_mistakes_are_one_sentence(pictures, tmp_path, capsys):
    out = tmp_path / "team.safetensors"
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("no guide")
    good = arguments(CLASSIFIER, pictures, out, 4)
    run(*good, "--steps", "1")
    for more, words in (
        (["--out", str(tmp_path / "team.pt")], "must end in .safetensors"),
        (["--pictures", str(tmp_path / "nothing")], "There is no folder"),
        (["--pictures", str(tmp_path / "empty")], "There is no picture in"),
        (["--guide", str(tmp_path / "notes.txt")], "notes.txt is no guide"),
        (["--guide", str(ROOT / "assets" / "shapes-noisy-classifier.safetensors")], "sees timestep"),
        (["--experts", "0"], "experts is 0"),
        (["--seed", "1"], "called team was stopped and waits with other settings .seed 0 instead of 1"),
        (["--layers", "nothing.*"], "is the name of no convolution or linear layer"),
    ):
        if "--layers" in more:
            (tmp_path / "work" / "team.safetensors").unlink()
        run(*good, *more, works=False)
        told = capsys.readouterr().err
        assert re.search(words, told) and len(told.splitlines()) == 1, told
    run(*good)
    run(*good, "--seed", "1", works=False)
    assert "was trained otherwise (seed 0 instead of 1)" in capsys.readouterr().err


def test_guides_are_named_as_load_guide_names_them(tmp_path):
    from train_experts import name_of

    assert name_of(CLASSIFIER) == "shapes-classifier"
    assert name_of(tmp_path / "models" / "guides" / "mine" / "resnet50.safetensors") == "mine/resnet50.safetensors"
    assert name_of(tmp_path / "resnet50.safetensors") == "resnet50.safetensors"


@pytest.mark.slow
def test_two_commands_of_one_name_lose_no_bank(pictures, tmp_path):
    """Other settings under one name at the same time: one bank, and the other command is told why it has none."""
    out = tmp_path / "team.safetensors"
    commands = [[*arguments(CLASSIFIER, pictures, out, 2), "--seed", str(seed)] for seed in (1, 2)]
    running = [
        subprocess.Popen([sys.executable, COMMAND, *given], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL,
                         text=True, env=surroundings())
        for given in commands
    ]
    problems = [process.communicate(timeout=300)[1] for process in running]
    codes = [process.returncode for process in running]
    assert sorted(codes) == [0, 1], problems
    assert re.search("is at work on|waits with other settings|was trained otherwise", problems[codes.index(1)])
    assert read_bank(out).training["recipe"]["seed"] == 1 + codes.index(0)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["team.safetensors", "work"]


def test_folders_that_cannot_be_written_are_found_before_the_first_step(pictures, tmp_path, capsys):
    (tmp_path / "file").write_text("in the way")
    run(*arguments(CLASSIFIER, pictures, tmp_path / "file" / "team.safetensors", 2), works=False)
    told = capsys.readouterr()
    assert "Nothing can be written at" in told.err and "Nothing was trained" in told.err and "step" not in told.out
