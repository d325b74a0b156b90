"""A mask per term: where a component acts in the picture, in the law and on the real host."""

import engine_probe as probe
import pytest
import torch
from host_models import MODELS, count_forwards, sample

from guidance_pack.guidance.branch import NEGATIVE, POSITIVE, Branch
from guidance_pack.guidance.compose import Guidance
from guidance_pack.guidance.noise_level import NoiseLevel
from guidance_pack.guidance.region import Region
from guidance_pack.guidance.rules.autoguidance import Autoguidance
from guidance_pack.guidance.rules.cfg import CFG
from guidance_pack.guidance.rules.pmc import PMC
from guidance_pack.guidance.rules.renorm import Renorm
from guidance_pack.guidance.schedule import Interval

SHAPE = (2, 4, 6, 8)
GUIDE = Branch(network="guide")


def left(width=8, height=6, frames=1):
    """White on the left half."""
    mask = torch.zeros(frames, height, width)
    mask[:, :, : width // 2] = 1.0
    return mask


def given(shape=SHAPE):
    draw = torch.Generator().manual_seed(3)
    return {b: torch.randn(shape, generator=draw, dtype=torch.float64) for b in (POSITIVE, NEGATIVE, GUIDE)}


def guided(*rules, branches=None, sampler=1.0, sigma=2.0):
    branches = given() if branches is None else branches
    level = NoiseLevel(torch.ones(2, dtype=torch.float64), torch.full((2,), sigma, dtype=torch.float64))
    return Guidance(rules).denoise(branches.__getitem__, torch.zeros_like(branches[POSITIVE]), level, sampler)


def test_outside_its_mask_a_rule_is_off_and_inside_as_it_was():
    region, branches = Region(left()), given()
    for make in (lambda r: CFG(4.0, region=r), lambda r: Autoguidance(2.0, region=r)):
        masked, whole = guided(make(region)), guided(make(None))
        assert torch.equal(masked[..., :4], whole[..., :4])
        assert torch.equal(masked[..., 4:], branches[POSITIVE][..., 4:])
    both = guided(CFG(4.0, region=region), Autoguidance(2.0, region=Region(1.0 - left())))
    assert torch.allclose(both[..., :4], guided(CFG(4.0))[..., :4])
    assert torch.allclose(both[..., 4:], guided(Autoguidance(2.0))[..., 4:])
    for shape in (PMC(limit=1.1, region=region), Renorm(region=region)):
        masked, bare = guided(CFG(4.0), shape), guided(CFG(4.0))
        whole = guided(CFG(4.0), type(shape)(**{**vars(shape), "region": None}))
        assert torch.allclose(masked[..., :4], whole[..., :4]) and torch.allclose(masked[..., 4:], bare[..., 4:])


def test_what_shapes_cfg_s_push_stays_inside_the_mask_of_cfg():
    region, branches = Region(left()), given()
    masked = guided(CFG(4.0, region=region), PMC(limit=1.1))
    assert torch.equal(masked[..., 4:], branches[POSITIVE][..., 4:])
    assert torch.allclose(masked[..., :4], guided(CFG(4.0), PMC(limit=1.1))[..., :4])


def test_half_a_mask_is_half_the_push_and_outside_its_interval_cfg_is_off_without_one():
    half = Region(torch.full((1, 3, 3), 0.5))
    assert torch.allclose(guided(CFG(5.0, region=half)), guided(CFG(3.0)))
    low, high = Interval(1.0, 0.0, "sigma_ve"), Interval(9.0, 1.0, "sigma_ve")
    two = CFG(5.0, low, region=Region(torch.zeros(1, 2, 2))), CFG(3.0, high)
    assert torch.equal(guided(*two), guided(CFG(3.0)))
    assert torch.equal(guided(*two, sigma=0.5), given()[POSITIVE])
    assert torch.equal(guided(CFG(None, region=Region(left())), sampler=4.0), guided(CFG(4.0, region=Region(left()))))


def test_a_mask_is_resized_with_soft_edges_frame_by_frame():
    large = Region(left(64, 48)).over(torch.zeros(1, 4, 6, 8))
    assert large.shape == (1, 1, 6, 8) and bool((large[..., :3] == 1).all()) and bool((large[..., 5:] == 0).all())
    assert Region(left(7, 5)).over(torch.zeros(1, 4, 50, 70))[0, 0, 25].unique().numel() > 3
    pictures = torch.stack([torch.zeros(4, 4), torch.ones(4, 4)])
    assert Region(pictures).over(torch.zeros(2, 4, 8, 8)).mean((1, 2, 3)).tolist() == [0.0, 1.0]
    video = Region(torch.linspace(0, 1, 9)[:, None, None].expand(9, 4, 4)).over(torch.zeros(2, 16, 3, 8, 8))
    assert video.shape == (1, 1, 3, 8, 8)
    torch.testing.assert_close(video.mean((0, 1, 3, 4)), torch.tensor([0.0, 0.5, 1.0]))
    assert Region(left(4, 4)).over(torch.zeros(1, 16, 3, 8, 8)).shape == (1, 1, 3, 8, 8)


@pytest.fixture(scope="module")
def built(comfy):
    return {name: MODELS[name].build(0) for name in ("sd15", "wan", "stable_audio")}


def with_mask(model, mask, **rule):
    from guidance_pack.host.engine.install import with_rule

    return with_rule(model, CFG(**rule, region=Region(mask)))


@pytest.mark.parametrize("name", ["sd15", "wan"])
def test_on_the_host_cfg_is_the_law_inside_and_weight_1_outside(built, name):
    model, spec = built[name], MODELS[name]
    positive, negative = spec.conditioning(1), spec.conditioning(2)
    masked, calls = probe.recorded(with_mask(model, left(), weight=None))
    setting = probe.setting_of(model, spec, steps=2, batch=2, latent_seed=3)
    with count_forwards(model) as count:
        setting.run(probe.cfg_guider(masked, positive, negative, 5.0))
    assert count.rows == 2 * 2 * 2
    whole = probe.replay(probe.cfg_guider(model, positive, negative, 5.0), setting, calls)
    plain = probe.alone(model, positive, setting, calls)
    for call, on, off in zip(calls, whole, plain, strict=True):
        assert probe.far_apart(call.denoised[..., :4], on[..., :4]) < probe.TOLERANCE
        assert probe.far_apart(call.denoised[..., 4:], off[..., 4:]) < probe.TOLERANCE
    white = with_mask(model, torch.ones(1, 9, 9), weight=None)
    latent = spec.latent(1)
    drawn = [sample(m, positive, negative, latent, cfg=5.0, scheduler=spec.scheduler) for m in (white, model)]
    assert torch.equal(*drawn)


def test_masks_that_fit_nothing_are_refused_before_sampling(built):
    def run(name, mask, batch=1):
        spec = MODELS[name]
        with count_forwards(built[name]) as count:
            try:
                sample(with_mask(built[name], mask, weight=3.0), spec.conditioning(1), spec.conditioning(2),
                       spec.latent(batch), scheduler=spec.scheduler)  # fmt: skip
            finally:
                assert count.forwards == 0

    with pytest.raises(ValueError, match="CFG has a mask that cannot be used: the mask has 3 pictures and the batch 2"):
        run("sd15", left(frames=3), batch=2)
    with pytest.raises(ValueError, match="a mask lies over pictures or video, and this model's latents are 2-dim"):
        run("stable_audio", left())
