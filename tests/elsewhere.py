"""A mock device for machines without a second one.

Its tensors are stored on the CPU, but an operation mixes them with CPU tensors only where a real device allows that."""
import torch
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend
from torch.utils._python_dispatch import TorchDispatchMode

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
    given = [*flat(args), *flat(list(kwargs.values()))]
    tensors = [a for a in given if isinstance(a, torch.Tensor)]
    to = [a for a in given if isinstance(a, torch.device)]
    name = func._schema.name
    there = any(isinstance(a, Elsewhere) for a in tensors)
    if there and "copy" not in name: check(name, tensors)
    with torch.inference_mode(False), torch.no_grad():
        out = func(*each(on_cpu, args), **{k: each(on_cpu, v) for k, v in kwargs.items()})
        if func._schema.is_mutable: return kwargs.get("out", args[0])
        goes = to[0].type == DEVICE.type if to else there
        return each(lambda a: Elsewhere(a) if isinstance(a, torch.Tensor) else a, out) if goes else out

# Arguments are plain lists and tuples; PyTorch's own trees take longer than the operations of a tiny network
def flat(x):
    "The leaves of nested lists and tuples"
    if isinstance(x, (list, tuple)):
        for v in x: yield from flat(v)
    else: yield x

def each(f, x):
    "The same lists and tuples, of f of every leaf"
    return type(x)([each(f, v) for v in x]) if isinstance(x, (list, tuple)) else f(x)

def on_cpu(a):
    if isinstance(a, Elsewhere): return a.here
    return torch.device("cpu") if isinstance(a, torch.device) and a.type == DEVICE.type else a

def check(name, tensors):
    "Raise `RuntimeError` if tensors of two devices meet; scalars and indices may be on either"
    indexes = name.startswith("aten::index") and isinstance(tensors[0], Elsewhere)
    others = [a for a in tensors if not isinstance(a, Elsewhere) and a.dim()]
    strays = [tuple(a.shape) for a in others if not indexes or a.is_floating_point()]
    if strays: raise RuntimeError(f"{name}: tensors on {DEVICE}, but {strays} on the cpu")
