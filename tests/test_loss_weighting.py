"""Loss Weighting on the host's own Train LoRA: exactly the weighted loss in training, exactly nothing in sampling."""

import pytest
import steering
import torch
from engine_probe import guided
from host_models import MODELS, count_forwards, load, sample
from test_engine_gradients import steer
from trainer import Training, gradients_differ

from guidance_pack.guidance.noise_level import NoiseLevel
from guidance_pack.guidance.training.weighting import P2, TARGETS, MinSNR, Plain, normalise_weight, on

ROUNDING = 2e-6  # of the largest gradient: the two sides multiply by the same weight in another order
FAMILIES = ["sd15", "sd20_v", "sdxl_edm", "flux", "sd3", "wan"]


@pytest.fixture
def pack(comfy):
    from guidance_pack.host.training import loss_weighting

    return loss_weighting


def weighted(pack, model, weight=None, normalise=False):
    return pack.with_loss_weighting(model, pack.LossWeighting(weight or P2(), normalise))


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_are_those_of_the_explicitly_weighted_loss(pack, family):
    """eps, v, EDM and flow; three pictures at three noise levels in a batch."""
    model, training = MODELS[family].build(), Training(family)
    ours, explicit, host = training.run(weighted(pack, model)), training.run(model, P2()), training.run(model)
    assert len(set(ours.sigmas[0].tolist())) == 3
    assert gradients_differ(ours, explicit) < ROUNDING
    assert gradients_differ(ours, host) > 0.01
    assert torch.equal(ours.estimates[0], host.estimates[0]), "the values of the estimate changed"
    assert ours.losses[0] == host.losses[0], "the host reports its own loss"
    assert all(torch.allclose(ours.lora[name], value, atol=1e-7) for name, value in explicit.lora.items())


OPTIONS = {
    "batch of one": {"batch_size": 1},
    "accumulated": {"batch_size": 2, "grad_accumulation_steps": 2},
    "bf16": {"training_dtype": "bf16", "lora_dtype": "bf16"},
    "native dtype": {"training_dtype": "none"},
    "bypass adapters": {"bypass_mode": True},
    "offloading": {"offloading": True},
    "no checkpointing": {"gradient_checkpointing": False},
    "deep checkpointing": {"checkpoint_depth": 3, "offloading": True},
    "LoHa": {"algorithm": "LoHa"},
    "LoKr": {"algorithm": "LoKr"},
    "OFT": {"algorithm": "OFT"},
    "L1": {"loss_function": "L1"},
    "Huber": {"loss_function": "Huber"},
}


@pytest.mark.slow
@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_of_train_lora_is_weighted(pack, option):
    model, training = MODELS["sd15"].build(), Training("sd15", options=OPTIONS[option])
    ours, explicit = training.run(weighted(pack, model)), training.run(model, P2())
    assert gradients_differ(ours, explicit) < ROUNDING
    assert gradients_differ(ours, training.run(model)) > 0.01


@pytest.mark.slow
@pytest.mark.parametrize("family", ["sd15", "flux"])
@pytest.mark.parametrize("buckets", [False, True])
def test_pictures_of_several_sizes(pack, family, buckets):
    """Without buckets every picture is evaluated alone and the losses are averaged; with them, a batch per bucket."""
    training = Training(family, sizes=(8, 16, 8), options={"bucket_mode": buckets})
    model = MODELS[family].build()
    ours, explicit = training.run(weighted(pack, model)), training.run(model, P2())
    assert gradients_differ(ours, explicit) < ROUNDING
    assert gradients_differ(ours, training.run(model)) > 0.01


def quantised(seed=0, disable_dynamic=False):
    """A flux whose matrices are kept in fp8 and cast for every product, as ComfyUI runs them on most hardware."""
    model = load("flux", seed, disable_dynamic=disable_dynamic)
    for module in model.model.diffusion_model.modules():
        if isinstance(module, torch.nn.Linear):
            module.weight.data = module.weight.data.to(torch.float8_e4m3fn)
            module.comfy_cast_weights = True
    model.cached_patcher_init = (quantised, (seed,))
    return model


