"""Compressed models: exported by the command line, loaded by diffusers in fresh processes, damaged, killed."""
import json, os, random, re, shutil, subprocess, sys, time
from pathlib import Path
import pytest, torch
from safetensors.torch import load_file, save_file
from test_cli import ENV, refused, tmpq

LOADING = Path(__file__).with_name("loading.py")


def generators(n): return [torch.Generator().manual_seed(i) for i in range(n)]


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    "Tests run side by side, and threads of each would wait for one another."
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    "(policy file, supernet, compressed model) of the bundled model, made by the command line"
    from tmpq_dm import Policy, Supernet, open_denoiser
    d, den = tmp_path_factory.mktemp("small"), open_denoiser()
    rng, bits = random.Random(0), (4, 8)
    table = {o.name: (rng.choice(bits), rng.choice(bits)) for o in den.ops}
    tables = table, {n: (8, 8) for n in table}
    measured = dict(fitness=0.5, num_images=8)
    Policy((900, 500, 100), tables, (0, 0, 1), den.fingerprint, measured).save(d/"policy.json")
    Supernet(den, bits).calibrate(32, 0, adapt=True, progress=False).save(d/"supernet")
    r = tmpq("export", "reference", "--policy", d/"policy.json", "--supernet", d/"supernet", "--out", d/"model")
    assert r.returncode == 0, r.stderr
    return d/"policy.json", d/"supernet", d/"model"


@pytest.fixture(scope="module")
def simulated(small):
    "Images that the simulation draws with the policy"
    from tmpq_dm import Policy, Supernet, open_denoiser, sample
    policy, net = Policy.load(small[0]), Supernet.load(small[1], open_denoiser())
    noise = torch.stack([torch.randn(net.shape, generator=g) for g in generators(2)])
    images = sample(net.set_policy(policy), policy.timesteps, noise)
    return (images / 2 + 0.5).clamp(0, 1)


def test_a_folder_keeps_what_was_measured_and_no_places(small):
    files = {p.relative_to(small[2]).as_posix(): p for p in small[2].rglob("*") if p.is_file()}
    assert json.loads(files["policy.json"].read_text())["measured"] == dict(fitness=0.5, num_images=8)
    texts = [p.read_text() for name, p in files.items() if p.suffix in (".json", ".md")]
    assert not any(str(Path.cwd()) in t or "assets" in t or str(small[2].parent) in t for t in texts)
    os.umask(mask := os.umask(0))
    assert {oct(p.stat().st_mode & 0o777) for p in files.values()} == {oct(0o666 & ~mask)}


def test_a_folder_of_format_1_is_read():
    "A tiny model, and the images that it drew when it was written."
    from tmpq_dm import load_compressed, sample
    from tmpq_dm.deployment.exported_folder import denoiser_of
    golden = Path(__file__).parent/"golden"/"format-1"
    then, den = load_file(f"{golden}.safetensors"), denoiser_of(load_compressed(golden))
    assert (sample(den, den.policy.timesteps, then["noise"]) - then["images"]).abs().mean() < 1e-3


@pytest.mark.parametrize("first", ["tmpq_dm", "diffusers"])
def test_importing_the_package_is_enough_to_load_and_save(first, small, simulated, tmp_path):
    """Every way to load and save, in fresh processes, whichever of the two libraries is imported first.

    What is loaded draws what the simulation draws. Without tmpq_dm, diffusers' own error names it."""
    save_file({"images": simulated}, tmp_path/"images")
    command = [sys.executable, LOADING, first, small[2], tmp_path/"images", tmp_path]
    r = subprocess.run(command, capture_output=True, text=True, env=ENV)
    assert r.returncode == 0, r.stderr


def test_the_package_lists_the_networks_that_it_describes():
    import tmpq_dm
    from tmpq_dm.models.architecture import ARCHITECTURES
    assert set(tmpq_dm._NETWORKS) == set(ARCHITECTURES)


PUBLIC_NAMES = """
import sys, tmpq_dm
dir(tmpq_dm)
assert "torch" not in sys.modules
from tmpq_dm import *
import importlib, inspect, pkgutil
for module in pkgutil.walk_packages(tmpq_dm.__path__, "tmpq_dm."): importlib.import_module(module.name)
assert not [name for name in tmpq_dm.__all__ if inspect.ismodule(getattr(tmpq_dm, name))]
from tmpq_dm import search as again, sample as other
assert callable(tmpq_dm.search) and search is again is tmpq_dm.search and sample is other
"""


def test_public_names_stay_what_they_are():
    "Names are listed without loading torch, and modules that are imported later take no function's place."
    r = subprocess.run([sys.executable, "-c", PUBLIC_NAMES], capture_output=True, text=True, env=ENV)
    assert r.returncode == 0, r.stderr


def test_the_card_says_what_to_import(small):
    "In its first lines"
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


def test_onnx_on_the_command_line(small, simulated, tmp_path):
    from tmpq_dm import load_onnx
    r = tmpq("export", small[2], "--to", "onnx", "--out", tmp_path/"graphs")
    assert r.returncode == 0, r.stderr
    pipe = load_onnx(tmp_path/"graphs")
    pipe.set_progress_bar_config(disable=True)
    images = pipe(batch_size=2, generator=generators(2), output_type="pt").images
    difference = (images - simulated).abs().mean()
    assert 0 < difference < 0.05 < images.std()
    (tmp_path/"graphs/graph-0.onnx").write_bytes(b"")
    assert "graph-0.onnx" in refused("evaluate", tmp_path/"graphs")


def test_no_mutation_loads_silently(small, tmp_path):
    "Neither through diffusers: 60 random changes of one file."
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
        if (kind, name) == ("remove", MANIFEST): continue       # without it, diffusers has nothing to check with
        with pytest.raises(Exception): DiffusionPipeline.from_pretrained(folder)


FULL_DISK = """
import resource, sys
from tmpq_dm import cli
from tmpq_dm.core import folders
free = folders.require_free
def full(folder):
    resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))      # from here on no file can be larger
    free(folder)
folders.require_free = full
sys.exit(cli.main(sys.argv[1:]))
"""


@pytest.mark.parametrize("target", ["diffusers", "openvino", "onnx"])
def test_a_full_disk_is_one_line(target, small, tmp_path):
    "Whoever writes the file: safetensors, a C++ stream, or Python"
    pytest.importorskip("resource")
    command = [sys.executable, "-c", FULL_DISK, "export", small[2], "--to", target, "--out", tmp_path/"model"]
    r = subprocess.run(command, capture_output=True, text=True, env=ENV)
    assert r.returncode == 2 and len(r.stderr.splitlines()) == 1 and "cannot be written" in r.stderr, r.stderr
    assert os.listdir(tmp_path) == []


def test_committed_data_name_the_bundled_model():
    "What was measured of it is of the model that is there: its fingerprint is in every file that has one"
    from tmpq_dm import open_denoiser
    files = (Path(__file__).parents[1]/"figures/data").rglob("*.json")
    names = {name for f in files for name in re.findall(r'"model": ?"([0-9a-f]{16})"', f.read_text())}
    assert names == {open_denoiser().fingerprint}


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
