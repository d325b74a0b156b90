"""More families of the host that can be built small: with those of host_models.py, all that tools/matrix.py tries.

Each is built as host_models.py says. The suite samples a few of them; FAMILIES there are those that every test uses.
"""

from __future__ import annotations

import torch
from host_models import FLUX_UNET, MODELS, QWEN_UNET, SD3_UNET, SDXL_UNET, WAN_UNET, HostModel, host_source, unet


def draw(seed: int, *shape: int) -> torch.Tensor:
    """Standard normal numbers of a seed, for what a family takes beside its text."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def number_conditioner(name: str, **more) -> dict:
    """The weights of the host's embedding of a number of seconds."""
    import comfy.ldm.audio.embedders
    from host_models import fill

    conditioner = comfy.ldm.audio.embedders.NumberConditioner(768, min_val=0, max_val=384, **more)
    fill(conditioner, 0)
    return {f"conditioner.conditioners.{name}.{key}": value for key, value in conditioner.state_dict().items()}


def seconds_total() -> dict:
    return number_conditioner("seconds_total", fourier_features_type="expo")


def camera_projection() -> dict:
    return {"cc_projection.weight": draw(1, 768, 772) / 28, "cc_projection.bias": draw(2, 768) * 0.05}


def hidream_tokens(seed: int) -> dict:
    """A prompt as HiDream-O1 takes it: words as numbers, which its own network embeds; the last is the time's place."""
    words = torch.randint(1000, (1, 7), generator=torch.Generator().manual_seed(seed))
    return {"text_input_ids": torch.cat([words, torch.tensor([[151673]])], dim=1)}


IMAGE = ((4, 8, 8),)
VIDEO = ((16, 3, 8, 8),)
MASKED = {"attention_mask": torch.ones(1, 8, dtype=torch.long)}
SD20_UNET = unet(64, 1024, use_linear_in_transformer=True)
FRAMES_UNET = {**SD20_UNET, "in_channels": 8, "use_temporal_attention": True, "use_temporal_resblock": True,
               "num_classes": "sequential", "extra_ff_mix_layer": True, "use_spatial_context": True,
               "merge_strategy": "learned_with_images", "merge_factor": 0.0, "video_kernel_size": [3, 1, 1],
               "transformer_depth_output": [1, 1, 1, 1]}  # fmt: skip

UNETS = (
    HostModel("sd15_inpaint", "SD15", "EPS", {**unet(32, 768), "in_channels": 9}, IMAGE, (8, 768)),
    HostModel("sd15_pix2pix", "SD15_instructpix2pix", "EPS", {**unet(32, 768), "in_channels": 8}, IMAGE, (8, 768)),
    HostModel("sd20_eps", "SD20", "EPS", SD20_UNET, IMAGE, (8, 1024)),
    HostModel("sd21_unclip", "SD21UnclipL", "EPS",
              {**SD20_UNET, "adm_in_channels": 1536, "num_classes": "sequential"}, IMAGE, (8, 1024)),
    HostModel("sdxl_refiner", "SDXLRefiner", "EPS",
              unet(64, 1280, use_linear_in_transformer=True, adm_in_channels=2560, num_classes="sequential"),
              IMAGE, (8, 1280), 1280),
    HostModel("sdxl_v_edm", "SDXL", "V_PREDICTION", SDXL_UNET, IMAGE, (8, 2048), 1280,
              hints={"edm_vpred.sigma_max": torch.tensor(120.0)}),
    HostModel("sdxl_pix2pix", "SDXL_instructpix2pix", "EPS", {**SDXL_UNET, "in_channels": 8}, IMAGE, (8, 2048), 1280),
    HostModel("svd", "SVD_img2vid", "V_PREDICTION", {**FRAMES_UNET, "adm_in_channels": 768}, IMAGE, (1, 1024)),
    HostModel("sv3d", "SV3D_u", "V_PREDICTION", {**FRAMES_UNET, "adm_in_channels": 256}, IMAGE, (1, 1024)),
    HostModel("sv3d_p", "SV3D_p", "V_PREDICTION", {**FRAMES_UNET, "adm_in_channels": 1280}, IMAGE, (1, 1024)),
    HostModel("zero123", "Stable_Zero123", "EPS", {**unet(32, 768), "in_channels": 8}, IMAGE, (8, 768),
              hints=camera_projection),
    HostModel("sd_x4", "SD_X4Upscaler", "V_PREDICTION", unet(32, 1024, use_linear_in_transformer=True, in_channels=7,
              num_res_blocks=[1] * 4, channel_mult=(1, 1, 1, 2), transformer_depth=[1] * 4,
              transformer_depth_output=[1] * 8), ((4, 16, 16),), (8, 1024)),
    HostModel("lotus", "LotusD", "IMG_TO_IMG", {**SD20_UNET, "adm_in_channels": 4}, IMAGE, (8, 1024)),
    HostModel("cascade_c", "Stable_Cascade_C", "StableCascadeSampling", {
        "stable_cascade_stage": "c", "c_cond": 64, "c_hidden": [64, 64], "nhead": [2, 2],
        "blocks": [[1, 1], [1, 1]]}, ((16, 8, 8),), (8, 1280), 1280),
    HostModel("cascade_b", "Stable_Cascade_B", "StableCascadeSampling", {
        "stable_cascade_stage": "b", "c_cond": 64, "c_hidden": [32, 32, 64, 64], "nhead": [-1, -1, 2, 2],
        "blocks": [[1, 1, 1, 1], [1, 1, 1, 1]], "block_repeat": [[1, 1, 1, 1], [1, 1, 1, 1]]},
        ((4, 16, 16),), (8, 1280), 1280),
)  # fmt: skip

