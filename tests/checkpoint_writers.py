"""Files as NVIDIA's training code leaves them, written without any of its code, and files that mean harm."""

import contextlib
import pickle
import sys
import types

import numpy
import torch


class EasyDict(dict):
    """A dict whose entries are attributes too, as `dnnlib.util.EasyDict` is."""

    def __getattr__(self, name):
        try:
            return self[name]
        except KeyError as error:
            raise AttributeError(name) from error


def _reconstruct_persistent_obj(meta):
    """Stands where the original runs meta["module_src"]; a reader that calls it has failed."""
    raise AssertionError("the reader called what the file names")


EasyDict.__module__, EasyDict.__qualname__ = "dnnlib.util", "EasyDict"
_reconstruct_persistent_obj.__module__ = "torch_utils.persistence"


@contextlib.contextmanager
def nvidia_modules():
    """Modules of the names that the files ask for, while a file is written; a reader must do without."""
    names = ("dnnlib", "dnnlib.util", "torch_utils", "torch_utils.persistence")
    modules = {name: types.ModuleType(name) for name in names}
    modules["dnnlib.util"].EasyDict = EasyDict
    modules["torch_utils.persistence"]._reconstruct_persistent_obj = _reconstruct_persistent_obj
    sys.modules.update(modules)
    try:
        yield
    finally:
        for name in names:
            del sys.modules[name]


class Persistent:
    """Pickles as a class under the original's `persistence.persistent_class` does."""

    source = ""

    def __reduce__(self):
        meta = EasyDict(
            type="class", version=6, module_src=self.source, class_name=type(self).__name__, state=dict(self.__dict__)
        )
        return _reconstruct_persistent_obj, (meta,)


def persistent_class(name, base=torch.nn.Module):
    return type(name, (Persistent, base), {})


PRECOND, UNET, BLOCK, MPCONV, MPFOURIER = map(persistent_class, ("Precond", "UNet", "Block", "MPConv", "MPFourier"))
LOSS, ENCODER = persistent_class("EDM2Loss", object), persistent_class("StabilityVAEEncoder", object)


def _class_of(prefix, tensors):
    last = prefix.split(".")[-1]
    if not prefix:
        return PRECOND
    if last in ("unet", "enc", "dec"):
        return UNET if last == "unet" else torch.nn.ModuleDict
    if f"{prefix}.freqs" in tensors:
        return MPFOURIER
    return MPCONV if f"{prefix}.weight" in tensors else BLOCK


def module_tree(tensors, prefix=""):
    """Modules of the classes that an EDM2 is made of, holding a state dict's tensors under its names."""
    module = _class_of(prefix, tensors)()
    begin = f"{prefix}." if prefix else ""
    children = dict.fromkeys(key[len(begin) :].split(".")[0] for key in tensors if key.startswith(begin))
    for child in children:
        if f"{begin}{child}" not in tensors:
            module.add_module(child, module_tree(tensors, f"{begin}{child}"))
        elif child in ("freqs", "phases"):
            module.register_buffer(child, tensors[f"{begin}{child}"])
        else:
            module.register_parameter(child, torch.nn.Parameter(tensors[f"{begin}{child}"], requires_grad=False))
    module._init_args, module._init_kwargs = (), EasyDict()
    return module


def snapshot(tensors, settings):
    """What a snapshot's file holds."""
    network = module_tree({name: tensor.half() for name, tensor in tensors.items()}).eval()
    network._init_kwargs = EasyDict(settings)
    encoder, loss = ENCODER(), LOSS()
    encoder.__dict__.update(scale=numpy.array([0.119904, 0.108225], dtype=numpy.float32), vae_name="mse", _vae=None)
    loss.__dict__.update(P_mean=-0.4, P_std=1.0, sigma_data=0.5)
    data = EasyDict(class_name="training.dataset.ImageFolderDataset", path="img512-sd.zip", use_labels=True)
    return EasyDict(encoder=encoder, dataset_kwargs=data, loss_fn=loss, ema=network)


def write_snapshot(path, tensors, settings, source="", protocol=4):
    """A .pkl as EDM2's training writes it. `source`: the Python text that every object carries."""
    with nvidia_modules():
        Persistent.source = source
        path.write_bytes(pickle.dumps(snapshot(tensors, settings), protocol=protocol))


class Call:
    """Pickles as a call, which Python's own unpickler would make."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def text(word):
    """The instruction that pushes a short text."""
    return b"\x8c" + bytes([len(word)]) + word.encode()


def named(module, name):
    """The instructions that push what a module holds under a name."""
    return text(module) + text(name) + b"\x93"


def program(*parts, proto=4):
    """A pickle of the given instructions."""
    return b"\x80" + bytes([proto]) + b"".join(parts) + b"."
