"""Compressed models from outside: written by the command line, read by diffusers in a process that knows nothing of us, damaged, killed."""
import json, os, random, shutil, subprocess, sys, time
from pathlib import Path
import pytest, torch
from test_cli import ENV, refused, tmpq

LOAD = """
import sys, tmpq_dm, torch
from diffusers import DiffusionPipeline
from safetensors.torch import save_file
torch.set_num_threads(1)
pipe = DiffusionPipeline.from_pretrained(sys.argv[1])
pipe.set_progress_bar_config(disable=True)
save_file({"images": pipe(batch_size=2, generator=[torch.Generator().manual_seed(i) for i in range(2)], output_type="pt").images}, sys.argv[2])
"""


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    "(policy file, supernet, compressed model) of the bundled model, made by the command line"
    from tmpq_dm import Policy, Supernet, open_denoiser
    d, den = tmp_path_factory.mktemp("small"), open_denoiser()
    rng, bits = random.Random(0), (4, 8)
    table = {o.name: (rng.choice(bits), rng.choice(bits)) for o in den.ops}
    Policy((900, 500, 100), (table, {n: (8, 8) for n in table}), (0, 0, 1), den.fingerprint, dict(fitness=0.5, num_images=8)).save(d/"policy.json")
    Supernet(den, bits).calibrate(32, 0, progress=False).save(d/"supernet")
    r = tmpq("export", "reference", "--policy", d/"policy.json", "--supernet", d/"supernet", "--out", d/"model")
    assert r.returncode == 0, r.stderr
    return d/"policy.json", d/"supernet", d/"model"


def images_of(folder, tmp_path):
    from safetensors.torch import load_file
    r = subprocess.run([sys.executable, "-c", LOAD, folder, tmp_path/"images"], capture_output=True, text=True, env=ENV)
    assert r.returncode == 0, r.stderr
    return load_file(tmp_path/"images")["images"]


def test_diffusers_alone_draws_what_the_simulation_draws(small, tmp_path):
    from tmpq_dm import Policy, Supernet, open_denoiser, sample
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    policy, net = Policy.load(small[0]), Supernet.load(small[1], open_denoiser())
    noise = torch.stack([torch.randn(net.shape, generator=torch.Generator().manual_seed(i)) for i in range(2)])
    expected = (sample(net.set_policy(policy), policy.timesteps, noise) / 2 + 0.5).clamp(0, 1)
    torch.set_num_threads(threads)
    assert torch.equal(images_of(small[2], tmp_path), expected)


def test_a_folder_keeps_what_was_measured_and_no_places(small):
    files = {p.relative_to(small[2]).as_posix(): p for p in small[2].rglob("*") if p.is_file()}
    assert json.loads(files["policy.json"].read_text())["measured"] == dict(fitness=0.5, num_images=8)
    texts = [p.read_text() for name, p in files.items() if p.suffix in (".json", ".md")]
    assert not any(str(Path.cwd()) in t or "assets" in t or str(small[2].parent) in t for t in texts)
    os.umask(mask := os.umask(0))
    assert {oct(p.stat().st_mode & 0o777) for p in files.values()} == {oct(0o666 & ~mask)}


def test_a_folder_of_format_1_is_read():
    "A tiny model, and the images that it drew when it was written."
    from safetensors.torch import load_file
    from tmpq_dm import load_compressed, sample
    from tmpq_dm.deployment.exported_folder import denoiser_of
    golden = Path(__file__).parent/"golden"/"format-1"
    then, den = load_file(f"{golden}.safetensors"), denoiser_of(load_compressed(golden))
    assert (sample(den, den.policy.timesteps, then["noise"]) - then["images"]).abs().mean() < 1e-3