FLUX2_UNET = {**FLUX_UNET, "image_model": "flux2", "in_channels": 128, "out_channels": 128, "patch_size": 1,
              "vec_in_dim": None, "axes_dim": [8, 8, 8, 8], "mlp_ratio": 3.0, "theta": 2000, "context_in_dim": 64,
              "global_modulation": True, "mlp_silu_act": True, "qkv_bias": False, "ops_bias": False,
              "default_ref_method": "index", "ref_index_scale": 10.0, "txt_ids_dims": [3],
              "guidance_embed": True}  # fmt: skip
CHROMA_UNET = {**{key: value for key, value in FLUX_UNET.items() if key != "guidance_embed"}, "image_model": "chroma",
               "in_channels": 64, "out_channels": 64, "in_dim": 64, "out_dim": 64, "hidden_dim": 64, "n_layers": 2}
LUMINA_UNET = {"image_model": "lumina2", "patch_size": 2, "in_channels": 16, "dim": 64, "cap_feat_dim": 96,
               "n_layers": 2, "n_refiner_layers": 1, "qk_norm": True, "n_heads": 2, "n_kv_heads": 1,
               "axes_dims": [8, 12, 12], "axes_lens": [300, 512, 512], "rope_theta": 10000.0,
               "ffn_dim_multiplier": 4.0, "multiple_of": 32}  # fmt: skip
ZIMAGE_UNET = {**LUMINA_UNET, "dim": 256, "n_heads": 8, "n_kv_heads": 8, "rope_theta": 256.0,
               "ffn_dim_multiplier": 8.0 / 3.0,
               "z_image_modulation": True, "time_scale": 1000.0, "pad_tokens_multiple": 32}  # fmt: skip
PIXELDIT_UNET = {"image_model": "pixeldit_t2i", "num_groups": 2, "hidden_size": 64, "pixel_hidden_size": 8,
                 "pixel_attn_hidden_size": 32, "pixel_num_groups": 2, "patch_depth": 2, "pixel_depth": 1,
                 "patch_size": 8, "txt_embed_dim": 96}  # fmt: skip
PIXART_UNET = {"image_model": "pixart_sigma", "num_heads": 2, "patch_size": 2, "hidden_size": 96, "in_channels": 4,
               "depth": 2, "input_size": 16, "pe_interpolation": 1, "micro_condition": False,
               "model_max_length": 16}  # fmt: skip
HYDIT_UNET = {"image_model": "hydit", "depth": 2, "hidden_size": 64, "num_heads": 2, "input_size": 16, "text_len": 8,
              "text_len_t5": 8}
HYDIT_TEXT = {"attention_mask": torch.ones(1, 8), "conditioning_mt5xl": draw(3, 1, 8, 2048),
              "attention_mask_mt5xl": torch.ones(1, 8)}  # fmt: skip

