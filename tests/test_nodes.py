"""The nodes as ComfyUI sees them: schemas, widgets, words, and what they make."""

import asyncio
import math

import pytest
import torch
from host_models import MODELS, count_forwards

SD15 = MODELS["sd15"]
CATEGORIES = {"guidance", "guidance/train", "guidance/papers", "guidance/look"}
# What people type into the search for nodes when they miss something, and a node that should be among the answers.
SEARCHED = {
    "GuidanceCFG": "negative, guidance limit, limited interval, dynamic cfg, cfg end, start percent, guidance scale, "
    "speed up, faster, variety, 다양성, 多样性, 负面提示词, 부정 프롬프트",
    "GuidanceAutoguidance": "flux cfg, diversity, 弱模型, 약한 모델",
    "GuidanceAdaptiveWeight": "adaptive guidance, speed up, faster, skip negative, fbg, 加速, 속도",
    "GuidanceRescale": "overcooked, fried, washed out, 과포화, 过饱和",
    "GuidanceAPG": "overcooked, fried, 과포화, 过饱和",
    "GuidanceClamp": "dynamic thresholding",
    "GuidanceLoss": "style, 스타일, 风格",
}


@pytest.fixture(scope="module")
def nodes(comfy):
    """The pack's node classes by id, from the entry point that ComfyUI calls."""
    import guidance_pack

    async def collect():
        return await (await guidance_pack.comfy_entrypoint()).get_node_list()

    return {node.GET_SCHEMA().node_id: node for node in asyncio.run(collect())}


@pytest.fixture
def model(comfy):
    return SD15.build(0)


def values(node, **changed):
    """The node's default widget values, changed."""
    combos = {i.id: i.options[0] for i in node.GET_SCHEMA().inputs if getattr(i, "options", None)}
    defaults = {i.id: i.default for i in node.GET_SCHEMA().inputs if getattr(i, "default", None) is not None}
    widgets = {**combos, **defaults}
    return {**widgets, **changed}


def test_every_node_has_words(nodes):
    assert len(nodes) >= 9
    for node_id, node in nodes.items():
        schema = node.GET_SCHEMA()
        assert node_id.startswith("Guidance") and schema.category in CATEGORIES
        assert schema.display_name and schema.description.endswith(".") and schema.search_aliases
        for item in [*schema.inputs, *schema.outputs]:
            assert item.tooltip and item.tooltip.endswith((".", "...")), (node_id, item.id)


def test_what_hides_a_widget_is_a_choice_of_its_node(nodes):
    """js/guidance_nodes.js shows these widgets only for some values of another."""
    found = 0
    for node_id, node in nodes.items():
        inputs = {entry.id: entry for entry in node.GET_SCHEMA().inputs}
        for entry in inputs.values():
            if rule := (entry.extra_dict or {}).get("guidance_shown_for"):
                options = inputs[rule["choice"]].options
                assert {*rule["values"]} < {*options}, (node_id, entry.id)  # none where no file is there yet
                assert rule == entry.as_dict()["guidance_shown_for"]  # the page is told
                found += 1
    assert found >= 16


def test_cfg_combine_acts_as_soon_as_it_is_there(nodes, model):
    from guidance_pack.host.engine.plan import plan_of

    choice = next(entry for entry in nodes["GuidanceCFG"].GET_SCHEMA().inputs if entry.id == "weight_from")
    assert choice.default == "node"
    (out,) = nodes["GuidanceCFG"].execute(**values(nodes["GuidanceCFG"], model=model)).result
    assert plan_of(out).guidance.rules[0].weight == 4.0


def test_the_search_finds_what_people_type(nodes):
    for node_id, words in SEARCHED.items():
        assert set(words.split(", ")) <= set(nodes[node_id].GET_SCHEMA().search_aliases), node_id


