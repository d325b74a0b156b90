"""Small random guides as files, written by the real libraries: what people download, in miniature."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from guidance_pack.guidance.networks.adm.classifier import AdmClassifier
from guidance_pack.guidance.networks.tiny import files
from guidance_pack.guidance.networks.tiny.guide import TinyGuide

LABELS = ("cat", "dog", "heart", "moon", "star")
WORDS = ("a", "photo", "of", "cat", "dog", "heart")
NAMED = {"id2label": dict(enumerate(LABELS)), "label2id": {label: i for i, label in enumerate(LABELS)}}
VIT = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
STAGES = {"hidden_sizes": [8, 12, 16, 20], "depths": [1, 1, 1, 1]}


@dataclass(frozen=True)
class GuideCase:
    """One kind of guide and how to write a small random one.

    Attributes:
        family: the guide family that must recognise it.
        write: makes the folder or file and returns its path.
        task, outputs: what it does, and its channels, classes or numbers.
        sizes: the network's input (height, width) for pictures of 40x40 and of 40 high, 72 wide.
        backbone: of a head, the case whose features it reads.
    """

    family: str
    write: Callable[[Path], Path]
    task: str
    outputs: int
    sizes: tuple[tuple[int, int], tuple[int, int]]
    labels: tuple[str, ...] = ()
    backbone: str = ""


def randomise(network: torch.nn.Module, seed: int = 0) -> None:
    """Weights large enough to matter everywhere, and running statistics unlike a batch's own."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in [*network.named_parameters(), *network.named_buffers()]:
            if tensor.is_floating_point():
                fan = max(1, tensor[0].numel()) if tensor.ndim > 1 else 50
                drawn = torch.randn(tensor.shape, generator=generator) / fan**0.5
                positive = name.endswith("running_var") or (tensor.ndim == 1 and name.endswith("weight"))
                tensor.copy_(1 + 0.5 * drawn.abs() if positive else drawn)


def write_folder(path: Path, network: Any, preprocessor: dict | None) -> Path:
    randomise(network)
    network.save_pretrained(path)
    if preprocessor is not None:
        (path / "preprocessor_config.json").write_text(json.dumps(preprocessor), "utf-8")
    return path


def imagenet(**changed) -> dict:
    colours = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
    return {"do_resize": True, "do_rescale": True, "do_normalize": True, **colours, **changed}


def resnet(path: Path) -> Path:
    from transformers import ResNetConfig, ResNetForImageClassification

    config = ResNetConfig(embedding_size=8, layer_type="basic", **STAGES, **NAMED)
    crop = imagenet(size={"shortest_edge": 36}, crop_size={"height": 32, "width": 32}, do_center_crop=True, resample=3)
    return write_folder(path, ResNetForImageClassification(config), crop)


def vit(path: Path) -> Path:
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(**VIT, image_size=24, patch_size=8, **NAMED)
    grey = {"do_resize": True, "size": 24, "resample": 2, "do_normalize": True, "image_mean": [0.5] * 3,
            "image_std": [0.5] * 3}
    return write_folder(path, ViTForImageClassification(config), grey)


def convnext(path: Path) -> Path:
    from transformers import ConvNextConfig, ConvNextForImageClassification

    config = ConvNextConfig(**STAGES, num_labels=4)
    return write_folder(path, ConvNextForImageClassification(config), imagenet(size={"shortest_edge": 32}))


KEEP = {"size": {"height": 32, "width": 32}, "keep_aspect_ratio": True, "ensure_multiple_of": 16}
NECK = {"neck_hidden_sizes": [4, 6, 8, 8], "fusion_hidden_size": 8, "reassemble_factors": [4, 2, 1, 0.5]}


def dpt(path: Path) -> Path:
    """A DPT with a backbone of its own, which takes square pictures only."""
    from transformers import DPTConfig, DPTForDepthEstimation

    deep = {**VIT, "num_hidden_layers": 4}
    config = DPTConfig(**deep, **NECK, image_size=32, patch_size=8, is_hybrid=False, backbone_out_indices=[0, 1, 2, 3])
    return write_folder(path, DPTForDepthEstimation(config), imagenet(**KEEP))