IMAGES = (
    HostModel("sd35", "SD3", "CONST", {**SD3_UNET, "x_block_self_attn_layers": [0]}, ((16, 8, 8),), (8, 4096), 2048),
    HostModel("aura_flow", "AuraFlow", "CONST", {"dim": 64, "n_layers": 2, "n_double_layers": 1, "n_heads": 2,
              "global_conddim": 64, "cond_seq_dim": 96, "max_seq": 256}, IMAGE, (8, 96), scheduler="simple"),
    HostModel("pixart_alpha", "PixArtAlpha", "EPS", {**PIXART_UNET, "image_model": "pixart_alpha",
              "micro_condition": True}, ((4, 48, 48),), (8, 4096), extras={"width": 384, "height": 384}),
    HostModel("pixart_sigma", "PixArtSigma", "EPS", PIXART_UNET, ((4, 48, 48),), (8, 4096)),
    HostModel("hunyuan_dit", "HunyuanDiT", "V_PREDICTION", HYDIT_UNET, IMAGE, (8, 1024), extras=HYDIT_TEXT),
    HostModel("flux_dev", "Flux", "CONST", {**FLUX_UNET, "guidance_embed": True}, ((16, 8, 8),), (8, 4096), 768,
              extras={"guidance": 3.5}, scheduler="simple"),
    HostModel("flux_fill", "FluxInpaint", "CONST", {**FLUX_UNET, "in_channels": 96, "guidance_embed": True},
              ((16, 8, 8),), (8, 4096), 768, scheduler="simple"),
    HostModel("flux_schnell", "FluxSchnell", "CONST", FLUX_UNET, ((16, 8, 8),), (8, 4096), 768, scheduler="simple"),
    HostModel("flux2", "Flux2", "CONST", FLUX2_UNET, ((128, 8, 8),), (8, 64), scheduler="simple"),
    HostModel("lens", "Lens", "CONST", {"image_model": "lens", "in_channels": 128, "out_channels": 32,
              "num_layers": 2, "num_attention_heads": 2, "attention_head_dim": 32, "axes_dims_rope": (8, 12, 12),
              "enc_hidden_dim": 48, "selected_layer_index": (0, 1)}, ((128, 8, 8),), (8, 96), scheduler="simple"),
    HostModel("longcat", "LongCatImage", "CONST", {**FLUX_UNET, "vec_in_dim": None, "context_in_dim": 96,
              "txt_ids_dims": [1, 2]}, ((16, 8, 8),), (8, 96), scheduler="simple"),
    HostModel("lumina2", "Lumina2", "CONST", LUMINA_UNET, ((16, 8, 8),), (8, 96), scheduler="simple"),
    HostModel("z_image", "ZImage", "CONST", ZIMAGE_UNET, ((16, 8, 8),), (8, 96), scheduler="simple"),
    HostModel("z_image_pixel", "ZImagePixelSpace", "CONST", {**ZIMAGE_UNET, "image_model": "zimage_pixel",
              "patch_size": 8, "in_channels": 3, "decoder_in_channels": 192, "decoder_hidden_size": 32,
              "decoder_num_res_blocks": 1, "decoder_max_freqs": 4}, ((3, 32, 32),), (8, 96), scheduler="simple"),
    HostModel("pixel_dit", "PixelDiTT2I", "CONST", PIXELDIT_UNET, ((3, 32, 32),), (8, 96), scheduler="simple"),
    HostModel("pid", "PiD", "CONST", {**PIXELDIT_UNET, "image_model": "pid", "lq_hidden_dim": 16,
              "lq_num_res_blocks": 1}, ((3, 32, 32),), (8, 96), scheduler="simple",
              extras={"lq_latent": draw(5, 1, 16, 1, 1), "degrade_sigma": torch.tensor([0.2])}),
    HostModel("hidream_o1", "HiDreamO1", "CONST", {"image_model": "hidream_o1", "text_config_overrides": {
              "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 2,
              "num_key_value_heads": 1, "head_dim": 32, "rope_dims": [6, 5, 5]}, "vision_config_overrides": {
              "hidden_size": 32, "num_heads": 2, "intermediate_size": 48, "depth": 1,
              "num_position_embeddings": 16}}, ((3, 64, 64),), (8, 1), extras=hidream_tokens, scheduler="simple"),
    HostModel("hidream", "HiDream", "CONST", {"image_model": "hidream", "attention_head_dim": 32,
              "axes_dims_rope": [8, 12, 12], "caption_channels": [4096, 4096], "max_resolution": [128, 128],
              "in_channels": 16, "out_channels": 16, "patch_size": 2, "llama_layers": [0, 1, 1],
              "num_attention_heads": 2, "num_routed_experts": 2, "num_activated_experts": 1, "num_layers": 1,
              "num_single_layers": 1, "text_emb_dim": 64}, ((16, 8, 8),), (8, 4096), 64,
              extras={"conditioning_llama3": draw(4, 1, 2, 8, 4096)}, scheduler="simple"),
    HostModel("chroma", "Chroma", "CONST", CHROMA_UNET, ((16, 8, 8),), (8, 4096), scheduler="simple"),
    HostModel("omnigen2", "Omnigen2", "CONST", {"image_model": "omnigen2", "axes_dim_rope": [8, 12, 12],
              "axes_lens": [1024, 64, 64], "hidden_size": 64, "in_channels": 16, "multiple_of": 32,
              "num_attention_heads": 2, "num_kv_heads": 1, "num_layers": 2, "num_refiner_layers": 1,
              "patch_size": 2, "text_feat_dim": 96, "timestep_scale": 1000.0}, ((16, 8, 8),), (8, 96), extras=MASKED,
              scheduler="simple"),
    HostModel("boogu", "Boogu", "CONST", {"image_model": "boogu", "axes_dim_rope": [8, 12, 12],
              "axes_lens": [2048, 64, 64], "hidden_size": 64, "num_attention_heads": 2, "num_kv_heads": 1,
              "multiple_of": 32, "num_layers": 2, "num_double_stream_layers": 1, "num_refiner_layers": 1,
              "instruction_feat_dim": 96}, ((16, 8, 8),), (8, 96), extras=MASKED, scheduler="simple"),
    HostModel("krea2", "Krea2", "CONST", {"image_model": "krea2", "features": 256, "tdim": 64, "txtdim": 128,
              "heads": 2, "kvheads": 1, "multiplier": 2, "layers": 2, "patch": 2, "channels": 16, "txtlayers": 2,
              "txtheads": 1, "txtkvheads": 1}, ((16, 1, 8, 8),), (8, 256), scheduler="simple"),
    HostModel("mage_flow", "MageFlow", "CONST", {"image_model": "mage_flow", "in_channels": 128, "num_layers": 2,
              "attention_head_dim": 32, "num_attention_heads": 2, "axes_dims_rope": (8, 12, 12),
              "joint_attention_dim": 96}, ((128, 8, 8),), (8, 96), scheduler="simple"),
    HostModel("joy_image", "JoyImage", "CONST", {"image_model": "joyimage", "hidden_size": 128,
              "num_attention_heads": 1, "text_dim": 96, "num_layers": 2},
              ((16, 1, 8, 8),), (8, 96), scheduler="simple"),
    HostModel("ernie", "ErnieImage", "CONST", {"image_model": "ernie", "hidden_size": 64, "num_attention_heads": 2,
              "num_layers": 2, "ffn_hidden_size": 96, "text_in_dim": 96, "rope_axes_dim": (8, 12, 12)},
              ((128, 8, 8),), (8, 96), scheduler="simple"),
    HostModel("qwen_layered", "QwenImage", "CONST", {**QWEN_UNET, "use_additional_t_cond": True,
              "default_ref_method": "negative_index"}, ((16, 1, 8, 8),), (8, 3584), scheduler="simple"),
)  # fmt: skip