@pytest.mark.slow
@pytest.mark.parametrize("bypass", [False, True])
def test_quantised_weights(pack, bypass):
    model, training = quantised(), Training("flux", options={"bypass_mode": bypass})
    ours, explicit = training.run(weighted(pack, model)), training.run(model, P2())
    assert gradients_differ(ours, explicit) < ROUNDING
    assert gradients_differ(ours, training.run(model)) > 0.01


@pytest.mark.many
@pytest.mark.parametrize("weight", [*map(Plain, TARGETS[1:]), P2(1, 0.5), P2(0.2, 2), MinSNR(5)], ids=str)
@pytest.mark.parametrize("normalise", [False, True])
def test_every_weighting(pack, weight, normalise):
    model, training = MODELS["flux"].build(), Training("flux", options={"learning_rate": 1e-6})
    levels = pack.trained_levels(model.get_model_object("model_sampling"))
    truth = normalise_weight(weight, levels, "v", like=Plain("x0")) if normalise else weight
    ours, explicit = training.run(weighted(pack, model, weight, normalise)), training.run(model, truth)
    assert gradients_differ(ours, explicit) < ROUNDING


def test_a_flow_models_plain_loss_is_that_on_its_own_output(pack):
    """The network's velocity is (x - D) / t, so the loss on it is |D - x0|^2 / t^2: no SNR is needed to say so."""
    model, training = MODELS["flux"].build(), Training("flux", options={"learning_rate": 1e-6})
    ours = training.run(weighted(pack, model, Plain("flow")))
    assert gradients_differ(ours, training.run(model, lambda level: 1 / level.b**2)) < ROUNDING


@pytest.mark.slow
def test_an_eps_models_plain_loss_is_that_on_its_own_output(pack):
    model, training = MODELS["sd15"].build(), Training("sd15")
    ours = training.run(weighted(pack, model, Plain("eps")))
    assert gradients_differ(ours, training.run(model, lambda level: 1 / level.b**2)) < ROUNDING


@pytest.mark.slow
@pytest.mark.parametrize("family", ["sd15", "flux"])
def test_the_levels_of_a_mean_are_those_that_the_trainer_draws(pack, family):
    from types import SimpleNamespace

    from comfy_extras.nodes_train import TrainSampler

    from guidance_pack.host.common.noise_levels import level_of

    model_sampling = MODELS[family].build().get_model_object("model_sampling")
    guider = SimpleNamespace(inner_model=SimpleNamespace(model_sampling=model_sampling))
    torch.manual_seed(0)
    drawn = TrainSampler._generate_batch_sigmas(None, guider, 20000, "cpu")
    weight = pack.LossWeighting(P2()).at(model_sampling)
    draws = on("v", weight, level_of(model_sampling, drawn)).mean()
    expected = on("v", Plain("x0"), pack.trained_levels(model_sampling)).mean()
    assert float(draws) == pytest.approx(float(expected), rel=0.02)


@pytest.mark.slow
def test_a_schedule_that_is_changed_afterwards_counts(pack):
    """ModelSamplingSD3 after the node: the shift of the training, not of the MODEL that the node saw."""
    from comfy_extras.nodes_model_advanced import ModelSamplingSD3

    model, training = MODELS["sd3"].build(), Training("sd3", options={"learning_rate": 1e-6})

    def shifted(patched):
        return ModelSamplingSD3().patch(patched, 9.0)[0]

    ours = training.run(shifted(weighted(pack, model, P2(), normalise=True)))
    levels = pack.trained_levels(shifted(model).get_model_object("model_sampling"))
    truth = normalise_weight(P2(), levels, "v", like=Plain("x0"))
    assert gradients_differ(ours, training.run(shifted(model), truth)) < ROUNDING


def test_the_hosts_own_weighting_installs_nothing(pack):
    model, training = MODELS["flux"].build(), Training("flux")
    same = weighted(pack, model, Plain("x0"), normalise=True)
    assert same.wrappers == model.wrappers
    assert gradients_differ(training.run(same), training.run(model)) == 0.0


def drawn(model, family):
    """A run and what it cost."""
    spec = MODELS[family]
    with count_forwards(model, batch=2) as count:
        out = sample(model, spec.conditioning(1), spec.conditioning(2), spec.latent(2), steps=3, cfg=3.0,
                     scheduler=spec.scheduler)
    return out, count.evaluations


