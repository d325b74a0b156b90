"""Ten mistakes that people make, made in the real page in both renderers: which node is red, what the page says of it,
and that what it says to do mends it."""

from collections.abc import Callable
from dataclasses import dataclass

import browser
import pytest
import torch
from safetensors.torch import save_file

LORA = "my-lora.safetensors"
SMALL = {
    "KSampler": {"steps": 2},
    "BasicScheduler": {"steps": 2},
    "EmptyLatentImage": {"batch_size": 1},
    "GuidanceMakePictures": {"name": "mistakes", "count": 4, "batch_size": 4, "steps": 2},
    "GuidanceTrainExperts": {"name": "mistakes", "iterations": 2, "experts": 2, "batch_size": 4, "rank": 2},
}


@dataclass(frozen=True)
class Mistake:
    """One mistake, made in a few nodes of a workflow and mended as the page's sentence says.

    Attributes:
        name: what went wrong.
        workflow, ends: one of workflows/, of which only what leads to the nodes of these titles is opened.
        make, mend: what the person does on the page.
        red: the only red node: its kind and id.
        words: what the page says, in this order: what came, what is allowed, how to go on.
    """

    name: str
    workflow: str
    ends: tuple[str, ...]
    make: Callable[[browser.Page], None]
    mend: Callable[[browser.Page], None]
    red: tuple[str, int]
    words: tuple[str, ...]


def sets(kind, **values):
    """Edits widgets of the first node of a kind, or of the node of this number."""

    def edit(page):
        for name, value in values.items():
            page.set(kind, name, value)

    return edit


def wires(*wire):
    """Draws one wire."""
    return lambda page: page.connect(*wire)


def sample_without_a_negative(page):
    """The sampler of Flux workflows, whose guider takes one prompt alone, in KSampler's place."""
    page.add("BasicGuider", [50, 1100], model=(10, "MODEL"), conditioning=(3, "CONDITIONING"))
    page.add("RandomNoise", [330, 1100])
    page.add("KSamplerSelect", [610, 1100])
    page.add("BasicScheduler", [890, 1100], model=(10, "MODEL"))
    page.add(
        "SamplerCustomAdvanced", [1170, 1100], latent_image=(6, "LATENT"), guider=("BasicGuider", "GUIDER"),
        noise=("RandomNoise", "NOISE"), sampler=("KSamplerSelect", "SAMPLER"), sigmas=("BasicScheduler", "SIGMAS"),
    )  # fmt: skip
    page.connect("SamplerCustomAdvanced", "output", 12, "samples")


def take_the_guider_with_a_negative(page):
    prompts = {"positive": (3, "CONDITIONING"), "negative": (4, "CONDITIONING")}
    page.add("CFGGuider", [50, 1250], model=(10, "MODEL"), **prompts)
    page.connect("CFGGuider", "GUIDER", "SamplerCustomAdvanced", "guider")