HUNYUAN_UNET = {"image_model": "hunyuan_video", "in_channels": 16, "out_channels": 16, "patch_size": [1, 2, 2],
                "vec_in_dim": 768, "axes_dim": [8, 12, 12], "meanflow": False, "context_in_dim": 96,
                "hidden_size": 64, "mlp_ratio": 2.0, "num_heads": 2, "depth": 1, "depth_single_blocks": 1,
                "theta": 256, "qkv_bias": True, "byt5": False, "guidance_embed": True,
                "use_cond_type_embedding": False, "vision_in_dim": None, "meanflow_sum": False}  # fmt: skip
HUNYUAN15_UNET = {**HUNYUAN_UNET, "in_channels": 65, "out_channels": 32, "patch_size": [1, 1, 1], "vec_in_dim": None,
                  "guidance_embed": False, "use_cond_type_embedding": True, "byt5": True}  # fmt: skip
COSMOS_UNET = {"image_model": "cosmos", "max_img_h": 240, "max_img_w": 240, "max_frames": 128, "in_channels": 16,
               "out_channels": 16, "patch_spatial": 2, "patch_temporal": 1, "model_channels": 64,
               "block_config": "FA-CA-MLP", "concat_padding_mask": True, "pos_emb_cls": "rope3d",
               "pos_emb_learnable": False, "pos_emb_interpolation": "crop", "block_x_format": "THWBD",
               "affline_emb_norm": True, "use_adaln_lora": True, "adaln_lora_dim": 16, "num_blocks": 2,
               "num_heads": 2, "crossattn_emb_channels": 96, "extra_per_block_abs_pos_emb": True,
               "extra_per_block_abs_pos_emb_type": "learnable"}  # fmt: skip
