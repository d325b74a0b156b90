"""Patch points of transformers found by reading them: the host's networks that have some, and what is done there."""

import importlib

import pytest
import torch
from host_models import MODELS, HostModel, host_source, sample

AURA = {
    "cond_seq_dim": 2048, "dim": 64, "n_layers": 4, "n_double_layers": 2, "n_heads": 2, "global_conddim": 64,
    "max_seq": 256,
}  # fmt: skip
LTXV = {
    "image_model": "ltxv", "num_layers": 2, "attention_head_dim": 32, "num_attention_heads": 2,
    "cross_attention_dim": 64, "caption_channels": 64,
}  # fmt: skip
KANDINSKY = {
    "image_model": "kandinsky5", "model_dim": 128, "ff_dim": 256, "time_dim": 64, "num_text_blocks": 1,
    "num_visual_blocks": 2, "visual_embed_dim": 132,
}  # fmt: skip
FOUND = (
    HostModel("aura", "AuraFlow", "CONST", AURA, ((4, 8, 8),), (8, 2048)),
    HostModel("ltxv", "LTXV", "CONST", LTXV, ((128, 2, 4, 4),), (8, 64),
              extras={"attention_mask": torch.ones(1, 8)}, scheduler="simple"),
    HostModel("kandinsky5", "Kandinsky5", "CONST", KANDINSKY, ((16, 1, 8, 8),), (8, 3584), 768, scheduler="simple"),
)
LAYERS = {"aura": "double 0-1, single 0-1", "ltxv": "double 0-1"}
STRENGTHS = {"skipped layers": 1.0, "random blocks": 0.9, "dropout": 0.3}


@pytest.fixture(scope="module")
def built(comfy):
    MODELS.update({spec.name: spec for spec in FOUND})
    yield {spec.name: (spec, spec.build(0)) for spec in FOUND}
    for spec in FOUND:
        del MODELS[spec.name]


def drawn(spec, model):
    positive, latent = spec.conditioning(1), spec.latent(1)
    return sample(model, positive, positive, latent, steps=2, scheduler=spec.scheduler)


@pytest.mark.parametrize("name", LAYERS)
def test_blocks_are_found_and_perturbed(built, name):
    from guidance_pack.host.degrade.degrade import degrade
    from guidance_pack.host.degrade.layers import layout_of, names_of

    spec, model = built[name]
    assert names_of(layout_of(model).blocks) == LAYERS[name]
    plain = drawn(spec, model)
    assert torch.isfinite(plain).all()
    for kind, strength in STRENGTHS.items():
        weak = drawn(spec, degrade(model, kind, strength, seed=3))
        assert torch.isfinite(weak).all() and (weak - plain).abs().max() > 1e-4, kind
    assert torch.equal(plain, drawn(spec, model))


@pytest.mark.parametrize("name", LAYERS)
def test_what_is_not_known_of_their_attention_is_refused_in_words(built, name):
    """AuraFlow's network has the name of Stable Diffusion 3's, and is another."""
    from guidance_pack.host.degrade.degrade import degrade

    for kind in ("identity attention", "blurred attention", "pooled attention"):
        with pytest.raises(ValueError, match="cannot be used with this model .*; it supports skipped layers, random"):
            degrade(built[name][1], kind, 1.0)


def test_blocks_that_do_not_take_what_the_loop_gives_are_refused(built):
    """In ComfyUI 0.30 the loop of Kandinsky 5 hands x on to a block that calls it visual_embed."""
    from guidance_pack.host.degrade.degrade import degrade

    model = built["kandinsky5"][1]
    for kind in STRENGTHS:
        with pytest.raises(ValueError, match="cannot be used with this model .Kandinsky5.; it supports input noise"):
            degrade(model, kind, 0.3)


@pytest.mark.parametrize(("module", "kind", "points"), [case for case in (
    ("aura.mmdit", "MMDiT", {"double": "double_layers", "single": "single_layers"}),
    ("modules.diffusionmodules.mmdit", "MMDiT", {"double": "joint_blocks"}),
    ("audio.dit", "ContinuousTransformer", {"double": "layers"}),
    ("chroma_radiance.model", "ChromaRadiance", {"double": "double_blocks", "single": "single_blocks"}),
    ("genmo.joint_model.asymm_models_joint", "AsymmDiTJoint", {"double": "blocks"}),
    ("hunyuan3d.model", "Hunyuan3Dv2", {"double": "double_blocks", "single": "single_blocks"}),
    ("hunyuan_video.model", "HunyuanVideo", {"double": "double_blocks", "single": "single_blocks"}),
    ("hydit.models", "HunYuanDiT", {"double": "blocks"}),
    ("joyimage.model", "JoyImageTransformer3DModel", {"double": "double_blocks"}),
    ("kandinsky5.model", "Kandinsky5", {"double": "visual_transformer_blocks"}),
    ("lens.model", "LensTransformer2DModel", {"double": "transformer_blocks"}),
    ("lightricks.av_model", "LTXAVModel", {"double": "transformer_blocks"}),
    ("lightricks.model", "LTXVModel", {"double": "transformer_blocks"}),
    ("mage_flow.model", "MageFlowTransformer2DModel", {"double": "transformer_blocks"}),
    ("wan.model", "VaceWanModel", {"double": "blocks"}),
    ("lumina.model", "NextDiT", {}),
    ("seedvr.model", "NaDiT", {}),  # its hidden states have no batch
) if host_source(f"ldm/{case[0].replace('.', '/')}.py")])  # fmt: skip
def test_the_hosts_networks_are_read_right(comfy, module, kind, points):
    from guidance_pack.host.degrade.patch_points import points_of

    network = getattr(importlib.import_module(f"comfy.ldm.{module}"), kind)
    assert {point.part: point.attribute for point in points_of(network)} == points
