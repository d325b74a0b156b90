"""Compare Guidance on the real host: every cell is what the nodes give, nothing is drawn twice, mistakes in words."""

import csv
import gc
import io
import weakref

import pytest
import torch
from compare_scene import chained, compared, given, sampled, scene, widgets


@pytest.fixture(scope="module")
def tiny(comfy):
    from guidance_pack.host.models.tiny import load_tiny_model

    with torch.inference_mode():
        return load_tiny_model("shapes-edm"), load_tiny_model("shapes-edm-weak")


@pytest.fixture
def drawings(comfy, monkeypatch):
    """The seeds and cfgs of every run of the host's sampler, in order."""
    import comfy.sample

    seen, sample = [], comfy.sample.sample

    def noted(*args, **kwargs):
        seen.append((kwargs["seed"], args[3]))
        return sample(*args, **kwargs)

    monkeypatch.setattr(comfy.sample, "sample", noted)
    return seen


def same(made, *cells):
    return torch.equal(made.pictures, torch.cat(cells))


@pytest.mark.slow
def test_weights_are_those_of_the_nodes_bit_for_bit(tiny):
    over = scene(chained(*tiny))
    made = compared(over, ("autoguidance weight", "1, 3"), ("cfg weight", "1..2 step 0.5"))
    nodes = [sampled(over, chained(*tiny, cfg=c, auto=a)) for c in (1.0, 1.5, 2.0) for a in (1.0, 3.0)]
    assert same(made, *nodes) and made.pictures.shape == (12, 16, 16, 3)


@pytest.mark.slow
def test_intervals_are_those_of_the_nodes_bit_for_bit(tiny):
    over = scene(chained(*tiny, unit="sigma", start=9.0, end=0.1))
    made = compared(over, ("cfg interval", "always, 0.2 to 0.6, 5 to 0.2 sigma, off"))
    settings = [{}, {"start": 0.2, "end": 0.6}, {"unit": "sigma", "start": 5.0, "end": 0.2}, {"cfg": 1.0}]
    assert same(made, *(sampled(over, chained(*tiny, **s)) for s in settings))
    made = compared(over, ("cfg start", "9, 3"), ("cfg end", "1"))
    settings = [{"unit": "sigma", "start": start, "end": 1.0} for start in (9.0, 3.0)]
    assert same(made, *(sampled(over, chained(*tiny, **s)) for s in settings))


def test_an_interval_goes_beside_a_schedule(tiny):
    from guidance_pack.host.schema.schedules import make_schedule

    falling = make_schedule("linear", "percent", 0.0, 1.0, 1.0, 0.0, "")
    over = scene(chained(*tiny, schedule=falling))
    made = compared(over, ("cfg interval", "0.1 to 0.7"))
    assert same(made, sampled(over, chained(*tiny, schedule=falling, start=0.1, end=0.7)))


def test_total_and_mix_are_those_of_the_node_bit_for_bit(tiny):
    from guidance_pack.nodes.weak_model import GuidanceMix

    def mixed(total, mix):
        return given(GuidanceMix, model=tiny[0], guide_model=tiny[1], total=total, mix=mix)

    over = scene(mixed(2.7, 0.3))
    made = compared(over, ("mix", "0, 0.3, 0.7, 1"), ("total", "1, 3.3"))
    nodes = [sampled(over, mixed(t, m)) for t in (1.0, 3.3) for m in (0.0, 0.3, 0.7, 1.0)]
    assert same(made, *nodes)


