"""The same code on another device, and in another floating point."""
import contextlib
import diffusers, pytest, torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from tmpq_dm import Supernet, feature_divergence, sample
from tmpq_dm.deployment.exported_folder import compressed_pipeline, denoiser_of
from tmpq_dm.models.denoiser import Denoiser
from tmpq_dm.policy import Policy
from tmpq_dm.sampling.trajectories import starts
from tmpq_dm.sampling.schedulers import even_timesteps
from tmpq_dm.quantization import correction, layers
from tmpq_dm.quantization.tiar import temporal_error
from tmpq_dm.models.tiny import tiny_pipeline
from elsewhere import DEVICE, Pretend

NO_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
DEVICES = [pytest.param(DEVICE, id="mock"), pytest.param("cuda", marks=NO_GPU)]
UNET = dict(sample_size=8, block_out_channels=(8, 16), norm_num_groups=4, layers_per_block=1,
            down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    "One thread, and few steps of full precision to compare a correction with."
    monkeypatch.setattr(correction, "FINE", 4)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def opened(kind, **where):
    torch.manual_seed(0)
    if kind != "unet": return Denoiser.from_pipeline(tiny_pipeline(kind), **where)
    pipe = diffusers.DDPMPipeline(diffusers.UNet2DModel(**UNET), diffusers.DDPMScheduler())
    return Denoiser.from_pipeline(pipe, **where)


def policy(den, bits):
    uniform = Policy.uniform(den.ops, even_timesteps(den.scheduler, 3), bits, 8, den.fingerprint)
    return uniform.replace(sampler=den.sampler, guidance=den.guidance)


def path(den, iterations, adapt, folder):
    "What each part of the path computes: divergence, temporal errors, images"
    start = starts(den, 2, seed=3)
    found = {}
    found["divergence"] = feature_divergence(den, even_timesteps(den.scheduler, 3), start).l2
    net = Supernet(den, (4, 8), act_observer="minmax", weight_observer="minmax")
    net.calibrate(32, iterations, adapt=adapt, progress=False)
    errors = temporal_error(net.set_policy(policy(den, 8)), torch.arange(1, 5))
    found["temporal"] = torch.stack(list(errors.values()))
    p = policy(den, 4)
    found["full"] = sample(den, p.timesteps, start)
    found["quantized"] = sample(net.set_policy(p), p.timesteps, start)
    found["packed"] = sample(denoiser_of(compressed_pipeline(net, p)), p.timesteps, start)
    net.save(folder)
    found["read again"] = sample(Supernet.load(folder, den).set_policy(p), p.timesteps, start)
    return found


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("kind", ["unet", "sd3"])
def test_another_device(kind, device, tmp_path, monkeypatch):
    """A UNet without learned rounding gives the same images to the bit, once the CPU computes in floating point, too.

    SD3 has learned rounding here, and a random network amplifies small differences: only what is computed in full
    precision is compared."""
    monkeypatch.setattr(layers, "exact_bytes", lambda *_: False)
    plain = kind == "unet"
    iterations = int(not plain)
    with sdpa_kernel(SDPBackend.MATH):
        here = path(opened(kind), iterations, not plain, tmp_path/"here")
        with Pretend() if device is DEVICE else contextlib.nullcontext():
            there = path(opened(kind, device=device), iterations, not plain, tmp_path/"there")
    assert {v.device.type for v in there.values()} == {"cpu"}
    for name, value in here.items():
        exact = plain and device is DEVICE and name not in ("divergence", "temporal")
        if exact: assert torch.equal(value, there[name]), name
        elif plain or name in ("divergence", "full"): assert torch.allclose(value, there[name], atol=1e-4), name
    for found in (here, there):
        assert torch.equal(found["quantized"], found["packed"])
        assert torch.equal(found["quantized"], found["read again"])


def test_devices_do_not_mix():
    "The mock device refuses an operation whose tensors are on two devices"
    with Pretend():
        layer, x = torch.nn.Linear(3, 4).to(DEVICE), torch.randn(2, 3)
        assert layer(x.to(DEVICE)).device == DEVICE
        with pytest.raises(RuntimeError, match="on the cpu"): layer(x)
        with pytest.raises(RuntimeError, match="on the cpu"): x.to(DEVICE) + x


# In SD3 every parameter is quantized, so that the dtype cannot be read from one that is not
@pytest.mark.parametrize("kind", ["unet", "dit", "sd3"])
def test_bfloat16(kind, tmp_path):
    exact = path(opened(kind), 1, True, tmp_path/"a")
    half = path(opened(kind, dtype=torch.bfloat16), 1, True, tmp_path/"b")
    assert torch.equal(half["quantized"], half["packed"])
    assert torch.equal(half["quantized"], half["read again"])
    error = lambda a, b: (a - b).square().mean().sqrt()
    assert 0 < error(half["full"], exact["full"]) < 0.05
    assert error(half["quantized"], half["full"]) < 1.5 * error(exact["quantized"], exact["full"]) + 0.01


def test_bfloat16_artifact(tmp_path):
    "What is not quantized is cast when it is loaded; the rest stays in float32."
    den = opened("unet", dtype=torch.bfloat16)
    net = Supernet(den, (4, 8)).calibrate(32, 0, progress=False)
    p = policy(den, 4)
    start = starts(den, 2, seed=3)
    pipe = compressed_pipeline(net, p)
    pipe.unet.save_pretrained(tmp_path)
    model = diffusers.UNet2DModel.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert model.conv_in.source.affine4_8.dtype == torch.float32
    assert model.conv_norm_out.weight.dtype == torch.bfloat16
    again = denoiser_of(diffusers.DDPMPipeline(model, pipe.scheduler))
    assert torch.equal(sample(again, p.timesteps, start), sample(net.set_policy(p), p.timesteps, start))
