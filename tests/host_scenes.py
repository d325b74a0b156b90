"""What else people have in a graph: other nodes on the MODEL, conditioning of every kind, masks. For a small SD1.5."""

import functools
from collections.abc import Callable
from dataclasses import dataclass

import host_models
import torch

SD15 = host_models.MODELS["sd15"]


def _same(model):
    return model


def _plain_prompts():
    return SD15.conditioning(1), SD15.conditioning(2)


@dataclass(frozen=True)
class Scene:
    """patch: nodes that change how predictions are combined; network: nodes that change the predictions themselves."""

    patch: Callable = _same
    network: Callable = _same
    conds: Callable = _plain_prompts
    setting: Callable[[], dict] = dict


def pre_cfg(model, note=lambda: None):
    def change(args):
        note()
        return [1.1 * args["conds_out"][0], 0.9 * args["conds_out"][1], *args["conds_out"][2:]]

    out = model.clone()
    out.set_model_sampler_pre_cfg_function(change)
    return out


def post_cfg(model, note=lambda: None):
    def change(args):
        note()
        return 0.8 * args["denoised"] + 0.1 * args["cond_denoised"]

    out = model.clone()
    out.set_model_sampler_post_cfg_function(change)
    return out


def cfg_function(model, note=lambda: None):
    def combine(args):
        note()
        return args["uncond"] + 0.7 * args["cond_scale"] * (args["cond"] - args["uncond"])

    out = model.clone()
    out.set_model_sampler_cfg_function(combine)
    return out


def legacy_cfg_function(model, note=lambda: None):
    def combine(cond, uncond, cond_scale):
        note()
        return uncond + 0.6 * cond_scale * (cond - uncond)

    out = model.clone()
    out.set_model_sampler_cfg_function(combine)
    return out


def function_wrapper(model, note=lambda: None):
    def wrap(apply_model, args):
        note()
        return 1.05 * apply_model(args["input"], args["timestep"], **args["c"])

    out = model.clone()
    out.set_model_unet_function_wrapper(wrap)
    return out


def perturbed_attention(model):
    from comfy_extras.nodes_pag import PerturbedAttentionGuidance

    return PerturbedAttentionGuidance.execute(model, 2.0).args[0]


def rescale_cfg(model):
    from comfy_extras.nodes_model_advanced import RescaleCFG

    return RescaleCFG().patch(model, 0.7)[0]


def cfg_override(model):
    from comfy_extras.nodes_custom_sampler import CFGOverride

    return CFGOverride.execute(model, 5.0, 0.3, 1.0).args[0]


def lora(model, seed=21):
    """A LoRA-like weight patch on every attention of the network, as LoraLoader adds it."""
    weights = model.model.state_dict()
    generator = torch.Generator().manual_seed(seed)
    patches = {
        key: ("diff", (0.1 * torch.randn(value.shape, generator=generator),))
        for key, value in weights.items()
        if key.startswith("diffusion_model.") and key.endswith("attn2.to_out.0.weight")
    }
    out = model.clone()
    assert len(out.add_patches(patches, 1.0)) == len(patches) > 0
    return out


@functools.cache
def control_net():
    """A small random ControlNet of the host's own class for the small SD1.5."""
    import comfy.cldm.cldm
    import comfy.controlnet
    import comfy.model_management
    import comfy.ops

    network = comfy.cldm.cldm.ControlNet(
        image_size=32, in_channels=4, model_channels=32, hint_channels=3, num_res_blocks=[1, 1], channel_mult=(1, 2),
        transformer_depth=[1, 1], transformer_depth_middle=1, context_dim=768, use_spatial_transformer=True,
        num_heads=8, legacy=False, dtype=torch.float32, operations=comfy.ops.disable_weight_init,
    )  # fmt: skip
    host_models.fill(network, 3, 0.5)
    return comfy.controlnet.ControlNet(network.eval(), load_device=comfy.model_management.get_torch_device())


def controlled():
    import nodes

    image = torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(4))
    return nodes.ControlNetApplyAdvanced().apply_controlnet(*_plain_prompts(), control_net(), image, 1.0, 0.0, 1.0)


def two_areas():
    import nodes

    place = nodes.ConditioningSetArea().append
    left = place(SD15.conditioning(1), 32, 64, 0, 0, 1.0)[0]
    right = place(SD15.conditioning(4), 32, 64, 32, 0, 0.8)[0]
    return left + right + SD15.conditioning(5), SD15.conditioning(2)


def masked_prompts():
    import nodes

    mask = torch.zeros(1, 64, 64)
    mask[:, :, :40] = 1.0
    inside = nodes.ConditioningSetMask().append(SD15.conditioning(1), mask, "default", 1.0)[0]
    bounded = nodes.ConditioningSetMask().append(SD15.conditioning(4), 1.0 - mask, "mask bounds", 1.0)[0]
    return inside + bounded, SD15.conditioning(2)


def area_in_negative():
    import nodes

    return SD15.conditioning(1), nodes.ConditioningSetArea().append(SD15.conditioning(2), 32, 64, 0, 0, 1.0)[0]


def prompt_in_turns():
    import nodes

    turn = nodes.ConditioningSetTimestepRange().set_range
    return turn(SD15.conditioning(1), 0.0, 0.4)[0] + turn(SD15.conditioning(4), 0.4, 1.0)[0], SD15.conditioning(2)


def inpainting():
    mask = torch.zeros(1, 1, 64, 64)
    mask[..., 16:48] = 1.0
    return {"mask": mask, "latent_seed": 3}


SCENES = {
    "pre-CFG hook": Scene(pre_cfg),
    "post-CFG hook": Scene(post_cfg),
    "cfg function": Scene(cfg_function),
    "legacy cfg function": Scene(legacy_cfg_function),
    "model function wrapper": Scene(network=function_wrapper),
    "PAG": Scene(perturbed_attention),
    "RescaleCFG": Scene(rescale_cfg),
    "CFG Override": Scene(cfg_override),
    "all at once": Scene(lambda m: post_cfg(perturbed_attention(rescale_cfg(pre_cfg(m)))), function_wrapper),
    "LoRA": Scene(network=lora),
    "ControlNet": Scene(conds=controlled),
    "areas": Scene(conds=two_areas),
    "masks": Scene(conds=masked_prompts),
    "area in the negative prompt": Scene(conds=area_in_negative),
    "prompts in turns": Scene(conds=prompt_in_turns),
    "inpainting mask": Scene(setting=inpainting),
}
