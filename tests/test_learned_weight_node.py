"""Train Guidance and Learned Weight on the real host: what they evaluate, write and give, and what they refuse."""

import pytest
import torch
from cases import trained_weights
from engine_probe import cfg_guider, far_apart, setting_of
from host_models import MODELS, count_forwards, sample, tensors
from PIL import Image
from world import LABELS, render

from guidance_pack.guidance.branch import NEGATIVE, POSITIVE
from guidance_pack.guidance.learned import LearnedWeights
from guidance_pack.guidance.training.matching import WeightRecipe

SD15, STEPS, ALWAYS = MODELS["sd15"], 3, ("percent", 0.0, 1.0)
RECIPE = WeightRecipe(iterations=4, batch=2, particles=2, width=4)


def weights_of(constant=3.0, guide=None):
    found = LearnedWeights(cfg={"constant": constant}, autoguidance=guide and {"constant": guide})
    found.cfg = trained_weights(constant=constant)
    if guide:
        found.autoguidance = trained_weights(seed=1, constant=guide)
    return found.requires_grad_(False)


def learned(model, strength=1.0, *where, weights=None, **more):
    from guidance_pack.nodes.learned_weight import GuidanceLearnedWeight

    chosen = {"file": "shapes-weights", "strength": strength, "weights": weights or weights_of(), **more}
    (out,) = GuidanceLearnedWeight.execute(model, *[chosen.pop(k) for k in ("file", "strength")], *(where or ALWAYS),
                                           **chosen).args  # fmt: skip
    return out


def drawn(model, spec=SD15, cfg=1.0, **more):
    given = spec.conditioning(1), spec.conditioning(2), spec.latent(1)
    (out,) = tensors(sample(model, *given, steps=STEPS, cfg=cfg, scheduler=spec.scheduler, **more))
    return out


@pytest.fixture(scope="module")
def main(comfy):
    return SD15.build(0)


