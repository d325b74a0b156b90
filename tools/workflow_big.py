"""Workflows on the models that people use: one idea each, loaded and sampled as ComfyUI's own templates do it."""

from __future__ import annotations

from workflow_graph import Stamps
from workflow_large import SEED, File, Large, split

PLACE = "a lighthouse on a rocky coast at dawn, soft light, sea spray, photograph"
SIGN = 'a small bookshop in the rain at night, warm light, a hand-painted sign that reads "GUIDANCE"'
# Where CFG helps SDXL (Kynkaanniemi et al., 2404.07724), in sigma. SD 1.5 has the same noise levels.
SDXL_FROM, SDXL_TO = 5.42, 0.28
CFG_BETWEEN = {"weight_from": "sampler", "unit": "sigma", "start": SDXL_FROM, "end": SDXL_TO}
FOX = "a red fox runs through fresh snow between birches, tracking camera, morning light"
STILL = "static, blurry, overexposed, subtitles, watermark, deformed"
TWO_THIRDS = 0.67  # of the run: what follows cleans up
WAN_TEXT = split("umt5_xxl_fp8_e4m3fn_scaled.safetensors", "Wan_2.1_ComfyUI_repackaged", "text_encoders")


def sd15_autoguidance(object_info: dict, stamps: Stamps) -> dict:
    made = Large(
        "sd15_autoguidance", "SD 1.5 with CFG in an interval, guided by a damaged version of itself.",
        object_info, stamps,
    )
    file = File(
        "v1-5-pruned-emaonly-fp16.safetensors", "Comfy-Org/stable-diffusion-v1-5-archive/resolve/main", "checkpoints"
    )
    made.begin(
        "## SD 1.5: guided by itself\n**CFG Combine** keeps the sampler's cfg for the middle of the run. **Degraded "
        "Model** damages the attention of the same model (as PAG does), and **Autoguidance** steers away from that: "
        "truer structure, no second file. 54 evaluations in place of 40.",
        "licence: CreativeML OpenRAIL-M", file, height=270,
    )
    main = made.checkpoint(file)
    guided = made.component(1, "GuidanceCFG", main["MODEL"], **CFG_BETWEEN)
    weak = made.component(1, "GuidanceDegrade", main["MODEL"], kind="identity attention", strength=1.0)
    guided = made.component(2, "GuidanceAutoguidance", guided, guide_model=weak, weight=2.0)
    prompts = made.prompts(main["CLIP"], PLACE)
    latent = made.sample(
        model=guided, **prompts, latent_image=made.empty("EmptyLatentImage", 512, 512), seed=SEED, steps=20, cfg=8.0,
        sampler_name="euler", scheduler="normal",
    )
    return made.picture(latent, main["VAE"])


def sdxl_interval(object_info: dict, stamps: Stamps) -> dict:
    made = Large(
        "sdxl_interval", "SDXL with CFG in the interval of its paper, and APG against burnt colours.",
        object_info, stamps,
    )
    file = File("sd_xl_base_1.0.safetensors", "stabilityai/stable-diffusion-xl-base-1.0/resolve/main", "checkpoints")
    made.begin(
        "## SDXL: interval and APG\n**CFG Combine** uses the sampler's cfg only between sigma 5.42 and 0.28 "
        "(2404.07724): more variety, and 43 evaluations in place of 50. **Adaptive Projected Guidance** removes the "
        "part of CFG's update that burns colours.",
        "licence: CreativeML Open RAIL++-M", file, height=270,
    )
    main = made.checkpoint(file)
    guided = made.component(1, "GuidanceCFG", main["MODEL"], **CFG_BETWEEN)
    guided = made.component(2, "GuidanceAPG", guided, eta=0.0, norm_threshold=15.0, momentum=-0.5)
    prompts = made.prompts(main["CLIP"], PLACE)
    latent = made.sample(
        model=guided, **prompts, latent_image=made.empty("EmptyLatentImage", 1024, 1024), seed=SEED, steps=25, cfg=8.0,
        sampler_name="euler", scheduler="normal",
    )
    return made.picture(latent, main["VAE"])


