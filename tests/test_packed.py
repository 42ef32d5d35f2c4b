"""A compressed model as its users treat it: moved, cast, pickled, compiled, given other processors and schedulers."""
import copy, io, pickle
import diffusers, pytest, torch
from accelerate.hooks import CpuOffload, add_hook_to_module
from diffusers.models import attention_processor as processors
from tmpq_dm import Denoiser, Policy, Supernet, TmpqError, tiny_pipeline
from tmpq_dm.deployment.exported_folder import compressed_pipeline
from tmpq_dm.models.pipelines import network_of
from tmpq_dm.quantization.layers import exact_bytes
from tmpq_dm.sampling.schedulers import even_timesteps

KINDS = "ddpm", "sd", "sd3"      # in SD3 every parameter is quantized


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def compressed(kind):
    den = Denoiser.from_pipeline(tiny_pipeline(kind))
    net = Supernet(den, (8,)).calibrate(32, 0, adapt=True, progress=False)
    policy = Policy.uniform(den.ops, even_timesteps(den.scheduler, 3), 8, 8, den.fingerprint)
    pipe = compressed_pipeline(net, policy)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def pipes(): return {kind: compressed(kind) for kind in KINDS}


@pytest.fixture(params=KINDS)
def pipe(request, pipes): return copy.deepcopy(pipes[request.param])


def drawn(pipe):
    prompt = {} if isinstance(pipe, diffusers.DDPMPipeline) else dict(prompt="a red bicycle")
    return torch.as_tensor(pipe(**prompt, generator=torch.Generator().manual_seed(0), output_type="np").images)


def same_images(pipe, network):
    "Whether the pipeline draws with another network what it drew before."
    before, name = drawn(pipe), "unet" if hasattr(pipe, "unet") else "transformer"
    setattr(pipe, name, network)
    return torch.allclose(drawn(pipe), before, atol=1e-4)


def test_torch_save(pipe):
    file, network = io.BytesIO(), network_of(pipe)
    torch.save(network, file)
    file.seek(0)
    assert same_images(pipe, torch.load(file, weights_only=False))      # our own file
    assert pickle.loads(pickle.dumps(network)).num_parameters() == network.num_parameters()


@pytest.mark.filterwarnings("ignore")
def test_compile(pipe):
    assert same_images(pipe, torch.compile(network_of(pipe), backend="eager"))


def test_compiled_blocks(pipes):
    pipe = copy.deepcopy(pipes["sd"])
    before = drawn(pipe)
    pipe.unet.compile_repeated_blocks(backend="eager")
    assert torch.allclose(drawn(pipe), before, atol=1e-4)


def test_model_cpu_offload(pipe):
    "accelerate asks the first parameter where a model is."
    network = network_of(pipe)
    add_hook_to_module(network, CpuOffload(execution_device="cpu"))
    assert same_images(pipe, network)


@pytest.mark.skipif(not exact_bytes(), reason="this processor multiplies 8-bit layers in floating point")
def test_no_matter_who_else_is_in_the_batch(pipe):
    def seeds(*some): return [torch.Generator().manual_seed(s) for s in some]
    plain = isinstance(pipe, diffusers.DDPMPipeline)
    one = {} if plain else dict(prompt="a red bicycle")
    many = one | {"batch_size" if plain else "num_images_per_prompt": 5}
    together = torch.as_tensor(pipe(**many, generator=seeds(*range(5)), output_type="np").images)
    alone = torch.as_tensor(pipe(**one, generator=seeds(2), output_type="np").images)
    assert torch.allclose(together[2:3], alone, atol=1e-6)       # an autoencoder stays in floating point


def test_state_dict_round_trip(pipe):
    network = network_of(pipe)
    state = network.state_dict()
    assert not [name for name in state if "place" in name]
    assert not any(network.load_state_dict(state))


def test_bfloat16_casts_what_is_not_quantized(pipe):
    network = network_of(pipe)
    kept = {name: tensor.clone() for name, tensor in network.state_dict().items() if tensor.dtype == torch.float32
            and name.split(".")[-1].startswith(("affine", "grid", "output_fits"))}
    network.bfloat16()
    assert network.dtype == torch.bfloat16 and kept
    assert all(torch.equal(network.state_dict()[name], tensor) for name, tensor in kept.items())


