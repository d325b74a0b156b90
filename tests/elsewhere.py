"""A device that is not the CPU, on a machine that has none: its tensors lie in ordinary memory and say they are `AWAY`.

Inside `device()` torch computes with them as usual and refuses what CUDA would refuse: tensors of two devices in one
operation, a generator of another device, numpy. What CUDA allows is allowed: scalars of the CPU (0-dim tensors) beside
tensors, indices of the CPU, copies. And it refuses what a Mac's GPU (MPS) would: float64, and operations that it lacks.
"""

import contextlib
import functools
import re
from pathlib import Path

import torch
import torchgen
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_flatten, tree_map

# Torch's own name for tensors without data: the one device beside the CPU that every build can give tensors to.
AWAY = torch.device("meta")
ATEN = torch.ops.aten
INDEXED = {ATEN.index, ATEN.index_put, ATEN.index_put_, ATEN._unsafe_index}
COPIES = {ATEN.copy_, ATEN._to_copy, ATEN.copy, ATEN._local_scalar_dense, ATEN._copy_from}
DRAWS: list[torch.Generator] = []  # that draw for AWAY
MADE_OF_OTHERS = {ATEN._scaled_dot_product_flash_attention_for_cpu}
EVERYWHERE = {"MPS", "CompositeExplicitAutograd", "CompositeExplicitAutogradNonFunctional", "CompositeImplicitAutograd"}
# By its own list torch has these for no Mac; PYTORCH_ENABLE_MPS_FALLBACK=1 computes them on the CPU (docs/hosts.md).
BY_THE_CPU = {ATEN.native_group_norm_backward}
WHOLE = {ATEN.cat, ATEN.stack, ATEN.mm, ATEN.bmm, ATEN.addmm, ATEN.gather, ATEN.index_select}  # no scalars of the CPU


class Away(torch.Tensor):
    """A tensor on `AWAY` whose numbers are `here`."""

    @staticmethod
    def __new__(cls, here):
        return torch.Tensor._make_wrapper_subclass(
            cls, here.shape, strides=here.stride(), storage_offset=here.storage_offset(), dtype=here.dtype,
            layout=here.layout, device=AWAY,
        )  # fmt: skip

    def __init__(self, here):
        self.here = here

    def __repr__(self, **_):
        return f"Away({self.here!r})"

    def __deepcopy__(self, memo):
        copied = self.detach().clone()
        if isinstance(self, torch.nn.Parameter):
            copied = torch.nn.Parameter(copied, self.requires_grad)
        return memo.setdefault(id(self), copied)

    def numpy(self, **_):
        raise TypeError("can't convert a tensor on another device to numpy; copy it to the CPU first")

    def __array__(self, *_, **__):
        return self.numpy()

    def tolist(self):
        return self.here.tolist()

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        return compute(function, args, kwargs or {})


class Watched(TorchDispatchMode):
    """Makes new tensors on `AWAY` ones with numbers."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        return compute(function, args, kwargs or {})


class Written(TorchFunctionMode):
    """Numbers that are written down for `AWAY` go there by way of the CPU."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if function in (torch.tensor, torch.as_tensor) and torch.device(kwargs.get("device") or "cpu") == AWAY:
            return function(*tree_map(numbers, args), **{**kwargs, "device": "cpu"}).to(AWAY)
        if function is torch.Tensor.data_ptr and isinstance(args[0], Away):
            return args[0].here.data_ptr()
        plain = function is torch.Tensor.__deepcopy__ and not isinstance(args[0], Away)
        if plain or function is torch.asarray:  # of storages, which no mode understands
            with _disable_current_modes():
                return function(*args, **kwargs)
        if function is torch.Tensor.untyped_storage and isinstance(args[0], Away):
            return args[0].here.untyped_storage()
        if function is torch.Tensor.new_tensor:
            return torch.tensor(*args[1:], **{"dtype": args[0].dtype, "device": args[0].device, **kwargs})
        return function(*args, **kwargs)


class AnyGenerator(type(torch.Generator)):
    def __instancecheck__(cls, value):
        return isinstance(value, torch._C.Generator)


class Generator(torch.Generator, metaclass=AnyGenerator):
    """torch.Generator, also of `AWAY`."""

    def __new__(cls, device="cpu"):
        away = torch.device(device) == AWAY
        made = torch._C.Generator("cpu" if away else device)
        if away:
            DRAWS.append(made)
        return made


class Autocast(torch.autocast):
    """torch.autocast, also of `AWAY`."""

    def __init__(self, device_type, *args, **kwargs):
        super().__init__("cpu" if torch.device(device_type) == AWAY else device_type, *args, **kwargs)