def flux_autoguidance(object_info: dict, stamps: Stamps) -> dict:
    made = Large(
        "flux_autoguidance", "Flux.1 dev, which knows no CFG, guided by itself with some layers skipped.",
        object_info, stamps,
    )
    encoders = "comfyanonymous/flux_text_encoders/resolve/main"
    network = File("flux1-dev.safetensors", "Comfy-Org/flux1-dev/resolve/main", "diffusion_models")
    clip, t5 = (File(name, encoders, "text_encoders") for name in ("clip_l.safetensors", "t5xxl_fp16.safetensors"))
    vae = split("ae.safetensors", "Lumina_Image_2.0_Repackaged", "vae")
    made.begin(
        "## Flux.1 dev: guided by itself\nFlux has its guidance trained in and takes cfg 1: there is no negative "
        "prompt to guide with. **Degraded Model** skips a few layers of the same network, and **Autoguidance** steers "
        "away from that.\n\nIt does so in the first two thirds of the run: 34 evaluations in place of 20.",
        "licence: FLUX.1 [dev] Non-Commercial; text encoders MIT and Apache-2.0", network, clip, t5, vae, height=320,
    )
    model, decoder = made.network(network), made.decoder(vae)
    encoder = made.loader("DualCLIPLoader", clip, t5, clip_name1=clip.name, clip_name2=t5.name, type="flux")
    weak = made.component(1, "GuidanceDegrade", model, kind="skipped layers", strength=1.0)
    guided = made.component(2, "GuidanceAutoguidance", model, guide_model=weak, weight=2.0, start=0.0, end=TWO_THIRDS)
    made.drawn = made.lane("Picture")
    positive = made.prompt(encoder["CLIP"], PLACE)
    negative = made.add("ConditioningZeroOut", made.drawn, 1, size=(330, 34), conditioning=positive)["CONDITIONING"]
    latent = made.sample(
        model=guided, positive=positive, negative=negative, latent_image=made.empty("EmptySD3LatentImage", 1024, 1024),
        seed=SEED, steps=20, cfg=1.0, sampler_name="euler", scheduler="simple",
    )
    return made.picture(latent, decoder)


def flux_negative(object_info: dict, stamps: Stamps) -> dict:
    made = Large(
        "flux_negative", "Flux.1 schnell in four steps at cfg 1, with a negative prompt in its attention.",
        object_info, stamps,
    )
    file = File("flux1-schnell-fp8.safetensors", "Comfy-Org/flux1-schnell/resolve/main", "checkpoints")
    made.begin(
        "## Flux.1 schnell: a negative prompt\nA model of few steps takes cfg 1, at which a negative prompt is not "
        "read. **Negative in Attention (NAG)** puts it into the network's attention instead.\n\nOn Flux every block "
        "works for both prompts: as dear as 8 evaluations in place of 4. On SDXL Turbo and Wan it is nearly free.",
        "licence: Apache-2.0", file, height=290,
    )
    main = made.checkpoint(file)
    guided = made.component(1, "GuidanceNegativeAttention", main["MODEL"], weight=5.0, tau=2.5, alpha=0.25)
    prompts = made.prompts(main["CLIP"], PLACE, "sea spray, clouds")
    latent = made.sample(
        model=guided, **prompts, latent_image=made.empty("EmptySD3LatentImage", 1024, 1024), seed=SEED, steps=4,
        cfg=1.0, sampler_name="euler", scheduler="simple",
    )
    return made.picture(latent, main["VAE"])


def sd35_schedule(object_info: dict, stamps: Stamps) -> dict:
    made = Large(
        "sd35_schedule", "SD 3.5 Large with CFG that grows over the run.", object_info, stamps,
    )
    file = File(
        "sd3.5_large_fp8_scaled.safetensors", "Comfy-Org/stable-diffusion-3.5-fp8/resolve/main", "checkpoints"
    )
    made.begin(
        "## SD 3.5: CFG on a schedule\nEarly on, CFG decides the composition and takes its variety; later it makes it "
        "clear. **Guidance Schedule** lets it grow from a third of the sampler's strength to a third above it "
        "(2404.13040 compares such shapes). The curve shows what will happen.",
        "licence: Stability AI Community", file, height=270,
    )
    main = made.checkpoint(file)
    grow = made.add(
        "GuidanceSchedule", made.guidance, 1, shape="linear", start=0.0, end=1.0, start_strength=0.3, end_strength=1.3
    )
    guided = made.component(2, "GuidanceCFG", main["MODEL"], weight_from="sampler", schedule=grow["schedule"])
    prompts = made.prompts(main["CLIP"], SIGN, "")
    latent = made.sample(
        model=guided, **prompts, latent_image=made.empty("EmptySD3LatentImage", 1024, 1024), seed=SEED, steps=20,
        cfg=4.01, sampler_name="euler", scheduler="sgm_uniform",
    )
    return made.picture(latent, main["VAE"])


