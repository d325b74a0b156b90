"""The workflows on large models, whose files are not here: against ComfyUI's own templates, its validator, and small
random models of the same families."""

import importlib.metadata
import json
from pathlib import Path

import host_models
import pytest
import torch
from workflow_big import BIG
from workflow_graph import inputs_of

from devtools import gallery
from devtools.prompt import to_prompt, widget_values

ROOT = Path(__file__).resolve().parent.parent
TEMPLATES = {
    "SD15-Guided-by-itself": "default",
    "SDXL-CFG-in-an-interval": "sdxl_simple_example",
    "Flux-Guided-by-itself": "flux_dev_full_text_to_image",
    "Flux-Schnell-Negative-prompt": "flux_schnell",
    "SD35-CFG-that-grows": "sd3.5_simple_example",
    "Qwen-Image-CFG-rescaled": "image_qwen_image",
    "Wan21-CFG-in-an-interval": "text_to_video_wan",
    "Wan22-One-interval-two-networks": "video_wan2_2_14B_t2v",
}
FAMILIES = {
    "SD15-Guided-by-itself": "sd15",
    "SDXL-CFG-in-an-interval": "sdxl",
    "Flux-Guided-by-itself": "flux",
    "Flux-Schnell-Negative-prompt": "flux",
    "SD35-CFG-that-grows": "sd3",
    "Qwen-Image-CFG-rescaled": "qwen_image",
    "Wan21-CFG-in-an-interval": "wan",
    "Wan22-One-interval-two-networks": "wan",
}
# Evaluations per picture: with the pack's nodes bypassed, and as the workflow is.
EVALUATIONS = {
    "SD15-Guided-by-itself": (40, 54),
    "SDXL-CFG-in-an-interval": (50, 43),
    "Flux-Guided-by-itself": (20, 34),
    "Flux-Schnell-Negative-prompt": (4, 8),
    "SD35-CFG-that-grows": (40, 40),
    "Qwen-Image-CFG-rescaled": (40, 40),
    "Wan21-CFG-in-an-interval": (60, 51),
    "Wan22-One-interval-two-networks": (40, 34),
}
OF_THE_PACK = ("seed", "noise_seed", "filename_prefix", "text")  # what a workflow may choose for itself


@pytest.fixture(params=BIG)
def name(request):
    return request.param


@pytest.fixture
def workflow(name):
    return json.loads((ROOT / "workflows" / f"{name}.json").read_text(encoding="utf-8"))


@pytest.fixture
def prompt(workflow, object_info):
    return to_prompt(workflow, object_info)


def template_nodes(name):
    """Every node of one of ComfyUI's templates, those in subgraphs too."""
    files = importlib.metadata.files("comfyui-workflow-templates-json")
    (file,) = [file for file in files if file.name == f"{TEMPLATES[name]}.json"]
    saved = json.loads(file.read_text(encoding="utf-8"))
    parts = [saved, *saved.get("definitions", {}).get("subgraphs", ())]
    return [node for part in parts for node in part["nodes"]]


def test_every_workflow_has_its_template():
    assert set(BIG) == set(TEMPLATES) == set(FAMILIES) == set(EVALUATIONS)


def test_files_are_those_of_comfyui_s_template(name, workflow):
    official = {
        (model["name"], model["url"].partition("?")[0], model["directory"])
        for node in template_nodes(name)
        for model in node.get("properties", {}).get("models", ())
    }
    needed = {(file["name"], file["url"], file["directory"]) for file in gallery.files_of(workflow)}
    assert needed and needed <= official


def test_loaders_sizes_and_samplers_are_those_of_comfyui_s_template(name, workflow, object_info):
    official = template_nodes(name)
    switched = {node["widgets_values"][0] for node in official if node["type"] in ("PrimitiveInt", "PrimitiveFloat")}
    for node in workflow["nodes"]:
        if node["type"].startswith(("Guidance", "Markdown")):
            continue
        alike = [other for other in official if other["type"].startswith(node["type"])]
        assert alike, f"the template has no {node['type']}"
        info = object_info[node["type"]]
        values = {key: value for key, value in widget_values(node, info).items() if key not in OF_THE_PACK}
        assert any(agree(values, widget_values(other, object_info[other["type"]]), switched) for other in alike), values