@pytest.mark.many
@pytest.mark.parametrize("family", ["sd15", "sd20_v", "sdxl_edm", "flux", "stable_audio"])
def test_sampling_is_untouched(pack, family):
    model = MODELS[family].build()
    (plain, cost), (ours, own_cost) = drawn(model, family), drawn(weighted(pack, model), family)
    assert torch.equal(ours, plain) and own_cost == cost


@pytest.mark.slow
@pytest.mark.parametrize("order", ["before", "after"])
def test_sampling_with_guidance_is_untouched(pack, order):
    model, guide = MODELS["sd15"].build(), MODELS["sd15"].build(1)
    both = guided(weighted(pack, model), guide) if order == "before" else weighted(pack, guided(model, guide))
    (plain, cost), (ours, own_cost) = drawn(guided(model, guide), "sd15"), drawn(both, "sd15")
    assert torch.equal(ours, plain) and own_cost == cost
    assert not torch.equal(plain, drawn(model, "sd15")[0])


def test_gradients_that_guidance_takes_while_sampling_are_untouched(pack):
    """Classifier guidance differentiates the model too; that is no training."""
    model, guide = steering.as_nodes_do(MODELS["flux"].build, 0), steering.loaded(3)

    def steered(patched):
        return steer(patched, guide, at="through denoiser", decoder="linear rgb")

    (plain, cost), (ours, own_cost) = drawn(steered(model), "flux"), drawn(steered(weighted(pack, model)), "flux")
    assert torch.equal(ours, plain) and own_cost == cost
    assert not torch.equal(plain, drawn(model, "flux")[0])


