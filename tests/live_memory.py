"""How many bytes of tensors are alive at once, counted from outside, on any device (the meta device too)."""

import weakref

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveMemory(TorchDispatchMode):
    """While entered, counts what operations make; the weights of `network` do not count. `peak`: bytes."""

    def __init__(self, network):
        super().__init__()
        self.held = dict.fromkeys((weight.untyped_storage()._cdata for weight in network.parameters()), 0)
        self.now = self.peak = 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        out = operation(*args, **(kwargs or {}))
        for tensor in (leaf for leaf in tree_leaves(out) if isinstance(leaf, torch.Tensor)):
            storage = tensor.untyped_storage()
            if storage._cdata not in self.held:
                self.held[storage._cdata] = storage.nbytes()
                self.now += storage.nbytes()
                self.peak = max(self.peak, self.now)
                weakref.finalize(storage, self._gone, storage._cdata)
        return out

    def _gone(self, key):
        self.now -= self.held.pop(key, 0)
