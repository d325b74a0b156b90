"""GLIDE as an ordinary MODEL on the real host: text and CFG, its two stages, inpainting, its vocabulary, memory."""

import json

import adm_files
import adm_formulas as formulas
import pytest
import torch
from adm_runs import SIDE, assert_same, euler, sigmas_at, start

from guidance_pack.guidance.networks.adm.glide import GLIDE, INPUTS
from guidance_pack.guidance.networks.adm.tokens import bits_of

STEPS = [900, 500, 100]
LONG, SHORT = list(range(40, 60)), [50256, 7]


@pytest.fixture(scope="module")
def glide(comfy):
    from guidance_pack.host.models import glide as glide_model

    return glide_model


@pytest.fixture(scope="module")
def networks():
    return {kind: adm_files.glide(seed, in_channels=channels) for seed, (kind, channels) in enumerate(INPUTS.items())}


@pytest.fixture(scope="module")
def model(glide, networks, tmp_path_factory):
    """A MODEL by its kind, loaded once as a node does it, without its text's words in a header."""
    root, loaded = tmp_path_factory.mktemp("glide"), {}

    def get(kind):
        if kind not in loaded:
            schedule = "linear" if "upsample" in kind else "cosine"
            path = adm_files.write(networks[kind], root / f"{kind}.safetensors", schedule=schedule)
            with torch.inference_mode():
                loaded[kind] = glide.load(str(path), path.name)[0]
        return loaded[kind]

    return get


def said(*tokens):
    return [[torch.cat([bits_of(one) for one in tokens]), {}]]


def exact_noise(network, tokens, beside=None):
    """The second implementation's prediction, in float64, each picture with its own tokens."""
    state = {key: value.double() for key, value in network.state_dict().items()}
    padded = [[*one, *[None] * (network.config.context - len(one))] for one in tokens]

    def noise_of(x, t):
        seen = x if beside is None else torch.cat([x, beside.double().expand(len(x), -1, -1, -1)], 1)
        return torch.stack([
            formulas.unet(state, one, t, res_blocks=1, heads=network.config.heads_of, order="legacy", tokens=text)[:3]
            for one, text in zip(seen, padded, strict=True)
        ])

    return noise_of


def test_cfg_between_texts_of_other_lengths_is_the_papers(model, networks):
    """Its Eq. for classifier-free guidance, in a batch in which every picture has its own text."""
    main, noise = model("base"), start(2)
    found = euler(main, said(LONG, SHORT), noise, sigmas_at(main, STEPS), cfg=3.0, negative=said([]))
    told, nothing = (exact_noise(networks["base"], tokens) for tokens in ([LONG, SHORT], [[], []]))
    wanted = formulas.ddim(lambda x, t: nothing(x, t) + 3 * (told(x, t) - nothing(x, t)), noise.double(),
                           formulas.cosine_alpha_bars(), STEPS)
    assert_same(found, wanted)
    one_text = euler(main, said(LONG), noise, sigmas_at(main, STEPS), cfg=3.0, negative=said([]))
    assert_same(one_text[:1], wanted[:1])
    assert float((one_text[1] - found[1]).abs().max()) > 0.01


@pytest.mark.slow
def test_the_upsampler_runs_the_27_steps_of_its_paper(model, networks, glide):
    import comfy.samplers
    from comfy_extras.nodes_custom_sampler import SamplerCustom

    from guidance_pack.guidance.respacing import respaced
    from guidance_pack.host.models.adm import with_low_resolution
    from guidance_pack.host.models.paper_sigmas import with_paper_sigmas

    main = model("upsample")
    small = torch.rand(1, 4, 4, 3, generator=torch.Generator().manual_seed(4))
    with torch.inference_mode():
        spaced, sigmas = with_paper_sigmas(main, "fast27", 0.997)
        told = with_low_resolution(said(LONG), small)
        found = SamplerCustom.execute(
            spaced, True, 5, 1.0, told, told, comfy.samplers.ksampler("euler"), sigmas,
            {"samples": torch.zeros(1, 3, SIDE, SIDE)},
        ).args[0]["samples"]
    noise = comfy.sample.prepare_noise(torch.zeros(1, 3, SIDE, SIDE), 5)
    rounded = (small.movedim(-1, 1).double() * 255).round() / 127.5 - 1
    beside = torch.nn.functional.interpolate(rounded, (SIDE, SIDE), mode="bilinear")
    wanted = formulas.ddim(exact_noise(networks["upsample"], [LONG], beside), noise.double() * 0.997,
                           formulas.linear_alpha_bars(), respaced("fast27", 1000))
    assert_same(found, wanted, 1e-4)
    with pytest.raises(ValueError, match="no picture to enlarge was given. Connect Low Resolution"):
        euler(main, said([]), start(1), sigmas_at(main, [500]))


