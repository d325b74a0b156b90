"""The one scope in which autograd works inside a running prompt, and what cannot be differentiated in words.

ComfyUI runs every prompt in inference mode, and the memory manager turns all weights into inference tensors, which
autograd refuses to save. Inside the scope, weights are seen through aliases: ordinary tensors on the same storage, so
nothing is copied. Source: execution.py (inference_mode), comfy/model_management.py (in_training), torch's rules.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator
from contextlib import contextmanager, nullcontext
from functools import partial
from importlib import import_module
from typing import Any

import comfy.model_management
import comfy.quant_ops
import torch
from comfy.ldm.modules.attention import attention_pytorch
from comfy.model_patcher import ModelPatcher
from torch import nn
from torch._ops import OpOverload, OpOverloadPacket
from torch.overrides import TorchFunctionMode

from .step_cache import without_step_cache


class Aliases:
    """The weights of some networks, and how they look to autograd while the scope is open."""

    def __init__(self, *roots: nn.Module):
        self.roots = roots
        self.entries: list[tuple[dict, str, torch.Tensor, torch.Tensor]] = []

    @contextmanager
    def swapped(self) -> Generator[None]:
        """While inside, the networks hold the aliases. Everything is put back in every case."""
        if not self.entries or any(held[name] is not own for held, name, own, _ in self.entries):
            self.entries = list(self._found())
        try:
            for held, name, _, alias in self.entries:
                held[name] = alias
            yield
        finally:
            for held, name, own, _ in self.entries:
                held[name] = own

    def _found(self):
        for module in dict.fromkeys(module for root in self.roots for module in root.modules()):
            for held in (module._parameters, module._buffers):
                for name, tensor in held.items():
                    if tensor is not None and tensor.is_inference():
                        yield held, name, tensor, _alias(tensor)


class PlainKernels(TorchFunctionMode):
    """While inside, comfy_kitchen's operations are its own reference functions in plain torch, which have a backward.

    Some networks call its kernels whether or not `in_training` is set (comfy/ldm/joyimage, ernie, cosmos/predict2).
    """

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if isinstance(func, OpOverload | OpOverloadPacket):
            namespace, _, name = _name_of(func).partition("::")
            if namespace == "comfy_kitchen":
                func = getattr(import_module("comfy_kitchen.backends.eager"), name)
        return func(*args, **(kwargs or {}))


@contextmanager
def scope(aliases: Aliases, denoiser: bool = False) -> Generator[None]:
    """While inside, autograd works on the aliased networks. denoiser: whether a gradient passes through the MODEL.

    `in_training` makes ComfyUI choose kernels that have a backward (comfy/ldm/flux/math.py and others). Some denoisers
    add to their activations in place (comfy/ldm/flux/layers.py): what the backward needs is then copied first.

    Raises ValueError where something on the way has no backward.
    """
    management: Any = comfy.model_management
    before = management.in_training
    management.in_training = True
    in_place = torch.autograd.graph.allow_mutation_on_saved_tensors() if denoiser else nullcontext()
    try:
        with torch.inference_mode(False), torch.enable_grad(), aliases.swapped(), in_place, PlainKernels():
            yield
    except RuntimeError as error:
        if not NO_BACKWARD.search(str(error)):
            raise
        title, otherwise = ("this MODEL", " Or choose at = denoised.") if denoiser else ("the guide or decoder", "")
        raise ValueError(
            f"No gradient passes through {title}: something in it (a cache, a compiled or optimised kernel, a patch of "
            f"another pack) has no backward. Take out the node that put it there, and start ComfyUI without a special "
            f"attention (--use-sage-attention and the like).{otherwise} PyTorch says: {str(error).splitlines()[0]}"
        ) from error
    finally:
        management.in_training = before


def differentiable_options(model_options: dict) -> dict:
    """A copy of the options of an evaluation in which every kernel has a backward and one device does the work.

    An attention that a node put on the MODEL stays, over a kernel that has a backward; a step cache is not asked.
    """
    out = without_step_cache({key: value for key, value in model_options.items() if key != "multigpu_clones"})
    transformer = out["transformer_options"]
    own = transformer.get("optimized_attention_override")
    transformer["optimized_attention_override"] = _attention if own is None else partial(_attention_of, own)
    return out


def resident(patcher: ModelPatcher, title: str, otherwise: str) -> ModelPatcher:
    """The same MODEL, VAE or guide under a patcher that keeps its weights in place, as a gradient needs.

    Raises ValueError where its weights are managed dynamically and there is no way to load it otherwise.
    """
    if not patcher.is_dynamic():
        return patcher
    if patcher.cached_patcher_init is None:
        raise ValueError(
            f"{title} is loaded with dynamic memory management, through which no gradient passes, and its loader "
            f"offers no other way. {otherwise} Or start ComfyUI with --disable-dynamic-vram."
        )
    return patcher.clone(disable_dynamic=True)


def check_weights(patcher: ModelPatcher, title: str, otherwise: str) -> None:
    """Raise ValueError if a network is quantised, so that no gradient passes through it. Loads nothing."""
    for name, tensor in patcher.model.named_parameters():
        if isinstance(tensor, comfy.quant_ops.QuantizedTensor) or tensor.dtype in _EIGHT_BITS:
            raise ValueError(
                f"{title} is quantised ({name} is {str(tensor.dtype).removeprefix('torch.')}), and no gradient passes "
                f"through it. {otherwise} Or load it in fp16, bf16 or fp32."
            )


def check_resident(patcher: ModelPatcher, title: str, otherwise: str) -> None:
    """Raise ValueError if a network is not entirely on its device, when sampling is about to start."""
    missing = elsewhere(patcher)
    if missing:
        raise ValueError(
            f"{title} does not fit into the GPU's memory beside the rest ({missing / 2**20:.0f} of "
            f"{patcher.model_size() / 2**20:.0f} MB are left out), and a gradient needs all of it. {otherwise}"
        )


def elsewhere(patcher: ModelPatcher) -> int:
    """How many bytes of a network's weights are not on the device that computes.

    Counted at the weights: the host's own sum leaves out those of modules that have children as well.
    """
    weights = (*patcher.model.parameters(), *patcher.model.buffers())
    return sum(w.nbytes for w in weights if w.device.type != patcher.load_device.type)


def _alias(tensor: torch.Tensor) -> torch.Tensor:
    data = tensor.data
    alias = torch.empty(0, dtype=data.dtype, device=data.device).set_(
        data.untyped_storage(), data.storage_offset(), data.size(), data.stride()
    )
    return nn.Parameter(alias, requires_grad=False) if isinstance(tensor, nn.Parameter) else alias


def _attention(function, *args, **kwargs):
    """Optimised attention kernels have no backward (comfy/ldm/modules/attention.py); PyTorch's own has."""
    return attention_pytorch(*args, **kwargs)


def _attention_of(own: Callable, function, *args, **kwargs):
    """The attention that a node put on the MODEL, over PyTorch's own kernel."""
    out = own(attention_pytorch, *args, **kwargs)
    if not out.requires_grad and any(isinstance(a, torch.Tensor) and a.requires_grad for a in args):
        raise ValueError(
            "A node has put an attention of its own on this MODEL (sage attention, for instance), which gives no "
            "gradient. Take that node out, or choose at = denoised."
        )
    return out


def _name_of(func: Any) -> str:
    """The name "namespace::operation" of one of torch.ops' functions."""
    packet = func.overloadpacket if isinstance(func, OpOverload) else func
    return packet._qualified_op_name


# What PyTorch says where a gradient cannot pass.
NO_BACKWARD = re.compile(
    "no autograd formula|derivative for .* is not implemented|does not require grad|not have been used in the graph"
    "|inference tensor", re.IGNORECASE,
)

_EIGHT_BITS = (torch.float8_e4m3fn, torch.float8_e5m2, torch.int8, torch.uint8)
