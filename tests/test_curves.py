"""The page's arithmetic (js/curves) against the pack's own, on random settings; and what the server tells the page."""

import json
import math
import random
import subprocess
from pathlib import Path

import pytest
import torch
from playwright._impl._driver import compute_driver_executable

from guidance_pack.guidance.compose import split
from guidance_pack.guidance.noise_schedule import noise_schedule
from guidance_pack.guidance.routing import Experts, equal_ranges
from guidance_pack.guidance.training.weighting import normalise_weight, on

CURVES = Path(__file__).resolve().parent.parent / "js" / "curves"
FAMILIES = ("discrete", "karras", "flow")
SETTINGS = 60
PIECES = 1000  # of the table that the page gets here
SCRIPT = """
const names = ["maths", "noise", "draw", "read", "handles"];
const modules = await Promise.all(names.map((name) => import(`${FOLDER}/${name}.js`)));
const page = Object.assign({}, ...modules);
const input = JSON.parse(await new Promise((resolve) => {
  let text = ""; process.stdin.on("data", (part) => (text += part)).on("end", () => resolve(text));
}));
const answer = ({ table, percents, make, args }) => {
  const noise = table && page.noiseOf(table);
  const made = MAKE[make](page, noise, ...args);
  return percents ? percents.map((percent) => made(noise.level(percent))) : made;
};
console.log(JSON.stringify(input.map(answer)));
"""
MAKE = """
const orWords = (ask) => { try { return ask(); } catch (error) { return error.message; } };
const MAKE = {
  interval: (js, noise, ...args) => js.interval(...args),
  curve: (js, noise, points, unit) => js.curve(points, unit, noise),
  ramp: (js, noise, from, to, start, end, unit, cosine) => js.ramp(from, to, start, end, unit, noise, cosine),
  inCharge: (js, noise, edges, handover) => js.inCharge(edges, handover),
  share: (js, noise, name, numbers) => js.withMeanOne(js.onVelocity(name, numbers), noise.levels),
  equalEdges: (js, noise, ...args) => js.equalEdges(...args),
  marks: (js, noise, ...args) => js.marksBetween(...args),
  points: (js, noise, ...args) => orWords(() => js.pointsOf(...args)),
  drag: (js, noise, values, moves) => {
    const widgets = Object.entries(values).map(([name, value]) => ({ name, value }));
    const node = { comfyClass: "GuidanceSchedule", widgets, inputs: [] };
    for (const [index, percent, value] of moves) {
      if (index === "add") js.addPoint(node, noise, noise.level(percent), value);
      else if (index < 0) js.handlesOf(node, noise).at(index).remove?.();
      else js.handlesOf(node, noise)[index].put(noise.level(percent), value);
    }
    return Object.fromEntries(widgets.map(({ name, value }) => [name, value]));
  },
  timesteps: (js, noise, name) => js.timesteps(name),
  split: (js, noise, ...args) => js.split(...args),
  axis: (js, noise, name, percents) => percents.map((p) => {
    const axis = js.axisOf(name, noise);
    return [axis.x(noise.level(p)), axis.level(axis.x(noise.level(p))).percent];
  }),
};
"""


