"""Workflows on a device that is not the CPU: they run, and their pictures are the CPU's own."""

import asyncio
import json
from pathlib import Path
from unittest.mock import MagicMock

import elsewhere
import numpy as np
import pytest
from guide_folder import lend
from PIL import Image

from devtools.prompt import to_prompt

ROOT = Path(__file__).resolve().parent.parent
# One for each part of the engine; LoRAs are trained by the host, and would take minutes here.
NAMES = (
    "03-CFG-and-autoguidance", "07-Follow-depth-or-segmentation", "09-Guided-by-its-degraded-self", "12-Train-experts",
)  # fmt: skip
ROUNDING = 2  # of 255: attention is computed in another order
LEARNT = 1.0  # of 255, in the mean, of pictures steered by what was trained: a training carries the rounding on
CACHE = ("lru", "ram", "ram_inactive")  # the sizes of the queue's caches
# And one seed: after so few iterations experts push hardly a picture in one direction, and carry the rounding far.
FEWER = {"steps": 3, "count": 6, "iterations": 6, "batch_size": 2, "seed": 6}


@pytest.fixture(scope="module")
def execute(comfy, server):
    """Runs a workflow's nodes in this process, with few steps; gives the pictures that they saved, by node."""
    import execution
    from server import PromptServer

    import nodes
    from guidance_pack import comfy_entrypoint

    page = MagicMock(client_id=None)  # hears of progress and previews

    async def register():
        await nodes.init_builtin_extra_nodes()
        for node in await (await comfy_entrypoint()).get_node_list():
            nodes.NODE_CLASS_MAPPINGS[node.GET_SCHEMA().node_id] = node

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PromptServer, "instance", page, raising=False)
        asyncio.run(register())
        info = server.get("/object_info")

        def run(name):
            workflow = json.loads((ROOT / "workflows" / f"{name}.json").read_text("utf-8"))
            prompt = to_prompt(workflow, info)
            for node in prompt.values():
                node["inputs"] |= {key: value for key, value in FEWER.items() if key in node["inputs"]}
            wanted = [key for key, node in prompt.items() if info[node["class_type"]]["output_node"]]
            made = execution.PromptExecutor(page, execution.CacheType.CLASSIC, dict.fromkeys(CACHE, 0))
            made.execute(prompt, name, {}, wanted)
            errors = [told for event, told in made.status_messages if event == "execution_error"]
            assert not errors, f"{errors[0]['node_type']}: {errors[0]['exception_message']}"
            return {key: pictures(out) for key, out in made.history_result["outputs"].items()}

        yield run


def pictures(output):
    """The files that a node saved, as numbers."""
    import folder_paths

    folders = {"output": folder_paths.get_output_directory(), "temp": folder_paths.get_temp_directory()}
    files = [Path(folders[e["type"]], e["subfolder"], e["filename"]) for e in output.get("images", ())]
    return [np.asarray(Image.open(file)) for file in files]


@pytest.mark.parametrize("name", NAMES)
def test_workflows_give_the_cpus_own_pictures(execute, name, monkeypatch, tmp_path):
    import comfy.model_management as management
    import folder_paths

    def begin(place):
        """Banks and pictures of the other device are not taken up."""
        lend(monkeypatch, tmp_path / place / "guides")
        monkeypatch.setattr(folder_paths, "output_directory", str(tmp_path / place))

    begin("here")
    here = execute(name)
    begin("there")
    management.unload_all_models()
    monkeypatch.setattr(management, "directml_enabled", True)
    monkeypatch.setattr(management, "directml_device", elsewhere.AWAY, raising=False)
    with elsewhere.device():
        there = execute(name)
        management.unload_all_models()
    assert here.keys() == there.keys() and any(here.values())
    for node, expected in here.items():
        for one, other in zip(expected, there[node], strict=True):
            differ = np.abs(one.astype(int) - other.astype(int))
            assert differ.mean() <= LEARNT if name == "12-Train-experts" else differ.max() <= ROUNDING, node