def qwen_image_rescale(object_info: dict, stamps: Stamps) -> dict:
    made = Large(
        "qwen_image_rescale", "Qwen-Image with CFG, brought back to the spread of the unguided estimate.",
        object_info, stamps,
    )
    repository = "Qwen-Image_ComfyUI"
    network = split("qwen_image_fp8_e4m3fn.safetensors", repository, "diffusion_models")
    text = split("qwen_2.5_vl_7b_fp8_scaled.safetensors", repository, "text_encoders")
    vae = split("qwen_image_vae.safetensors", repository, "vae")
    made.begin(
        "## Qwen-Image: CFG and Rescale\nCFG 4 follows the prompt and its lettering well, and hardens contrast and "
        "colours. **Guidance Rescale** brings the spread of the estimate back to the unguided one's. It costs no "
        "evaluation.\n\nUse it without a Lightning LoRA: at cfg 1 there is nothing to bring back.",
        "licence: Apache-2.0", network, text, vae, height=310,
    )
    shifted = made.add(
        "ModelSamplingAuraFlow", made.left, 0, size=(420, 64), model=made.network(network), shift=3.1
    )
    clip, decoder = made.text_encoder(text, "qwen_image"), made.decoder(vae)
    guided = made.component(1, "GuidanceRescale", shifted["MODEL"], phi=0.7)
    prompts = made.prompts(clip, SIGN, "")
    latent = made.sample(
        model=guided, **prompts, latent_image=made.empty("EmptySD3LatentImage", 1328, 1328), seed=SEED, steps=20,
        cfg=4.0, sampler_name="euler", scheduler="simple",
    )
    return made.picture(latent, decoder)


def wan_interval(object_info: dict, stamps: Stamps) -> dict:
    made = Large(
        "wan_interval", "Wan 2.1, text to video, with CFG only where the video is decided.", object_info, stamps,
    )
    repository = "Wan_2.1_ComfyUI_repackaged"
    network = split("wan2.1_t2v_1.3B_fp16.safetensors", repository, "diffusion_models")
    vae = split("wan_2.1_vae.safetensors", repository, "vae")
    made.begin(
        "## Wan 2.1: CFG in an interval\nThe last third of the steps cleans up what is decided already. There **CFG "
        "Combine** leaves the negative prompt out, which halves their cost: 51 evaluations in place of 60, and less "
        "hard contrast.",
        "licence: Apache-2.0", network, WAN_TEXT, vae, height=290,
    )
    shifted = made.shifted(made.network(network), 8.0)
    clip, decoder = made.text_encoder(WAN_TEXT, "wan"), made.decoder(vae)
    guided = made.component(1, "GuidanceCFG", shifted, weight_from="sampler", start=0.0, end=TWO_THIRDS)
    prompts = made.prompts(clip, FOX, STILL)
    latent = made.sample(
        model=guided, **prompts, latent_image=made.empty("EmptyHunyuanLatentVideo", 832, 480, 33), seed=SEED, steps=30,
        cfg=6.0, sampler_name="uni_pc", scheduler="simple",
    )
    return made.video(latent, decoder)


def wan22_interval(object_info: dict, stamps: Stamps) -> dict:
    made = Large(
        "wan22_interval", "Wan 2.2, text to video: one interval of CFG across its two networks.", object_info, stamps,
    )
    repository = "Wan_2.2_ComfyUI_Repackaged"
    networks = [
        split(f"wan2.2_t2v_{part}_noise_14B_fp8_scaled.safetensors", repository, "diffusion_models")
        for part in ("high", "low")
    ]
    vae = split("wan_2.1_vae.safetensors", repository, "vae")
    made.begin(
        "## Wan 2.2: CFG in an interval\nTwo networks share the run: one for high noise, one for low. Give both the "
        "same **CFG Combine**: start and end are percent of the whole run, so the interval goes on where the second "
        "network takes over: 34 evaluations in place of 40.",
        "licence: Apache-2.0", *networks, WAN_TEXT, vae, height=340,
    )
    guided = [
        made.component(
            1, "GuidanceCFG", made.shifted(made.network(file), 5.0), title=f"CFG Combine: {part} noise",
            weight_from="sampler", start=0.0, end=TWO_THIRDS,
        )
        for file, part in zip(networks, ("high", "low"), strict=True)
    ]
    clip, decoder = made.text_encoder(WAN_TEXT, "wan"), made.decoder(vae)
    prompts = made.prompts(clip, FOX, STILL)
    latent = made.empty("EmptyHunyuanLatentVideo", 640, 640, 81)
    for part, first, last in ((0, 0, 10), (1, 10, 20)):
        latent = made.sample(
            "KSamplerAdvanced", model=guided[part], **prompts, latent_image=latent, noise_seed=SEED, steps=20, cfg=3.5,
            sampler_name="euler", scheduler="simple", add_noise=("enable", "disable")[part], start_at_step=first,
            end_at_step=last, return_with_leftover_noise=("enable", "disable")[part],
        )
    return made.video(latent, decoder)


BIG = {
    "SD15-Guided-by-itself": sd15_autoguidance,
    "SDXL-CFG-in-an-interval": sdxl_interval,
    "Flux-Guided-by-itself": flux_autoguidance,
    "Flux-Schnell-Negative-prompt": flux_negative,
    "SD35-CFG-that-grows": sd35_schedule,
    "Qwen-Image-CFG-rescaled": qwen_image_rescale,
    "Wan21-CFG-in-an-interval": wan_interval,
    "Wan22-One-interval-two-networks": wan22_interval,
}