def depth_anything(path: Path) -> Path:
    from transformers import DepthAnythingConfig, DepthAnythingForDepthEstimation, Dinov2Config

    names = [f"stage{i}" for i in range(1, 5)]
    backbone = Dinov2Config(hidden_size=16, num_hidden_layers=4, num_attention_heads=2, mlp_ratio=2, image_size=32,
                            patch_size=8, out_features=names, reshape_hidden_states=False, apply_layernorm=True)
    config = DepthAnythingConfig(backbone_config=backbone, patch_size=8, reassemble_hidden_size=16, head_hidden_size=4,
                                 **NECK)
    return write_folder(path, DepthAnythingForDepthEstimation(config), imagenet(**KEEP))


def glpn(path: Path) -> Path:
    from transformers import GLPNConfig, GLPNForDepthEstimation

    config = GLPNConfig(hidden_sizes=[8, 8, 16, 16], depths=[1, 1, 1, 1], decoder_hidden_size=8,
                        num_attention_heads=[1, 1, 2, 2], sr_ratios=[4, 2, 1, 1])
    plain = {"do_resize": True, "do_rescale": True, "size_divisor": 32}
    return write_folder(path, GLPNForDepthEstimation(config), plain)


def segformer(path: Path) -> Path:
    from transformers import SegformerConfig, SegformerForSemanticSegmentation

    config = SegformerConfig(hidden_sizes=[8, 8, 16, 16], depths=[1, 1, 1, 1], decoder_hidden_size=8,
                             num_attention_heads=[1, 1, 2, 2], sr_ratios=[4, 2, 1, 1], **NAMED)
    return write_folder(path, SegformerForSemanticSegmentation(config), imagenet(size={"height": 32, "width": 32}))


def clip(path: Path) -> Path:
    from transformers import CLIPConfig, CLIPModel

    config = CLIPConfig(
        text_config={**VIT, "vocab_size": 10, "max_position_embeddings": 8, "bos_token_id": 8, "eos_token_id": 9},
        vision_config={**VIT, "image_size": 24, "patch_size": 8}, projection_dim=6,
    )
    crop = imagenet(size={"shortest_edge": 24}, crop_size=24, do_center_crop=True, resample=3)
    write_tokenizer(path)
    return write_folder(path, CLIPModel(config), crop)


def siglip(path: Path) -> Path:
    from transformers import SiglipConfig, SiglipModel

    config = SiglipConfig(
        text_config={**VIT, "vocab_size": 10, "max_position_embeddings": 8},
        vision_config={**VIT, "image_size": 24, "patch_size": 8},
    )
    grey = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    write_tokenizer(path)
    return write_folder(path, SiglipModel(config), imagenet(size={"height": 24, "width": 24}, resample=3, **grey))


def siglip2(path: Path) -> Path:
    from transformers import Siglip2Config, Siglip2Model

    config = Siglip2Config(
        text_config={**VIT, "vocab_size": 10, "max_position_embeddings": 8},
        vision_config={**VIT, "num_patches": 9, "patch_size": 8},
    )
    grey = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    write_tokenizer(path)
    return write_folder(path, Siglip2Model(config), imagenet(max_num_patches=11, patch_size=8, **grey))


