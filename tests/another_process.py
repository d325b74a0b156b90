"""A second process with the pack in it, without ComfyUI."""

import subprocess
import sys
import textwrap
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACK = f"""
import sys
from importlib.machinery import ModuleSpec
from importlib.util import module_from_spec
from pathlib import Path

spec = ModuleSpec("guidance_pack", None, is_package=True)
spec.submodule_search_locations = [{str(ROOT)!r}]
sys.modules["guidance_pack"] = module_from_spec(spec)
import torch
from guidance_pack.guidance.checkpoints.atomic import NameInUseError, atomic_save, name_lock
path = Path(sys.argv[1])
"""


def begun(code: str, *arguments) -> subprocess.Popen:
    """Another process with the pack in it, whose first line says that it runs."""
    command = [sys.executable, "-c", PACK + textwrap.dedent(code), *map(str, arguments)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def said(process: subprocess.Popen) -> str:
    out, problems = process.communicate("go\n", timeout=120)
    assert process.returncode == 0, problems
    return out
