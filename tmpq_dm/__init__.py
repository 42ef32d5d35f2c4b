"""Make a trained diffusion model smaller and faster: choose its timesteps and the bits of every layer together (TMPQ-DM)."""
__version__ = "0.1.0"

# What is exported, and the module it lives in. Loaded on first use, so that `import tmpq_dm` and `tmpq-dm --help` stay fast.
_HOME = {
    "core.errors": ("TmpqError",),
    "policy": ("Policy",),
    "sampling.schedulers": ("uniform_timesteps", "SubsetDDIMScheduler", "SubsetDDPMScheduler", "SubsetDPMSolverMultistepScheduler", "SubsetDPMSolverSinglestepScheduler", "SubsetEulerDiscreteScheduler", "SubsetHeunDiscreteScheduler", "SubsetFlowMatchEulerDiscreteScheduler", "even_timesteps",),
    "sampling.trajectories": ("sample", "starts", "paired_noise",),
    "models.trace": ("QuantOp",),
    "models.tiny": ("tiny_pipeline",),
    "models.pipelines": ("Denoiser", "ClassPipeline",),
    "models.reference": ("load_reference", "reference_features", "reference_statistics", "open_denoiser",),
    "analysis.divergence": ("feature_divergence",),
    "analysis.grouping": ("quadratic_groups", "uniform_groups", "equal_groups",),
    "evaluation.metrics": ("evaluate", "real_statistics",),
    "evaluation.fitness": ("make_fitness",),
    "evaluation.inception": ("inception_features", "inception_measures", "clip_score",),
    "evaluation.cost": ("bitops", "macs", "size_bytes",),
    "quantization.grid": ("Grid",),
    "quantization.tiar": ("choose_cache", "temporal_error",),
    "quantization.adaptation": ("Supernet",),
    "search.space": ("SearchSpace",),
    "search.evolution": ("search",),
    "search.fidelity": ("agreement", "calibrated_alone",),
    "deployment.quantization_method": ("TmpqConfig",),
    "deployment.exported_folder": ("save_compressed", "load_compressed",),
    "deployment.openvino": ("as_openvino", "load_openvino", "save_openvino",),
    "deployment.latency": ("Machine", "measure_machine",),
    "deployment.onnx": ("as_onnx", "load_onnx", "save_onnx",),
}
_MODULE = {name: module for module, names in _HOME.items() for name in names}
__all__ = [*_MODULE, "__version__"]


def __getattr__(name):
    from importlib import import_module
    if name not in _MODULE:
        # A compressed model's model_index.json says ["tmpq_dm", "UNet2DModel"]: the classes are diffusers' own, behind a check.
        try: return globals().setdefault(name, import_module("tmpq_dm.deployment.quantization_method").checked(name)) if name[:1].isupper() else {}[name]
        except (AttributeError, KeyError): raise AttributeError(f"module 'tmpq_dm' has no attribute {name!r}") from None
    value = globals()[name] = getattr(import_module(f"tmpq_dm.{_MODULE[name]}"), name)
    return value


def __dir__(): return sorted(__all__)