def in_the_page(questions):
    """The page's answers, by the JavaScript engine that comes with Playwright."""
    script = f"const FOLDER = {json.dumps(CURVES.as_uri())};\n{MAKE}\n{SCRIPT}"
    node = compute_driver_executable()[0]
    done = subprocess.run(
        [node, "--input-type=module", "--no-warnings", "-e", script], input=json.dumps(questions), text=True,
        capture_output=True, check=False, timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def models(comfy):
    """model_sampling of three families: SD1's table, EDM's range, and a shifted flow."""
    import comfy.model_sampling as families

    class Discrete(families.ModelSamplingDiscrete, families.EPS):
        pass

    class Karras(families.ModelSamplingContinuousEDM, families.EDM):
        pass

    class Flow(families.ModelSamplingDiscreteFlow, families.CONST):
        pass

    flow = Flow()
    flow.set_parameters(shift=3.0)
    return dict(zip(FAMILIES, (Discrete(), Karras(), flow), strict=True))


def table_of(model_sampling, monkeypatch):
    from guidance_pack.host.engine import page_events as curves

    monkeypatch.setattr(curves, "PIECES", PIECES)
    return curves.noise_of(model_sampling)


def levels_of(model_sampling, percents):
    from guidance_pack.host.common.noise_levels import level_of

    sigmas = torch.tensor([float(model_sampling.percent_to_sigma(p)) for p in percents], dtype=torch.float64)
    return level_of(model_sampling, sigmas)


def percents_of(generator, count=40):
    """Rows of the table that the page gets, where it knows the noise exactly; never an edge of three decimals."""
    return [(i + 0.5) / PIECES for i in generator.sample(range(PIECES), count)]


def span(generator, unit, family):
    """A start and an end from noisy to clean."""
    if unit == "percent":
        return sorted(round(generator.uniform(0, 1), 3) for _ in range(2))
    high = 1.0 if family == "flow" else 20.0
    return sorted((round(generator.uniform(0, high), 3) for _ in range(2)), reverse=True)


def compared(model_sampling, cases, monkeypatch):
    """(the page's strengths, Python's) for every case (schedule, make, args, percents)."""
    from guidance_pack.host.common.noise_levels import ModelPositions

    table = table_of(model_sampling, monkeypatch)
    asked = [{"table": table, "percents": p, "make": make, "args": args} for _, make, args, p in cases]
    theirs = in_the_page(asked)
    positions = ModelPositions(model_sampling)
    for (schedule, _, args, percents), values in zip(cases, theirs, strict=True):
        yield args, values, schedule.resolve(positions)(levels_of(model_sampling, percents)).tolist()


@pytest.mark.many
@pytest.mark.parametrize("family", FAMILIES)
def test_intervals_are_the_same(models, family, monkeypatch):
    from guidance_pack.guidance.schedule import Interval

    generator, cases = random.Random(1), []
    for _ in range(SETTINGS):
        unit = generator.choice(["percent", "sigma"])
        start, end = generator.choice([span(generator, unit, family), [0.0, 1.0] if unit == "percent" else [9.0, 0.0]])
        cases.append((Interval(start, end, unit), "interval", [start, end, unit], percents_of(generator)))
    for args, page, python in compared(models[family], cases, monkeypatch):
        assert page == python, args


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_ramps_and_points_are_the_same(models, family, monkeypatch):
    from guidance_pack.host.schema.schedules import make_schedule

    generator, cases = random.Random(2), []
    for _ in range(SETTINGS):
        unit, cosine = generator.choice(["percent", "sigma"]), generator.random() < 0.5
        first, last = span(generator, unit, family)
        low, high = round(generator.uniform(-2, 2), 2), round(generator.uniform(-2, 2), 2)
        shape = "cosine" if cosine else "linear"
        made = make_schedule(shape, unit, first, last, low, high, "")
        cases.append((made, "ramp", [low, high, first, last, unit, cosine], percents_of(generator)))
        points = sorted([round(generator.uniform(0, 1), 3), round(generator.uniform(-1, 2), 2)] for _ in range(5))
        points = points if unit == "percent" else [[2 * p, v] for p, v in reversed(points)]
        text = ", ".join(f"{p}: {v}" for p, v in points)
        made = make_schedule("points", unit, 0, 1, 0, 0, text)
        cases.append((made, "curve", [points, unit], percents_of(generator)))
    for args, page, python in compared(models[family], cases, monkeypatch):
        assert page == pytest.approx(python, abs=within_a_piece(args)), args


def within_a_piece(args):
    """By how much the two may differ: a curve in percent is cut by Python into pieces that are straight in ln sigma.

    Within a piece that is less than a quarter of the strength's change along it.
    """
    from guidance_pack.guidance.schedule import RESOLUTION

    if "percent" not in args:
        return 1e-6
    if isinstance(args[0], list):
        strengths = [value for _, value in args[0]]
    else:
        low, high, *_, cosine = args
        steps = range(33 if cosine else 2)
        strengths = [low + (high - low) * (1 - math.cos(math.pi * i / steps[-1])) / 2 for i in steps]
    pieces = RESOLUTION // (len(strengths) - 1)
    return 0.25 / pieces * max(abs(b - a) for a, b in zip(strengths, strengths[1:], strict=False)) + 1e-6


def test_experts_are_the_same(models, monkeypatch):
    generator, asked, python = random.Random(3), [], []
    table = table_of(models["karras"], monkeypatch)
    for _ in range(SETTINGS):
        logs = sorted(generator.uniform(-4, 3) for _ in range(generator.randint(1, 6)))
        gaps = [b - a for a, b in zip(logs, logs[1:], strict=False)]
        handover = generator.choice([0.0, generator.uniform(0, min([1.0, *gaps]) * 0.99)])
        edges, percents = [math.exp(log) for log in logs], percents_of(generator)
        asked.append({"table": table, "percents": percents, "make": "inCharge", "args": [edges, handover]})
        python.append(Experts(tuple(edges), handover).gate_weights(levels_of(models["karras"], percents)))
    for question, page, ours in zip(asked, in_the_page(asked), python, strict=True):
        assert torch.allclose(torch.tensor(page, dtype=torch.float64), ours, rtol=0, atol=1e-6), question["args"]


@pytest.mark.parametrize(("page_name", "name"), [("adm linear", "linear"), ("cosine", "cosine"),
                                                 ("stable diffusion", "stable diffusion")])
def test_equal_ranges_are_the_same(page_name, name):
    counts = range(2, 17)
    asked = [{"make": "equalEdges", "args": [count, page_name]} for count in counts]
    *found, sigmas = in_the_page([*asked, {"make": "timesteps", "args": [page_name]}])
    assert sigmas == pytest.approx(noise_schedule(name).sigmas.tolist(), rel=1e-9)
    for count, edges in zip(counts, found, strict=True):
        assert edges == pytest.approx(equal_ranges(count, noise_schedule(name)).edges, rel=1e-9)


@pytest.mark.many
@pytest.mark.parametrize("family", FAMILIES)
def test_shares_of_the_training_are_the_same(models, family, monkeypatch):
    from guidance_pack.host.training.loss_weighting import WEIGHTINGS, trained_levels, weight_named

    generator, asked, python = random.Random(4), [], []
    table = table_of(models[family], monkeypatch)
    everything = trained_levels(models[family])
    for index in range(SETTINGS):
        name = WEIGHTINGS[index % len(WEIGHTINGS)]
        numbers = {"k": generator.uniform(0.01, 5), "gamma": generator.uniform(0, 3),
                   "min_snr_gamma": generator.uniform(0.1, 20)}
        percents = percents_of(generator)
        asked.append({"table": table, "percents": percents, "make": "share", "args": [name, numbers]})
        weight = normalise_weight(weight_named(name, **numbers), everything, "v")
        python.append(on("v", weight, levels_of(models[family], percents)).tolist())
    for question, page, ours in zip(asked, in_the_page(asked), python, strict=True):
        assert page == pytest.approx(ours, rel=2e-4), question["args"]


def test_the_split_is_the_same():
    generator = random.Random(5)
    cases = [[generator.uniform(0, 20), generator.uniform(0, 1)] for _ in range(SETTINGS)]
    for case, page in zip(cases, in_the_page([{"make": "split", "args": case} for case in cases]), strict=True):
        assert page == pytest.approx(split(*case))


def test_lines_across_are_few_whatever_the_strengths():
    spans = [(0.0, 1.06), (-10.6, 10.6), (0.0, 100.0), (0.0, 1e9), (-1e5, 1e5), (0.0, 1e300), (-3e-3, 1.0)]
    for (low, high), marks in zip(spans, in_the_page([{"make": "marks", "args": span} for span in spans]), strict=True):
        assert 2 <= len(marks) <= 5 and low <= marks[0] < marks[-1] <= high, (low, high, marks)


SCHEDULE = {"shape": "points", "unit": "percent", "start": 0.0, "end": 1.0, "points": "0: 0, 0.3: 1, 1: 0"}


@pytest.mark.parametrize(("moves", "points"), [
    ([[1, 0.5, 2.0]], "0: 0, 0.5: 2, 1: 0"),
    ([[1, 1.2, 20.0]], "0: 0, 1: 10, 1: 0"),  # not past its neighbour, nor past the largest strength
    ([[0, 0.4, 0.123]], "0.3: 0.12, 0.3: 1, 1: 0"),
    ([["add", 0.62, 0.5], [2, 0.7, 0.5]], "0: 0, 0.3: 1, 0.7: 0.5, 1: 0"),
    ([[-2, 0, 0], [-1, 0, 0]], "0: 0, 1: 0"),  # two points stay
])  # fmt: skip
def test_points_are_dragged_added_and_removed(models, moves, points, monkeypatch):
    table = table_of(models["discrete"], monkeypatch)
    (moved,) = in_the_page([{"table": table, "make": "drag", "args": [SCHEDULE, moves]}])
    assert moved == SCHEDULE | {"points": points}


@pytest.mark.parametrize("family", FAMILIES)
def test_dragged_ends_keep_their_order_and_reach_all_of_the_noise(models, family, monkeypatch):
    """Sigma: the noisy end lies at the highest sigma or above it, the clean one at 0; percent: 0 and 1."""
    table = table_of(models[family], monkeypatch)
    whole = {"shape": "interval", "start": 1.0, "end": 0.5}
    sigma = whole | {"unit": "sigma"}
    percent = whole | {"unit": "percent", "start": 0.2}
    outwards, crossed = [[0, 0.0, None], [1, 1.0, None]], [[1, 0.05, None]]
    asked = [(sigma, outwards), (percent, outwards), (percent, crossed), (percent, [[0, 0.9, None]])]
    made = in_the_page([{"table": table, "make": "drag", "args": list(args)} for args in asked])
    assert made[0]["start"] >= float(models[family].sigma_max) and made[0]["end"] == 0
    assert made[0]["start"] <= 1.01 * float(models[family].sigma_max)
    assert [(one["start"], one["end"]) for one in made[1:]] == [(0, 1), (0.2, 0.2), (0.5, 0.5)]


@pytest.mark.parametrize("unit", ["percent", "sigma"])
def test_points_that_cannot_be_are_refused_by_both(comfy, unit):
    from guidance_pack.host.schema.schedules import parse_points, schedule_problem

    up, down = ("0: 1, 0.5: 0.2, 1: 0", "1: 1, 0.5: 0.2, 0: 0")
    texts = ["0: 1e9, 1: 0", "0: nan, 1: 0", "0: 1, inf: 0", "0: -11, 1: 0", "2e5: 1, -1: 0", "0: 1", "a", up, down]
    pages = in_the_page([{"make": "points", "args": [text, unit]} for text in texts])
    for text, page in zip(texts, pages, strict=True):
        problem = schedule_problem("points", unit, 0.0, 1.0, text)
        assert isinstance(page, str) == (problem is not None), (text, page, problem)
        assert problem or [tuple(point) for point in page] == parse_points(text)


@pytest.mark.parametrize("family", FAMILIES)
def test_axes_run_from_noisy_to_clean_and_back(models, family, monkeypatch):
    percents = [(i + 0.5) / PIECES for i in range(0, PIECES, 37)]
    table = table_of(models[family], monkeypatch)
    names = ["percent", "sigma", "log SNR"]
    for found in in_the_page([{"table": table, "make": "axis", "args": [name, percents]} for name in names]):
        places = [x for x, _ in found]
        assert places == sorted(places) and 0 <= places[0] < places[-1] <= 1
        assert [p for _, p in found] == pytest.approx(percents, abs=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_page_gets_the_models_noise(models, family):
    from guidance_pack.host.engine import page_events as curves

    table = curves.noise_of(models[family])
    assert table["flow"] == (family == "flow") and table["scale"] == 1.0
    assert len(table["sigmas"]) == curves.PIECES and table["sigmas"] == sorted(table["sigmas"], reverse=True)
    assert table["low"] <= table["sigmas"][-1] < table["sigmas"][0] <= table["high"]
    assert table["sigmas"][50] == float(models[family].percent_to_sigma(50.5 / curves.PIECES))
