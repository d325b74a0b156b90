"""LoRA files of every kind that ComfyUI reads, with random numbers, for the networks of host_models.

    file = lora_file(model, seed=1)                # a state dict, as a LoRA loader reads it from disk
    main = loaded(model, file, strength=0.8)       # what the node Load LoRA gives
    main = loaded(model, file, bypass=True)        # what the node Load LoRA (Bypass) gives

Take the `comfy` fixture before calling anything here.
"""

import math

import torch

RANK = 4


def layers(model) -> dict[str, torch.Tensor]:
    """The weights of the network's linear layers and convolutions by the name that LoRA files use."""
    kinds = (torch.nn.Linear, torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d)
    found = {}
    for name, layer in model.model.named_modules():
        if isinstance(layer, kinds) and name.startswith("diffusion_model."):
            found[name] = layer.weight
    return found


def norms(model) -> dict[str, torch.nn.Module]:
    """The normalisations with weights and biases of their own."""
    found = {}
    for name, layer in model.model.named_modules():
        if isinstance(layer, torch.nn.LayerNorm | torch.nn.GroupNorm) and getattr(layer, "bias", None) is not None:
            found[name] = layer
    return found


def lora_file(model, seed: int = 0, kind: str = "lora", size: float = 0.3) -> dict[str, torch.Tensor]:
    """A state dict that changes every linear layer and convolution by about `size` of its weight."""
    draw = torch.Generator().manual_seed(seed)
    file = {}
    for name, weight in layers(model).items():
        for part, tensor in KINDS[kind](weight, lambda *shape: torch.randn(*shape, generator=draw), size).items():
            file[f"{name}.{part}"] = tensor
    return file


def loaded(model, file: dict, strength: float = 1.0, bypass: bool = False):
    """The MODEL with a LoRA file, as ComfyUI's own loader nodes make it."""
    import comfy.sd

    load = comfy.sd.load_bypass_lora_for_models if bypass else comfy.sd.load_lora_for_models
    return load(model, None, file, strength, 0.0)[0]


def _lora(weight, randn, size):
    down = randn(RANK, *weight.shape[1:]) / math.sqrt(weight[0].numel())
    up = size * randn(weight.shape[0], RANK, *(1,) * (weight.ndim - 2)) / math.sqrt(RANK)
    return {"lora_up.weight": up, "lora_down.weight": down, "alpha": torch.tensor(RANK / 2.0)}


def _tucker(weight, randn, size):
    """A LoRA with a middle factor on 3x3 convolutions, plain elsewhere."""
    if weight.ndim != 4 or weight.shape[-1] == 1:
        return _lora(weight, randn, size)
    down, up = randn(RANK, weight.shape[1], 1, 1), size * randn(weight.shape[0], RANK, 1, 1)
    middle = randn(RANK, RANK, *weight.shape[2:]) / math.sqrt(weight[0].numel()) / RANK
    return {"lora_up.weight": up, "lora_down.weight": down, "lora_mid.weight": middle}


def _loha(weight, randn, size):
    rows, columns = weight.shape[0], weight[0].numel()
    scale = math.sqrt(size / math.sqrt(columns))
    return {
        "hada_w1_a": scale * randn(rows, RANK) / math.sqrt(RANK), "hada_w1_b": randn(RANK, columns),
        "hada_w2_a": scale * randn(rows, RANK) / math.sqrt(RANK), "hada_w2_b": randn(RANK, columns),
        "alpha": torch.tensor(float(RANK)),
    }


def _lokr(weight, randn, size):
    rows = 2 if weight.shape[0] % 2 == 0 else 1
    columns = 2 if weight.shape[1] % 2 == 0 else 1
    second = randn(weight.shape[0] // rows, weight.shape[1] // columns, *weight.shape[2:])
    return {"lokr_w1": randn(rows, columns), "lokr_w2": size * second / math.sqrt(weight[0].numel())}


def _dora(weight, randn, size):
    norm = weight.flatten(1).norm(dim=1).reshape(-1, *(1,) * (weight.ndim - 1))
    return {**_lora(weight, randn, size), "dora_scale": norm}


def _diff(weight, randn, size):
    return {"diff": size * randn(*weight.shape) / math.sqrt(weight[0].numel())}


def _replaced(weight, randn, size):
    return {"set_weight": weight + size * randn(*weight.shape) / math.sqrt(weight[0].numel())}


KINDS = {
    "lora": _lora, "tucker": _tucker, "loha": _loha, "lokr": _lokr, "dora": _dora, "diff": _diff, "set": _replaced,
}  # fmt: skip