def write_tokenizer(path: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    special = {"[PAD]": 0, "[UNK]": 1, "[BOS]": 8, "[EOS]": 9}
    vocabulary = special | {word: index for index, word in enumerate(WORDS, 2)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[BOS] $A [EOS]", special_tokens=[("[BOS]", 8), ("[EOS]", 9)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", bos_token="[BOS]", eos_token="[EOS]"
    ).save_pretrained(path)


def write_torchvision(path: Path, architecture: str, classes: int, metadata: dict | None = None, **options) -> Path:
    from torchvision import models

    network = models.get_model(architecture, weights=None, num_classes=classes, **options)
    randomise(network)
    header = {"architecture": architecture, **(metadata or {})}
    file = path.with_suffix(".safetensors")
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file({key: value.contiguous() for key, value in network.state_dict().items()}, file, header)
    return file


def resnet18(path: Path) -> Path:
    facts = {"preprocessing": json.dumps({"size": 32}), "labels": json.dumps(LABELS), "sees": "noisy",
             "schedule": "cosine"}
    return write_torchvision(path, "resnet18", len(LABELS), facts)


def squeezenet(path: Path) -> Path:
    return write_torchvision(path, "squeezenet1_1", 3, {"preprocessing": json.dumps({"size": 36})})


def deeplab(path: Path) -> Path:
    facts = {"preprocessing": json.dumps({"size": 32})}
    return write_torchvision(path, "deeplabv3_mobilenet_v3_large", 4, facts, weights_backbone=None, aux_loss=True)


def lraspp(path: Path) -> Path:
    facts = {"preprocessing": json.dumps({"size": None}), "labels": json.dumps(LABELS)}
    return write_torchvision(path, "lraspp_mobilenet_v3_large", len(LABELS), facts, weights_backbone=None)


def tiny(path: Path, task: str = "classification", timestep: bool = True, **changed) -> Path:
    network = TinyGuide(task=task, num_classes=len(LABELS), width=8, timestep=timestep, norm="batch")
    randomise(network)
    facts = dict.fromkeys(files.REQUIRED[files.GUIDE], 1) | {
        "labels": list(LABELS), "task": task, "sees": "timestep" if timestep else "clean",
        "schedule": "linear" if timestep else None, **changed,
    }
    file = path.with_suffix(".safetensors")
    file.parent.mkdir(parents=True, exist_ok=True)
    files.write_network(file, files.GUIDE, network.config.as_dict(), facts, network.state_dict(), torch.float32)
    return file


def adm(path: Path) -> Path:
    """A noisy classifier of 32x32 pictures; its header says nothing."""
    network = AdmClassifier(channels=32, widths=(32, 32, 64), res_blocks=1, attention=(1, 2), classes=4, positions=65)
    randomise(network)
    file = path.with_suffix(".safetensors")
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file(network.state_dict(), file)
    return file


def write_single(path: Path, network: torch.nn.Module, ending: str = ".safetensors") -> Path:
    """A state dict as one file, as it is published."""
    file = path.with_suffix(ending)
    file.parent.mkdir(parents=True, exist_ok=True)
    if ending == ".safetensors":
        save_file({key: value.contiguous() for key, value in network.state_dict().items()}, file)
    else:
        torch.save(network.state_dict(), file)
    return file


def write_random(path: Path, network: torch.nn.Module, ending: str = ".safetensors") -> Path:
    randomise(network)
    return write_single(path, network, ending)


def aesthetic_layers(path: Path) -> Path:
    """The published layout (a torch file), over the 6 features of `clip`."""
    sizes = ((6, 8), (8, 5), (5, 4), (4, 3), (3, 1))
    layers = zip((0, 2, 4, 6, 7), (torch.nn.Linear(*size) for size in sizes), strict=True)
    head = torch.nn.ModuleDict({"layers": torch.nn.ModuleDict({str(n): m for n, m in layers})})
    return write_random(path, head, ".pth")


def aesthetic_linear(path: Path) -> Path:
    return write_random(path, torch.nn.Linear(6, 1))


def arcface(path: Path) -> Path:
    from guidance_pack.guidance.guides.arcface import FaceNetwork

    return write_random(path, FaceNetwork(4, (1, 2, 1, 1), (4, 4, 6, 6), 7), ".pth")


# The stem, the stages (how many blocks, channels, channels inside, kernel) and the decoder's features, in miniature.
MIDAS_STAGES = ((1, 4, 4, 3), (2, 4, 8, 3), (1, 6, 8, 5), (1, 6, 8, 3), (1, 6, 8, 5), (1, 8, 8, 5), (1, 8, 8, 3))


def midas(path: Path) -> Path:
    from guidance_pack.guidance.networks.midas import EncoderStage, MidasSmall

    stages = [EncoderStage(made, (inner,) * count, side) for count, made, inner, side in MIDAS_STAGES]
    network = MidasSmall(4, stages, 4)
    randomise(network)
    with torch.no_grad():  # so many pixels that some lie at a kink of the last ReLUs, where a difference is no slope
        network.scratch.output_conv[2].bias += 9
        network.scratch.output_conv[4].bias += 20
    return write_single(path, network, ".pt")


def keras_mobilenet(path: Path) -> Path:
    from guidance_pack.guidance.guides.mobilenet import FORMAT, KerasMobileNet

    config = {"stem": 4, "blocks": [[4, 4, 1], [8, 6, 2], [8, 6, 1]], "features": 8, "head": [6, 5]}
    network = KerasMobileNet(**config)
    randomise(network)
    file = path.with_suffix(".safetensors")
    file.parent.mkdir(parents=True, exist_ok=True)
    facts = {"format": FORMAT, "config": json.dumps(config), "labels": json.dumps(LABELS)}
    save_file({key: value.contiguous() for key, value in network.state_dict().items()}, file, facts)
    return file


CLASSIFY, SEGMENT = "classification", "segmentation"
CASES = {
    "resnet": GuideCase("transformers", resnet, CLASSIFY, 5, ((32, 32), (32, 32)), LABELS),
    "vit": GuideCase("transformers", vit, CLASSIFY, 5, ((24, 24), (24, 24)), LABELS),
    "convnext": GuideCase("transformers", convnext, CLASSIFY, 4, ((32, 32), (32, 32)), tuple("0123")),
    "dpt": GuideCase("transformers", dpt, "depth", 1, ((32, 32), (32, 32))),
    "depth anything": GuideCase("transformers", depth_anything, "depth", 1, ((32, 32), (32, 64))),
    "glpn": GuideCase("transformers", glpn, "depth", 1, ((32, 32), (32, 64))),
    "segformer": GuideCase("transformers", segformer, SEGMENT, 5, ((32, 32), (32, 64)), LABELS),
    "clip": GuideCase("image and text", clip, "embedding", 6, ((24, 24), (24, 24))),
    "siglip": GuideCase("image and text", siglip, "embedding", 16, ((24, 24), (24, 24))),
    "siglip2": GuideCase("image and text", siglip2, "embedding", 16, ((24, 24), (24, 24))),
    "resnet18": GuideCase("torchvision", resnet18, CLASSIFY, 5, ((32, 32), (32, 32)), LABELS),
    "squeezenet": GuideCase("torchvision", squeezenet, CLASSIFY, 3, ((36, 36), (36, 36)), tuple("012")),
    "deeplab": GuideCase("torchvision", deeplab, SEGMENT, 4, ((32, 32), (32, 56)), tuple("0123")),
    "lraspp": GuideCase("torchvision", lraspp, SEGMENT, 5, ((40, 40), (40, 72)), LABELS),
    "adm": GuideCase("adm", adm, CLASSIFY, 4, ((32, 32), (32, 32)), tuple("0123")),
    "aesthetic layers": GuideCase("aesthetic", aesthetic_layers, "score", 1, ((24, 24), (24, 24)), backbone="clip"),
    "aesthetic linear": GuideCase("aesthetic", aesthetic_linear, "score", 1, ((24, 24), (24, 24)), backbone="clip"),
    "arcface": GuideCase("arcface", arcface, "embedding", 7, ((112, 112), (112, 112))),
    "midas": GuideCase("midas", midas, "depth", 1, ((256, 256), (128, 256))),
    "keras mobilenet": GuideCase("keras mobilenet", keras_mobilenet, CLASSIFY, 5, ((224, 224), (224, 224)), LABELS),
    "tiny": GuideCase("tiny", tiny, CLASSIFY, 5, ((40, 40), (40, 72)), LABELS),
}