@pytest.mark.slow
def test_gradients_rescale_and_apg_are_those_of_the_nodes_bit_for_bit(tiny):
    from guidance_pack.host.models.guides import load_guide
    from guidance_pack.nodes.cfg import GuidanceAPG, GuidanceCFG, GuidanceRescale
    from guidance_pack.nodes.gradient import GuidanceClassifier

    guide = load_guide("shapes-noisy-classifier")

    def built(scale=4.0, phi=0.5, eta=0.3):
        model = given(GuidanceCFG, model=tiny[0], weight_from="node", weight=3.0)
        model = given(GuidanceClassifier, model=model, guide=guide, label="star", scale=scale)
        return given(GuidanceRescale, model=given(GuidanceAPG, model=model, eta=eta), phi=phi)

    over = scene(built())
    made = compared(over, ("classifier scale", "off, 8"), ("rescale phi", "0, 1"))
    assert same(made, *(sampled(over, built(s, phi)) for phi in (0.0, 1.0) for s in (0.0, 8.0)))
    assert same(compared(over, ("apg eta", "0.9")), sampled(over, built(eta=0.9)))


@pytest.mark.slow
def test_the_samplers_own_settings(tiny):
    over = scene(tiny[0])
    made = compared(over, ("seed", "1..2"), ("cfg", "off, 3"))
    assert same(made, *(sampled(over, tiny[0], seed=s, cfg=c) for c in (1.0, 3.0) for s in (1, 2)))
    for name, values in (("steps", (2, 4)), ("sampler_name", ("heun", "ddim")), ("scheduler", ("simple", "normal"))):
        made = compared(over, (name, ", ".join(map(str, values))))
        assert same(made, *(sampled(over, tiny[0], **{name: value}) for value in values)), name
    over.latent["samples"] = torch.rand(2, 3, 16, 16)
    made = compared(over, ("denoise", "0.3, 0.6"), node="denoise")
    assert same(made, *(sampled(over, tiny[0], denoise=d) for d in (0.3, 0.6)))


@pytest.mark.slow
def test_several_models_stand_beside_each_other_and_each_is_drawn_in_one_go(tiny, drawings):
    models = tiny[0], chained(*tiny), chained(*tiny, auto=3.0)
    over = scene(*models)
    made = compared(over, ("model", "plain, two, three"), ("seed", "1, 2"))
    assert [seed for seed, _ in drawings] == [1, 2, 1, 2, 1, 2]
    assert same(made, *(sampled(over, model, seed=seed) for seed in (1, 2) for model in models))
    rows = list(csv.DictReader(io.StringIO(compared(over, ("model", "")).table)))
    assert [row["column: model"] for row in rows] == ["1: unguided", "2: cfg 2, autoguidance 2",
                                                      "3: cfg 2, autoguidance 3"]


def test_which_tells_components_of_one_kind_apart(tiny):
    from guidance_pack.nodes.weak_model import GuidanceAutoguidance

    def twice(first, second):
        model = given(GuidanceAutoguidance, model=tiny[0], guide_model=tiny[1], weight=first)
        return given(GuidanceAutoguidance, model=model, guide_model=tiny[1], weight=second, end=0.5)

    over = scene(twice(2.0, 3.0))
    made = compared(over, ("autoguidance weight", "1.5", 2), ("autoguidance weight", "1.2, off", 1))
    assert same(made, sampled(over, twice(1.2, 1.5)), sampled(over, twice(1.0, 1.5)))
    with pytest.raises(ValueError, match="model carries only 2 of autoguidance"):
        compared(over, ("autoguidance weight", "1", 3))


def test_a_start_behind_the_old_end_is_no_mistake_if_the_new_end_lies_behind_it(tiny):
    over = scene(chained(*tiny, start=0.1, end=0.3))
    made = compared(over, ("cfg start", "0.5"), ("cfg end", "0.9"))
    assert same(made, sampled(over, chained(*tiny, start=0.5, end=0.9)))


def test_cells_with_equal_settings_are_drawn_once(tiny, drawings):
    over = scene(chained(*tiny))
    made = compared(over, ("autoguidance weight", "off, 1, 2, 2.0"), ("autoguidance interval", "always, off"))
    assert len(drawings) == 2  # off in six cells, 2 everywhere in two
    cells = made.pictures.unflatten(0, (8, 2))
    assert all(torch.equal(cells[0], cells[i]) for i in (1, 4, 5, 6, 7)) and torch.equal(cells[2], cells[3])
    assert not torch.equal(cells[0], cells[2])


