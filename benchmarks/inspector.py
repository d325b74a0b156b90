"""What the inspector costs: `.venv/bin/python benchmarks/inspector.py --comfyui FOLDER [--device cuda]`.

The same run on the same MODEL with CFG and autoguidance, without and with the inspector, in turn, and the pictures
compared bit for bit. It runs as in the queue: the inspector tells a page of the run, through ComfyUI's own server. On
the CPU it is processor time that counts, which other programs disturb little; on CUDA wall time, with the device waited
for. The figures are medians over the repeats of time per step; the overhead is the median of pairwise
differences, with its standard error. On a large network that difference drowns in the spread of the network's own
time; "inside" is the time that the sampling thread itself spent in the inspector.
"""

from __future__ import annotations

import asyncio
import functools
import json
import statistics
import threading
import time
from contextlib import contextmanager

from overhead import begin, networks, parser_of

CASES = {"tiny": (24, 100), "sd15": (2, 3)}  # steps per run, repeats
SIZES = {"cpu": 16, "cuda": 64}  # latent height and width of the sd15 case
CFG, WEIGHT = 4.0, 2.0


def main() -> None:
    options = parser_of(__doc__, CASES).parse_args()
    begin(options)
    print("| network | evaluations, main + guide | ms without | with | difference | overhead | inside | same bits |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    inside = clocked()
    with page():
        for case in options.only:
            measure(case, options.device, inside)


@contextmanager
def page():
    """While inside, ComfyUI's server has a page that it tells of a running node."""
    import server
    from comfy_execution.utils import CurrentNodeContext

    class Socket:
        async def send_json(self, message):
            json.dumps(message)

        async def send_bytes(self, message):
            pass

    loop = asyncio.new_event_loop()
    told = server.PromptServer(loop)
    told.client_id, told.sockets["page"] = "page", Socket()
    threading.Thread(target=loop.run_until_complete, args=(told.publish_loop(),), daemon=True).start()
    with CurrentNodeContext("prompt", "1"):
        yield


def measure(case: str, device: str, inside: list[int]) -> None:
    """Print one row, per step. inside: the inspector's nanoseconds."""
    import comfy.samplers
    import torch

    from guidance_pack.guidance.rules.autoguidance import Autoguidance
    from guidance_pack.host.engine.install import with_autoguidance, with_inspection
    from guidance_pack.host.recording.inspection import Inspection

    steps, repeats = CASES[case]
    model, guide, positive, negative, latent = networks(case)
    latent = torch.zeros(1, 4, SIZES[device], SIZES[device]) if latent is None else latent
    noise = torch.randn(latent.shape, generator=torch.Generator().manual_seed(0))
    sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "karras", steps)
    guided = with_autoguidance(model, guide, Autoguidance(WEIGHT))
    models = (guided, with_inspection(guided, Inspection("2")))
    pairs, same = [], True
    for repeat in range(repeats + 1):
        order = models if repeat % 2 else models[::-1]
        found = {id(one): timed(one, positive, negative, noise, latent, sigmas, device) for one in order}
        (plain, picture), (watched, seen) = (found[id(one)] for one in models)
        same = same and torch.equal(picture, seen)
        if not repeat:  # the first round warms up
            inside.clear()
        else:
            pairs.append((plain / steps * 1000, watched / steps * 1000))
    without, with_it = (statistics.median(times) for times in zip(*pairs, strict=True))
    differences = [second - first for first, second in pairs]
    more = statistics.median(differences)
    quarters = statistics.quantiles(differences)
    error = 0.93 * (quarters[2] - quarters[0]) / len(pairs) ** 0.5  # of a median, if the middle is Gaussian
    cells = (f"{without:.2f}", f"{with_it:.2f}", f"{more:.3f} +- {error:.3f}", f"{more / without:+.2%}")
    spent = sum(inside) / 1e6 / steps / repeats
    print(f"| {case} | 2 + 1 | {' | '.join(cells)} | {spent:.3f} ms, {spent / without:.2%} | {same} |")


def clocked() -> list[int]:
    """Where the nanoseconds appear that the sampling thread spends in the inspector."""
    from guidance_pack.guidance.inspection import Watch
    from guidance_pack.host.recording.recorder import Recorder

    spent: list[int] = []
    for owner, name in (
        (Recorder, "begin"), (Recorder, "end"), (Recorder, "close"), (Watch, "combined"), (Watch, "guided_to"),
    ):  # fmt: skip
        setattr(owner, name, counting(getattr(owner, name), spent))
    return spent


def counting(function, spent: list[int]):
    """The function, and its time in the list."""

    @functools.wraps(function)
    def call(*args):
        start = time.thread_time_ns()
        try:
            return function(*args)
        finally:
            spent.append(time.thread_time_ns() - start)

    return call


def timed(model, positive, negative, noise, latent, sigmas, device: str):
    """Seconds of one run, and its picture."""
    import comfy.samplers
    import torch

    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(positive, negative)
    guider.set_cfg(CFG)
    clock = time.process_time if device == "cpu" else time.perf_counter
    with torch.inference_mode():
        start = clock()
        sampler = comfy.samplers.sampler_object("euler")
        picture = guider.sample(noise, latent, sampler, sigmas, disable_pbar=True, seed=0)
        if device == "cuda":
            torch.cuda.synchronize()
        return clock() - start, picture


if __name__ == "__main__":
    main()
