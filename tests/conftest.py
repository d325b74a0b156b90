"""Loads the pack as `guidance_pack` and lends the real ComfyUI: in this process (`comfy`) and as a server (`server`).

Tests of pure rooms import `guidance_pack.guidance...` at the top. Tests that need ComfyUI take the `comfy` fixture and
import `comfy...`, `guidance_pack.host...` or `guidance_pack.nodes...` inside the test or in a fixture, because these
import ComfyUI at module level, and only the fixture puts it on the path, with its options set.
"""

import importlib.util
import os
import shutil
import sys
from collections import Counter
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / "tools"))


def load_pack():
    """Import the repository's root `__init__.py` as the package `guidance_pack`, whatever the folder is called."""
    spec = importlib.util.spec_from_file_location(
        "guidance_pack", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules["guidance_pack"] = module
    spec.loader.exec_module(module)
    return module


load_pack()


def pytest_addoption(parser):
    parser.addoption(
        "--dynamic-vram", action="store_true", help="with ComfyUI's dynamic memory management, which needs a GPU"
    )


def pytest_collection_modifyitems(items):
    """Every test is marked by the most that it needs: browser, server, host or core.

    A test marked `slow` is left out by `tools/dev.py test --fast`; of one marked `many` the first of its cases stays.
    """
    met = set()
    for item in items:
        if item.get_closest_marker("many"):
            test = item.nodeid.partition("[")[0]
            if test in met:
                item.add_marker("slow")
            met.add(test)
        if "test_browser" in item.path.name:
            item.add_marker("browser")
        elif "server" in item.fixturenames:
            item.add_marker("server")
        else:
            item.add_marker("host" if {"comfy", "comfyui_root"} & {*item.fixturenames} else "core")
    _long_files_first(items)


def _long_files_first(items):
    """Files with the most that takes long: a share of a run that began one of them late would end late."""
    long = Counter(item.path for item in items if any(map(item.get_closest_marker, ("slow", "browser"))))
    items.sort(key=lambda item: -long[item.path])


@dataclass(frozen=True)
class ComfyUI:
    """Where the host's source lies and the base directory (models/, output/, user/) that these tests give it."""

    root: Path
    base: Path


def prepared_comfyui() -> Path:
    """The ComfyUI that `tools/dev.py test` prepared and named in GUIDANCE_COMFYUI."""
    named = os.environ.get("GUIDANCE_COMFYUI", "")
    if not named or not (Path(named) / "comfyui_version.py").is_file():
        pytest.fail(
            f"no ComfyUI at GUIDANCE_COMFYUI={named!r}: run `python3 tools/dev.py test`, which fetches one",
            pytrace=False,
        )
    return Path(named).resolve()


@pytest.fixture(scope="session")
def comfyui_root() -> Path:
    """The source folder of the prepared ComfyUI; nothing of it is imported."""
    return prepared_comfyui()


def manage_memory_dynamically(args) -> None:
    """What ComfyUI's main.py does at its start where a GPU allows it."""
    import comfy_aimdo.control

    comfy_aimdo.control.init()
    import comfy.memory_management
    import comfy.model_management
    import comfy.model_patcher

    headroom = int(args.vram_headroom * 2**30)
    devices = comfy.model_management.get_all_torch_devices()
    if not comfy_aimdo.control.init_devices((device.index, headroom) for device in devices):
        pytest.fail("--dynamic-vram: ComfyUI's dynamic memory management does not start here", pytrace=False)
    comfy.model_patcher.CoreModelPatcher = comfy.model_patcher.ModelPatcherDynamic
    comfy.memory_management.aimdo_enabled = True


@pytest.fixture(scope="session")
def comfy(request, comfyui_root, tmp_path_factory) -> ComfyUI:
    """The real ComfyUI importable in this process, on the CPU where there is no CUDA, with a temporary base folder."""
    import torch

    base = tmp_path_factory.mktemp("comfyui-base")
    sys.path.insert(0, str(comfyui_root))
    import comfy.options

    comfy.options.enable_args_parsing(False)  # pytest's own arguments are none of ComfyUI's
    from comfy.cli_args import args

    args.cpu = not torch.cuda.is_available()
    args.base_directory = str(base)
    if request.config.getoption("--dynamic-vram"):
        manage_memory_dynamically(args)
    import nodes

    owner = Path(nodes.__file__).resolve().parent
    assert owner == comfyui_root, f"`import nodes` gave {owner}, not ComfyUI's: the pack's root must not be on sys.path"
    return ComfyUI(root=comfyui_root, base=base)


@pytest.fixture(scope="module")
def main(comfy):
    """A small SD 1.5 with random weights, as the host builds it from a checkpoint."""
    from host_models import MODELS

    return MODELS["sd15"].build(0)


@pytest.fixture(scope="module")
def guide(comfy):
    """Another one, with weights of its own."""
    from host_models import MODELS

    return MODELS["sd15"].build(7)


@pytest.fixture(scope="session")
def written(tmp_path_factory):
    """Writes the guide of a case of `guide_files` and gives its path; each once, and not to be changed."""
    from guide_files import CASES

    @cache
    def write(name):
        return CASES[name].write(tmp_path_factory.mktemp(name) / name)

    return write


@pytest.fixture(scope="session")
def guide_root(tmp_path_factory):
    """A models/guides as a user's may look; not to be changed."""
    from guide_folder import write_guides

    return write_guides(tmp_path_factory.mktemp("guides"))


@pytest.fixture(scope="session")
def embedded_root(tmp_path_factory):
    """A folder with one random embedded guide."""
    from guide_folder import write_assets

    return write_assets(tmp_path_factory.mktemp("assets"))


@pytest.fixture
def guides(comfy, guide_root, embedded_root, monkeypatch):
    """`host.guides` with these two folders."""
    from guide_folder import lent

    return lent(monkeypatch, guide_root, embedded_root)


@pytest.fixture(scope="module")
def install(comfy):
    """What puts components on a MODEL."""
    from guidance_pack.host.engine import install

    return install


@pytest.fixture(scope="module")
def auto(comfy):
    """A rule of autoguidance, not yet on a MODEL."""
    from guidance_pack.guidance.rules.autoguidance import Autoguidance

    return Autoguidance(2.5)


@pytest.fixture(scope="session")
def server(comfyui_root, tmp_path_factory):
    """The real ComfyUI server with this pack in its custom_nodes, started once; gives a `devtools.server.Server`."""
    import torch

    from devtools.server import Server, free_port, link_pack

    base = tmp_path_factory.mktemp("server-base")
    link_pack(base)
    shutil.copytree(ROOT / "tests" / "probe_node", base / "custom_nodes" / "probe_node")
    running = Server(
        python=Path(sys.executable),
        comfyui=comfyui_root,
        base=base,
        port=free_port(),
        cpu=not torch.cuda.is_available(),
        page=Path(page) if (page := os.environ.get("GUIDANCE_PAGE")) else None,
    )
    with running:
        yield running


@pytest.fixture(scope="session")
def object_info(server):
    """What the server tells the page of every kind of node."""
    return server.get("/object_info")


@pytest.fixture(scope="module")
def chromium():
    """The browser, for one file: Playwright lends it a loop of events that other files' tests would meet."""
    from browser import chromium as started

    with started() as running:
        yield running


@pytest.fixture(scope="module")
def pages(chromium, server):
    """The server's page in each renderer."""
    from browser import RENDERERS, Page

    return {renderer: Page(chromium, server, renderer) for renderer in RENDERERS}


@pytest.fixture(params=["classic", "vue"])
def page(request, pages):
    """One of these pages after the other."""
    return pages[request.param]


@pytest.fixture
def no_complaints(pages):
    """No page complains of anything of ours."""
    yield
    assert [said for page in pages.values() for said in page.complaints] == []
