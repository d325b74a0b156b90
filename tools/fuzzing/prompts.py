"""Hostile prompts: real graphs of the pack's nodes with spoilt values, wires and kinds, through ComfyUI's own
validation and executor in this process."""

from __future__ import annotations

import asyncio
import copy
import math
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

from .graphs import Graphs, Prompt
from .pool import Attempt
from .verdict import MOST_WORDS, ROOT

EXTRAS = ("nodes_custom_sampler", "nodes_model_advanced", "nodes_primitive")
NUMBERS: list[Any] = [
    math.nan, math.inf, -math.inf, 1e300, -1e300, 1e-320, -0.0, 0, -1, 1, 2, 0.5, 100, 2**31, 2**63, -(2**63), 10**400,
    True, None, "abc", "1e5", "", [], {}, [1, 2, 3], {"__value__": [1, 2]}, {"a": 1},
]  # fmt: skip
TEXTS: list[Any] = [
    "", " ", "nan", "a" * 100_000, "9" * 5000, "../x", "/etc/passwd", "CON", "x\0y", "\x1b[2J", "\ud800", "üñ😀",
    "a/b/c", "0: 1, 1: nan", "0: 1e9, 1: 0", "1: 0, 0: 1", "0: 1", ":,:", "1..1e9 step 1e-9", "1, 2, inf", "off, off",
    "5 to 1 sigma", "double 0-999999999", "middle, input 99", "deep 1", "star, " * 500, "star:nan", "*",
    "star:1e300 + circle:-1e300", None, 5, True, [], {}, [1, 2, 3],
]  # fmt: skip
FULL_SLOTS = 9  # an output that no node has


class Scene:
    """The nodes of the pack and of the host, an executor, and what the last prompt showed."""

    def __init__(self, folder: Path) -> None:
        import server

        for name in ("output", "input", "temp"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        self.page = _Page()
        vars(server)["PromptServer"].instance = self.page
        self.shown: list[Any] = []
        self.graphs = Graphs(asyncio.run(_node_classes(self.shown)))

    def draw(self, random: Random) -> Attempt:
        prompt = self.graphs.draw(random)
        done = [_spoil(prompt, self.graphs, random) for _ in range(random.choice((1, 1, 1, 2, 3)))]
        kinds = "+".join(sorted({node["class_type"].removeprefix("Guidance") for node in prompt.values()
                                 if node["class_type"].startswith("Guidance")}))
        return Attempt(f"{kinds}: {'; '.join(done)}", lambda: self._run(prompt))

    def _run(self, prompt: Prompt) -> list[str]:
        import execution

        self.shown.clear()
        try:
            valid, error, outputs, node_errors = asyncio.run(execution.validate_prompt("fuzz", prompt, None))
        except (KeyError, IndexError, TypeError, AttributeError) as broken:  # the host's own, of wires to nowhere
            if _ours(broken):
                raise
            return []
        found = _misreported(node_errors)
        if found or not valid:
            return found
        failure = self._execute(execution, prompt, outputs)
        if failure is not None and _ours(failure):
            raise failure
        return [] if failure is not None else [words for picture in self.shown for words in _odd(picture)]

    def _execute(self, execution: Any, prompt: Prompt, outputs: list[str]) -> BaseException | None:
        """What ended the prompt, if anything did."""
        failures: list[BaseException] = []

        class Executor(execution.PromptExecutor):
            def handle_execution_error(self, prompt_id, prompt, current_outputs, executed, error, ex):
                failures.append(ex)

        arguments = {"lru": 0, "ram": 0.0, "ram_inactive": 0.0}
        Executor(self.page, cache_args=arguments).execute(copy.deepcopy(prompt), "fuzz", {}, outputs)
        return failures[0] if failures else None


class _Page:
    """Stands for the server: nobody listens."""

    client_id = last_node_id = last_prompt_id = None

    def send_sync(self, event: Any, data: Any, client: Any = None) -> None:
        pass

    def send_progress_text(self, text: Any, node: Any, client: Any = None) -> None:
        pass


async def _node_classes(shown: list[Any]) -> dict[str, Any]:
    """The pack's nodes by id; all others are known to the host as well."""
    import guidance_pack
    import nodes as core

    for name in EXTRAS:
        place = Path(core.__file__).parent / "comfy_extras" / f"{name}.py"
        assert await core.load_custom_node(str(place), module_parent="comfy_extras"), name
    found = await (await guidance_pack.comfy_entrypoint()).get_node_list()
    ours = {node.GET_SCHEMA().node_id: node for node in found}
    known: dict[str, Any] = core.NODE_CLASS_MAPPINGS
    known |= {**ours, "FuzzValue": FuzzValue, "FuzzLook": type("FuzzLook", (FuzzLook,), {"shown": shown})}
    return ours


class FuzzValue:
    """A node of another pack whose output says nothing of its kind."""

    CATEGORY, FUNCTION, RETURN_TYPES = "fuzz", "give", ("*",)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"number": ("INT", {"min": 0, "max": len(NUMBERS) + len(TEXTS) - 1})}}

    def give(self, number: int):
        return ([*NUMBERS, *TEXTS][number],)


