"""A bank of experts dropped on the real page opens the workflow that made it, in both renderers."""

import base64
import json
from dataclasses import replace

import browser
import pytest

from guidance_pack.guidance.experts.file import read_bank, write_bank

ASSET = browser.ROOT / "assets" / "shapes-experts.safetensors"
DROP = """async (data) => {
    const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
    await app.handleFile(new File([bytes], "dropped.safetensors"));
}"""


@pytest.mark.parametrize("renderer", browser.RENDERERS)
def test_a_dropped_bank_restores_its_graph(server, tmp_path, renderer):
    made = json.loads((browser.ROOT / "workflows" / "12-Train-experts.json").read_text("utf-8"))
    path = tmp_path / "dropped.safetensors"
    write_bank(path, replace(read_bank(ASSET), workflow={"workflow": json.dumps(made)}))
    with browser.chromium() as running:
        page = browser.Page(running, server, renderer)
        page.open("01-First-steps-CFG")
        page.do(DROP, base64.b64encode(path.read_bytes()).decode())
        page.tab.wait_for_function("() => app.rootGraph.nodes.some((node) => node.type === 'GuidanceTrainExperts')")
        kinds = sorted(node["type"] for node in page.saved()["nodes"])
        assert kinds == sorted(node["type"] for node in made["nodes"])
        assert page.missing() == [] and page.complaints == []