@pytest.mark.parametrize("kind", ["base_inpaint", "upsample_inpaint"])
def test_inpainting_is_given_the_known_picture_and_its_mask(model, networks, kind):
    from guidance_pack.host.models.adm import with_low_resolution

    main, latent = model(kind), start(1, seed=8).clamp(-1, 1)
    made = torch.zeros(1, 1, SIDE, SIDE)
    made[..., : SIDE // 2] = 1
    small, told = torch.full((1, 4, 4, 3), 0.6), said(SHORT)
    with torch.inference_mode():
        told = with_low_resolution(told, small)
    found = euler(main, told, start(1), sigmas_at(main, [500]), mask=made, latent=latent)
    torch.testing.assert_close(found[..., SIDE // 2 :], latent[..., SIDE // 2 :])
    beside = [latent * (1 - made), 1 - made, *([torch.full((1, 3, SIDE, SIDE), 0.2)] if "upsample" in kind else [])]
    kept = (formulas.linear_alpha_bars if "upsample" in kind else formulas.cosine_alpha_bars)()[500]
    noisy = start(1).double() + kept.sqrt() * latent
    noise = exact_noise(networks[kind], [SHORT], torch.cat(beside, 1))(noisy, 500)
    wanted = (noisy - (1 - kept).sqrt() * noise) / kept.sqrt()
    assert_same(found[..., : SIDE // 2], wanted[..., : SIDE // 2])


def test_without_a_mask_all_of_the_picture_is_unknown(model, networks):
    main, noise = model("base_inpaint"), start(1)
    found = euler(main, said(SHORT), noise, sigmas_at(main, STEPS))
    wanted = formulas.ddim(exact_noise(networks["base_inpaint"], [SHORT], torch.zeros(1, 4, SIDE, SIDE)),
                           noise.double(), formulas.cosine_alpha_bars(), STEPS)
    assert_same(found, wanted)


def test_make_pictures_needs_no_text(model, monkeypatch, tmp_path):
    from guidance_pack.host.training import generate

    monkeypatch.setattr(generate, "made_root", lambda: tmp_path)
    with torch.inference_mode():
        drawing = generate.Drawing(16, 16, 2, 1.0, "ddim", "normal", 1)
        made = generate.make_pictures(model("base"), None, None, None, "unconditional", 3, 2, drawing)
    assert len(made.files) == 3


@pytest.mark.parametrize("at", ["noisy input", "through denoiser"])
def test_a_guide_steers_it(model, at):
    import steering

    from guidance_pack.guidance.rules.gradient import GradientGuidance
    from guidance_pack.host.engine.steer import steer_to_class

    main, rule = model("base"), GradientGuidance(50.0)
    with torch.inference_mode():
        steered = steer_to_class(main, steering.loaded(2), "dog", rule, at=at, decoder="vae", vae=None)
    run = [said(LONG), start(1), sigmas_at(main, [300])]
    plain = euler(main, *run)
    assert float((euler(steered, *run) - plain).abs().max()) > 1e-4
    assert torch.equal(euler(main, *run), plain)


def test_no_text_is_the_empty_one_and_other_conditioning_is_refused(model, networks):
    import nodes
    from guidance_pack.host.common.labels import class_conditioning
    from guidance_pack.host.models.glide_prompt import NONE, prompt_conditioning

    main, noise = model("base"), start(1)
    sigmas = sigmas_at(main, [700])
    with torch.inference_mode():
        zeroed = nodes.ConditioningZeroOut().zero_out(said(LONG))[0]
    empty = euler(main, said([]), noise, sigmas)
    for nothing in (class_conditioning(main, ""), prompt_conditioning(" \n", NONE), zeroed):
        assert torch.equal(euler(main, nothing, noise, sigmas), empty)
    with pytest.raises(ValueError, match="GLIDE reads a text with a transformer of its own.*Connect GLIDE Prompt"):
        euler(main, [[torch.zeros(1, 77, 768), {}]], noise, sigmas)
    with pytest.raises(ValueError, match="GLIDE Prompt for GLIDE"):
        class_conditioning(main, "3")


@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16])
def test_half_precision(glide, model, networks, tmp_path, monkeypatch, stored):
    import comfy.model_management as management

    path = adm_files.write(networks["base"], tmp_path / "half.safetensors", schedule="cosine")
    asked = {}
    monkeypatch.setattr(management, "unet_dtype", lambda **more: asked.update(more) or stored)
    monkeypatch.setattr(management, "unet_manual_cast", lambda *_: None)
    with torch.inference_mode():
        half, _ = glide.load(str(path), "half")
    assert stored in asked["supported_dtypes"] and half.model.get_dtype() == stored
    sigmas = sigmas_at(half, [800, 300])
    wanted = euler(model("base"), said(LONG), start(1), sigmas)
    found = euler(half, said(LONG), start(1), sigmas)
    assert 0 < float((found - wanted).norm() / wanted.norm()) < 0.05


@pytest.mark.slow
def test_the_memory_that_is_asked_for_is_what_a_forward_holds(model, monkeypatch):
    """The numbers alive at once, counted on the meta device, without any library's workspace."""
    from live_memory import LiveMemory

    config, main = GLIDE["GLIDE's upsample"], model("base").model
    network = main.network(device="meta", dtype=torch.float16, **config.as_dict())
    monkeypatch.setattr(main, "network_config", config)
    monkeypatch.setattr(main, "manual_cast_dtype", torch.float16)
    asked = main.memory_required([2, 3, 256, 256])
    x = torch.empty(2, 6, 256, 256, device="meta", dtype=torch.float16)
    with torch.no_grad(), LiveMemory(network) as live:
        out = network(x, torch.zeros(2, device="meta"), torch.zeros(2, 128, dtype=torch.long, device="meta"))
    assert out.shape == (2, 3, 256, 256) and asked / live.peak == pytest.approx(1.0, abs=1e-3)


@pytest.fixture
def vocabulary(comfy, monkeypatch, tmp_path):
    """Writes a folder with a small stand-in for GPT-2's vocabulary, of its size and with its first words."""
    import folder_paths

    from guidance_pack.host.models import glide_prompt

    monkeypatch.setitem(folder_paths.folder_names_and_paths, "text_encoders", ([str(tmp_path)], set()))
    letters = [chr(code) for code in (*range(33, 127), *range(161, 173), *range(174, 256), *range(256, 324))]
    parts = ["he", "ll", "hell", "Ġw", "or", "ld", "orld"]
    words = {"hello": 31373, "Ġworld": 995, **{part: 300 + number for number, part in enumerate(parts)}}
    free = (number for number in range(50257) if number not in words.values())
    words |= {letter: next(free) for letter in letters}
    words |= {f"<{number}>": number for number in free}
    pairs = ["h e", "l l", "he ll", "hell o", "Ġ w", "o r", "l d", "or ld", "Ġw orld"]

    def write(name, words=words, pairs=pairs):
        (tmp_path / name).mkdir()
        (tmp_path / name / "vocab.json").write_text(json.dumps(words), "utf-8")
        (tmp_path / name / "merges.txt").write_text("\n".join(["#version: 0.2", *pairs, ""]), "utf-8")

    write.words, write.module = words, glide_prompt
    return write


def test_a_text_is_gpt2s_tokens_in_small_letters(vocabulary):
    from guidance_pack.guidance.networks.adm.tokens import tokens_of
    from guidance_pack.nodes.denoisers import GuidanceGlidePrompt

    vocabulary("gpt2")
    choice = GuidanceGlidePrompt.GET_SCHEMA().inputs[1]
    assert choice.options == ["gpt2", vocabulary.module.NONE]
    config = adm_files.glide().config
    for text, wanted in (("Hello world", [31373, 995]), (" HELLO\n", [31373]), ("", [])):
        ((bits, more),) = GuidanceGlidePrompt.execute(text, "gpt2").result[0]
        assert tokens_of(bits, config).tolist() == [wanted + [-1] * (128 - len(wanted))] and not more
    literal = tokens_of(GuidanceGlidePrompt.execute("<5>é", "gpt2").result[0][0][0], config)[0]
    assert literal[:6].tolist() == [vocabulary.words[mark] for mark in ("<", "5", ">", "Ã", "©")] + [-1]


def test_wrong_vocabularies_and_texts_in_words(vocabulary, tmp_path):
    from guidance_pack.nodes.denoisers import GuidanceGlidePrompt

    vocabulary("gpt2")
    vocabulary("clip", {"a": 0})
    vocabulary("other", vocabulary.words | {"hello": vocabulary.words["<400>"], "<400>": 31373})
    vocabulary("mixed", pairs=["x y"])
    vocabulary("prose", pairs=["a page of text"])
    (tmp_path / "clip" / "again").mkdir()
    for name, words in (("clip", "has 1 tokens and is not GPT-2's"), ("other", "has 50257 tokens and is not GPT-2's"),
                        ("mixed", "are of two vocabularies"), ("prose", "is no list of pairs"),
                        ("clip/again", "has no vocab.json")):
        with pytest.raises(ValueError, match=f"{words}.*GPT-2's vocab.json and merges.txt from https://huggingface.co"):
            GuidanceGlidePrompt.execute("hello", name)
    none = vocabulary.module.NONE
    assert "A text needs GPT-2's vocabulary" in str(GuidanceGlidePrompt.validate_inputs(text="hello", vocabulary=none))
    assert "no vocabulary 'gtp2'" in str(GuidanceGlidePrompt.validate_inputs(text="", vocabulary="gtp2"))
    assert "did you mean gpt2?" in str(GuidanceGlidePrompt.validate_inputs(text="", vocabulary="gtp2"))
    with pytest.raises(ValueError, match="the text is 200 tokens long, and GLIDE reads 128"):
        GuidanceGlidePrompt.execute("hello" * 200, "gpt2")