def test_sampling_after_a_training_and_after_a_failed_one(pack, monkeypatch):
    from comfy_extras.nodes_train import TrainSampler

    model, training = MODELS["flux"].build(), Training("flux")
    ours, (plain, _) = weighted(pack, model), drawn(model, "flux")
    first = training.run(ours)
    assert torch.equal(drawn(ours, "flux")[0], plain)
    with monkeypatch.context() as patch:
        patch.setattr(TrainSampler, "fwd_bwd", lambda *args, **kwargs: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            training.run(ours)
    assert pack.LOSS_WEIGHTING not in ours.model_options
    assert torch.equal(drawn(ours, "flux")[0], plain)
    assert gradients_differ(training.run(ours), first) == 0.0


def test_clones_carry_it_and_the_original_does_not(pack):
    model, training = MODELS["flux"].build(), Training("flux")
    ours = weighted(pack, model)
    first, second = training.run(ours), training.run(ours.clone().clone())
    assert gradients_differ(first, second) == 0.0
    assert model.get_attachment(pack.LOSS_WEIGHTING) is None
    assert not any(pack.LOSS_WEIGHTING in w for w in model.wrappers.values())


def test_the_estimate_itself_is_the_same_and_other_holders_get_their_own_gradient(pack):
    estimate = torch.randn(3, 2, 4, requires_grad=True)
    weights = torch.tensor([0.5, 2.0, 300.0], dtype=torch.float64)
    same = pack.weigh(estimate, weights)
    assert torch.equal(same, estimate)
    (same.sum() + estimate.sum()).backward()
    torch.testing.assert_close(estimate.grad, (1 + weights.float())[:, None, None].expand(3, 2, 4))


def test_a_half_precision_gradient_is_multiplied_before_it_is_rounded(pack):
    """0.5 * 2^-24 vanishes in float16; times 4 it does not."""
    estimate = torch.ones(1, 1, dtype=torch.float16, requires_grad=True)
    (2.0**-25 * pack.weigh(estimate, torch.tensor([4.0], dtype=torch.float64)).float()).sum().backward()
    assert estimate.grad.item() == 2.0**-23


@pytest.mark.parametrize("first, second", [(P2(), MinSNR()), (P2(), Plain("x0")), (Plain("x0"), P2())], ids=str)
def test_two_weightings_on_one_model_are_refused(pack, first, second):
    once = weighted(pack, MODELS["flux"].build(), first)
    with pytest.raises(ValueError, match=r"has a Loss Weighting already.*Remove one"):
        weighted(pack, once.clone(), second)


def test_training_a_guided_model_is_refused_before_it_starts(pack):
    model = guided(MODELS["flux"].build(), MODELS["flux"].build(1), cfg=False)
    for carried in (model, weighted(pack, model)):
        with pytest.raises(ValueError, match=r"carries guidance components.*as it was before them"):
            Training("flux").run(carried)


def test_a_model_without_a_signal_to_noise_ratio_is_refused(pack):
    from comfy.model_sampling import IMG_TO_IMG, ModelSamplingDiscrete

    def without_noise(patched):
        out = patched.clone()
        out.add_object_patch("model_sampling", type("Sampling", (ModelSamplingDiscrete, IMG_TO_IMG), {})())
        return out

    model = MODELS["sd15"].build()
    with pytest.raises(ValueError, match=r"not a picture plus noise.*Train it without"):
        weighted(pack, without_noise(model))
    with pytest.raises(ValueError, match="not a picture plus noise"):
        Training("sd15").run(without_noise(weighted(pack, model)))


@pytest.fixture
def node(comfy):
    from guidance_pack.nodes.training import GuidanceLossWeighting

    return GuidanceLossWeighting


def run(node, model, **changed):
    widgets = {"weighting": "p2", "k": 1.0, "gamma": 1.0, "min_snr_gamma": 5.0, "normalise": True}
    return node.execute(model=model, **widgets | changed).result


EXPECTED = {"p2": P2(2.0, 0.5), "min-SNR": MinSNR(3.0)} | {target: Plain(target) for target in TARGETS}


@pytest.mark.many
@pytest.mark.parametrize("name", EXPECTED)
@pytest.mark.parametrize("family", ["sd15", "flux"])
def test_the_node_gives_the_model_and_a_picture(pack, node, name, family):
    model = MODELS[family].build()
    out, picture = run(node, model, weighting=name, k=2.0, gamma=0.5, min_snr_gamma=3.0, normalise=False)
    assert out.get_attachment(pack.LOSS_WEIGHTING) == pack.LossWeighting(EXPECTED[name], False)
    assert picture.shape == (1, 440, 960, 3) and 0 <= picture.min() < picture.max() <= 1
    assert (bool(out.wrappers)) == (name != "x0")


def test_the_node_offers_every_weighting_and_defaults_to_the_papers(pack, node):
    inputs = {entry.id: entry for entry in node.GET_SCHEMA().inputs}
    assert inputs["weighting"].options == pack.WEIGHTINGS == list(EXPECTED)
    defaults = [inputs[name].default for name in ("k", "gamma", "min_snr_gamma")]
    assert (P2(*defaults[:2]), MinSNR(defaults[2])) == (P2(), MinSNR()) and inputs["normalise"].default is True


@pytest.mark.parametrize(
    "changed, words",
    [
        ({"weighting": "snr"}, r"weighting is 'snr'; it can be p2, min-SNR, x0"),
        ({"k": 0.0}, r"k is 0; it can be 0.001 to 1000"),
        ({"gamma": -1.0}, r"gamma is -1"),
        ({"weighting": "min-SNR", "min_snr_gamma": 0.0}, r"min_snr_gamma is 0; it can be 0.001 to 1000"),
    ],
)
def test_wrong_inputs_in_words(node, comfy, changed, words):
    with pytest.raises(ValueError, match=words):
        run(node, MODELS["flux"].build(), **changed)


@pytest.mark.many
@pytest.mark.parametrize("weight", [P2(1, 0.5), Plain("x0"), Plain("eps"), MinSNR(5)], ids=str)
def test_the_plot_shows_shares_of_the_v_loss(pack, monkeypatch, weight):
    shown = []
    monkeypatch.setattr(pack, "draw_curves", lambda series, sigmas, words: shown.append((series, sigmas)))
    model = MODELS["sd15"].build()
    pack.plot(model, pack.LossWeighting(weight), "chosen")
    ((series, sigmas),) = shown
    s = torch.tensor(sigmas, dtype=torch.float64)
    noise = s**2 / (1 + s**2)
    shapes = {"chosen": weight(NoiseLevel.variance_exploding(s)) * noise, "ComfyUI's own (x0)": noise,
              "plain eps": 1 - noise}
    assert len(series) == (2 if isinstance(weight, Plain) else 3), "a line that is the chosen one is drawn once"
    for line in series:
        values = torch.tensor(line.values, dtype=torch.float64)
        torch.testing.assert_close(values, shapes[line.label] / shapes[line.label].mean(), rtol=2e-3, atol=0)