@pytest.fixture(scope="module")
def tiny(comfy):
    from guidance_pack.host.models.tiny import load_tiny_model

    return load_tiny_model("shapes-edm")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root, world = tmp_path_factory.mktemp("drawn"), render(6, 77)
    for index, (image, label) in enumerate(zip(world.images, world.labels.tolist(), strict=True)):
        (root / LABELS[label]).mkdir(exist_ok=True)
        pixels = ((image + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).movedim(0, -1)
        Image.fromarray(pixels.numpy()).save(root / LABELS[label] / f"{index}.png")
    return root


@pytest.fixture
def train(comfy, tiny, folder, tmp_path, monkeypatch):
    """Trains as the node does, in folders of its own."""
    import folder_paths

    from guidance_pack.host.training.dataset import read_folder
    from guidance_pack.host.training.learn import WeightsRequest, train_weights

    monkeypatch.setitem(
        folder_paths.folder_names_and_paths, "guidance_weights", ([str(tmp_path / "weights")], {".safetensors"})
    )
    monkeypatch.setattr(folder_paths, "output_directory", str(tmp_path / "output"))
    pictures = read_folder(folder, 32, 32)

    def run(name="w", recipe=RECIPE, watch=lambda training, loss: None, **more):
        with torch.inference_mode():  # as ComfyUI runs nodes
            return train_weights(WeightsRequest(**{"model": tiny, "pictures": pictures, "name": name, "recipe": recipe,
                                                   **more}), watch)  # fmt: skip

    run.folder = tmp_path
    return run


def stop_after(steps):
    from comfy.model_management import InterruptProcessingException

    def watch(training, loss):
        if len(training.losses) == steps:
            raise InterruptProcessingException()

    return watch


def equal(first, second):
    return all(torch.equal(tensor, second.state_dict()[name]) for name, tensor in first.state_dict().items())


def test_strength_0_is_the_constant_bit_for_bit_and_off_is_free(main):
    from guidance_pack.guidance.rules.cfg import CFG
    from guidance_pack.host.engine.install import with_rule

    with count_forwards(main) as plain:
        constant = drawn(with_rule(main, CFG(3.0)))
    for model in (learned(main, 0.0), learned(main, 0.0, weights=weights_of(3.0, 2.0), guide_model=None)):
        with count_forwards(main) as count:
            assert torch.equal(drawn(model), constant)
        assert count.forwards == plain.forwards
    with count_forwards(main) as count:
        assert torch.equal(drawn(learned(main, 1.0, "percent", 0.5, 0.5)), drawn(main))
    assert count.evaluations == 2 * STEPS
    with count_forwards(main) as count:
        assert not torch.equal(drawn(learned(main)), constant)
    assert count.evaluations == 2 * STEPS
    assert torch.equal(drawn(learned(main), cfg=7.0), drawn(learned(main)))


def test_a_constant_of_1_still_evaluates_what_it_weighs(main):
    with count_forwards(main) as count:
        out = drawn(learned(main, weights=weights_of(1.0)))
    assert count.evaluations == 2 * STEPS and not torch.equal(out, drawn(main))


def test_with_a_guide_both_weights_are_learned(main):
    from guidance_pack.guidance.rules.autoguidance import Autoguidance
    from guidance_pack.guidance.rules.cfg import CFG
    from guidance_pack.host.engine.install import with_autoguidance, with_rule

    weak, weights = SD15.build(3), weights_of(3.0, 2.0)
    constant = with_autoguidance(with_rule(main, CFG(3.0)), weak, Autoguidance(2.0))
    assert torch.equal(drawn(learned(main, 0.0, weights=weights, guide_model=weak)), drawn(constant))
    with count_forwards(weak) as count:
        out = drawn(learned(main, weights=weights, guide_model=weak))
    assert count.evaluations == STEPS and not torch.equal(out, drawn(learned(main, weights=weights)))
    with pytest.raises(ValueError, match="learned without a guide_model"):
        learned(main, guide_model=weak)


@pytest.mark.parametrize("name", ["sd15", "flux"])
def test_a_batch_is_its_pictures(comfy, name):
    spec = MODELS[name]
    model = learned(spec.build(0))
    setting = setting_of(model, spec, steps=3, batch=3, latent_seed=4)
    setting.latent = setting.latent * torch.tensor([0.2, 1.0, 3.0]).view(3, *[1] * (setting.latent.ndim - 1))
    words = spec.conditioning(1), spec.conditioning(2)
    together = setting.run(cfg_guider(model, *words, 1.0))
    latent, noise = setting.latent, setting.noise
    for i in range(3):
        setting.latent, setting.noise = latent[i : i + 1], noise[i : i + 1]
        assert far_apart(together[i : i + 1], setting.run(cfg_guider(model, *words, 1.0))) < 1e-4


def test_the_curve_on_the_node_is_the_usual_weights(main):
    import json

    from guidance_pack.host.engine.page_events import curve

    weights = weights_of()
    shown = json.loads(curve(main, learned(main, 0.5, weights=weights))["guidance_curve"][0])
    constant, line = (line["values"] for line in shown["lines"])
    assert set(constant) == {3.0} and len({round(value, 3) for value in line}) > 20
    assert all(0.0 <= value <= 7.0 for value in line)


def test_the_branches_of_a_mixed_batch_are_the_networks_own(tiny):
    """Rows with classes and levels of their own, against the network called by itself."""
    from guidance_pack.guidance.noise_level import NoiseLevel
    from guidance_pack.host.common.labels import class_conditioning
    from guidance_pack.host.engine.listen import BranchEvaluator

    x = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(5))
    sigma = torch.tensor([8.0, 1.0, 0.2])
    given, nothing = class_conditioning(tiny, "star, heart, moon"), class_conditioning(tiny, "")
    found = BranchEvaluator(tiny)(x, NoiseLevel.variance_exploding(sigma), given, nothing)
    labels = [LABELS.index(label) for label in ("star", "heart", "moon")]
    with torch.inference_mode():
        for branch, rows in ((POSITIVE, labels), (NEGATIVE, [len(LABELS)] * 3)):
            expected = tiny.model.apply_model(x, sigma, y=torch.tensor(rows))
            assert far_apart(found[branch], expected) < 1e-5 and not found[branch].is_inference()


