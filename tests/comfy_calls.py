"""One evaluation of a MODEL's denoiser, through a guider of the host as a sampler makes it."""

import torch


def denoised(model, spec, x, sigma, positive=None, cfg=1.0):
    """The estimate [B, ...] at x [B, ...] and the model's sigma [B], with everything that the MODEL carries.

    spec: the HostModel that gives the prompts. positive: another prompt than the first.
    """
    import comfy.samplers

    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(positive or spec.conditioning(1), spec.conditioning(2))
    guider.set_cfg(cfg)
    found = []

    class Once(comfy.samplers.Sampler):
        def sample(self, model_wrap, sigmas, extra_args, callback, noise, latent_image=None, denoise_mask=None,
                   disable_pbar=False):
            found.append(model_wrap(x.to(noise.device), sigma.to(noise.device), **extra_args).cpu())
            return noise

    empty = torch.zeros_like(x)
    with torch.inference_mode():
        guider.sample(empty, empty, Once(), torch.tensor([float(sigma.max()), 0.0]), disable_pbar=True, seed=0)
    return found[0]