class FuzzLook:
    """Keeps what it is shown, as a picture that is saved."""

    CATEGORY, FUNCTION, RETURN_TYPES, OUTPUT_NODE = "fuzz", "look", (), True
    shown: list[Any]

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"images": ("IMAGE",)}}

    def look(self, images):
        self.shown.append(images)
        return ()


def _spoil(prompt: Prompt, graphs: Graphs, random: Random) -> str:
    """Change one input of one node, most often of the pack's; in words."""
    ours = [name for name, node in prompt.items() if node["class_type"] in graphs.ours]
    name = random.choice(ours if random.random() < 0.9 else list(prompt))
    inputs = prompt[name]["inputs"]
    if not inputs:
        return "nothing"
    key = random.choice(list(inputs))
    way = random.choice(("value", "value", "value", "value", "wire", "drop", "any"))
    if way == "drop":
        del inputs[key]
    elif way == "wire":
        target = random.choice([*prompt, name, "nowhere"])
        inputs[key] = [target, random.choice((0, 0, 1, FULL_SLOTS))]
    elif way == "any":
        feed = f"any {len(prompt)}"
        number = random.randrange(len(NUMBERS) + len(TEXTS))
        prompt[feed] = {"class_type": "FuzzValue", "inputs": {"number": number}}
        inputs[key] = [feed, 0]
        return f"{name}.{key} wired to {[*NUMBERS, *TEXTS][number]!r:.40}"
    else:
        inputs[key] = _hostile(inputs[key], graphs.range_of(prompt[name]["class_type"], key), random)
    return f"{name}.{key} {way} {inputs.get(key)!r:.40}"


def _hostile(value: Any, limits: list[Any], random: Random) -> Any:
    if isinstance(value, str):
        return random.choice([*TEXTS, *limits] if not limits or random.random() < 0.5 else limits)
    return random.choice(NUMBERS if not limits or random.random() < 0.6 else limits)


def _misreported(node_errors: dict[str, Any]) -> list[str]:
    """What is wrong with the answers of the validation: a mistake said twice, a page of words, an exception of ours."""
    found = []
    for node in node_errors.values():
        if not node["class_type"].startswith("Guidance"):
            continue
        said = [error["details"].partition(" - ")[2] or error["details"] for error in node["errors"]]
        found += [f"said {count} times: {words:.200}" for words, count in Counter(said).items() if count > 1]
        found += [f"{len(words)} characters: {words:.200}" for words in said if len(words) > MOST_WORDS]
        for error in node["errors"]:
            trace = "".join(error["extra_info"].get("traceback", ()))
            if str(ROOT / "host") in trace or str(ROOT / "nodes") in trace:
                found.append(f"raw while validating: {error['details']:.200}\n{trace[-600:]}")
    return found


def _ours(error: BaseException) -> bool:
    """Whether a function of the pack has a part in it."""
    trace, floors = error.__traceback__, tuple(str(ROOT / floor) for floor in ("guidance", "host", "nodes"))
    while trace is not None:
        if trace.tb_frame.f_code.co_filename.startswith(floors):
            return True
        trace = trace.tb_next
    return False


def _odd(picture: Any) -> list[str]:
    import torch

    if not isinstance(picture, torch.Tensor):
        return []
    return [] if bool(torch.isfinite(picture).all()) else ["a picture that is no numbers"]