PREDICT2_UNET = {"image_model": "cosmos_predict2", "max_img_h": 240, "max_img_w": 240, "max_frames": 128,
                 "in_channels": 16, "out_channels": 16, "patch_spatial": 2, "patch_temporal": 1,
                 "model_channels": 64, "concat_padding_mask": True, "crossattn_emb_channels": 96,
                 "pos_emb_cls": "rope3d", "pos_emb_learnable": True, "pos_emb_interpolation": "crop", "min_fps": 1,
                 "max_fps": 30, "use_adaln_lora": True, "adaln_lora_dim": 16, "num_blocks": 2, "num_heads": 2,
                 "rope_enable_fps_modulation": False}  # fmt: skip
COGVIDEO_UNET = {"image_model": "cogvideox", "num_attention_heads": 2, "attention_head_dim": 32, "in_channels": 16,
                 "out_channels": 16, "time_embed_dim": 64, "num_layers": 2, "patch_size": 2, "text_embed_dim": 96,
                 "sample_width": 8, "sample_height": 8, "sample_frames": 9, "max_text_seq_length": 8,
                 "use_rotary_positional_embeddings": True}  # fmt: skip
KANDINSKY_UNET = {"image_model": "kandinsky5", "model_dim": 64, "axes_dims": (8, 12, 12), "time_dim": 32,
                  "ff_dim": 96, "visual_embed_dim": 132, "num_text_blocks": 1, "num_visual_blocks": 2,
                  "in_text_dim": 96}  # fmt: skip
LTXV_UNET = {"image_model": "ltxv", "num_layers": 2, "attention_head_dim": 32, "num_attention_heads": 2,
             "cross_attention_dim": 64, "caption_channels": 96}  # fmt: skip

