"A second device for machines that have none: its tensors lie on the CPU, but meet those of the CPU only where a real device would let them."
import torch
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

_setup_privateuseone_for_python_backend("elsewhere")
DEVICE = torch.device("elsewhere", 0)

class Elsewhere(torch.Tensor):
    "A tensor that says it lies on the device."
    @staticmethod
    def __new__(cls, data):
        out = torch.Tensor._make_wrapper_subclass(cls, data.shape, strides=data.stride(), storage_offset=data.storage_offset(), dtype=data.dtype, device=DEVICE)
        out.here = data
        return out

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None): return carry_out(func, args, kwargs or {})

class Pretend(TorchDispatchMode):
    "While active, the device exists."
    def __torch_dispatch__(self, func, types, args=(), kwargs=None): return carry_out(func, args, kwargs or {})

def carry_out(func, args, kwargs):
    "Run an operation on the CPU, if it could run where its tensors say they are."
    given = tree_leaves((args, kwargs))
    tensors, to = [a for a in given if isinstance(a, torch.Tensor)], [a for a in given if isinstance(a, torch.device)]
    name, there = func._schema.name, any(isinstance(a, Elsewhere) for a in tensors)
    if there and "copy" not in name: check(name, tensors)
    here = tree_map_only(torch.device, lambda d: torch.device("cpu") if d.type == DEVICE.type else d, tree_map_only(Elsewhere, lambda a: a.here, (args, kwargs)))
    with torch.inference_mode(False), torch.no_grad():
        out = func(*here[0], **here[1])
        if func._schema.is_mutable: return kwargs.get("out", args[0])
        goes = to[0].type == DEVICE.type if to else there
        return tree_map_only(torch.Tensor, Elsewhere, out) if goes else out

def check(name, tensors):
    "Raise `RuntimeError` for tensors of two devices; numbers may be anywhere, and so may indices into a tensor of the device."
    indexes = name.startswith("aten::index") and isinstance(tensors[0], Elsewhere)
    strays = [tuple(a.shape) for a in tensors if not isinstance(a, Elsewhere) and a.dim() and not (indexes and not a.is_floating_point())]
    if strays: raise RuntimeError(f"{name}: tensors on {DEVICE}, but {strays} on the cpu")
