"""What the pack takes from ComfyUI is written down, so that a maintainer reads first what another version lacks."""

import os
import re
import shutil
from pathlib import Path

import host_names
import pytest

from devtools.comfyui import DEFAULT_VERSION, read_version


@pytest.fixture(scope="module")
def page():
    """The page that these tests open: ComfyUI's own, or the one that was asked for."""
    return Path(os.environ.get("GUIDANCE_PAGE") or host_names.own_page())


@pytest.fixture(scope="module")
def found(comfyui_root, page):
    return host_names.found_in(comfyui_root, page)


def test_the_record_is_what_the_pack_takes(comfyui_root, found):
    """Otherwise: tools/host_names.py --comfyui FOLDER --record. Elsewhere nothing may be gone.

    A key or a word of the page that is not recorded yet may be one of ours that ComfyUI has by chance.
    """
    version = read_version(comfyui_root)
    told = host_names.beside_record(version, found)
    recorded = version in host_names.recorded() and not os.environ.get("GUIDANCE_PAGE")
    told = [line for line in told if not line.startswith(("not recorded: key:", "not recorded: page:"))]
    assert [line for line in told if recorded or line.startswith("gone")] == []
    assert {
        "comfy.samplers:calc_cond_batch", "comfy.patcher_extension:WrappersMP.CALC_COND_BATCH",
        "comfy.model_patcher:ModelPatcher.get_model_object", "comfy.ldm.flux.model:Flux", "key:patches_replace",
        "key:optimized_attention_override", "page:getNodeById", "page:executed", "page:scripts/app.js",
    } <= found.keys()  # fmt: skip


def test_the_oldest_comfyui_that_is_declared_has_the_same():
    """Renew its record with the Python and the folder of that ComfyUI, which tools/dev.py test --comfyui VERSION makes.

    What it lacks must not be used, or the declaration be raised.
    """
    declared = (host_names.ROOT / "pyproject.toml").read_text("utf-8")
    oldest = re.search(r'requires-comfyui = ">=([\d.]+)"', declared)[1]
    assert host_names.differences(*(host_names.recorded()[v] for v in (DEFAULT_VERSION, oldest))) == []


def test_everything_that_is_imported_is_there(found):
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
    words = sorted(name.removeprefix("page:") for name in found if name.startswith("page:"))
    (tmp_path / "page.js").write_text(" ".join(words).replace("isRootGraph", "isTopGraph"), encoding="utf-8")
    gone, unseen, changed = host_names.differences(found, host_names.found_in(tmp_path, tmp_path))
    assert gone.startswith("gone: comfy.samplers:process_conds (model, ")
    assert unseen == "gone: page:isRootGraph a value"
    assert changed.startswith("changed: comfy.samplers:calc_cond_batch was (model: BaseModel, ")
    assert ", is (net, " in changed


def test_keys_and_whole_words_are_found(tmp_path):
    (tmp_path / "comfy").mkdir()
    (tmp_path / "comfy" / "a.py").write_text('x["wrappers"], y.get("patches"), "samples" in z, print("text")')
    assert host_names.keys_of(tmp_path) == {"wrappers", "patches", "samples"}
    (tmp_path / "a.js").write_text("a.getLinks;b(--input-text)")
    asked = ["getLink", "--input-text", "text", "getLinks"]
    assert host_names.names_in_page(tmp_path, asked) == ["--input-text", "getLinks"]