def test_defaults_do_something_sensible(nodes, model):
    """Dragged in and connected, nothing else changed: every component node gives a MODEL that carries a plan."""
    from guidance_pack.host.engine.plan import plan_of

    for node_id in ("GuidanceCFG", "GuidanceRescale", "GuidanceAPG"):
        node = nodes[node_id]
        (out,) = node.execute(**values(node, model=model)).result
        assert len(plan_of(out).guidance.rules) == 1
    for node_id in ("GuidanceAutoguidance", "GuidanceMix"):
        node = nodes[node_id]
        (out,) = node.execute(**values(node, model=model, guide_model=SD15.build(3))).result
        assert plan_of(out).guides
    assert not plan_of(model).guidance.rules


def test_weight_one_neither_loads_nor_needs_the_guide(nodes, model):
    auto, mix = nodes["GuidanceAutoguidance"], nodes["GuidanceMix"]
    assert auto.check_lazy_status(**values(auto, model=model, weight=1.0)) == []
    assert auto.check_lazy_status(**values(auto, model=model, weight=2.0)) == ["guide_model"]
    assert mix.check_lazy_status(**values(mix, model=model, total=3.0, mix=0.0)) == []
    assert mix.check_lazy_status(**values(mix, model=model, total=3.0, mix=0.5)) == ["guide_model"]
    assert auto.execute(**values(auto, model=model, weight=1.0)).result[0] is model


def test_mix_is_the_two_nodes(nodes, model):
    from guidance_pack.host.engine.plan import plan_of

    mix = nodes["GuidanceMix"]
    (out,) = mix.execute(**values(mix, model=model, guide_model=SD15.build(3), total=3.0, mix=0.25)).result
    cfg, auto = plan_of(out).guidance.rules
    assert (cfg.weight, auto.weight) == (2.5, 1.5)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"start": 0.6, "end": 0.2}, "start is 0.6 and end is 0.2"),
        ({"start": 5.42, "end": 0.28}, "choose unit = sigma"),
        ({"unit": "sigma", "start": 0.28, "end": 5.42}, "Swap them"),
        ({"unit": "steps"}, "percent or sigma"),
        ({"start": math.nan}, "start is nan; it can be 0 to 100000"),
    ],
)
@pytest.mark.parametrize(
    "node_id",
    ["GuidanceCFG", "GuidanceAutoguidance", "GuidanceMix", "GuidanceRescale", "GuidanceAPG", "GuidanceClamp",
     "GuidanceAdaptiveWeight", "GuidanceLearnedWeight"],
)
def test_wrong_intervals_are_answered_when_queued(nodes, node_id, changed, words):
    widgets = {"unit": "percent", "start": 0.0, "end": 1.0, **changed}
    assert words in str(nodes[node_id].validate_inputs(**widgets))
    assert nodes[node_id].validate_inputs(unit="percent", start=0.2, end=0.8) is True
    assert nodes[node_id].validate_inputs(unit="sigma", start=5.42, end=0.28) is True
    assert nodes[node_id].validate_inputs(unit=None, start=None, end=None) is True, "linked values are judged later"


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"shape": "points", "points": "0: 1"}, "a curve needs two or more"),
        ({"shape": "points", "points": "0: 1, half: 2"}, "'half: 2'"),
        ({"shape": "points", "points": "0.5: 1, 0.2: 2"}, "must rise"),
        ({"shape": "points", "points": "0.5: 1, 2: 2"}, "outside 0 to 1"),
        ({"shape": "points", "unit": "sigma", "points": "1: 1, 5: 2"}, "must fall"),
        ({"shape": "spline"}, "linear, cosine, interval, points"),
        ({"start": 3.0, "end": 1.0}, "choose unit = sigma"),
    ],
)
def test_wrong_schedules_are_answered_when_queued(nodes, changed, words):
    node = nodes["GuidanceSchedule"]
    keys = ("shape", "unit", "start", "end", "points")
    widgets = {k: v for k, v in values(node, **changed).items() if k in keys}
    assert words in str(node.validate_inputs(**widgets))
    with pytest.raises(ValueError, match="."):
        node.execute(**values(node, **changed))


