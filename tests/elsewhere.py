"""A mock device for machines without a second one.

Its tensors are stored on the CPU, but an operation mixes them with CPU tensors only where a real device allows that."""
import torch
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

_setup_privateuseone_for_python_backend("elsewhere")
DEVICE = torch.device("elsewhere", 0)

class Elsewhere(torch.Tensor):
    "A tensor on the mock device"
    @staticmethod
    def __new__(cls, data):
        layout = dict(strides=data.stride(), storage_offset=data.storage_offset(), dtype=data.dtype)
        out = torch.Tensor._make_wrapper_subclass(cls, data.shape, device=DEVICE, **layout)
        out.here = data
        return out

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None): return carry_out(func, args, kwargs or {})

class Pretend(TorchDispatchMode):
    "While active, the mock device exists"
    def __torch_dispatch__(self, func, types, args=(), kwargs=None): return carry_out(func, args, kwargs or {})

def carry_out(func, args, kwargs):
    "Run an operation on the CPU, if a real device could run it"
    given = tree_leaves((args, kwargs))
    tensors = [a for a in given if isinstance(a, torch.Tensor)]
    to = [a for a in given if isinstance(a, torch.device)]
    name = func._schema.name
    there = any(isinstance(a, Elsewhere) for a in tensors)
    if there and "copy" not in name: check(name, tensors)
    unwrapped = tree_map_only(Elsewhere, lambda a: a.here, (args, kwargs))
    here = tree_map_only(torch.device, lambda d: torch.device("cpu") if d.type == DEVICE.type else d, unwrapped)
    with torch.inference_mode(False), torch.no_grad():
        out = func(*here[0], **here[1])
        if func._schema.is_mutable: return kwargs.get("out", args[0])
        goes = to[0].type == DEVICE.type if to else there
        return tree_map_only(torch.Tensor, Elsewhere, out) if goes else out

def check(name, tensors):
    "Raise `RuntimeError` if tensors of two devices meet; scalars and indices may be on either"
    indexes = name.startswith("aten::index") and isinstance(tensors[0], Elsewhere)
    on_cpu = [a for a in tensors if not isinstance(a, Elsewhere) and a.dim()]
    strays = [tuple(a.shape) for a in on_cpu if not indexes or a.is_floating_point()]
    if strays: raise RuntimeError(f"{name}: tensors on {DEVICE}, but {strays} on the cpu")
