"""ADM's and GLIDE's networks a second time: plain functions of a state dict, from the formulas, picture by picture.

No module of the pack is used. The way through the network is found from the names in the state dict, group
normalisation and attention are sums written out, convolution is a matrix product of patches.
"""

import math
import re

import torch
import torch.nn.functional as F


def swish(x):
    return x / (1 + torch.exp(-x))


def group_norm(x, weight, bias, groups=32):
    """[C, ...]: each group of channels to mean 0 and variance 1, then the channels' gains and offsets."""
    flat = x.reshape(groups, -1)
    mean = flat.mean(1, keepdim=True)
    variance = ((flat - mean) ** 2).mean(1, keepdim=True)
    normal = ((flat - mean) / (variance + 1e-5).sqrt()).reshape(x.shape)
    tail = (1,) * (x.ndim - 1)
    return normal * weight.reshape(-1, *tail) + bias.reshape(-1, *tail)


def convolution(x, weight, bias):
    """[C, H, W] with zeros around it -> [O, H, W], kernels 1 or 3 wide."""
    out, _, size, _ = weight.shape
    padded = F.pad(x, (size // 2,) * 4)
    height, width = x.shape[1:]
    shifted = [padded[:, i : i + height, j : j + width] for i in range(size) for j in range(size)]
    patches = torch.stack(shifted, 1).reshape(-1, height * width)
    return (weight.reshape(out, -1) @ patches + bias[:, None]).reshape(out, height, width)


def per_place(x, weight, bias):
    """[C, L] -> [O, L]."""
    return weight[:, :, 0] @ x + bias[:, None]


def embedding_of(t, state):
    channels = state["time_embed.0.weight"].shape[1]
    half = channels // 2
    rates = [math.exp(-math.log(10000) * i / half) for i in range(half)]
    waves = [math.cos(t * r) for r in rates] + [math.sin(t * r) for r in rates]
    waves = torch.tensor(waves, dtype=torch.float64).to(state["time_embed.0.weight"])
    hidden = swish(state["time_embed.0.weight"] @ waves + state["time_embed.0.bias"])
    return state["time_embed.2.weight"] @ hidden + state["time_embed.2.bias"]


def doubled(x):
    return x[:, :, None, :, None].expand(-1, -1, 2, -1, 2).reshape(x.shape[0], 2 * x.shape[1], 2 * x.shape[2])


def halved(x):
    return (x[:, ::2, ::2] + x[:, 1::2, ::2] + x[:, ::2, 1::2] + x[:, 1::2, 1::2]) / 4


def residual(x, embedding, at, resize=lambda x: x):
    """at(name): a tensor of this block."""
    hidden = resize(swish(group_norm(x, at("in_layers.0.weight"), at("in_layers.0.bias"))))
    hidden = convolution(hidden, at("in_layers.2.weight"), at("in_layers.2.bias"))
    modulation = at("emb_layers.1.weight") @ swish(embedding) + at("emb_layers.1.bias")
    scale, shift = modulation[: len(hidden), None, None], modulation[len(hidden) :, None, None]
    hidden = group_norm(hidden, at("out_layers.0.weight"), at("out_layers.0.bias")) * (1 + scale) + shift
    hidden = convolution(swish(hidden), at("out_layers.3.weight"), at("out_layers.3.bias"))
    x = resize(x)
    if at("skip_connection.weight") is not None:
        x = convolution(x, at("skip_connection.weight"), at("skip_connection.bias"))
    return x + hidden


def heads_of(qkv, heads, order):
    """(q, k, v) [D, L] of every head of [3 C, L]: row by row, whatever the order."""
    depth = len(qkv) // (3 * heads)
    for head in range(heads):
        if order == "legacy":
            starts = [3 * depth * head + depth * which for which in range(3)]
        else:
            starts = [depth * heads * which + depth * head for which in range(3)]
        yield [qkv[start : start + depth] for start in starts]


def attention(qkv, heads, order, beside=None):
    """[3 C, L] -> [C, L]. beside: [2 C, T], k and v of a text's places, head by head."""
    mixed = []
    for head, (q, k, v) in enumerate(heads_of(qkv, heads, order)):
        if beside is not None:
            depth, start = len(q), 2 * len(q) * head
            k = torch.cat([beside[start : start + depth], k], 1)
            v = torch.cat([beside[start + depth : start + 2 * depth], v], 1)
        scale = 1 / math.sqrt(math.sqrt(len(q)))
        scores = (q * scale).T @ (k * scale)
        weights = torch.exp(scores - scores.max(1, keepdim=True).values)
        mixed.append(v @ (weights / weights.sum(1, keepdim=True)).T)
    return torch.cat(mixed)


def attended(x, at, heads, order, text=None):
    places = x.reshape(len(x), -1)
    qkv = per_place(group_norm(places, at("norm.weight"), at("norm.bias")), at("qkv.weight"), at("qkv.bias"))
    beside = None if text is None else per_place(text, at("encoder_kv.weight"), at("encoder_kv.bias"))
    mixed = per_place(attention(qkv, heads, order, beside), at("proj_out.weight"), at("proj_out.bias"))
    return (places + mixed).reshape(x.shape)


def pooled(x, at, heads):
    """[C, h, w] -> [K]: attention of the mean over all places."""
    places = x.reshape(len(x), -1)
    places = torch.cat([places.mean(1, keepdim=True), places], 1) + at("positional_embedding")
    mixed = attention(per_place(places, at("qkv_proj.weight"), at("qkv_proj.bias")), heads, "new")
    return per_place(mixed, at("c_proj.weight"), at("c_proj.bias"))[:, 0]


class Walk:
    """Goes through the numbered blocks of a state dict. Every (res_blocks + 1)th block changes the size."""

    def __init__(self, state, embedding, res_blocks, heads, order, text=None):
        self.text = text
        self.state, self.embedding, self.each = state, embedding, res_blocks + 1
        self.heads, self.order = heads, order

    def block(self, prefix, x, resize=None):
        for index in range(3):
            at = lambda name, i=index: self.state.get(f"{prefix}.{i}.{name}")  # noqa: E731
            if at("in_layers.0.weight") is not None:
                changes = resize is not None and (index > 0 or prefix.startswith("input"))
                x = residual(x, self.embedding, at, resize) if changes else residual(x, self.embedding, at)
            elif at("qkv.weight") is not None:
                x = attended(x, at, self.heads(len(x)), self.order, self.text)
        return x

    def down(self, x):
        x = convolution(x, self.state["input_blocks.0.0.weight"], self.state["input_blocks.0.0.bias"])
        kept = [x]
        for n in range(1, self.count("input_blocks")):
            x = self.block(f"input_blocks.{n}", x, halved if n % self.each == 0 else None)
            kept.append(x)
        return self.block("middle_block", x), kept

    def up(self, x, kept):
        count = self.count("output_blocks")
        for n in range(count):
            last = (n + 1) % self.each == 0 and n + 1 < count
            x = self.block(f"output_blocks.{n}", torch.cat([x, kept.pop()]), doubled if last else None)
        return x

    def count(self, blocks):
        return 1 + max(int(re.match(rf"{blocks}\.(\d+)\.", key)[1]) for key in self.state if key.startswith(blocks))


def layer_norm(x, weight, bias):
    """[T, C]: each row to mean 0 and variance 1, then the channels' gains and offsets."""
    centred = x - x.mean(1, keepdim=True)
    return centred / ((centred**2).mean(1, keepdim=True) + 1e-5).sqrt() * weight + bias


def text_of(state, tokens, heads):
    """GLIDE's transformer over tokens (None = padding): what is added to the embedding, and every place [C, T]."""
    rows = [
        state["padding_embedding"][place] if token is None
        else state["token_embedding.weight"][token] + state["positional_embedding"][place]
        for place, token in enumerate(tokens)
    ]
    x = torch.stack(rows)
    for n in range(1 + max(int(key.split(".")[2]) for key in state if key.startswith("transformer."))):
        at = lambda name, n=n: state[f"transformer.resblocks.{n}.{name}"]  # noqa: E731
        linear = lambda y, name, at=at: y @ at(f"{name}.weight").T + at(f"{name}.bias")  # noqa: E731
        normal = layer_norm(x, at("ln_1.weight"), at("ln_1.bias"))
        x = x + linear(attention(linear(normal, "attn.c_qkv").T, heads, "legacy").T, "attn.c_proj")
        inner = linear(layer_norm(x, at("ln_2.weight"), at("ln_2.bias")), "mlp.c_fc")
        x = x + linear(inner / 2 * (1 + torch.erf(inner / math.sqrt(2))), "mlp.c_proj")
    x = layer_norm(x, state["final_ln.weight"], state["final_ln.bias"])
    return state["transformer_proj.weight"] @ x[-1] + state["transformer_proj.bias"], x.T


def unet(state, x, t, label=None, *, res_blocks, heads, order, tokens=None, text_heads=1):
    """One picture [C, H, W] at timestep t: all the channels that the network gives."""
    embedding, text = embedding_of(t, state), None
    if label is not None:
        embedding = embedding + state["label_emb.weight"][label]
    if tokens is not None:
        short, text = text_of(state, tokens, text_heads)
        embedding = embedding + short
    walk = Walk(state, embedding, res_blocks, heads, order, text)
    hidden = walk.up(*walk.down(x))
    hidden = swish(group_norm(hidden, state["out.0.weight"], state["out.0.bias"]))
    return convolution(hidden, state["out.2.weight"], state["out.2.bias"])


def classifier(state, x, t, *, res_blocks, heads):
    """Class scores [K] of one noisy picture."""
    hidden, _ = Walk(state, embedding_of(t, state), res_blocks, heads, "legacy").down(x)
    hidden = swish(group_norm(hidden, state["out.0.weight"], state["out.0.bias"]))
    return pooled(hidden, lambda name: state.get(f"out.2.{name}"), heads(len(hidden)))


def linear_alpha_bars():
    betas = [1e-4 + (0.02 - 1e-4) * i / 999 for i in range(1000)]
    return torch.cumprod(torch.tensor([1 - beta for beta in betas], dtype=torch.float64), 0)


def cosine_alpha_bars():
    f = [math.cos((i / 1000 + 0.008) / 1.008 * math.pi / 2) ** 2 for i in range(1001)]
    return torch.cumprod(
        torch.tensor([1 - min(1 - after / before, 0.999) for before, after in zip(f, f[1:], strict=False)],
                     dtype=torch.float64), 0
    )


def ddim(noise_of, start, alpha_bars, steps, gradient=None, scale=0.0, limit=math.inf):
    """ADM's deterministic sampler from unit noise; with a gradient, ADM's condition_score.

    noise_of, gradient: functions of (x in VP coordinates [B, 3, H, W], timestep) -> [B, 3, H, W].
    steps: timesteps, falling. limit: of the estimate before guidance (clip_denoised: 1).
    """
    x = start
    for t, kept, after in spaced(alpha_bars, steps):
        clean = (x / math.sqrt(kept) - math.sqrt(1 / kept - 1) * noise_of(x, t)).clamp(-limit, limit)
        noise = (x / math.sqrt(kept) - clean) / math.sqrt(1 / kept - 1)
        if gradient is not None:
            noise = noise - math.sqrt(1 - kept) * scale * gradient(x, t)
        clean = x / math.sqrt(kept) - math.sqrt(1 / kept - 1) * noise
        x = math.sqrt(after) * clean + math.sqrt(1 - after) * noise
    return x


def ddpm(noise_of, start, alpha_bars, steps, draws, gradient, scale, limit=math.inf):
    """ADM's ancestral sampler with the posterior variance, and condition_mean. draws: unit noise for each step."""
    x = start
    for (t, kept, after), drawn in zip(spaced(alpha_bars, steps), draws, strict=True):
        clean = (x / math.sqrt(kept) - math.sqrt(1 / kept - 1) * noise_of(x, t)).clamp(-limit, limit)
        beta = 1 - kept / after
        variance = beta * (1 - after) / (1 - kept)
        mean = (beta * math.sqrt(after) * clean + (1 - after) * math.sqrt(1 - beta) * x) / (1 - kept)
        x = mean + variance * scale * gradient(x, t) + math.sqrt(variance) * drawn
    return x


def spaced(alpha_bars, steps):
    """(timestep, its alpha_bar, that of the step after it)"""
    kept = [float(alpha_bars[t]) for t in steps]
    return list(zip(steps, kept, [*kept[1:], 1.0], strict=True))
