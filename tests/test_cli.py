"""The command line from outside: each command in a process of its own, with good and bad input."""
import functools, json, os, subprocess, sys
from pathlib import Path
import pytest
from forks import Forks

# tests run side by side; threads of each would wait for one another
ENV = os.environ | {"TQDM_DISABLE": "1", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
TMPQ = sys.executable, "-c", "import sys; from tmpq_dm.cli import main; sys.exit(main())"


@functools.cache
def commands(): return Forks("tmpq_dm.cli:main", env=ENV)


def tmpq(*args, cwd=None): return subprocess.CompletedProcess(args, *commands()([str(a) for a in args], cwd))


def refused(*args, **kw):
    "The one line that a wrong command prints."
    r = tmpq(*args, **kw)
    assert r.returncode == 2 and r.stdout == "" and "Traceback" not in r.stderr, r.stderr
    lines = r.stderr.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("tmpq-dm: "), r.stderr
    return lines[0]


@pytest.fixture(scope="module")
def fingerprint():
    from tmpq_dm import open_denoiser
    return open_denoiser()


@pytest.fixture(scope="module")
def policy(fingerprint, tmp_path_factory):
    from tmpq_dm import Policy
    path = tmp_path_factory.mktemp("policy")/"p.json"
    Policy.uniform(fingerprint.ops, (900, 500, 100), 4, 8, fingerprint.fingerprint).save(path)
    return path


def edited(policy, tmp_path, **changes):
    path = tmp_path/"edited.json"
    path.write_text(json.dumps(json.loads(policy.read_text()) | changes))
    return path


def test_help_is_fast_and_teaches():
    r = tmpq("--help")
    assert r.returncode == 0
    for command in SHORT: assert command in r.stdout
    code = ("import sys; from tmpq_dm.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass\n"
            "assert 'torch' not in sys.modules")
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


SHORT = {      # command -> its arguments, in the order in which each finds what it needs
    "divergence": ["tiny", "--steps", "3", "--num-images", "2", "--out", "divergence"],
    "cost": ["tiny"],
    "latency": ["plain", "--batch", "2", "--repeats", "1", "--out", "machine.json"],
    "calibrate": ["tiny", "--bits", "4,8", "--num-samples", "32", "--iterations", "0", "--out", "supernet"],
    "search": ["tiny", "--supernet", "supernet", "--bits", "4,8", "--steps", "2-3", "--num-images", "2",
               "--population", "4", "--generations", "2", "--out", "run"],
    "evaluate": ["tiny", "--policy", "run/best/policy.json", "--supernet", "supernet", "--num-images", "20"],
    "export": ["tiny", "--policy", "run/best/policy.json", "--supernet", "supernet", "--out", "model"],
    "report": ["run"],
    "recipes": [],
    "demo": ["--quick", "--out", "demo"],
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    "A folder with tiny models, in which the commands run one after another; latency converts the smaller one often."
    from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
    from tmpq_dm import tiny_pipeline
    folder = tmp_path_factory.mktemp("commands")
    tiny_pipeline("ddpm").save_pretrained(folder/"tiny")
    unet = UNet2DModel(sample_size=8, in_channels=1, out_channels=1, block_out_channels=(8,), norm_num_groups=4,
                       layers_per_block=1, add_attention=False, down_block_types=("DownBlock2D",), mid_block_type=None,
                       up_block_types=("UpBlock2D",))
    DDPMPipeline(unet, DDPMScheduler()).save_pretrained(folder/"plain")
    return folder


def run_short(command, place):
    r = tmpq(command, *SHORT[command], cwd=place)
    assert r.returncode == 0 and r.stdout.strip(), (command, r.stderr)


def test_every_command_runs_to_its_end(place):
    from tmpq_dm.cli import make_parser
    commands = next(a.choices for a in make_parser()._actions if a.dest == "command")
    assert set(SHORT) == set(commands)
    for command in SHORT:
        if command not in ("latency", "demo"): run_short(command, place)      # those two have tests of their own
    for target in ("openvino", "onnx"):
        r = tmpq("export", "model", "--to", target, "--out", target, cwd=place)
        assert r.returncode == 0, r.stderr


def test_latency_runs_to_its_end(place, monkeypatch):
    from tmpq_dm import cli
    from tmpq_dm.deployment import latency
    monkeypatch.chdir(place)
    monkeypatch.setattr(latency, "NUM_HALVES", 1)        # a graph for each takes long, and this model has few layers
    assert cli.main(["latency", *SHORT["latency"]]) == 0
    r = tmpq("cost", "plain", "--machine", "machine.json", cwd=place)
    assert r.returncode == 0, r.stderr


def test_demo_runs_to_its_end(place): run_short("demo", place)


def test_cost_agrees_with_the_library(policy, fingerprint):
    from tmpq_dm import Policy, bitops
    r = tmpq("cost", "reference", "--policy", policy, "--json")
    assert r.returncode == 0, r.stderr
    assert json.loads(r.stdout)["bitops"] == bitops(fingerprint, Policy.load(policy))


@pytest.mark.parametrize("model, words", [
    ("missing", "no such folder"), (".", "model_index.json"), ("nobody/nothing", "hub")])
def test_wrong_models(model, words, tmp_path):
    assert words in refused("cost", model, cwd=tmp_path)


def test_unsupported_op_is_named(tmp_path):
    from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
    unet = UNet2DModel(sample_size=8, in_channels=1, out_channels=1, block_out_channels=(8, 8), norm_num_groups=4,
                       layers_per_block=1, down_block_types=2 * ("SkipDownBlock2D",),
                       up_block_types=2 * ("SkipUpBlock2D",))
    DDPMPipeline(unet, DDPMScheduler()).save_pretrained(tmp_path/"m")
    assert "conv2d inside ResnetBlock2D" in refused("cost", tmp_path/"m")


@pytest.mark.parametrize("changes, words", [
    (dict(model="0123456789abcdef"), "model"), (dict(format_version=99), "format_version"),
    (dict(timesteps=[900, 900, 100]), "repeated"), (dict(timesteps=[1000, 500, 100]), "out of range"),
    (dict(timesteps=[100, 500, 900]), "descend"), (dict(tables=[{"nonsense": [8, 8]}]), "unknown operations"),
    (dict(tables=[{"conv_in": [9, 8]}]), "pair of bits"), (dict(surprise=1), "unknown fields")])
def test_wrong_policies(policy, tmp_path, changes, words):
    line = refused("cost", "reference", "--policy", edited(policy, tmp_path, **changes))
    assert words in line and "edited.json" in line


def test_policy_that_is_no_json(tmp_path):
    (tmp_path/"p.json").write_text("{")
    assert "not JSON" in refused("cost", "reference", "--policy", tmp_path/"p.json")


@pytest.mark.parametrize("option, value", [
    ("--bits", "4,x"), ("--bits", "9"), ("--steps", "0"), ("--steps", "9-3"), ("--budget-bitops", "much"),
    ("--budget-bitops", "0.1,much"),
    ("--budget-bitops", "-1")])
def test_wrong_options(option, value, tmp_path):
    assert refused("search", "reference", "--out", tmp_path/"run", f"{option}={value}")
    assert not (tmp_path/"run").exists()


@pytest.mark.parametrize("words, what", [
    ("cost reference --nonsense", "unrecognized arguments: --nonsense; see tmpq-dm cost --help"),
    ("search reference --out r --population 0", "see tmpq-dm search --help"),
    ("search reference --out r --num-images -3", "--num-images"),
    ("search reference --out r --final-images -1", "--final-images"),
    ("calibrate reference --out r --num-samples -1", "--num-samples"),
    ("calibrate reference --out r --iterations -1", "--iterations"),
    ("calibrate reference --out r --seed -1", "--seed"), ("demo --seed 36893488147419103232", "--seed"),
    ("cost reference --guidance nan", "--guidance"), ("cost reference --device meta", "there is no meta here"),
    ("cost " + 5000 * "x", "too long"), ("calibrate reference --out " + 300 * "x", "too long"),
    ("calibrate reference --out \udcffx", "not text in UTF-8"),
    ("divergence reference --out model/x", "model is a file"), ("latency reference --out model/x", "model is a file"),
    ("export model --out model/x", "model is a file"), ("search reference --out model/x", "model is a file"),
    # what would be refused after minutes of calibration
    ("search reference --out r --preset published --budget-bitops 0.1,0.05", "one budget"),
    ("search reference --out r --max-nfe 100 --samplers ddim", "which takes 5200"),
    ("search reference --out r --num-images 1 --fitness frechet", "one image has no distribution"),
    ("search reference --out r --final-images 1", "one image has no distribution"),
    ("search reference --out r --samplers foo", "foo"), ("search reference --out r --segments 99", "segments"),
    ("calibrate reference --out r --num-samples 8", "too few")])
def test_one_line_at_once(words, what, tmp_path):
    (tmp_path/"model").touch()
    assert what in refused(*words.split(), cwd=tmp_path)
    assert os.listdir(tmp_path) == ["model"]


def test_version():
    from tmpq_dm import __version__
    assert tmpq("--version").stdout == f"tmpq-dm {__version__}\n"


PRESSED = """
import os, signal, sys
import {module} as m
def pressed(*args, **kw):
    try: os.kill(os.getpid(), signal.SIGINT)
    except KeyboardInterrupt: raise RuntimeError("Failed to import {module}")      # as lazy imports say
m.{name} = pressed
from tmpq_dm.cli import main
sys.exit(main({args}))
"""


@pytest.mark.parametrize("module, name, args", [
    ("tmpq_dm.searching.recipes", "load_recipe", ["search", "--recipe", "cifar10", "--out", "a b"]),
    ("tmpq_dm.models.reference", "open_denoiser", ["search", "reference", "--out", "a b"])])
def test_ctrl_c_at_any_moment_is_one_line(module, name, args, tmp_path):
    "While a recipe is read, and where a library makes another error of it"
    import signal
    def heed(): signal.signal(signal.SIGINT, signal.SIG_DFL)
    code = PRESSED.format(module=module, name=name, args=args)
    r = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=ENV, cwd=tmp_path,
                       preexec_fn=heed)
    assert r.returncode == 130 and len(r.stderr.splitlines()) == 1, r.stderr
    assert "goes on: tmpq-dm search" in r.stderr and "'a b'" in r.stderr


@pytest.mark.parametrize("budget", [
    ("--budget-bitops", "0.001"), ("--budget-bytes", "1000"), ("--budget-joules", "1e-9")])
def test_budget_below_the_cheapest_says_what_that_is(budget, tmp_path):
    line = refused("search", "reference", "--out", tmp_path/"run", "--bits", "4,8", "--steps", "5", *budget)
    assert "cheapest" in line and not (tmp_path/"run").exists()


def test_budgets_that_contradict_each_other_or_lack_a_machine(tmp_path):
    search = "search", "reference", "--out", tmp_path/"run"
    assert "not allowed with" in refused(*search, "--budget-bytes", "1e6", "--budget-bitops", "0.1")
    assert "tmpq-dm latency" in refused(*search, "--budget-seconds", "1")
    (tmp_path/"m.json").write_text("{}")
    assert "m.json" in refused(*search, "--budget-seconds", "1", "--machine", tmp_path/"m.json")
    assert not (tmp_path/"run").exists()


@pytest.mark.parametrize("command", [("search", "reference"), ("calibrate", "reference"), ("demo",)])
def test_out_that_holds_something_else(command, tmp_path):
    (tmp_path/"thesis.tex").write_text("years of work")
    assert "something else" in refused(*command, "--out", tmp_path)
    assert os.listdir(tmp_path) == ["thesis.tex"]


def test_no_command():
    refused()


FULL_DISK = """
from tmpq_dm.policy import *
import os, sys
def full(fd): raise OSError(28, 'No space left on device')
os.fsync = full
from tmpq_dm.cli import main
sys.exit(main("calibrate reference --bits 8 --num-samples 32 --iterations 0 --out net".split()))
"""


def test_full_disk(tmp_path):
    if not Path("/dev/full").exists(): pytest.skip("this system has no /dev/full")
    r = subprocess.run([sys.executable, "-c", FULL_DISK], capture_output=True, text=True, cwd=tmp_path, env=ENV)
    assert r.returncode == 2 and "No space left" in r.stderr and "Traceback" not in r.stderr, r.stderr
    assert not any(p.is_file() for p in tmp_path.rglob("*"))


def test_search_interrupted_resumes_and_ends_the_same(place, tmp_path):
    args = ("search", place/"tiny", "--bits", "8", "--steps", "3", "--num-samples", "32", "--iterations", "0",
            "--num-images", "8", "--max-nfe", "2800", "--fitness", "trajectory", "--budget-bitops", "1",
            "--samplers", "ddim,dpm++", "--final-images", "0")
    whole, cut = tmp_path/"whole", tmp_path/"cut"
    assert (r := tmpq(*args, "--out", whole)).returncode == 0, r.stderr
    import signal, time
    def heed(): signal.signal(signal.SIGINT, signal.SIG_DFL)      # a shell starts its background jobs with it ignored
    process = subprocess.Popen([*TMPQ, *map(str, args), "--out", str(cut)], env=ENV, stderr=subprocess.PIPE, text=True,
                               stdout=subprocess.PIPE, preexec_fn=heed)
    lines = cut/"evaluations.jsonl"
    def begun(): return lines.exists() and len(lines.read_bytes().splitlines()) >= 2      # most is still to come
    while process.poll() is None and not begun(): time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate()
    assert process.returncode == 130 and "Traceback" not in err, err
    assert f"goes on: tmpq-dm search {place/'tiny'}" in err, err
    assert len(err.splitlines()) == 1
    kept = lines.read_bytes()
    assert (r := tmpq(*args, "--out", cut)).returncode == 0, r.stderr
    assert lines.read_bytes().startswith(kept)
    assert (cut/"best/policy.json").read_text() == (whole/"best/policy.json").read_text()


def test_a_run_keeps_its_supernet(place, tmp_path):
    from tmpq_dm import Supernet, open_denoiser
    args = ("search", place/"tiny", "--bits", "8", "--steps", "3", "--num-images", "8", "--max-nfe", "3000",
            "--samplers", "ddim", "--final-images", "16",
            "--budget-bitops", "1,0.5", "--out", tmp_path/"run")
    assert "holds no supernet" in refused(*args, "--supernet", tmp_path/"typo")
    assert not (tmp_path/"run").exists() and not (tmp_path/"typo").exists()
    for seed in (0, 1):
        net = Supernet(open_denoiser(place/"tiny"), (8,)).calibrate(32, 0, seed=seed, progress=False)
        net.save(tmp_path/f"{seed}")
    assert (r := tmpq(*args, "--supernet", tmp_path/"0")).returncode == 0, r.stderr
    assert r.stdout.count("within ") == 2
    smaller, = (tmp_path/"run/within").iterdir()       # one search has a policy for each budget
    assert (smaller/"best/policy.json").exists()
    assert smaller.name in (tmp_path/"run/report.html").read_text()
    kept = tmp_path/"run/supernet/supernet.safetensors"
    given = (tmp_path/"0/supernet.safetensors").read_bytes()
    assert kept.read_bytes() == given
    assert "another supernet" in refused(*args, "--supernet", tmp_path/"1")
    assert "calibrated with num_samples 32, not 64" in refused(*args, "--num-samples", "64", "--iterations", "0")
    assert kept.read_bytes() == given
    again = "--num-samples", "32", "--iterations", "0", "--sampler", "ddpm"
    assert "another sampler" in refused(*args, *again)


def test_calibration_killed_resumes_and_ends_in_the_same_bytes(tmp_path):
    import signal, time
    args = ("calibrate", "reference", "--bits", "8", "--num-samples", "32", "--iterations", "1")
    whole, cut = tmp_path/"whole", tmp_path/"cut"
    assert (r := tmpq(*args, "--out", whole)).returncode == 0, r.stderr
    process = subprocess.Popen([*TMPQ, *args, "--out", str(cut)], env=ENV, stderr=subprocess.DEVNULL,
                               stdout=subprocess.DEVNULL)
    while process.poll() is None and not list(cut.glob("partial-5*")): time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert (cut/"partial.json").exists() and not (cut/"supernet.json").exists()
    assert "other settings" in refused(*args, "--seed", "1", "--out", cut)
    assert (r := tmpq(*args, "--out", cut)).returncode == 0, r.stderr
    assert {p.name: p.read_bytes() for p in cut.iterdir()} == {p.name: p.read_bytes() for p in whole.iterdir()}


def with_real_images(recipe, monkeypatch):
    "Inception-v3 would take minutes: its place is taken by features as open as its own about the size of images."
    import torch
    from dataclasses import replace
    from tmpq_dm import cli
    from tmpq_dm.evaluation.metrics import moments
    class Blurred(torch.nn.Module):
        name, shape, num_features = "blurred images", None, 12
        def forward(self, x): return torch.nn.functional.adaptive_avg_pool2d(x, 2).flatten(1)
    mu, sigma = moments(Blurred()(torch.rand(40, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1))
    statistics = dict(mu=mu, sigma=sigma, n=40, name=Blurred.name)
    monkeypatch.setattr(cli, "real_images", lambda model, path, size: (Blurred(), statistics))
    for name in ("real", "weights.pth"): Path(name).touch()
    monkeypatch.setenv("TMPQ_INCEPTION", "weights.pth")
    return replace(recipe, real=dict(source="real", size=16, note="none"),
                   search=recipe.search | dict(fitness="paired", num_images=20))


def test_real_images_go_through_inception(tmp_path, monkeypatch):
    "A folder given with --real is seen by Inception's network; here by one that takes the mean of each colour"
    import torch
    from PIL import Image
    from tmpq_dm import cli
    from tmpq_dm.evaluation import evaluate, inception
    class Means(inception.InceptionV3):
        num_features, num_spatial = 3, 3
        def see(self, x): return x.mean((2, 3)).repeat(1, 2)
        def classify(self, pooled): return pooled
    monkeypatch.setattr(inception, "inception_features", Means)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path/"cache"))
    photos = tmp_path/"photos"
    photos.mkdir()
    for i in range(20): Image.new("RGB", (8, 8), (i, 5 * i % 7, 0)).save(photos/f"{i}.png")
    network, real = cli.real_images("reference", photos)
    assert real["n"] == 20 and real["features"].shape == (20, 3)
    images = torch.rand(20, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    assert list(evaluate.measures_of(images, network, real)) == ["fid", "sfid", "is", "kid", "precision", "recall"]


@pytest.mark.parametrize("kind", ["cifar10", "lsun-bedrooms", "lsun-churches", "imagenet256", "coco"])
def test_a_recipe_is_the_whole_command(kind, tmp_path, monkeypatch, capsys):
    """A stand-in of the recipe's classes goes from search to a compressed model.

    In this process, since five times three imports would take minutes."""
    import torch
    from tmpq_dm.cli import main
    from tmpq_dm.searching.recipes import load_recipe, save_recipe, stand_in
    monkeypatch.chdir(tmp_path)
    torch.set_num_threads(1)
    small = stand_in(load_recipe(kind), tmp_path/"model")
    if kind == "cifar10": small = with_real_images(small, monkeypatch)
    save_recipe(small, "mine.json")
    capsys.readouterr()
    assert main(["search", "--recipe", "mine.json", "--json"]) == 0
    run = Path("runs")/small.name
    best = json.loads((run/"best/policy.json").read_text())
    assert best == json.loads(capsys.readouterr().out)["best"]
    assert best["sampler"] == small.sampler and small.guidance in (None, best["guidance"])
    model = [small.model, "--policy", f"{run}/best/policy.json"]
    assert main(["export", *model, "--out", "small"]) == 0
    assert Path("small/manifest.json").is_file()
    if not small.guidance: return
    assert main(["evaluate", *model, "--guidance", "2", "--num-images", "20"]) == 2
    assert "made for" in capsys.readouterr().err


def test_a_recipe_says_at_once_what_is_missing(tmp_path):
    import time
    started = time.monotonic()
    line = refused("search", "--recipe", "coco", cwd=tmp_path)
    assert all(word in line for word in ("stable-diffusion", "inception", "coco-prompts.txt"))
    assert not list(tmp_path.iterdir())
    assert time.monotonic() - started < 20      # some seconds on a busy machine, and not the minutes of retries


def test_recipes_are_listed():
    r = tmpq("recipes")
    assert r.returncode == 0 and r.stdout.split()[0] == "cifar10" and len(r.stdout.splitlines()) == 5
    assert "no such recipe" in refused("search", "--recipe", "nothing") and "which model" in refused("search")