MISTAKES = [
    Mistake(
        "a model as its own guide", "02-Autoguidance", ("small guide, autoguidance 2",),
        wires(2, "MODEL", 12, "guide_model"), wires(3, "MODEL", 12, "guide_model"),
        ("GuidanceAutoguidance", 12),
        ("model and guide_model are one and the same model", "Connect a weaker version to guide_model"),
    ),
    Mistake(
        "two weights at the same noise levels", "04-CFG-in-an-interval", ("CFG 4 everywhere", "CFG 4 in (0.15, 5]"),
        wires(7, "MODEL", 11, "model"), sets("GuidanceCFG", unit="sigma", start=80.0, end=5.0),
        ("GuidanceCFG", 11),
        ("Two CFG Combine", "at the same noise levels", "Give them intervals that do not overlap, or remove one"),
    ),
    Mistake(
        "numbers of percent as sigma", "01-First-steps-CFG", ("CFG 4",),
        sets("GuidanceCFG", unit="sigma"), sets("GuidanceCFG", start=1.0, end=0.0),
        ("GuidanceCFG", 10),
        ("In sigma the noisy start must be the larger number", "start is 0 and end is 1", "Swap them"),
    ),
    Mistake(
        "CFG where there is no negative", "01-First-steps-CFG", ("CFG 4",),
        sample_without_a_negative, take_the_guider_with_a_negative,
        ("SamplerCustomAdvanced", 18),
        ("CFG Combine", "needs a negative prompt, and BasicGuider takes none", "Use KSampler or CFGGuider"),
    ),
    Mistake(
        "a misspelt class", "01-First-steps-CFG", ("CFG 4",),
        sets("GuidanceClassLabel", label="star, hart"), sets("GuidanceClassLabel", label="star, heart"),
        ("GuidanceClassLabel", 3),
        ("This MODEL does not know 'hart'", "did you mean 'heart'?", "It knows: circle, square"),
    ),
    Mistake(
        "a depth network as a classifier", "06-Classifier-guidance", ("clean, denoised estimate",),
        sets(15, name="shapes-depth"), sets(15, name="shapes-classifier"),
        ("GuidanceClassifier", 16),
        ("shapes-depth gives depth", "needs a classifier", "Choose a classifier in Load Guide", "Loss Guidance"),
    ),
    Mistake(
        "a third expert without an edge", "More-Two-classifiers-in-turn", ("clean and noise-aware in turn",),
        wires(7, "guide", 13, "guides.guide2"), sets("GuidanceExpertSwitch", edges="100, 500"),
        ("GuidanceExpertSwitch", 13),
        ("3 guides need 2 edges", "edges has 1: '100'", "Write one number for each hand-over"),
    ),
    Mistake(
        "a LoRA among the guides", "06-Classifier-guidance", ("clean, denoised estimate",),
        sets(15, name=LORA), sets(15, name="shapes-classifier"),
        ("GuidanceLoadGuide", 15),
        (f"ValueError: {LORA} is a file of another kind, no guide", "Choose another one; a guide can be:", "CLIP"),
    ),
    Mistake(
        "experts of a network that sees noise already", "12-Train-experts", ("The experts just trained",),
        sets(8, name="shapes-noisy-classifier"), sets(8, name="shapes-classifier"),
        ("GuidanceTrainExperts", 9),
        ("shapes-noisy-classifier sees noise already", "connect the clean network", "choose it in Load Guide"),
    ),
    Mistake(
        "a forgotten target", "07-Follow-depth-or-segmentation", ("depth of the references",),
        lambda page: page.disconnect(13, "target"), wires(9, "IMAGE", 13, "target"),
        ("GuidanceLoss", 13),
        ("The loss 'depth' compares with a target", "none is connected", "Connect a picture to target"),
    ),
]  # fmt: skip


def part_of(workflow, ends):
    """A shipped workflow with only the nodes that lead to those of these titles."""
    saved = browser.workflow(workflow)
    kept = {node["id"] for node in saved["nodes"] if node.get("title") in ends}
    while more := {link[1] for link in saved["links"] if link[3] in kept} - kept:
        kept |= more
    saved["nodes"] = [node for node in saved["nodes"] if node["id"] in kept]
    saved["links"] = [link for link in saved["links"] if link[3] in kept]
    saved["groups"] = []
    there = {link[0] for link in saved["links"]}
    for output in (output for node in saved["nodes"] for output in node.get("outputs", ())):
        output["links"] = [link for link in output.get("links") or () if link in there]
    return saved


@pytest.fixture(scope="module")
def wrong_file(server):
    """What people put into the wrong folder."""
    file = server.base / "models" / "guides" / LORA
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file({"lora_unet_mid.lora_down.weight": torch.zeros(4, 8)}, file)
    yield
    file.unlink()


@pytest.fixture(scope="module", params=browser.RENDERERS)
def page(request, chromium, server, wrong_file):
    opened = browser.Page(chromium, server, request.param)
    yield opened
    opened.tab.close()  # it would go on drawing


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.name)
def test_a_mistake_is_shown_where_it_is_and_can_be_mended(page, mistake):
    page.open(part_of(mistake.workflow, mistake.ends))
    mistake.make(page)
    page.set_all(SMALL)
    assert page.run() != "success"
    said = page.problem()
    places = [said.find(words) for words in mistake.words]
    assert -1 not in places and places == sorted(places), said
    assert page.red() == [mistake.red]
    mistake.mend(page)
    assert page.run() == "success"
    assert page.red() == [] and page.complaints == []
