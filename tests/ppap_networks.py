"""PPAP's experts written out again from the paper and the layout of the released files: networks whose state dicts are
such files, and whose forward is theirs (un-merged LoRA, loralib's view of a convolution's change)."""

import json
from pathlib import Path

import torch
import torch.nn.functional as F
from guide_files import randomise
from safetensors.torch import save_file
from torch import nn

RANK, ALPHA = 16, 8
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class LoraConv(nn.Module):
    """A convolution and its change, read as [out, in, k, k] from a product [out k, in k]."""

    def __init__(self, conv):
        super().__init__()
        self.conv, k = conv, conv.kernel_size[0]
        self.lora_A = nn.Parameter(torch.zeros(RANK * k, conv.in_channels * k))
        self.lora_B = nn.Parameter(torch.zeros(conv.out_channels * k, RANK * k))

    def forward(self, x):
        delta = (self.lora_B @ self.lora_A).view(self.conv.weight.shape) * ALPHA / RANK
        return F.conv2d(x, self.conv.weight + delta, self.conv.bias, self.conv.stride, self.conv.padding)


class LoraLinear(nn.Module):
    """A linear layer and its change, which the authors' forward adds without alpha / rank. scale is here to vary it."""

    def __init__(self, linear, scale=1.0):
        super().__init__()
        self.linear, self.scale = linear, scale
        self.lora_A = nn.Parameter(torch.zeros(RANK, linear.in_features))
        self.lora_B = nn.Parameter(torch.zeros(linear.out_features, RANK))

    def forward(self, x):
        return self.linear(x) + self.scale * (x @ self.lora_A.T) @ self.lora_B.T


class Resnet(nn.Module):
    """torchvision's ResNet under `resnet.`, adapted in the stem and in conv1 and conv2 of every block."""

    def __init__(self, network):
        super().__init__()
        self.resnet = network
        network.conv1 = LoraConv(network.conv1)
        for layer in (network.layer1, network.layer2, network.layer3, network.layer4):
            for block in layer:
                block.conv1, block.conv2 = LoraConv(block.conv1), LoraConv(block.conv2)

    def forward(self, x):
        return self.resnet(x)


class Midas(nn.Module):
    """MiDaS small under `midas.`, adapted in every conv_pw, in layerN_rn and in the fusions; pictures in [-1, 1]."""

    def __init__(self, network):
        super().__init__()
        self.midas, scratch = network, network.scratch
        blocks = [b for layer in network.pretrained.children() for part in layer if isinstance(part, nn.Sequential)
                  for b in part]  # fmt: skip
        for block in blocks:
            block.conv_pw = LoraConv(block.conv_pw)
        for number in range(1, 5):
            scratch.add_module(f"layer{number}_rn", LoraConv(scratch.get_submodule(f"layer{number}_rn")))
            fusion = scratch.get_submodule(f"refinenet{number}")
            fusion.out_conv = LoraConv(fusion.out_conv)
            for unit in (fusion.resConfUnit1, fusion.resConfUnit2)[number == 4 :]:
                unit.conv1, unit.conv2 = LoraConv(unit.conv1), LoraConv(unit.conv2)

    def forward(self, x):
        seen = F.interpolate((x + 1) / 2, (256, 256), mode="bilinear", align_corners=False)
        return self.midas((seen - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1))


