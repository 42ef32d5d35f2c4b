"""Make a trained diffusion model smaller and faster: choose its timesteps and the bits of every layer together."""
import sys, warnings
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.machinery import PathFinder

__version__ = "0.1.0"

# In a notebook without widgets tqdm would warn as soon as diffusers imports it; nothing here needs them.
warnings.filterwarnings("ignore", message="IProgress not found")

# Which module defines each public name. A module is loaded when one of its names is first used, so that
# `import tmpq_dm` and `tmpq-dm --help` stay fast.
_NAMES = {
    "core.errors": ["TmpqError"],
    "policy": ["Policy"],
    "sampling.schedulers": [
        "SubsetDDIMScheduler", "SubsetDDPMScheduler", "SubsetDPMSolverMultistepScheduler",
        "SubsetDPMSolverSinglestepScheduler", "SubsetEulerDiscreteScheduler", "SubsetHeunDiscreteScheduler",
        "SubsetFlowMatchEulerDiscreteScheduler", "even_timesteps", "uniform_timesteps"],
    "sampling.trajectories": ["paired_noise", "sample", "starts"],
    "models.trace": ["QuantOp"],
    "models.tiny": ["tiny_pipeline"],
    "models.pipelines": ["ClassPipeline"],
    "models.denoiser": ["Denoiser"],
    "models.reference": ["load_reference", "open_denoiser", "reference_features", "reference_statistics"],
    "models.texture": ["texture_features", "texture_statistics"],
    "analysis.divergence": ["feature_divergence"],
    "analysis.grouping": ["equal_groups", "quadratic_groups", "uniform_groups"],
    "evaluation.metrics": ["real_statistics"],
    "evaluation.fitness": ["make_fitness"],
    "evaluation.inception": ["inception_features"],
    "evaluation.inception_measures": ["inception_measures"],
    "evaluation.clip": ["clip_score"],
    "evaluation.evaluate": ["evaluate"],
    "evaluation.cost": ["bitops", "macs", "size_bytes"],
    "evaluation.paired": ["frechet_difference", "kernel_difference"],
    "quantization.grid": ["Grid"],
    "quantization.tiar": ["choose_cache", "temporal_error"],
    "quantization.supernet": ["Supernet"],
    "searching.space": ["SearchSpace"],
    "searching.run": ["search"],
    "searching.fidelity": ["agreement", "calibrated_alone"],
    "deployment.quantization_method": ["TmpqConfig"],
    "deployment.exported_folder": ["load_compressed", "save_compressed"],
    "deployment.openvino": ["as_openvino", "load_openvino", "save_openvino"],
    "deployment.latency": ["Machine", "measure_machine"],
    "deployment.onnx": ["as_onnx", "load_onnx", "save_onnx"],
}
_MODULE = {name: module for module, names in _NAMES.items() for name in names}
__all__ = [*_MODULE, "__version__"]

# The model_index.json of a compressed model names ["tmpq_dm", "UNet2DModel"]. diffusers then looks the class up here,
# and its base among the bases it can load: its own classes, of which the networks check the folder first.
_NETWORKS = [
    "DiTTransformer2DModel", "PixArtTransformer2DModel", "SD3Transformer2DModel", "UNet2DConditionModel", "UNet2DModel"]
_BASES = ["DiffusionPipeline", "ModelMixin", "SchedulerMixin"]


def __getattr__(name):
    if name in _BASES: value = getattr(import_module("diffusers"), name)
    elif name in _NETWORKS: value = _method().checked(name)
    elif name == "TmpqConfig": value = _method().TmpqConfig
    elif name in _MODULE: value = getattr(import_module(f"tmpq_dm.{_MODULE[name]}"), name)
    else: raise AttributeError(f"module 'tmpq_dm' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__(): return sorted(__all__)


# diffusers knows quantization methods by two dictionaries in `diffusers.quantizers.auto`. What is entered here loads
# the deployment modules when it is first needed; these enter the real classes in its place.
_AUTO = "diffusers.quantizers.auto"


def _method():
    "The module of the quantization method. Whoever needs it saves whole folders, too."
    import_module("tmpq_dm.deployment.exported_folder")
    return import_module("tmpq_dm.deployment.quantization_method")


class _Config:
    "Stands for `TmpqConfig` until a model needs it."
    @staticmethod
    def from_dict(*args, **kwargs):
        return _method().TmpqConfig.from_dict(*args, **kwargs)


def _quantizer(*args, **kwargs): return _method().TmpqQuantizer(*args, **kwargs)


def _register(auto):
    auto.AUTO_QUANTIZATION_CONFIG_MAPPING.setdefault("tmpq_dm", _Config)
    auto.AUTO_QUANTIZER_MAPPING.setdefault("tmpq_dm", _quantizer)


class _WhenImported(MetaPathFinder):
    "Registers the method as soon as diffusers has made its dictionaries, whoever imports it; then steps aside."
    def find_spec(self, name, path=None, target=None):
        spec = PathFinder.find_spec(name, path) if name == _AUTO else None
        if spec is None: return None
        execute = spec.loader.exec_module
        def then_register(module):
            execute(module)
            _register(module)
            if self in sys.meta_path: sys.meta_path.remove(self)
        spec.loader.exec_module = then_register
        return spec


if _AUTO in sys.modules: _register(sys.modules[_AUTO])
else: sys.meta_path.insert(0, _WhenImported())
