"""EDM2 a second time, for comparison: plain functions over a state dict, written from the formulas of Karras et al.
2024 (appendix B), sharing nothing with the pack's network. What there is to do is read off the tensors' names.
"""

import math
import re

import torch
import torch.nn.functional as F


def rms_divided(x, axes):
    """x / (1e-4 + root mean square over the axes)."""
    return x / (1e-4 + x.square().mean(dim=axes, keepdim=True).sqrt())


def weight_of(tensors, key):
    w = tensors[key].float()
    unit = rms_divided(w, tuple(range(1, w.ndim)))
    return unit / math.sqrt(w[0].numel())


def conv(tensors, key, x):
    w = weight_of(tensors, key)
    return F.conv2d(x, w, padding=w.shape[-1] // 2)


def dense(tensors, key, x):
    return x @ weight_of(tensors, key).T


def mp_silu(x):
    return x * torch.sigmoid(x) / 0.596


def mp_sum(a, b, t):
    return ((1 - t) * a + t * b) / ((1 - t) ** 2 + t**2) ** 0.5


def mp_cat(a, b, t):
    na, nb = a.shape[1], b.shape[1]
    c = ((na + nb) / ((1 - t) ** 2 + t**2)) ** 0.5
    return torch.cat([c / na**0.5 * (1 - t) * a, c / nb**0.5 * t * b], dim=1)


def fourier(tensors, key, values):
    angles = torch.outer(values, tensors[f"{key}.freqs"].float()) + tensors[f"{key}.phases"].float()
    return angles.cos() * 2**0.5


def halved(x):
    return (x[..., ::2, ::2] + x[..., 1::2, ::2] + x[..., ::2, 1::2] + x[..., 1::2, 1::2]) / 4


def doubled(x):
    return x.repeat_interleave(2, dim=-1).repeat_interleave(2, dim=-2)


def attention(tensors, block, x, channels_per_head):
    b, c, h, w = x.shape
    heads = c // channels_per_head
    y = conv(tensors, f"{block}.attn_qkv.weight", x).reshape(b, heads, c // heads, 3, h * w)
    q, k, v = rms_divided(y, 2).unbind(3)
    shares = torch.einsum("nhcq,nhck->nhqk", q, k / (c // heads) ** 0.5).softmax(dim=3)
    y = torch.einsum("nhqk,nhck->nhcq", shares, v).reshape(b, c, h, w)
    return conv(tensors, f"{block}.attn_proj.weight", y)


def block(tensors, name, x, embedding, channels_per_head=64):
    encoder, skip = ".enc." in name, f"{name}.conv_skip.weight"
    x = halved(x) if name.endswith("_down") else doubled(x) if name.endswith("_up") else x
    if encoder and skip in tensors:
        x = conv(tensors, skip, x)
    if encoder:
        x = rms_divided(x, 1)
    c = dense(tensors, f"{name}.emb_linear.weight", embedding) * tensors[f"{name}.emb_gain"].float() + 1
    y = conv(tensors, f"{name}.conv_res0.weight", mp_silu(x))
    y = conv(tensors, f"{name}.conv_res1.weight", mp_silu(y * c[:, :, None, None]))
    if not encoder and skip in tensors:
        x = conv(tensors, skip, x)
    x = mp_sum(x, y, 0.3)
    if f"{name}.attn_qkv.weight" in tensors:
        x = mp_sum(x, attention(tensors, name, x, channels_per_head), 0.3)
    return x.clip(-256, 256)


def embed(tensors, c_noise, labels):
    """labels: [B, classes], one-hot, or None."""
    embedding = dense(tensors, "unet.emb_noise.weight", fourier(tensors, "unet.emb_fourier", c_noise))
    if "unet.emb_label.weight" in tensors:
        count = tensors["unet.emb_label.weight"].shape[1]
        labels = torch.zeros(len(c_noise), count) if labels is None else labels
        embedding = mp_sum(embedding, dense(tensors, "unet.emb_label.weight", labels * count**0.5), 0.5)
    return mp_silu(embedding)


def network(tensors, x, c_noise, labels=None, channels_per_head=64):
    """F(x; c_noise, labels)."""
    names = list(dict.fromkeys(found[0] for key in tensors if (found := re.match(r"unet\.(enc|dec)\.\w+", key))))
    embedding = embed(tensors, c_noise, labels)
    x, skips = torch.cat([x, torch.ones(len(x), 1, *x.shape[2:])], dim=1), []
    for name in names:
        if ".enc." in name and name.endswith("_conv"):
            x = conv(tensors, f"{name}.weight", x)
        else:
            joined = mp_cat(x, skips.pop(), 0.5) if ".dec." in name and "_block" in name else x
            x = block(tensors, name, joined, embedding, channels_per_head)
        if ".enc." in name:
            skips.append(x)
    return conv(tensors, "unet.out_conv.weight", x) * tensors["unet.out_gain"].float()


def denoiser(tensors, x, sigma, labels=None, channels_per_head=64):
    """D(x; sigma, labels) for sigma [B]."""
    s = sigma.view(-1, 1, 1, 1)
    total = s**2 + 0.5**2
    output = network(tensors, x / total.sqrt(), sigma.log() / 4, labels, channels_per_head)
    return 0.25 / total * x + s * 0.5 / total.sqrt() * output


def heun(denoise, x, steps, low=0.002, high=80.0, rho=7.0):
    """EDM's deterministic sampler: Heun's second order, Euler in the last step. denoise(x, sigma)."""
    ramp = torch.linspace(0, 1, steps, dtype=torch.float64)
    sigmas = (high ** (1 / rho) + ramp * (low ** (1 / rho) - high ** (1 / rho))) ** rho
    sigmas = [*sigmas.tolist(), 0.0]
    for now, then in zip(sigmas[:-1], sigmas[1:], strict=True):
        slope = (x - denoise(x, now)) / now
        guess = x + (then - now) * slope
        if then > 0:
            slope = (slope + (guess - denoise(guess, then)) / then) / 2
        x = x + (then - now) * slope
    return x


def random_tensors(shapes, seed=0):
    """A state dict of the given shapes whose every part matters: gains about 1, frequencies and phases as trained."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, shape in shapes.items():
        noise = torch.randn(shape, generator=generator)
        if name.endswith(".freqs"):
            noise = 2 * math.pi * noise
        elif name.endswith(".phases"):
            noise = 2 * math.pi * torch.rand(shape, generator=generator)
        elif name.endswith("_gain"):
            noise = 1 + 0.3 * noise
        tensors[name] = noise
    return tensors
