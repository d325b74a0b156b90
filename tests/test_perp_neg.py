"""Perp-Neg in a plain KSampler: the host's own Perp-Neg Guider in another place, a third prompt only where it acts."""

import engine_probe as probe
import pytest
import torch
from host_models import MODELS, count_forwards, sample

SD15, FLOW = MODELS["sd15"], MODELS["sd3"]
EMPTY = SD15.conditioning(3)


@pytest.fixture(scope="module")
def with_perp_neg(comfy):
    def made(model, empty, **values):
        from guidance_pack.guidance.rules.perp_neg import PerpNeg
        from guidance_pack.host.engine.install import with_shape

        return with_shape(model, PerpNeg(**values), empty)

    return made


def theirs(model, spec, cfg, neg_scale, conds):
    from comfy_extras.nodes_perpneg import Guider_PerpNeg

    guider = Guider_PerpNeg(model)
    guider.set_conds(*conds)
    guider.set_cfg(cfg, neg_scale)
    return guider


@pytest.mark.parametrize("spec", [SD15, FLOW], ids=["eps", "flow"])
def test_it_is_the_host_s_perp_neg_guider(spec, with_perp_neg):
    main, neg_scale = spec.build(0), 0.7
    conds = [spec.conditioning(index) for index in (1, 2, 3)]
    setting = probe.setting_of(main, spec, steps=3, latent_seed=3)
    with count_forwards(main) as ours:
        found = setting.run(probe.cfg_guider(with_perp_neg(main, conds[2], neg_scale=neg_scale), *conds[:2], 5.0))
    with count_forwards(main) as other:
        expected = setting.run(theirs(main, spec, 5.0, neg_scale, conds))
    assert probe.far_apart(found, expected) < 1e-5
    assert (ours.rows, ours.forwards) == (other.rows, other.forwards) and ours.rows == 3 * 3


def test_a_region_of_the_positive_prompt_has_its_empty_one(with_perp_neg, main):
    import node_helpers

    part = node_helpers.conditioning_set_values(SD15.conditioning(4), {"area": (4, 4, 2, 2), "strength": 1.0})
    conds = [SD15.conditioning(1) + part, SD15.conditioning(2), EMPTY]
    setting = probe.setting_of(main, SD15, steps=2, latent_seed=3)
    found = setting.run(probe.cfg_guider(with_perp_neg(main, EMPTY), *conds[:2], 5.0))
    assert probe.far_apart(found, setting.run(theirs(main, SD15, 5.0, 1.0, conds))) < 1e-5


def drawn(model, cfg=5.0, steps=4):
    with count_forwards(model) as count:
        out = sample(model, SD15.conditioning(1), SD15.conditioning(2), SD15.latent(), steps=steps, cfg=cfg)
    return out, count.rows


@pytest.mark.parametrize("values", [{"neg_scale": 0.0}, {"amount": 0.0}])
def test_off_is_exact_and_free(values, with_perp_neg, main):
    (plain, rows), (off, asked) = drawn(main), drawn(with_perp_neg(main, EMPTY, **values))
    assert torch.equal(off, plain) and asked == rows


def test_at_cfg_1_it_is_exact_and_free(with_perp_neg, main):
    (plain, rows), (off, asked) = drawn(main, 1.0), drawn(with_perp_neg(main, EMPTY), 1.0)
    assert torch.equal(off, plain) and asked == rows


def test_the_empty_prompt_is_evaluated_where_the_rule_acts_alone(with_perp_neg, main):
    from guidance_pack.guidance.schedule import Interval

    rows = drawn(main)[1]
    assert drawn(with_perp_neg(main, EMPTY, schedule=Interval(0.0, 0.5, "percent")))[1] in range(rows + 1, rows + 4)


def test_it_joins_a_guide_in_one_call(with_perp_neg, main):
    from guidance_pack.guidance.rules.autoguidance import Autoguidance
    from guidance_pack.host.degrade.degrade import degrade
    from guidance_pack.host.engine.install import with_autoguidance

    both = with_autoguidance(with_perp_neg(main, EMPTY), degrade(main, "identity attention", 1.0), Autoguidance(2.0))
    with count_forwards(both) as count:
        sample(both, SD15.conditioning(1), SD15.conditioning(2), SD15.latent(1), steps=2, cfg=5.0)
    assert (count.forwards, count.rows) == (2, 8)


def test_what_is_missing_or_double_is_said(with_perp_neg, main):
    with pytest.raises(ValueError, match="the input empty is open"):
        with_perp_neg(main, None)
    with pytest.raises(ValueError, match="another empty prompt already"):
        with_perp_neg(with_perp_neg(main, EMPTY), SD15.conditioning(4))
    assert with_perp_neg(with_perp_neg(main, EMPTY), EMPTY)


def test_another_guider_is_refused_in_words(with_perp_neg, main):
    conds = SD15.conditioning(1), SD15.conditioning(2), EMPTY
    with pytest.raises(ValueError, match="Use KSampler or CFGGuider"):
        probe.setting_of(main, SD15, steps=1).run(theirs(with_perp_neg(main, EMPTY), SD15, 5.0, 1.0, conds))