class TimmVit(nn.Module):
    """A ViT with timm's names."""

    def __init__(self, width=16, depth=2, heads=2, hidden=24, side=24, patch=8, classes=5):
        super().__init__()
        self.heads = heads
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, (side // patch) ** 2 + 1, width))
        self.patch_embed = nn.Module()
        self.patch_embed.proj = nn.Conv2d(3, width, patch, patch)
        self.blocks = nn.ModuleList(self.block(width, hidden) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.head = nn.Linear(width, classes)

    @staticmethod
    def block(width, hidden):
        made = nn.Module()
        made.norm1, made.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        made.attn, made.mlp = nn.Module(), nn.Module()
        made.attn.qkv, made.attn.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        made.mlp.fc1, made.mlp.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)
        return made

    def forward(self, x):
        x = self.patch_embed.proj(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1) + self.pos_embed
        for block in self.blocks:
            q, k, v = block.attn.qkv(block.norm1(x)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
            mixed = (q @ k.transpose(2, 3) / q.shape[-1] ** 0.5).softmax(-1) @ v
            x = x + block.attn.proj(mixed.transpose(1, 2).flatten(2))
            x = x + block.mlp.fc2(F.gelu(block.mlp.fc1(block.norm2(x))))
        return self.head(self.norm(x)[:, 0])


class Deit(nn.Module):
    """A timm ViT under `deit.classifier.`, adapted in attention; it takes pictures in [-1, 1] of any size."""

    def __init__(self, network, scale=1.0, normalised=True, side=24):
        super().__init__()
        self.deit = nn.Module()
        self.deit.classifier = network
        self.normalised, self.side = normalised, side
        for block in network.blocks:
            block.attn.qkv, block.attn.proj = LoraLinear(block.attn.qkv, scale), LoraLinear(block.attn.proj, scale)

    def forward(self, x):
        if self.normalised:
            x = ((x + 1) / 2 - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
        return self.deit.classifier(F.interpolate(x, (self.side, self.side), mode="bilinear", align_corners=False))


def trainable(name, tensor):
    """Whether PPAP's tuning changes a tensor: LoRA, biases and BatchNorm's, all of which are vectors or counters."""
    return "lora_" in name or (tensor.ndim < 2 and not name.startswith("resnet.fc"))


@torch.no_grad()
def tuned(network, seed):
    """Every tensor that tuning changes, changed at random."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in network.state_dict().items():
        if name.endswith("num_batches_tracked"):
            tensor.fill_(1000 + seed)
        elif "lora_" in name:
            tensor.copy_(0.5 * torch.randn(tensor.shape, generator=generator) / tensor.shape[1] ** 0.5)
        elif trainable(name, tensor) and not name.endswith("downsample.1.weight"):
            tensor.mul_(1 + 0.1 * torch.rand(tensor.shape, generator=generator))
    return network.eval()


def clean_vit(seed=0, **shape):
    network = TimmVit(**shape)
    randomise(network, seed)
    return network.eval()


def write_vit(folder: Path, network: TimmVit, side=24) -> Path:
    """The same network as transformers saves it."""
    from transformers import ViTConfig, ViTForImageClassification

    width, depth = network.cls_token.shape[-1], len(network.blocks)
    made = ViTForImageClassification(ViTConfig(
        hidden_size=width, num_hidden_layers=depth, num_attention_heads=network.heads, layer_norm_eps=1e-6,
        intermediate_size=network.blocks[0].mlp.fc1.out_features, image_size=side,
        patch_size=network.patch_embed.proj.kernel_size[0], num_labels=network.head.out_features,
    ))
    pairs = [
        (made.vit.embeddings.patch_embeddings.projection, network.patch_embed.proj),
        (made.vit.layernorm, network.norm), (made.classifier, network.head),
    ]
    for theirs, ours in zip(made.vit.layers, network.blocks, strict=True):
        attention = theirs.attention
        pairs += [
            (theirs.layernorm_before, ours.norm1), (theirs.layernorm_after, ours.norm2),
            (attention.o_proj, ours.attn.proj), (theirs.mlp.fc1, ours.mlp.fc1), (theirs.mlp.fc2, ours.mlp.fc2),
        ]
        for part, layer in enumerate((attention.q_proj, attention.k_proj, attention.v_proj)):
            rows = slice(part * width, (part + 1) * width)
            layer.weight.data, layer.bias.data = ours.attn.qkv.weight.data[rows], ours.attn.qkv.bias.data[rows]
    for theirs, ours in pairs:
        theirs.load_state_dict(ours.state_dict())
    made.vit.embeddings.cls_token.data = network.cls_token.data
    made.vit.embeddings.position_embeddings.data = network.pos_embed.data
    made.save_pretrained(folder)
    preprocessor = {"do_resize": True, "size": {"height": side, "width": side}, "do_rescale": True, "resample": 3,
                    "do_normalize": True, "image_mean": MEAN, "image_std": STD}
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor), "utf-8")
    return folder


def write_resnet(path: Path, network) -> Path:
    save_file({k: v.contiguous() for k, v in network.state_dict().items()}, path, {"architecture": "resnet50"})
    return path