def test_dequantized_model_is_one_of_diffusers(pipe, tmp_path):
    "It is saved, loaded, and compressed like any other."
    network = network_of(pipe).dequantize()
    network.save_pretrained(tmp_path)
    again = type(network).from_pretrained(tmp_path)
    assert "quantization_config" not in again.config and not hasattr(again, "packed")
    assert network.state_dict().keys() == again.state_dict().keys()
    assert all(torch.equal(v, again.state_dict()[k]) for k, v in network.state_dict().items())
    assert Denoiser(again).ops


ATTENTION = dict(
    slices=lambda pipe: pipe.enable_attention_slicing(1),
    processor=lambda pipe: network_of(pipe).set_attn_processor(processors.AttnProcessor()),
    sliced=lambda pipe: network_of(pipe).set_attn_processor(processors.SlicedAttnProcessor(1)))


@pytest.mark.parametrize("way", ATTENTION)
def test_attention_that_is_not_quantized_is_refused_by_the_next_forward(way, pipes):
    pipe = copy.deepcopy(pipes["sd"])
    before, own = drawn(pipe), pipe.unet.attn_processors
    ATTENTION[way](pipe)
    with pytest.raises(TmpqError, match="would multiply without quantization"): drawn(pipe)
    pipe.unet.set_attn_processor(own)
    assert torch.equal(drawn(pipe), before)


def test_backends_leave_the_products_quantized(pipe):
    before = drawn(pipe)
    for backend in ("flex", "_native_math"):
        network_of(pipe).set_attention_backend(backend)
        assert torch.equal(drawn(pipe), before)


@pytest.mark.parametrize("name", ["fuse_qkv_projections", "load_lora_adapter", "add_adapter"])
def test_layers_that_cannot_be_changed(name, pipes):
    with pytest.raises(TmpqError, match=f"{name}: .* are integers"): getattr(pipes["sd"].unet, name)({})


def test_pipelines_that_count_steps(pipes):
    for cls in (diffusers.StableDiffusionImg2ImgPipeline, diffusers.AutoPipelineForImage2Image):
        with pytest.raises(TmpqError, match="StableDiffusionImg2ImgPipeline: is not understood"):
            cls.from_pipe(pipes["sd"])
    with pytest.raises(TmpqError, match="skip_guidance_layers"):
        pipes["sd3"]("a", skip_guidance_layers=[0], output_type="np")


def test_a_scheduler_given_while_loading(pipes, tmp_path):
    pipes["ddpm"].save_pretrained(tmp_path)
    diffusers.DiffusionPipeline.from_pretrained(tmp_path)
    for scheduler in (diffusers.DDPMScheduler(), diffusers.DPMSolverMultistepScheduler()):
        with pytest.raises(TmpqError, match=f"scheduler: {type(scheduler).__name__}"):
            diffusers.DiffusionPipeline.from_pretrained(tmp_path, scheduler=scheduler)
    with pytest.raises(TmpqError, match="scheduler: DDIMScheduler"):
        diffusers.DDIMPipeline.from_pretrained(tmp_path)


def test_a_layer_that_the_next_one_undoes():
    "Multiplied by a power of two and by its inverse, two layers compute the same, quantized as well."
    outputs = []
    for k in (0, -24, -70):
        torch.manual_seed(0)
        pipe = tiny_pipeline("ddpm")
        for a in [m for m in pipe.unet.modules() if isinstance(m, processors.Attention)]:
            for tensor in (a.to_v.weight, a.to_v.bias): tensor.data *= 2.0**k
            a.to_out[0].weight.data *= 2.0**-k
        den = Denoiser.from_pipeline(pipe)
        net = Supernet(den, (8,), act_observer="minmax").calibrate(32, 0, progress=False)
        net.set_policy(Policy.uniform(den.ops, (900, 500), 8, 8, den.fingerprint))
        x = torch.randn(2, *den.shape, generator=torch.Generator().manual_seed(0))
        with torch.no_grad(): outputs.append(net(x, 500))
    for other in outputs[1:]: assert torch.allclose(other, outputs[0], rtol=1e-3, atol=1e-4)
