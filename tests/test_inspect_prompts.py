"""The inspector inside real queued prompts: what the page is shown and told, and the mistakes that people make."""

import asyncio
import io
import json

import aiohttp
import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file
from test_gradient_prompts import ASSETS, STAR, node

from devtools import gallery
from devtools.terminal import DevError
from guidance_pack.guidance.checkpoints.guide_source import GuideSource
from guidance_pack.guidance.guides.tiny import TinyFile

STEPS, SCALE, WEIGHT = 4, 5.0, 3.0


def prompt(name, on=True, inspect=True, seed=3):
    """CFG and Classifier Guidance, looked at by Inspect, the pictures written down beside."""
    sampled = "6" if inspect else "5"
    return {
        "1": node("GuidanceTinyModel", name="shapes-edm"),
        "2": node("GuidanceLoadGuide", name="shapes-noisy-classifier"),
        "3": node("TestRecordEvaluations", model=["1", 0], name=f"{name}_guided"),
        "4": node("GuidanceCFG", model=["3", 0], weight_from="node", weight=WEIGHT, unit="percent", start=0.0, end=1.0),
        "5": node("GuidanceClassifier", model=["4", 0], guide=["2", 0], label="star", scale=SCALE, cap=0.0,
                  at="noisy input", decoder="vae", normalise=False, form="score shift", unit="percent", start=0.0,
                  end=1.0),
        "6": node("GuidanceInspect", model=["5", 0], on=on),
        "7": node("GuidanceClassLabel", model=["1", 0], label="heart"),
        "8": node("GuidanceClassLabel", model=["1", 0], label=""),
        "9": node("EmptyLatentImage", width=32, height=32, batch_size=2),
        "10": node("KSampler", model=[sampled, 0], positive=["7", 0], negative=["8", 0], latent_image=["9", 0],
                   seed=seed, steps=STEPS, cfg=1.0, sampler_name="euler", scheduler="karras", denoise=1.0),
        "11": node("VAEDecode", samples=["10", 0], vae=["1", 1]),
        "12": node("SaveImage", images=["11", 0], filename_prefix=name),
        "13": node("GuidanceInspection", inspection=["6", 1], sampled=["10", 0], run=0),
        "14": node("PreviewAny", source=["13", 3]),
    }  # fmt: skip


def run(server, name, made):
    return gallery.wait_for(server, gallery.submit(server, made, name), made, name)


def pixels(server, image):
    return np.asarray(Image.open(io.BytesIO(gallery.fetch_picture(server, image))).convert("RGB"), dtype=np.float32)


@pytest.fixture(scope="module")
def seen(server):
    """The outputs of an inspected prompt, by node id."""
    return run(server, "inspected", prompt("inspected"))


def test_the_page_shows_plot_strip_and_table(server, seen):
    (picture,) = (pixels(server, image) for image in seen["13"]["images"])
    assert picture.shape[1] == 960 and picture.shape[0] > 800 and picture.std() > 5
    (table,) = seen["13"]["text"]
    assert len([line for line in table.splitlines() if line.startswith("| ")]) == STEPS + 2
    told = json.loads("".join(seen["14"]["text"]))
    assert [e["step"] for e in told["runs"][0]["evaluations"]] == list(range(1, STEPS + 1))


def test_the_probability_is_the_softmax_and_the_updates_add_up_to_what_was_recorded(server, seen):
    (told,) = json.loads("".join(seen["14"]["text"]))["runs"]
    network, spec = TinyFile().load(GuideSource(ASSETS / "shapes-noisy-classifier.safetensors", "noisy"))
    network = network.double()
    for index, evaluation in enumerate(told["evaluations"]):
        guided = load_file(server.base / "output" / f"inspected_guided_{index}.safetensors")
        sigma = guided["sigma"].double()
        assert evaluation["sigma"] == pytest.approx(sigma.tolist())
        leaf = guided["x"].double() / (1 + sigma.reshape(-1, 1, 1, 1) ** 2).sqrt()
        wanted = network(leaf, spec.schedule.timestep(sigma)).softmax(1)[:, STAR].tolist()
        (probability,) = evaluation["probability"].values()
        assert probability == pytest.approx(wanted, rel=1e-3, abs=1e-6)
        assert [term["strength"] for term in evaluation["terms"]] == [[WEIGHT] * 2, [SCALE] * 2]
        assert evaluation["gradients"] == 1 and len(evaluation["branches"]) == 2
        together = [sum(push) for push in zip(*(term["push"] for term in evaluation["terms"]), strict=True)]
        assert all(0 < all_of_it <= most * 1.0001 for all_of_it, most in
                   zip(evaluation["push"], together, strict=True))


@pytest.mark.parametrize("on", [True, False], ids=["on", "off"])
def test_pictures_are_the_same_bit_for_bit(server, on):
    with_it, without = (
        run(server, name, {k: v for k, v in made.items() if k not in ("13", "14")})["12"]["images"]
        for name, made in ((f"with_{on}", prompt(f"with_{on}", on=on, seed=8)),
                           (f"without_{on}", prompt(f"without_{on}", inspect=False, seed=8)))
    )
    for first, second in zip(with_it, without, strict=True):
        assert np.array_equal(pixels(server, first), pixels(server, second))


def test_off_says_so(server):
    (table,) = run(server, "off", prompt("off", on=False))["13"]["text"]
    assert "switched off" in table


def test_a_sampler_that_does_not_use_the_inspected_model_is_a_mistake_in_words(server):
    with pytest.raises(DevError, match="no sampler has used the MODEL that comes out of Inspect Run"):
        run(server, "wrong", prompt("wrong", inspect=False, seed=11))


def test_the_page_is_told_while_the_sampler_runs(server):
    made = {k: v for k, v in prompt("live", seed=12).items() if k != "14"}
    heard = asyncio.run(listen(server.address, made))
    begun, shown = heard.index("running 10"), heard.index("running 13")
    words = [one for one in heard if one.startswith("step ")]
    assert all(begun < heard.index(line) < shown for line in words)
    steps = [int(line.split()[1]) for line in words]
    assert steps == sorted(set(steps)) and steps[-1] == STEPS  # how many more there are depends on the machine's speed
    assert all(line.startswith(f"step {step} of {STEPS}, ") for step, line in zip(steps, words, strict=True))
    assert all("probability" in line and "CFG 3: update" in line for line in words)


async def listen(address, made):
    """What a page hears while its prompt runs: which node is running, and the words for node 6."""
    heard = []
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(f"{address}/ws?clientId=listener", max_msg_size=0) as socket,
    ):
        await session.post(f"{address}/prompt", json={"prompt": made, "client_id": "listener"})
        async for message in socket:
            if message.type == aiohttp.WSMsgType.BINARY:
                heard += text_for("6", message.data)
                continue
            told = json.loads(message.data)
            assert told["type"] != "execution_error", told["data"]
            if told["type"] == "executing":
                heard.append(f"running {told['data'].get('node')}")
            if told["type"] == "execution_success":
                return heard
    raise AssertionError("the connection closed early")


def text_for(number, data):
    """The words in a binary message of the kind TEXT (3) for this node, if it is one."""
    kind, length = (int.from_bytes(data[i : i + 4], "big") for i in (0, 4))
    return [data[8 + length :].decode()] if kind == 3 and data[8 : 8 + length].decode() == number else []