VIDEOS = (
    HostModel("ltxv", "LTXV", "CONST", LTXV_UNET, ((128, 2, 4, 4),), (8, 96), extras=MASKED, scheduler="simple"),
    HostModel("hunyuan_video", "HunyuanVideo", "CONST", HUNYUAN_UNET, VIDEO, (8, 96), 768, scheduler="simple"),
    HostModel("hunyuan_i2v", "HunyuanVideoI2V", "CONST", {**HUNYUAN_UNET, "in_channels": 33}, VIDEO, (8, 96), 768,
              scheduler="simple"),
    HostModel("skyreels_i2v", "HunyuanVideoSkyreelsI2V", "CONST", {**HUNYUAN_UNET, "in_channels": 32}, VIDEO,
              (8, 96), 768, scheduler="simple"),
    HostModel("hunyuan_image21", "HunyuanImage21", "CONST", {**HUNYUAN_UNET, "in_channels": 64, "out_channels": 64,
              "patch_size": [1, 1], "axes_dim": [16, 16], "vec_in_dim": None, "byt5": True, "meanflow": True},
              ((64, 8, 8),), (8, 96), extras={"conditioning_byt5small": draw(5, 1, 4, 1472)}, scheduler="simple"),
    HostModel("hunyuan_video15", "HunyuanVideo15", "CONST", HUNYUAN15_UNET, ((32, 2, 4, 4),), (8, 96), 768,
              scheduler="simple"),
    HostModel("hunyuan_video15_sr", "HunyuanVideo15_SR_Distilled", "CONST", {**HUNYUAN15_UNET, "in_channels": 98},
              ((32, 2, 4, 4),), (8, 96), 768, scheduler="simple"),
    HostModel("cosmos", "CosmosT2V", "EDM", COSMOS_UNET, VIDEO, (8, 96), scheduler="karras"),
    HostModel("cosmos_i2v", "CosmosI2V", "EDM", {**COSMOS_UNET, "in_channels": 17}, VIDEO, (8, 96),
              scheduler="karras"),
    HostModel("cosmos_predict2", "CosmosT2IPredict2", "COSMOS_RFLOW", PREDICT2_UNET, ((16, 1, 8, 8),), (8, 96)),
    HostModel("cosmos_predict2_i2v", "CosmosI2VPredict2", "COSMOS_RFLOW", {**PREDICT2_UNET, "in_channels": 17},
              VIDEO, (8, 96)),
    HostModel("cogvideo", "CogVideoX_T2V", "V_PREDICTION", COGVIDEO_UNET, VIDEO, (8, 96)),
    HostModel("cogvideo_i2v", "CogVideoX_I2V", "V_PREDICTION", {**COGVIDEO_UNET, "in_channels": 32}, VIDEO, (8, 96)),
    HostModel("cogvideo_inpaint", "CogVideoX_Inpaint", "V_PREDICTION", {**COGVIDEO_UNET, "in_channels": 48}, VIDEO,
              (8, 96)),
    HostModel("kandinsky5", "Kandinsky5", "CONST", KANDINSKY_UNET, VIDEO, (8, 96), 768, scheduler="simple"),
    HostModel("kandinsky5_image", "Kandinsky5Image", "CONST", {**KANDINSKY_UNET, "visual_embed_dim": 64,
              "rope_scale_factor": (1.0, 1.0, 1.0)}, ((16, 1, 8, 8),), (8, 96), 768, scheduler="simple"),
    HostModel("seedvr2", "SeedVR2", "CONST", {"image_model": "seedvr2", "vid_dim": 64, "heads": 2, "head_dim": 32,
              "num_layers": 2, "mm_layers": 1, "norm_eps": 1e-5, "mlp_type": "swiglu", "rope_dim": 24,
              "txt_in_dim": 5120, "expand_ratio": 2}, VIDEO, (8, 5120),
              extras={"condition": draw(6, 1, 17, 3, 8, 8)}, scheduler="simple"),
)  # fmt: skip

WANS = (
    HostModel("wan_i2v", "WAN21_I2V", "CONST", {**WAN_UNET, "model_type": "i2v", "in_dim": 36}, VIDEO, (8, 4096),
              scheduler="simple"),
    HostModel("wan_causal", "WAN21_CausalAR_T2V", "CONST", WAN_UNET, VIDEO, (8, 4096), scheduler="simple"),
    HostModel("wan_fun_control", "WAN21_FunControl2V", "CONST", {**WAN_UNET, "model_type": "i2v", "in_dim": 48},
              VIDEO, (8, 4096), scheduler="simple"),
    HostModel("wan_camera", "WAN21_Camera", "CONST", {**WAN_UNET, "model_type": "camera", "in_dim": 32}, VIDEO,
              (8, 4096), scheduler="simple"),
    HostModel("wan22_camera", "WAN22_Camera", "CONST", {**WAN_UNET, "model_type": "camera_2.2", "in_dim": 36}, VIDEO,
              (8, 4096), scheduler="simple"),
    HostModel("wan_vace", "WAN21_Vace", "CONST", {**WAN_UNET, "model_type": "vace", "vace_layers": 1,
              "vace_in_dim": 96}, VIDEO, (8, 4096), scheduler="simple"),
    HostModel("wan_humo", "WAN21_HuMo", "CONST", {**WAN_UNET, "model_type": "humo", "in_dim": 16}, VIDEO, (8, 4096),
              scheduler="simple"),
    HostModel("wan_s2v", "WAN22_S2V", "CONST", {**WAN_UNET, "model_type": "s2v"}, VIDEO, (8, 4096),
              scheduler="simple"),
    HostModel("wan_animate", "WAN22_Animate", "CONST", {**WAN_UNET, "model_type": "animate", "in_dim": 36}, VIDEO,
              (8, 4096), scheduler="simple"),
    HostModel("wan22", "WAN22_T2V", "CONST", {**WAN_UNET, "in_dim": 48, "out_dim": 48}, ((48, 2, 8, 8),), (8, 4096),
              scheduler="simple"),
    HostModel("wan_flow_rvs", "WAN21_FlowRVS", "IMG_TO_IMG_FLOW", WAN_UNET, VIDEO, (8, 4096), scheduler="simple"),
    HostModel("wan_scail", "WAN21_SCAIL", "CONST", {**WAN_UNET, "model_type": "scail", "in_dim": 20}, VIDEO,
              (8, 4096), scheduler="simple"),
    HostModel("wan_scail2", "WAN21_SCAIL2", "CONST", {**WAN_UNET, "model_type": "scail2", "in_dim": 20}, VIDEO,
              (8, 4096), scheduler="simple"),
    HostModel("wan_dancer", "WAN22_WanDancer", "CONST", {**WAN_UNET, "model_type": "wandancer", "in_dim": 36,
              "music_dim": 32, "audio_inject_layers": [0]}, VIDEO, (8, 4096), scheduler="simple"),
)  # fmt: skip

