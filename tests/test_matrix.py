"""The matrix command: its order, its judgement, and a sample of its cells, all right or refused in words."""

import functools
from collections import Counter
from dataclasses import replace
from itertools import combinations, islice

import pytest
import torch
from host_families import BUILT, NOT_BUILT
from refusals import is_read
from trials import families, results
from trials.cells import BATCHES, GUIDERS, SAMPLERS, SWEEPS, Cell, ordered
from trials.components import COMPONENTS, Component
from trials.judge import FINE, Bench, Outcome

QUICK = (
    "flux", "sd35", "chroma", "lumina2", "wan_i2v", "hunyuan_video", "cosmos", "kandinsky5_image", "stable_audio3",
    "hunyuan3d", "pixel_dit", "ltxav",
)  # fmt: skip
SAMPLE = 26


def test_every_family_of_the_host_is_built_or_has_a_reason(comfy):
    import comfy.supported_models

    built, left = {spec.config for spec in BUILT.values()}, {name for names in NOT_BUILT.values() for name in names}
    assert len(BUILT) >= 70 and not built & left
    assert {kind.__name__ for kind in comfy.supported_models.models} - built - left == set()


def test_the_first_sweep_has_every_pair_and_the_whole_every_cell_once():
    whole = list(ordered(QUICK[:3], list(COMPONENTS), 4))
    assert len(whole) == len(set(whole)) == 3 * len(COMPONENTS) * SWEEPS
    names = ("family", "component", "sampler", "guider", "batch")
    choices = dict(zip(names, (BUILT, COMPONENTS, SAMPLERS, GUIDERS, BATCHES), strict=True))
    sweep = list(islice(ordered(list(BUILT), list(COMPONENTS), 4), len(BUILT) * len(COMPONENTS)))
    for first, second in combinations(names, 2):
        pairs = {(getattr(cell, first), getattr(cell, second)) for cell in sweep}
        assert len(pairs) == len(choices[first]) * len(choices[second]), (first, second)


def test_a_seed_is_an_order_and_a_cell_a_text():
    def first(seed):
        return list(islice(ordered(QUICK, list(COMPONENTS), seed), 50))

    assert first(1) == first(1) != first(2)
    assert all(Cell.named(str(cell)) == cell for cell in first(1))
    with pytest.raises(ValueError, match="is no cell"):
        Cell.named("flux/apg")


def test_results_are_gone_on_with_and_shown(tmp_path):
    cells = list(islice(ordered(QUICK, list(COMPONENTS), 0), 3))
    assert results.read(tmp_path / "out.jsonl") == {}
    for cell, outcome in zip(cells, (Outcome("right"), Outcome("refused", "no."), Outcome("crash", "oh")), strict=True):
        results.append(tmp_path / "out.jsonl", cell, outcome)
    found = results.read(tmp_path / "out.jsonl")
    assert list(found) == cells and results.sentences(found) == {"no.": cells[1]}
    shown = results.table(found, "sampler")
    assert "| all | 1 | 1 | 0 | 1 |" in shown and f"crash: {cells[2]}: oh" in shown


def test_the_page_of_families_says_what_works_and_numbers_the_refusals():
    cells = families.cells_of(["flux", "wan"])
    known = dict.fromkeys(cells, Outcome("right")) | {
        Cell("wan", "classifier", "euler", "cfg", 1): Outcome("refused", "wan has  no\npicture"),
        Cell("wan", "classifier through", "euler", "cfg", 1): Outcome("refused", "wan has no picture"),
        Cell("flux", "blurred attention", "euler", "cfg", 1): Outcome("refused", "no blur"),
        Cell("flux", "dropout", "euler", "cfg", 1): Outcome("host"),
        Cell("flux", "autoguidance mask", "euler", "cfg", 1): Outcome("refused", "no blur"),
        Cell("flux", "inpaint", "euler", "cfg", 1): Outcome("crash", "oh"),
    }
    page = families.page(known, {"flux": "Flux", "wan": "WAN21_T2V"}, "9.9")
    assert "on ComfyUI 9.9." in page and "\n\n1. no blur\n2. wan has no picture\n" in page
    row = "identity, pooled, 1 | skipped, random | host | yes | yes | CFG, shapes, 1 | **crash** |"
    assert f"| Flux (`flux`) | yes | yes | {row}\n" in page
    row = "identity, blurred, pooled | skipped, random | yes | yes | yes | CFG, Autoguidance, shapes | yes |"
    assert f"| WAN21_T2V (`wan`) | 2 | 2 | {row}\n" in page
    assert "Not judged yet" not in page and "\n- Anima, ACEStep, " in page
    assert "\n\nNot judged yet: SD15 (`sd15`).\n\n## " in families.page(known, {"sd15": "SD15"}, "9.9")


def changed(model, change):
    """A clone whose denoised estimate is changed by a function of it."""
    out = model.clone()
    out.set_model_sampler_post_cfg_function(lambda args: change(args["denoised"]))
    return out


def raising(_):
    raise RuntimeError("broken kernel")


def spoilt(models):
    """A MODEL whose making leaves the network itself changed."""
    with torch.inference_mode():
        next(models.main.model.diffusion_model.parameters()).mul_(1.01)
    return changed(models.main, lambda x: x * 1.01)


def twice(models):
    out = models.main.clone()
    out.set_model_unet_function_wrapper(
        lambda run, args: [run(args["input"], args["timestep"], **args["c"]) for _ in range(2)][1]
    )
    return out


def plain(models):
    return models.main


def by(change):
    return Component(lambda models: changed(models.main, change), plain)


WRONG = {
    "crash": by(raising),
    "numbers": by(lambda x: x * float("nan")),
    "apart": by(lambda x: x + 0.1 * x.mean(0, keepdim=True)),
    "nothing": Component(plain, plain),
    "off": replace(by(lambda x: x * 1.01), off=lambda models: changed(models.main, lambda x: x * 1.000001)),
    "off, at twice the cost": replace(by(lambda x: x * 1.01), off=twice),
    "after": Component(spoilt, plain),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_component_that_is_wrong_is_found(comfy, kind):
    bench = Bench(BUILT["flux"], WRONG)
    assert bench.judge(Cell("flux", kind, "euler", "cfg", 3)).kind == kind.partition(",")[0]


def test_what_the_host_cannot_run_is_no_fault_of_a_component(comfy):
    bench = Bench(BUILT["flux"], WRONG)
    assert bench.judge(Cell("flux", "crash", "no such sampler", "cfg", 1)).kind == "host"


@pytest.mark.slow
def test_a_sample_of_the_matrix_is_right(comfy):
    bench, found = functools.cache(lambda family: Bench(BUILT[family])), {}
    for cell in islice(ordered(QUICK, list(COMPONENTS), 6), SAMPLE):
        found[cell] = bench(cell.family).judge(cell)
    assert results.faults(found) == []
    assert [words for words in results.sentences(found) if not is_read(words)] == []
    counted = Counter(outcome.kind for outcome in found.values())
    assert counted["right"] > SAMPLE / 2 and counted["refused"] and counted["host"] == 0 and set(counted) <= set(FINE)