def test_a_grid_that_grows_draws_only_what_is_new(tiny, drawings):
    over = scene(chained(*tiny))
    first = compared(over, ("cfg weight", "1, 2"))
    grown = compared(over, ("cfg weight", "1..3"), ("autoguidance weight", "2, off"))
    assert len(drawings) == 2 + 4 and torch.equal(grown.pictures[:4], first.pictures)
    assert torch.equal(compared(over, ("cfg weight", "3, 1")).pictures[:2], grown.pictures[4:6])
    assert len(drawings) == 6


@pytest.mark.many
@pytest.mark.parametrize("change", ["prompt", "latent", "seed", "model", "node", "vae"])
def test_nothing_is_kept_that_another_setting_would_make_different(tiny, drawings, change):
    from dataclasses import replace

    from guidance_pack.host.models.tiny import pixel_vae

    model = chained(*tiny)
    over = scene(model)
    compared(over, ("cfg weight", "2"))
    other = {
        "prompt": lambda: replace(over, positive=scene(model, label="heart").positive),
        "latent": lambda: replace(over, latent={"samples": torch.zeros(1, 3, 16, 16)}),
        "model": lambda: replace(over, models=(chained(*tiny),)),
        "vae": lambda: replace(over, vae=pixel_vae()),
    }.get(change, lambda: over)()
    changed = {"seed": 6} if change == "seed" else {}
    made = compared(other, ("cfg weight", "2"), node="2" if change == "node" else "1", **changed)
    assert len(drawings) == 2
    assert same(made, sampled(other, other.models[0], **changed))


def test_an_interrupted_grid_goes_on_with_the_rest(tiny, drawings):
    import comfy.model_management as management

    over = scene(chained(*tiny))
    whole = compared(over, ("cfg weight", "1..4"), node="whole")
    drawings.clear()
    stop = InterruptedAt(steps=7)  # in the third cell
    with pytest.raises(management.InterruptProcessingException), stop:
        compared(over, ("cfg weight", "1..4"))
    assert len(drawings) == 3
    made = compared(over, ("cfg weight", "1..4"))
    assert len(drawings) == 3 + 2 and torch.equal(made.pictures, whole.pictures)
    assert torch.equal(made.grid, whole.grid) and made.table == whole.table


class InterruptedAt:
    """The user presses the button when this many steps of samplers are done."""

    def __init__(self, steps):
        self.left = steps

    def __enter__(self):
        import comfy.model_management as management
        import comfy.utils

        def hook(value, total, preview, node_id=None):
            if value >= self.left:
                management.interrupt_current_processing(True)

        self.limits = comfy.utils.PROGRESS_THROTTLE_MIN_INTERVAL
        comfy.utils.PROGRESS_THROTTLE_MIN_INTERVAL = 0.0
        comfy.utils.set_progress_bar_global_hook(hook)

    def __exit__(self, *error):
        import comfy.model_management as management
        import comfy.utils

        comfy.utils.PROGRESS_THROTTLE_MIN_INTERVAL = self.limits
        comfy.utils.set_progress_bar_global_hook(None)
        management.interrupt_current_processing(False)


