"""Make a trained diffusion model smaller and faster: choose its timesteps and the bits of every layer together (TMPQ-DM)."""
__version__ = "0.1.0"

# What is exported, and the module it lives in. Loaded on first use, so that `import tmpq_dm` and `tmpq-dm --help` stay fast.
_HOME = {
    "policy": ("Policy", "TmpqError"),
    "denoiser": ("QuantOp",),
    "pipelines": ("Denoiser", "ClassPipeline"),
    "tiny": ("tiny_pipeline",),
    "sampling": ("sample", "starts", "paired_noise", "uniform_timesteps"),
    "reference": ("load_reference", "reference_features", "reference_statistics", "open_denoiser"),
    "divergence": ("feature_divergence",),
    "grouping": ("quadratic_groups", "uniform_groups", "equal_groups"),
    "quantizer": ("Grid",),
    "adaptation": ("Supernet",),
    "tiar": ("choose_cache", "temporal_error"),
    "fidelity": ("agreement", "calibrated_alone"),
    "cost": ("bitops", "macs", "size_bytes"),
    "metrics": ("evaluate", "make_fitness", "real_statistics"),
    "scheduler": ("SubsetDDIMScheduler", "SubsetDDPMScheduler", "SubsetDPMSolverMultistepScheduler", "SubsetDPMSolverSinglestepScheduler", "SubsetEulerDiscreteScheduler",
                  "SubsetHeunDiscreteScheduler", "SubsetFlowMatchEulerDiscreteScheduler", "even_timesteps"),
    "inception": ("inception_features", "inception_measures", "clip_score"),
    "method": ("TmpqConfig",),
    "artifact": ("save_compressed", "load_compressed"),
    "deploy": ("as_openvino", "load_openvino", "save_openvino"),
    "onnx": ("as_onnx", "load_onnx", "save_onnx"),
    "latency": ("Machine", "measure_machine"),
    "space": ("SearchSpace",),
    "search": ("search",),
}
_MODULE = {name: module for module, names in _HOME.items() for name in names}
__all__ = [*_MODULE, "__version__"]


def __getattr__(name):
    from importlib import import_module
    if name not in _MODULE:
        # A compressed model's model_index.json says ["tmpq_dm", "UNet2DModel"]: the classes are diffusers' own, behind a check.
        try: return globals().setdefault(name, import_module("tmpq_dm.method").checked(name)) if name[:1].isupper() else {}[name]
        except (AttributeError, KeyError): raise AttributeError(f"module 'tmpq_dm' has no attribute {name!r}") from None
    value = globals()[name] = getattr(import_module(f"tmpq_dm.{_MODULE[name]}"), name)
    return value


def __dir__(): return sorted(__all__)