def agree(values, official, switched):
    """Whether the values that both nodes have are equal, or come from one of the template's own switches."""
    both = values.keys() & official.keys()
    return all(values[key] == pytest.approx(official[key]) or values[key] in switched for key in both)


def test_the_host_s_own_validator_misses_the_files_and_nothing_else(workflow, prompt, server):
    files = {file["name"] for file in gallery.files_of(workflow)}
    status, answer = server.post("/prompt", {"prompt": prompt})
    found = [problem for node in answer["node_errors"].values() for problem in node["errors"]]
    assert status == 400 and {problem["type"] for problem in found} == {"value_not_in_list"}
    assert {problem["extra_info"]["received_value"] for problem in found} == files


def test_every_output_that_matters_is_used(workflow):
    """A MODEL or CLIP that leads nowhere is a wire forgotten."""
    for node in workflow["nodes"]:
        assert all(output["links"] for output in node["outputs"] if output["type"] in ("MODEL", "CLIP", "CONDITIONING"))


def components(prompt):
    return [entry for entry in prompt.values() if entry["class_type"].startswith("Guidance")]


def run(prompt, name, bypassed=False):
    """The workflow's models and samplers on a small network of its family: the latent, and the evaluations it took."""
    spec, built, evaluations = host_models.MODELS[FAMILIES[name]], {}, 0
    latent = spec.latent(seed=None)
    for entry in prompt.values():
        values = entry["inputs"]
        if not entry["class_type"].startswith("KSampler"):
            continue
        model = output(prompt, values["model"][0], spec, built, bypassed)
        settings = {"seed": values.get("seed", 0), "steps": values["steps"], "cfg": values["cfg"]}
        if "start_at_step" in values:
            settings |= {"start_step": values["start_at_step"], "last_step": values["end_at_step"]}
            settings |= {"disable_noise": values["add_noise"] == "disable"}
            settings |= {"force_full_denoise": values["return_with_leftover_noise"] == "disable"}
        with host_models.count_forwards(model) as count:
            samples = host_models.sample(
                model, spec.conditioning(1), spec.conditioning(2), latent, sampler=values["sampler_name"],
                scheduler=values["scheduler"], **settings,
            )  # fmt: skip
        latent, evaluations = {"samples": samples}, evaluations + count.evaluations
    return latent["samples"], evaluations


def output(prompt, number, spec, built, bypassed):
    """What a node of the prompt gives, its loader replaced by a small network."""
    if number not in built:
        kind = prompt[number]["class_type"]
        values = {
            key: output(prompt, value[0], spec, built, bypassed) if isinstance(value, list) else value
            for key, value in prompt[number]["inputs"].items()
        }
        if kind.endswith(("Loader", "LoaderSimple")):
            built[number] = spec.build(seed=len(built))
        elif kind.startswith("Guidance") and bypassed:
            built[number] = values.get("model")
        else:
            built[number] = execute(kind, values)
    return built[number]


def execute(kind, values):
    import comfy_extras.nodes_model_advanced as shifts

    from guidance_pack.nodes import NODES

    ours = {node.__name__: node for node in NODES}
    with torch.inference_mode():
        if kind in ours:
            return ours[kind].execute(**values).args[0]
        node = shifts.NODE_CLASS_MAPPINGS[kind]
        return getattr(node(), node.FUNCTION)(**values)[0]


def test_the_guidance_acts_on_its_family_at_the_cost_that_is_said(name, prompt, comfy):
    plain, before = run(prompt, name, bypassed=True)
    guided, after = run(prompt, name)
    assert (before, after) == EVALUATIONS[name]
    assert torch.isfinite(guided).all() and not torch.equal(guided, plain)


@pytest.mark.parametrize("name", [name for name, (before, after) in EVALUATIONS.items() if before != after])
def test_the_note_tells_the_evaluations(workflow, name):
    before, after = EVALUATIONS[name]
    note = next(node["widgets_values"][0] for node in workflow["nodes"] if node["type"] == "MarkdownNote")
    assert f"{after} evaluations in place of {before}" in note


def test_values_of_the_pack_are_within_their_ranges(prompt, object_info):
    for entry in components(prompt):
        for key, kind, options in inputs_of(object_info[entry["class_type"]]):
            if kind == "FLOAT":
                assert options["min"] <= entry["inputs"][key] <= options["max"]