def test_schedules_multiply_and_reach_the_rule(nodes, model):
    from guidance_pack.host.common.noise_levels import ModelPositions, level_of
    from guidance_pack.host.engine.plan import plan_of

    schedule, cfg = nodes["GuidanceSchedule"], nodes["GuidanceCFG"]
    (first,) = schedule.execute(**values(schedule, start_strength=1.0, end_strength=0.0)).result
    (both,) = schedule.execute(**values(schedule, shape="interval", start=0.0, end=0.5, schedule=first)).result
    widgets = values(cfg, model=model, weight_from="node", weight=5.0, schedule=both)
    (out,) = cfg.execute(**widgets).result
    sampling = model.get_model_object("model_sampling")
    guidance = plan_of(out).guidance.resolve(ModelPositions(sampling))
    sigmas = torch.tensor([sampling.percent_to_sigma(p) for p in (0.1, 0.25, 0.49, 0.51, 0.9)])
    weights = guidance.cfg(level_of(sampling, sigmas))
    torch.testing.assert_close(weights[:3], 1.0 + 4.0 * torch.tensor([0.9, 0.75, 0.51]).double(), rtol=0, atol=2e-3)
    assert weights[3:].tolist() == [1.0, 1.0]


@pytest.mark.slow
def test_report_says_what_a_run_then_does(nodes, model):
    """Evaluations promised = evaluations counted."""
    import comfy.sample
    import comfy.samplers

    guide = SD15.build(3)
    cfg, auto, report = (nodes[n] for n in ("GuidanceCFG", "GuidanceAutoguidance", "GuidanceReport"))
    (out,) = cfg.execute(**values(cfg, model=model, start=0.2, end=0.7)).result
    (out,) = auto.execute(**values(auto, model=out, guide_model=guide, weight=1.8, start=0.5)).result
    same, text, plot = report.execute(**values(report, model=out, cfg=5.0, scheduler="karras", steps=10)).result
    assert same is out and plot.shape[0] == 1 and plot.shape[-1] == 3 and 0.0 <= plot.min() < plot.max() <= 1.0
    with count_forwards(model) as main_count, count_forwards(guide) as guide_count, torch.inference_mode():
        latent = SD15.latent()["samples"]
        comfy.sample.sample(
            out, torch.randn_like(latent), 10, 5.0, "euler", "karras", SD15.conditioning(1), SD15.conditioning(2),
            latent, disable_pbar=True, seed=0,
        )
    expected = f"{main_count.evaluations:g} of the main network, {guide_count.evaluations:g} of guides"
    assert expected in text and "from percent 0.2 to 0.7" in text and "w = 1.8" in text


def test_report_on_a_plain_model_and_on_bad_sigmas(nodes, model):
    report = nodes["GuidanceReport"]
    text = report.execute(**values(report, model=model, cfg=1.0, steps=3)).result[1]
    assert "No guidance components" in text
    with pytest.raises(ValueError, match="needs two or more"):
        report.execute(**values(report, model=model, sigmas=torch.tensor([1.0])))


@pytest.fixture(scope="module")
def tiny(nodes):
    return nodes["GuidanceTinyModel"]