PATHS = """
import sys, torch
first, folder, new = sys.argv[1:]
if first == "tmpq_dm": import tmpq_dm, diffusers
else: import diffusers, tmpq_dm
from pathlib import Path
torch.set_num_threads(1)

def images(pipe):
    pipe.set_progress_bar_config(disable=True)
    return pipe(batch_size=2, generator=[torch.Generator().manual_seed(i) for i in range(2)], output_type="pt").images

network = diffusers.UNet2DModel.from_pretrained(folder, subfolder="unet")
pipe = diffusers.DiffusionPipeline.from_pretrained(folder)
expected = images(pipe)
pipe.save_pretrained(f"{new}/again")
assert tmpq_dm.Policy.load(f"{new}/again/policy.json").to_dict() == tmpq_dm.Policy.load(f"{folder}/policy.json").to_dict()
assert Path(new, "again/README.md").read_bytes() == Path(folder, "README.md").read_bytes()
assert sorted(p.name for p in Path(new, "again").rglob("*")) == sorted(p.name for p in Path(folder).rglob("*"))
again = diffusers.DiffusionPipeline.from_pretrained(f"{new}/again")
assert torch.equal(images(again), expected)
assert torch.equal(images(diffusers.DDPMPipeline(network, pipe.scheduler)), expected)
assert torch.equal(images(tmpq_dm.load_compressed(f"{new}/again")), expected)
tmpq_dm.load_reference().unet.save_pretrained(f"{new}/plain")
config = tmpq_dm.TmpqConfig(weights=4)
light = diffusers.UNet2DModel.from_pretrained(f"{new}/plain", quantization_config=config)
light.save_pretrained(f"{new}/light")
diffusers.DDPMPipeline(light, tmpq_dm.load_reference().scheduler).save_pretrained(f"{new}/pipeline")
"""

LAST = """
import sys
if sys.argv[1] == "tmpq_dm": import tmpq_dm, diffusers
else: import diffusers, tmpq_dm
diffusers.DiffusionPipeline.from_pretrained(f"{sys.argv[2]}/again")
assert diffusers.UNet2DModel.from_pretrained(f"{sys.argv[2]}/light").is_quantized
assert diffusers.DiffusionPipeline.from_pretrained(f"{sys.argv[2]}/pipeline").unet.is_quantized
"""


@pytest.mark.parametrize("first", ["tmpq_dm", "diffusers"])
def test_importing_the_package_is_enough_to_load_and_save(first, small, tmp_path):
    "Every way to load and save, in fresh processes, whichever of the two libraries is imported first."
    for code, args in ((PATHS, (small[2], tmp_path)), (LAST, (tmp_path,))):
        r = subprocess.run([sys.executable, "-c", code, first, *args], capture_output=True, text=True, env=ENV)
        assert r.returncode == 0, r.stderr


def test_the_package_lists_the_networks_that_it_describes():
    import tmpq_dm
    from tmpq_dm.models.architecture import ARCHITECTURES
    assert set(tmpq_dm._NETWORKS) == set(ARCHITECTURES)


def test_public_names_stay_what_they_are():
    "Names are listed without loading torch, and modules that are imported later take no function's place."
    code = "import sys, tmpq_dm; dir(tmpq_dm); assert 'torch' not in sys.modules\nfrom tmpq_dm import *\n" \
           "import tmpq_dm.searching.evolution, tmpq_dm.policy\nassert callable(tmpq_dm.search) and search is tmpq_dm.search"
    r = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=ENV)
    assert r.returncode == 0, r.stderr


ALONE = """
import sys, diffusers
for cls, folder in ((diffusers.DiffusionPipeline, sys.argv[1]), (diffusers.UNet2DModel, sys.argv[1] + "/unet")):
    try: cls.from_pretrained(folder)
    except Exception as e: assert "tmpq_dm" in str(e), e
    else: raise AssertionError(folder)
"""