def test_progress_goes_over_the_whole_grid_and_shows_it_as_it_fills(tiny, monkeypatch):
    import comfy.utils

    from guidance_pack.host.compare import compare

    seen, shown = [], []
    monkeypatch.setattr(comfy.utils, "PROGRESS_THROTTLE_MIN_INTERVAL", 0.0)
    monkeypatch.setattr(comfy.utils, "PROGRESS_BAR_HOOK", lambda *args, node_id=None: seen.append(args))
    monkeypatch.setattr(compare, "show_unfinished", lambda picture: shown.append(picture.copy()))
    over = scene(chained(*tiny))
    made = compared(over, ("steps", "2, 4"), ("cfg weight", "1, 2"))
    assert list(dict.fromkeys(value for value, _, _ in seen)) == [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]
    assert {(total, preview) for _, total, preview in seen} == {(12, None)}
    assert len({picture.tobytes() for picture in shown}) == 3  # the fourth is the result
    assert {picture.size for picture in shown} == {tuple(made.grid.shape[2:0:-1])}
    seen.clear()
    compared(over, ("steps", "2, 4"), ("cfg weight", "1, 2"))
    assert [value for value, _, _ in seen] == [2, 6, 8, 12]


def test_what_is_kept_goes_with_the_model(tiny):
    model = chained(*tiny)
    over = scene(model)
    compared(over, ("cfg weight", "2"))
    gone = weakref.ref(model)
    from guidance_pack.host.compare.compare import _shelves

    assert model in _shelves
    before = len(_shelves)
    del over, model
    gc.collect()
    assert gone() is None and len(_shelves) < before


def test_the_model_stays_as_it_was(tiny):
    from guidance_pack.host.engine.plan import plan_of

    model = chained(*tiny)
    before = plan_of(model)
    compared(scene(model), ("cfg weight", "off, 3"))
    assert plan_of(model) is before


def test_the_table_says_what_every_cell_is(tiny):
    over = scene(chained(*tiny))
    made = compared(over, ("cfg interval", "always, 5 to 0.15 sigma"), ("autoguidance weight", "off, 3"))
    rows = list(csv.DictReader(io.StringIO(made.table)))
    assert [row["pictures"] for row in rows] == ["0-1", "2-3", "4-5", "6-7"]
    assert [row["column: cfg interval"] for row in rows] == ["always", "5 to 0.15 sigma"] * 2
    assert [row["row: autoguidance weight"] for row in rows] == ["off", "off", "3", "3"]
    cfgs, others = zip(*(f"{row['components']}; ".split("; ")[:2] for row in rows), strict=True)
    assert cfgs == ("cfg 2", "cfg 2 from 5 to 0.15 sigma") * 2
    assert others[:2] == ("", "") and all(words.startswith("autoguidance weight 3") for words in others[2:])
    assert {(row["steps"], row["seed"], row["sampler_name"]) for row in rows} == {("3", "5", "euler")}
    assert "row" not in compared(scene(chained(*tiny)), ("cfg weight", "2")).table


def test_plain_cfg_stands_beside_a_rule_at_equal_strength(tiny, drawings):
    """As strong as Inspect finds it: the mean over the run, 1 where CFG was off."""
    from guidance_pack.host.engine.install import with_inspection
    from guidance_pack.host.recording.inspection import Inspection

    model, seen = chained(*tiny, cfg=6.0, auto=1.0, unit="sigma", start=9.0, end=0.5), Inspection()
    sampled(scene(model), with_inspection(model, seen))
    weight = seen.record(0).effective_weight
    assert 1.5 < weight < 6.0 and None in {one.effective and 1.0 for one in seen.record(0).evaluations}
    drawings.clear()
    compared(scene(model), ("cfg weight", "1, 6"), ("equal strength", "plain CFG"), node="one")
    assert drawings == [(5, 1.0), (5, 1.0), (5, 1.0), (5, weight)]
    made = compared(scene(model), ("cfg weight", "6"), ("equal strength", ""), node="two")
    assert same(made, sampled(scene(model), model), sampled(scene(model), tiny[0], cfg=weight))
    table = list(csv.DictReader(io.StringIO(made.table)))
    assert [row["row: equal strength"] for row in table] == ["as set", "plain CFG"]
    assert table[1]["components"].startswith(f"plain CFG at {weight:.3g}, as strong as: cfg 6 from 9 to 0.5 sigma")
    with pytest.raises(ValueError, match="no step of model evaluated both prompts .*autoguidance 2.*raise cfg"):
        compared(scene(chained(*tiny, cfg=1.0)), ("equal strength", "plain CFG"))


