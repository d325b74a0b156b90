"""What the pack takes from ComfyUI is written down, so that a maintainer reads first what another version lacks."""

import json
import shutil

import host_names
import pytest


@pytest.fixture(scope="module")
def found(comfyui_root):
    return host_names.in_host(comfyui_root, host_names.used() | host_names.methods(comfyui_root))


def test_the_record_is_what_the_pack_takes(found):
    """Otherwise: tools/host_names.py --comfyui FOLDER --record."""
    assert host_names.differences(json.loads(host_names.RECORD.read_text("utf-8")), found) == []
    assert "comfy.samplers:calc_cond_batch" in found
    assert "comfy.patcher_extension:WrappersMP.CALC_COND_BATCH" in found
    assert "comfy.model_patcher:ModelPatcher.get_model_object" in found


def test_everything_that_is_imported_is_there(comfyui_root, found):
    assert host_names.used() - found.keys() == set()


def test_what_another_version_lacks_or_calls_otherwise_is_named(comfyui_root, found, tmp_path):
    for folder in ("comfy", "comfy_api", "comfy_execution", "comfy_extras"):
        shutil.copytree(comfyui_root / folder, tmp_path / folder, ignore=lambda _, names: [
            name for name in names if "." in name and not name.endswith(".py")])  # fmt: skip
    for file in comfyui_root.glob("*.py"):
        shutil.copy(file, tmp_path)
    samplers = tmp_path / "comfy" / "samplers.py"
    text = samplers.read_text("utf-8").replace("def calc_cond_batch(model: BaseModel,", "def calc_cond_batch(net,")
    samplers.write_text(text.replace("def process_conds(", "def conds_of("), encoding="utf-8")
    there = host_names.in_host(tmp_path, host_names.used() | host_names.methods(tmp_path))
    gone, changed = host_names.differences(found, there)
    assert gone.startswith("gone: comfy.samplers:process_conds (model, ")
    assert changed.startswith("changed: comfy.samplers:calc_cond_batch was (model: BaseModel, ")
    assert ", is (net, " in changed