def test_without_the_package_the_error_names_it(small):
    "diffusers alone: its own error names tmpq_dm, and the first lines of the card say what to import."
    r = subprocess.run([sys.executable, "-c", ALONE, small[2]], capture_output=True, text=True, env=ENV)
    assert r.returncode == 0, r.stderr
    card = (small[2]/"README.md").read_text().split("# A compressed diffusion model")[1]
    assert "import tmpq_dm" in "".join(card.strip().splitlines(True)[:6])


def test_openvino_on_the_command_line(small, tmp_path):
    r = tmpq("export", small[2], "--to", "openvino", "--out", tmp_path/"integers")
    assert r.returncode == 0, r.stderr
    found = {}
    for name, model in (("simulation", small[2]), ("integers", tmp_path/"integers")):
        r = tmpq("evaluate", model, "--num-images", "128", "--json")
        assert r.returncode == 0, r.stderr
        found[name] = json.loads(r.stdout)["fd"]
    assert found["integers"]["low"] < found["simulation"]["value"] < found["integers"]["high"]
    graph = tmp_path/"integers/graph-0.bin"
    data = graph.read_bytes()
    graph.write_bytes(data[:1000] + bytes([data[1000] ^ 1]) + data[1001:])
    assert "graph-0.bin" in refused("evaluate", tmp_path/"integers")
    assert "has graphs already" in refused("export", tmp_path/"integers", "--out", tmp_path/"again")


def test_onnx_on_the_command_line(small, tmp_path):
    from tmpq_dm import load_onnx
    r = tmpq("export", small[2], "--to", "onnx", "--out", tmp_path/"graphs")
    assert r.returncode == 0, r.stderr
    pipe = load_onnx(tmp_path/"graphs")
    pipe.set_progress_bar_config(disable=True)
    images = pipe(batch_size=2, generator=[torch.Generator().manual_seed(i) for i in range(2)], output_type="pt").images
    difference = (images - images_of(small[2], tmp_path)).abs().mean()
    assert 0 < difference < 0.05 < images.std()
    (tmp_path/"graphs/graph-0.onnx").write_bytes(b"")
    assert "graph-0.onnx" in refused("evaluate", tmp_path/"graphs")


def test_no_mutation_loads_silently(small, tmp_path):
    "By the door of diffusers, too: 60 random changes of one file."
    from diffusers import DiffusionPipeline
    from tmpq_dm import TmpqError, load_compressed
    from tmpq_dm.core.folders import MANIFEST, damage
    rng, folder = random.Random(0), tmp_path/"model"
    for i in range(60):
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(small[2], folder)
        kind, name = damage(folder, rng)
        with pytest.raises(TmpqError) as e: load_compressed(folder)
        assert str(folder) in str(e.value) and "\n" not in str(e.value), (kind, name)
        if (kind, name) == ("remove", MANIFEST): continue       # without a manifest, diffusers has nothing to check with
        with pytest.raises(Exception): DiffusionPipeline.from_pretrained(folder)


def test_kills_leave_whole_folders_or_none(small, tmp_path):
    from tmpq_dm import TmpqError, load_compressed
    from tmpq_dm.core.folders import check_folder
    script = f"""
import sys
from tmpq_dm import Policy, Supernet, open_denoiser, save_compressed
net = Supernet.load({str(small[1])!r}, open_denoiser())
policy = Policy.load({str(small[0])!r})
print("ready", flush=True)
while True: save_compressed(net, policy, sys.argv[1], max_shard_size="100KB")
"""
    rng, folder = random.Random(0), tmp_path/"model"
    for i in range(4):
        process = subprocess.Popen([sys.executable, "-c", script, folder], stdout=subprocess.PIPE, env=ENV)
        process.stdout.readline()
        time.sleep(rng.uniform(0, 1.5))
        process.kill()
        process.wait()
        if folder.exists(): check_folder(folder)
    r = tmpq("export", "reference", "--policy", small[0], "--supernet", small[1], "--out", folder)
    assert r.returncode == 0 and os.listdir(tmp_path) == ["model"], r.stderr
    load_compressed(folder)