@pytest.mark.many
@pytest.mark.parametrize(
    "name", ["shapes-edm", "shapes-edm-early", "shapes-edm-weak", "shapes-flow", "shapes-flow-weak", "scenes-edm"]
)
def test_embedded_models_are_ordinary_models(tiny, nodes, name):
    """Host and training room agree on what the denoiser is; KSampler and VAE Decode work on EmptyLatentImage."""
    import nodes as core
    from guidance_pack.guidance.networks.tiny.files import build, read_denoiser
    from guidance_pack.guidance.networks.tiny.preconditioning import precondition
    from guidance_pack.host.models.tiny import ASSETS

    model, vae = tiny.execute(name).result
    side, words = (64, "star, red moon") if name.startswith("scenes") else (32, "star, 3")
    positive = nodes["GuidanceClassLabel"].execute(model, words).result[0]
    negative = nodes["GuidanceClassLabel"].execute(model, "").result[0]
    with torch.inference_mode():
        latent = core.EmptyLatentImage().generate(side, side, 2)[0]
        (out,) = core.common_ksampler(model, 1, 4, 2.0, "euler", "normal", positive, negative, latent)
        assert vae.decode(out["samples"]).shape == (2, side, side, 3)
    file = read_denoiser(ASSETS / f"{name}.safetensors")
    denoiser = precondition(build(file), file.prediction, file.sigma_data)
    x, sigma, y = torch.randn(2, 3, side, side), torch.tensor([0.7, 0.7]), positive[0][1]["class_labels"]
    with torch.no_grad():
        ours = denoiser(x, sigma, y)
        theirs = model.model.apply_model(x, sigma, transformer_options={}, y=y)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_a_copy_of_an_embedded_model_is_independent(tiny):
    model, _ = tiny.execute("shapes-edm").result
    copy = model.clone(force_deepcopy=True)
    assert copy.model is not model.model
    for (name, a), (_, b) in zip(model.model.named_parameters(), copy.model.named_parameters(), strict=True):
        assert torch.equal(a, b) and a.data_ptr() != b.data_ptr(), name


def test_labels_by_name_and_number_and_wrong_ones_in_words(tiny, nodes, model):
    label = nodes["GuidanceClassLabel"]
    shapes, _ = tiny.execute("shapes-edm").result
    chosen = label.execute(shapes, "circle, 1, TRIANGLE").result[0][0][1]["class_labels"]
    assert chosen.tolist() == [0, 1, 2]
    assert label.execute(shapes, "  ").result[0][0][1]["class_labels"].tolist() == [10]
    with pytest.raises(ValueError, match="did you mean 'circle'"):
        label.execute(shapes, "circel")
    with pytest.raises(ValueError, match="classes 0 to 9"):
        label.execute(shapes, "10")
    with pytest.raises(ValueError, match="not class-conditional.*CLIP Text Encode"):
        label.execute(model, "circle")


def test_an_unknown_embedded_model_is_named(comfy):
    from guidance_pack.host.models.tiny import load_tiny_model

    with pytest.raises(ValueError, match="'shapes-xl'; there are scenes-edm, shapes-edm"):
        load_tiny_model("shapes-xl")


@pytest.mark.parametrize("largest", [0.002, 0.9, 40.0, 1e12, 1e300])
def test_losses_fill_their_plot_whatever_their_size(comfy, largest):
    from guidance_pack.host.report.plot import BOTTOM, TOP, draw_losses

    picture = draw_losses([[largest, largest / 2, 0.0]], 3)[0]
    blue = ((picture[..., 2] - picture[..., 0]) > 0.5).any(1).nonzero()
    assert blue.max() - blue.min() > 0.9 * (BOTTOM - TOP)


def test_a_panel_of_negative_values_alone_is_drawn(comfy):
    from guidance_pack.host.report.chart import WIDTH, Canvas, ValueAxis
    from guidance_pack.host.report.run_plot import Line, Panel, _draw

    canvas = Canvas(120)
    _draw(canvas, Panel("cosine", 80, (Line("cosine", (-0.75, -0.25, None), "#ff0000"),)), [200.0, 400.0, 600.0], 20.0)
    picture = canvas.picture()[0]
    red = (picture[..., 0] - picture[..., 1] > 0.9).nonzero()
    assert picture.shape == (120, WIDTH, 3) and 195 <= red[:, 1].min() and red[:, 1].max() <= 405
    assert list(ValueAxis(0.0, 1.0, -0.4, 0.1, 0.25).ticks()) == [-0.25, 0.0]


def test_a_report_draws_any_strength(nodes, model):
    """Schedules multiply, so there is no largest one; what is no number is left out of the plot."""
    from guidance_pack.host.report.plot import draw_curves
    from guidance_pack.host.report.report import Series

    for values in ((1e11, -1e11, 0.0), (1e300, 0.0, 1.0), (math.nan, math.inf, 2.0)):
        picture = draw_curves((Series("weight", values),), (3.0, 2.0, 1.0), "weight")
        assert torch.isfinite(picture).all()