@contextlib.contextmanager
def device():
    """Inside, `AWAY` is a device to compute on."""
    swapped, generator, autocast = (
        torch.__future__.get_swap_module_params_on_conversion(), torch.Generator, torch.autocast
    )  # fmt: skip
    torch.__future__.set_swap_module_params_on_conversion(True)  # a module that moves keeps its parameters' identity
    torch.Generator, torch.autocast = Generator, Autocast
    try:
        with Watched(), Written():
            yield AWAY
    finally:
        torch.Generator, torch.autocast = generator, autocast
        DRAWS.clear()
        torch.__future__.set_swap_module_params_on_conversion(swapped)


@functools.cache
def composed(function):
    """Whether an operation is made of others."""
    return torch._C._dispatch_has_kernel_for_dispatch_key(function.name(), "CompositeImplicitAutograd")


@functools.cache
def kernels():
    """Of each operation of this torch: the devices that its own list names, or the operation that has them."""
    listed = Path(torchgen.__file__).parent / "packaged" / "ATen" / "native" / "native_functions.yaml"
    found = {}
    for entry in listed.read_text("utf-8").split("\n- func: ")[1:]:
        delegate = re.search(r"^  structured_delegate: (\S+)", entry, re.M)
        devices = re.findall(r"^    ([\w, ]+): \w", entry, re.M)
        named = {each for line in devices for each in line.split(", ")} or EVERYWHERE
        found[entry.partition("(")[0]] = delegate[1] if delegate else named
    return found


@functools.cache
def on_mac(function):
    """Whether MPS has an operation."""
    found = kernels().get(function.name().removeprefix("aten::"), EVERYWHERE)
    return bool(EVERYWHERE & (kernels()[found] if isinstance(found, str) else found))


def numbers(value):
    return value.here if isinstance(value, Away) else value


def compute(function, args, kwargs):
    """The operation on the numbers themselves; its results are where CUDA's would be."""
    if function.overloadpacket is ATEN._has_compatible_shallow_copy_type:
        return isinstance(args[0], Away) == isinstance(args[1], Away)
    if composed(function):  # as they arrive in inference mode
        with Watched():
            return function.decompose(*args, **kwargs)
    tensors = [value for value in tree_flatten((args, kwargs))[0] if isinstance(value, torch.Tensor)]
    target = kwargs.get("device")
    away = torch.device(target) == AWAY if target is not None else placed(function, args, tensors)
    generator = kwargs.get("generator")
    if generator is not None and away != any(generator._cdata == one._cdata for one in DRAWS):
        raise RuntimeError(f"Expected a generator of the device of the tensor (on {AWAY}: {away})")
    if target is not None and away:
        kwargs = {**kwargs, "device": torch.device("cpu")}
    if kwargs.get("pin_memory"):
        kwargs = {**kwargs, "pin_memory": False}
    homes = {id(value.here): value for value in tensors if isinstance(value, Away)}
    bare = tree_map(numbers, (args, kwargs))
    found = function(*bare[0], **bare[1])

    if function.overloadpacket is ATEN.set_:
        args[0].data = Away(found)  # its shape is another now
        return args[0]

    if away and function.overloadpacket not in MADE_OF_OTHERS | BY_THE_CPU and not on_mac(function):
        raise NotImplementedError(f"The operator '{function.name()}' is not implemented for a Mac's GPU")

    def back(value):
        if not isinstance(value, torch.Tensor):
            return value
        if away and value.dtype in (torch.float64, torch.complex128):
            raise TypeError(f"{function}: a Mac's GPU has no {value.dtype}")
        if id(value) in homes or not away:
            return homes.get(id(value), value)
        with torch.inference_mode(value.is_inference()):
            return Away(value)

    return tree_map(back, found)


def placed(function, args, tensors):
    """Whether the result lies away. Raises RuntimeError where CUDA would."""
    packet = function.overloadpacket
    if packet in COPIES:
        return isinstance(args[0], Away)
    if packet in INDEXED:
        first = args[0]
        if not isinstance(first, Away) and any(isinstance(value, Away) for value in tensors):
            raise RuntimeError("indices should be either on cpu or on the same device as the indexed tensor (cpu)")
        values = args[2:3] if packet in (ATEN.index_put, ATEN.index_put_) else ()
        tensors = [first, *(v for v in values if isinstance(v, torch.Tensor))]
    away = [isinstance(value, Away) for value in tensors]
    strangers = [v for v in tensors if not isinstance(v, Away) and (v.ndim or packet in WHOLE)]
    if any(away) and strangers:
        shapes = [list(value.shape) for value in strangers]
        raise RuntimeError(
            f"Expected all tensors to be on the same device, but found at least two devices, {AWAY} and cpu: "
            f"{function} with {shapes} on the cpu"
        )
    inplace = function._schema.name.endswith("_") and not function._schema.name.endswith("__")
    if inplace and any(away) and not away[0]:
        raise RuntimeError(f"{function}: the result is on the cpu, and other tensors are on {AWAY}")
    return any(away)