def test_it_trains_on_a_folder_and_the_file_steers(train, tiny):
    from guidance_pack.host.models.guidance_weights import load_weights, weights_names

    with count_forwards(tiny) as count:
        made = train(workflow={"workflow": "{}"})
    assert (count.forwards, count.rows) == (8, 32), "both prompts once in every step, of every noisy picture"
    assert "w.safetensors" in weights_names() and equal(load_weights("w.safetensors"), made)
    with count_forwards(tiny) as count:
        assert equal(train(), made), "finished, it is loaded"
    assert count.forwards == 0
    assert not list((train.folder / "output").rglob("*.safetensors"))


def test_an_interrupted_training_goes_on_as_if_it_had_not_been(train):
    from comfy.model_management import InterruptProcessingException

    whole = train("whole")
    with pytest.raises(InterruptProcessingException):
        train("parts", watch=stop_after(2))
    assert not (train.folder / "weights" / "parts.safetensors").exists()
    seen = []
    assert equal(train("parts", watch=lambda training, loss: seen.append(loss)), whole) and len(seen) == 2


def test_a_guide_and_a_reward_take_part(train, comfy):
    from dataclasses import replace

    from guidance_pack.host.models.guides import load_guide
    from guidance_pack.host.models.tiny import load_tiny_model

    recipe, weak = replace(RECIPE, iterations=2, guide_constant=1.5), load_tiny_model("shapes-edm-weak")
    plain = train("plain", recipe, guide_model=weak)
    assert plain.autoguidance.constant == 1.5 and float(plain.autoguidance.layers[-1].bias.abs()) > 0.0
    reward = {"reward": load_guide("shapes-classifier"), "guide_model": weak}
    assert not equal(train("judged", replace(recipe, reward=5.0), **reward), plain)


def test_by_prompt_it_reads_the_classes_of_the_folders(train, tiny, main):
    from dataclasses import replace
    from types import SimpleNamespace

    from guidance_pack.host.training.learn import reading_of, weights_plot

    made = train("classes", replace(RECIPE, by_prompt=True, iterations=6)).cfg
    used = made.ask.weight.abs().sum(0) > 0
    assert made.classes == tuple(LABELS) and bool(used.any()) and not bool(used.all())  # of those that were drawn alone
    assert made.shown_for == "the mean over the 10 classes"
    weights = weights_of()
    weights.cfg = made
    assert weights_plot(tiny, weights).shape[0] == 1

    def source(*entries):
        return SimpleNamespace(positive=[[torch.zeros(1), entry] for entry in entries])

    assert reading_of(main, source({"pooled_output": torch.zeros(1, 6)})) == {"pooled": 6}
    for given, words in ((source({"pooled_output": None}), "no class and no pooled"), (source({}, {}), "of 2 prompts")):
        with pytest.raises(ValueError, match=words):
            reading_of(main, given)


def test_what_cannot_be_learned_is_refused_before_the_first_evaluation(train, tiny, main):
    from dataclasses import replace

    from guidance_pack.host.common.labels import class_conditioning
    from guidance_pack.host.models.guides import load_guide

    rewarded = replace(RECIPE, reward=1.0)
    with count_forwards(tiny) as count:
        for given, words in (
            ({"model": learned(tiny)}, "carries guidance components already"),
            ({"name": "../w"}, "holds one of"),
            ({"positive": class_conditioning(tiny, "star, heart")}, "2 prompts.*folders of classes"),
            ({"model": main, "positive": SD15.conditioning(1), "negative": SD15.conditioning(2)}, "connect the VAE"),
            ({"model": main}, "positive is not connected"),
            ({"reward": load_guide("shapes-noisy-classifier"), "recipe": rewarded}, "the reward is asked about clean"),
        ):
            with pytest.raises(ValueError, match=words):
                train(**given)
    assert count.forwards == 0
    train()
    with pytest.raises(ValueError, match="trained otherwise.*seed"):
        train(recipe=replace(RECIPE, seed=1))