OTHERS = (
    HostModel("stable_audio3", "StableAudio3", "CONST", {"audio_model": "dit1.0", "embed_dim": 64, "depth": 2,
              "num_heads": 2, "project_cond_tokens": True, "io_channels": 256, "global_cond_dim": 768,
              "global_cond_type": "adaLN", "timestep_features_type": "expo", "local_add_cond_dim": 257,
              "global_cond_shared_embed": True}, ((256, 32),), (8, 768), hints=seconds_total, scheduler="simple"),
    HostModel("hunyuan3d", "Hunyuan3Dv2", "CONST", {"image_model": "hunyuan3d2", "in_channels": 64,
              "context_in_dim": 96, "hidden_size": 64, "mlp_ratio": 2.0, "num_heads": 2, "depth": 1,
              "depth_single_blocks": 1}, ((64, 32),), (8, 96), scheduler="simple"),
    HostModel("hunyuan3d_21", "Hunyuan3Dv2_1", "CONST", {"image_model": "hunyuan3d2_1", "in_channels": 64,
              "context_dim": 96, "hidden_size": 64, "num_heads": 2, "depth": 3, "guidance_cond_proj_dim": None,
              "num_moe_layers": 1, "num_experts": 2, "moe_top_k": 1}, ((64, 32),), (8, 96), scheduler="simple"),
    HostModel("minimax_h3", "MiniMaxH3", "CONST", {"image_model": "minimax_h3", "hidden_size": 64, "num_layers": 2,
              "token_refiner_num_layers": 1, "num_attention_heads": 2, "attention_head_dim": 32,
              "ffn_hidden_size": 96, "text_dim": 96, "time_embed_hidden_size": 64, "time_embed_dim": 32,
              "rope_inv_freq_len": 4}, ((24, 2, 8, 8), (32, 2, 8)), (8, 96), scheduler="simple"),
    HostModel("tripo_splat", "TripoSplat", "CONST", {"image_model": "triposplat", "q_token_length": 64,
              "model_channels": 64, "cond_channels": 96, "num_blocks": 2, "num_refiner_blocks": 1,
              "num_head_channels": 32}, ((64, 16), (1, 5)), (8, 96), scheduler="simple"),
)  # fmt: skip

EVERY = {spec.name: spec for spec in (*MODELS.values(), *UNETS, *IMAGES, *VIDEOS, *WANS, *OTHERS)}
KNOWN = host_source("supported_models.py")
BUILT = {name: spec for name, spec in EVERY.items() if f"class {spec.config}(" in KNOWN}  # of this ComfyUI
NOT_BUILT = {  # why: classes of comfy.supported_models
    "large whatever their settings": ("Anima", "ACEStep", "HunyuanDiT1", "Ideogram4", "GenmoMochi"),
    "latents that ComfyUI packs in a way of its own": ("HunyuanImage21Refiner",),
    "the network of another in the table, of another size": (
        "SD21UnclipH", "SSD1B", "Segmind_Vega", "KOALA_700M", "KOALA_1B", "Hunyuan3Dv2mini"
    ),
    "no diffusion models": ("RT_DETR_v4", "DepthAnything3", "SAM3", "SAM31"),
}  # fmt: skip