@pytest.mark.parametrize(
    ("x", "y", "words"),
    [
        (("equal strength", "1"), ("none", ""), "equal strength takes any of as set, plain CFG"),
        (("rescale phi", "1"), ("none", ""), r"no rescale. It carries: cfg \(weight, start, end, interval\), autogu"),
        (("classifier scale", "1"), ("none", ""), "model carries no classifier"),
        (("autoguidance weight", "30"), ("none", ""), "Autoguidance: weight is 30; it can be 0 to 20"),
        (("cfg start", "0.5, 2"), ("none", ""), "0 <= start <= end <= 1"),
        (("cfg", "1, 2"), ("none", ""), "or Adaptive Weight on model sets a weight of its own.*Vary cfg weight"),
        (("cfg weight", "1..20"), ("autoguidance weight", "1..6"), "The grid has 120 cells; at most 100"),
        (("cfg weight", "1"), ("cfg weight", "2"), "both 'cfg weight'"),
        (("steps", "0"), ("none", ""), "steps is 0; it can be 1 to 10000"),
        (("denoise", "1.5"), ("none", ""), "denoise is 1.5; it can be 0 to 1"),
        (("cfg wait", "1"), ("none", ""), "x_parameter is 'cfg wait', which there is not; did you mean cfg weight?"),
        (("none", ""), ("sampler_name", "eulr"), "y_values has 'eulr'. sampler_name takes any of euler,"),
        (("model", "a, b"), ("none", ""), r"x_values has 2 names \(a, b\), and 1 MODELs are"),
        (("cfg weight", "1", 0), ("none", ""), "x_which is 0; components are counted from 1"),
    ],
)
def test_mistakes_are_answered_before_anything_is_drawn(tiny, drawings, x, y, words):
    with pytest.raises(ValueError, match=words):
        compared(scene(chained(*tiny)), x, y)
    assert not drawings


def test_more_mistakes_that_only_the_models_show(tiny, drawings):
    from guidance_pack.nodes.cfg import GuidanceCFG

    with pytest.raises(ValueError, match="mix is that of CFG . Autoguidance.*model carries: no guidance components"):
        compared(scene(tiny[0]), ("mix", "0.5"))
    with pytest.raises(ValueError, match="model_2 carries no cfg"):
        compared(scene(chained(*tiny), tiny[0]), ("model", ""), ("cfg weight", "2"))
    with pytest.raises(ValueError, match="2 MODELs are connected, and neither x_parameter nor y_parameter is model"):
        compared(scene(*tiny), ("seed", "1, 2"))
    early = given(GuidanceCFG, model=tiny[0], weight_from="node", end=0.5)
    both = given(GuidanceCFG, model=early, weight_from="node", start=0.5)
    with pytest.raises(ValueError, match="act at the same noise levels"):
        compared(scene(both), ("cfg end", "0.4, 0.6"))
    assert not drawings


def test_the_first_widgets_work_on_any_model(tiny):
    """Dragged in and connected, nothing else changed: cfg 1, 2 and 4."""
    from guidance_pack.nodes.compare import GuidanceCompare

    schema = GuidanceCompare.GET_SCHEMA()
    first = {i.id: i.default for i in schema.inputs if getattr(i, "default", None) is not None}
    assert (first["x_parameter"], first["x_values"], first["y_parameter"]) == ("cfg", "1, 2, 4", "none")
    over = scene(tiny[0])
    made = compared(over, (first["x_parameter"], first["x_values"]), (first["y_parameter"], first["y_values"]))
    assert same(made, *(sampled(over, tiny[0], cfg=cfg) for cfg in (1.0, 2.0, 4.0)))
    assert set(vars(widgets())) - {"model", "rules", "plain", "degraded"} <= first.keys() | {"scheduler"}
