"""Whatever a file holds, its reader returns something right or raises one `TmpqError` of one line.

Valid files of every format are changed by their structure (fields dropped, renamed, retyped, nested, doubled; tensors
cut, grown, cast, filled), their checksums are made again, and they are read. A few seconds of it run by default;
TMPQ_FUZZ=100000 runs so many in all, and `pytest -s` shows the numbers."""
import hashlib, io, json, os, random, resource, shutil, signal, time, zipfile, zlib
from contextlib import contextmanager
from functools import lru_cache, partial
from pathlib import Path
import numpy as np, pytest, torch
from safetensors.torch import load, save
from tmpq_dm.core.errors import TmpqError
from tmpq_dm.core.folders import MANIFEST, as_text, check_folder, is_ours, manifest_of, require_free, seal
from tmpq_dm.core.hub import read_prompts
from tmpq_dm.policy import Policy

RUNS = int(os.environ.get("TMPQ_FUZZ", 1000))
SLOWEST, LARGEST = 30, 3 * 2**20      # seconds of one execution; KiB that all of them may add to the process
DEEP = json.loads("[" * 60 + "]" * 60)
EXTREMES = [None, True, False, 0, 1, -1, 2, 7, 10**7, 10**8, 2**31, 2**63, 10**40, 0.5, -0.0, 1e308, 1e-320, "", "a",
            "1", "../../escaped", "/etc/passwd", "a\nb", "\x1b[2J", "<script>", "os", "ä" * 5000, [], {}, [[]], [0],
            {"": 0}, DEEP, [0] * 20_001, float("nan"), float("inf"), "\ud800", ["os", "system"],
            ["diffusers", "UNet2DModel"]]
NAMES = "../x", "surprise", "\x00", "a b"


# ---- changes of JSON

def nodes(x, path=()):
    "Where a value stands in nested lists and objects: every path."
    yield path
    for k, v in x.items() if isinstance(x, dict) else enumerate(x) if isinstance(x, list) else ():
        if len(path) < 8: yield from nodes(v, (*path, k))

def changed(x, rng):
    "Nested values with one of them changed."
    x = json.loads(json.dumps(x))
    paths = [p for p in nodes(x) if p]
    if not paths or rng.random() < 0.02: return rng.choice(EXTREMES)
    depth = rng.randrange(1, 1 + max(map(len, paths)))      # else nearly all changes would be deep in lists
    *way, last = rng.choice([p for p in paths if len(p) <= depth])
    parent = x
    for k in way: parent = parent[k]
    change(parent, last, rng)
    return x

def change(parent, k, rng):
    "Change one entry of a list or an object."
    kind, v = rng.randrange(8), parent[k]
    if kind == 0: del parent[k]
    elif kind == 1 and isinstance(parent, dict): parent[rng.choice([f"{k}_", k.upper(), *NAMES])] = parent.pop(k)
    elif kind == 2: parent[k] = [v]
    elif kind == 3 and isinstance(v, (int, float)): parent[k] = rng.choice([-v, v + 1, v * 10**6, str(v), v - 0.5])
    elif kind == 4 and isinstance(v, list): parent[k] = (v * rng.choice([0, 2, 50]))[:50_000] + v[:rng.randrange(3)]
    elif kind == 5 and isinstance(v, list): parent[k] = v[::-1]
    elif kind == 6 and isinstance(parent, dict): parent[k] = rng.choice(list(parent.values()))
    else: parent[k] = rng.choice(EXTREMES)

def as_bytes(x, rng)->bytes:
    "JSON as bytes, now and then in a form that is none."
    text = json.dumps(x, indent=1) + "\n"
    kind = rng.randrange(40)
    if kind == 0: return text.encode("utf-16")
    if kind == 1: return text.encode()[:rng.randrange(len(text))]
    if kind == 2: return b"\xff" + text.encode()
    if kind == 3 and isinstance(x, dict) and x: return (f'{{{json.dumps(next(iter(x)))}: 1,' + text[1:]).encode()
    if kind == 4: return b"[" * 100_000
    if kind == 5: return b"{}"
    return text.encode()

def sealed(x, rng):
    "JSON with its checksum made again, nine times out of ten, where it can have one."
    if not isinstance(x, dict) or rng.random() < 0.1: return x
    content = {k: v for k, v in x.items() if k != "seal"}
    try: return content | dict(seal=seal(content))
    except ValueError: return x


# ---- changes of tensors

def changed_tensors(x:dict, rng)->dict:
    "Named tensors with one of them changed, or missing, or under another name."
    x, name, kind = dict(x), rng.choice(sorted(x)), rng.randrange(14)
    v = x[name]
    if kind == 0: del x[name]
    if kind == 1: x[name + "_"] = x.pop(name)
    if kind == 2: x["surprise"] = v.clone()
    if kind == 3: x[name] = v.to(rng.choice([torch.bool, torch.int32, torch.float16, torch.float64, torch.complex64,
                                             torch.float8_e4m3fn, torch.uint8]))
    if kind == 4: x[name] = v.flatten()
    if kind == 5: x[name] = v[None]
    if kind == 6: x[name] = v[:len(v) // 2] if v.dim() else v[None]
    if kind == 7: x[name] = torch.cat([v, v]) if v.dim() else v
    if kind == 8: x[name] = v.reshape(-1)[:0]
    if kind == 9: x[name] = v.reshape(-1)[:1].reshape(()) if v.numel() else v
    if kind >= 10: x[name] = filled(v, rng)
    return x

def filled(v, rng):
    "A tensor with one number, or all, replaced."
    value = rng.choice([float("nan"), float("inf"), -1.0, 0.0, 1e38, 0.5, -1e-3])
    if not v.is_floating_point(): value = rng.choice([-1, 0, 127, 3])
    if rng.random() < 0.5 or not v.numel(): return torch.full_like(v, value)
    v = v.clone()
    v.view(-1)[rng.randrange(v.numel())] = value
    return v

def safetensors_bytes(x:dict, rng)->bytes:
    "Tensors as a file, now and then with a head that does not fit."
    data, kind = save({k: v.contiguous() for k, v in x.items()}), rng.randrange(12)
    if kind > 2: return data
    if kind == 0: return data[:rng.randrange(len(data))]
    if kind == 1: return data + b"0" * rng.randrange(1, 99)
    n = int.from_bytes(data[:8], "little")
    head = json.dumps(changed(json.loads(data[8:8 + n]), rng)).encode()
    return len(head).to_bytes(8, "little") + head + data[8 + n:]

def npz_bytes(x:dict, rng)->bytes:
    "Tensors as an npz, now and then with a head that promises something else."
    file, kind = io.BytesIO(), rng.randrange(10)
    arrays = {k: v.numpy() for k, v in x.items() if v.dtype not in (torch.bfloat16, torch.float8_e4m3fn)}
    if kind == 0: arrays["odd"] = np.array([{}], dtype=object)
    if kind == 1: arrays = {k: np.asfortranarray(v) for k, v in arrays.items()}
    if kind == 2: arrays = {k: v.astype(v.dtype.newbyteorder()) for k, v in arrays.items()}
    np.savez(file, **arrays)
    data = file.getvalue()
    if kind == 3: return data[:rng.randrange(len(data))]
    if kind == 4: return data.replace(b"'shape': (", rng.choice([b"'shape': (9", b"'shape': (-", b"'shipe': ("]))
    if kind == 5: return with_head(rng)
    return data

def with_head(rng)->bytes:
    "An npz whose arrays are nothing but a head."
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as z:
        for name in ("mu", "sigma", "arr_0"):
            shape = rng.choice([(), (10**12,), (2**20, 2**20), (10**10, 1, 1, 3), (0, 0), (1, 2**30, 2**30, 3)])
            with z.open(f"{name}.npy", "w") as f:
                head = dict(descr=rng.choice(["<f8", "|u1", "|O", "<c16"]), fortran_order=False, shape=shape)
                np.lib.format.write_array_header_1_0(f, head)
    return file.getvalue()

def flipped(data:bytes, rng)->bytes:
    "Bytes that are changed, cut or grown."
    at, kind = rng.randrange(len(data)), rng.randrange(4)
    if kind == 0: return data[:at]
    if kind == 1: return data[:at] + rng.randbytes(9) + data[at:]
    return data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1:]


# ---- valid files

@lru_cache
def model():
    from tmpq_dm.models.denoiser import Denoiser
    from tmpq_dm.models.tiny import tiny_pipeline
    return Denoiser.from_pipeline(tiny_pipeline("ddpm"))

@lru_cache
def supernet_folder(tmp)->Path:
    "A calibrated supernet, and what an interruption would have left"
    from tmpq_dm.quantization.supernet import Supernet
    net = Supernet(model(), (4, 8)).calibrate(32, 0, out=tmp/"partial", progress=False)
    net.save(tmp/"supernet")
    return tmp

@lru_cache
def exported(tmp)->Path:
    "A compressed model, as tensors and as graphs of two runtimes"
    from tmpq_dm.deployment.exported_folder import compressed_pipeline, save_compressed
    from tmpq_dm.quantization.supernet import Supernet
    net = Supernet.load(supernet_folder(tmp)/"supernet", model())
    policy = Policy.uniform(model().ops, (900, 500, 100), 8, 8, model().fingerprint)
    save_compressed(net, policy, tmp/"model")
    pipe = compressed_pipeline(net, policy)
    try:
        from tmpq_dm.deployment.openvino import as_openvino, save_openvino
        from tmpq_dm.deployment.onnx import as_onnx, save_onnx
        save_openvino(as_openvino(pipe), tmp/"openvino")
        save_onnx(as_onnx(pipe), tmp/"onnx")
    except TmpqError as e: pytest.skip(str(e))
    return tmp

POLICY = dict(format_version=1, model="", sampler="ddim", guidance=None, timesteps=[900, 500, 100], schedule=[0, 0, 1],
              tables=[{"conv_in": [8, 8], "a.qk": [32, 4]}, {"conv_in": [4, 8], "a.qk": [8, 8]}],
              measured=dict(fitness=0.5, cost=1e9, bitops=10**9, num_images=8, practice="even"))
ENTRY = dict(genome=[1, 2], rung=1, num_images=8, fitness=0.5, cost=1e9, bitops=10**9, nfe=80, steps=3)
SPACE = dict(model="a", steps=[3, 5], num_train_timesteps=1000, groups=[[0, 1000]], bits=[4, 8], ops=[{}], float_ops=[])
RUN = dict(format_version=None, settings=dict(
    space=SPACE, price=dict(name="BitOPs", unit=""), fitness=dict(name="paired", features=["net"]), num_images=8,
    budget=1e9, preset="default", seed=0))
MEASURE = dict(value=1.0, low=0.5, high=2.0, name="FD", n=32)
SUMMARY = {name: dict(steps=5, bitops=10**9, bytes=10**6, num_images=32, fd=MEASURE, trajectory=MEASURE)
           for name in ("full precision", "found")}
MACHINE = dict(format="tmpq_dm machine", version=1, model="a", batch=8, threads=2, step=0.1, step_float=0.2,
               floats={"conv_in": 0.01}, resident=10**8, resident_float=10**7, resident_table=10**6,
               made_with=dict(processor="x", packages={}))

def statistics()->dict:
    x = torch.randn(30, 6, generator=torch.Generator().manual_seed(0)).double()
    return dict(mu=x.mean(0), sigma=torch.cov(x.T), n=torch.tensor(30), features=x.float())

def png()->bytes:
    from PIL import Image
    file = io.BytesIO()
    Image.fromarray(np.arange(192, dtype=np.uint8).reshape(8, 8, 3)).save(file, "png")
    return file.getvalue()


# ---- readers: each writes a changed file into a folder, and returns a function that reads it

def json_reader(content, read):
    def put(folder, rng, tmp):
        content_now = content(tmp) if callable(content) else content
        (folder/"x.json").write_bytes(as_bytes(changed(content_now, rng), rng))
        return lambda: read(folder/"x.json")
    return put

def tensor_reader(content, write, name, read):
    def put(folder, rng, tmp):
        (folder/name).write_bytes(write(changed_tensors(content(), rng), rng))
        return lambda: read(folder/name)
    return put

def bytes_reader(content, name, read):
    def put(folder, rng, tmp):
        (folder/name).write_bytes(flipped(content(), rng))
        return lambda: read(folder/name)
    return put

def read_policy(path): return Policy.from_dict(Policy.load(path).to_dict())

def read_recipe(path):
    from tmpq_dm.searching.recipes import command, load_recipe
    r = load_recipe(path)
    assert "/" not in r.name and r.name[0] != "."
    return command(r, "out")

def read_machine(path):
    from tmpq_dm.deployment.latency import Machine
    return Machine.load(path)

def read_spec(path):
    from tmpq_dm.core.files import read_json
    from tmpq_dm.deployment.quantization_method import check_spec
    check_spec(read_json(path), "spec")

def spec_of_model(tmp):
    return json.loads((exported(tmp)/"model/unet/config.json").read_text())["quantization_config"]["spec"]

def put_manifest(folder, rng, tmp):
    for name in ("a.txt", "unet/b.txt"):
        (folder/name).parent.mkdir(exist_ok=True)
        (folder/name).write_text(name)
    if rng.random() < 0.2: (folder/"link").symlink_to(rng.choice(["/etc/passwd", "a.txt", "..", "link", "/dev/zero"]))
    content = changed(manifest_of(folder), rng) if rng.random() < 0.8 else manifest_of(folder)
    content = sealed(content, rng)
    data = as_text(content).encode() if rng.random() < 0.9 else as_bytes(content, rng)
    (folder/MANIFEST).write_bytes(data)
    def read():
        is_ours(folder)
        try: require_free(folder)
        except TmpqError: pass
        check_folder(folder)
    return read

def put_run(folder, rng, tmp):
    from tmpq_dm.searching.record import RUN_VERSION, Record
    settings = RUN["settings"]
    run, which = dict(RUN, format_version=RUN_VERSION), rng.randrange(3)
    (folder/"run.json").write_bytes(as_bytes(changed(run, rng) if which == 0 else run, random.Random(0)))
    lines = [json.dumps(changed(ENTRY, rng) if which == 1 else ENTRY) for _ in range(3)]
    (folder/"evaluations.jsonl").write_text("".join(f"{zlib.crc32(s.encode()):08x} {s}\n" for s in lines))
    found = dict(found=[[0.1, 0.2], [0, 1]])
    (folder/"sensitivity.json").write_bytes(as_bytes(sealed(changed(found, rng) if which == 2 else found, rng), rng))
    def read():
        record = Record(settings, folder)
        record.file.close()
        return record.once("sensitivity", lambda: [])
    return read

def put_report(folder, rng, tmp):
    from tmpq_dm.searching.record import RUN_VERSION, to_line
    from tmpq_dm.searching.report import report
    contents = {"run.json": dict(RUN, format_version=RUN_VERSION), "best/policy.json": POLICY, "summary.json": SUMMARY,
                "practice/policy.json": POLICY, "within/1-G/best/policy.json": POLICY}
    bad = rng.choice([*contents, "figures/front.png"])
    for name, content in contents.items():
        (folder/name).parent.mkdir(parents=True, exist_ok=True)
        (folder/name).write_bytes(as_bytes(changed(content, rng), rng) if name == bad else json.dumps(content).encode())
    (folder/"evaluations.jsonl").write_text(to_line(ENTRY))
    (folder/"figures").mkdir()
    (folder/"figures/front.png").write_bytes(flipped(png(), rng) if bad == "figures/front.png" else png())
    def read():
        page = report(folder).read_text()
        assert "<script" not in page
    return read

def put_supernet(folder, rng, tmp, name, tensors):
    "Change the JSON or the tensors, and make the checksum again"
    source = supernet_folder(tmp)/("partial" if name == "partial" else "supernet")
    info = json.loads((source/f"{name}.json").read_text())
    file = info.get("file", "supernet.safetensors")
    data = (source/file).read_bytes()
    if tensors: data = safetensors_bytes(changed_tensors(load(data), rng), rng)
    (folder/file).write_bytes(data)
    settings, info["sha256"] = info["settings"], hashlib.sha256(data).hexdigest()
    info = sealed(info if tensors else changed(info, rng), rng)
    (folder/f"{name}.json").write_bytes(json.dumps(info).encode() if tensors else as_bytes(info, rng))
    from tmpq_dm.quantization.calibration import pick_up
    from tmpq_dm.quantization.supernet import Supernet
    if name == "supernet": return lambda: Supernet.load(folder, model())
    return lambda: pick_up(fresh(), folder, settings, random.Random(0))

@lru_cache
def fresh():
    from tmpq_dm.quantization.supernet import Supernet
    return Supernet(model(), (4, 8))

def put_exported(folder, rng, tmp, kind, names, read):
    "Change a file of an exported folder, and make the manifest again"
    shutil.copytree(exported(tmp)/kind, folder, dirs_exist_ok=True)
    path = folder/rng.choice(names)
    data = path.read_bytes()
    path.write_bytes(as_bytes(changed(json.loads(data), rng), rng) if path.suffix == ".json" else flipped(data, rng))
    (folder/MANIFEST).write_text(as_text(manifest_of(folder)))
    return lambda: read(folder)

def read_openvino(folder):
    from tmpq_dm.deployment.openvino import load_openvino
    load_openvino(folder)

def read_spec_of_openvino(folder):
    from tmpq_dm.deployment.openvino import graph_files, read_integers
    graph_files(folder, read_integers(folder, "openvino"), "xml")

def read_onnx(folder):
    from tmpq_dm.deployment.onnx import load_onnx
    load_onnx(folder)

def read_model(folder):
    from tmpq_dm.deployment.exported_folder import load_compressed
    load_compressed(folder)

def read_statistics(path):
    from tmpq_dm.evaluation.metrics import frechet_distance, real_statistics
    s = real_statistics(path)
    assert frechet_distance(s["mu"], s["sigma"], s["mu"], s["sigma"]) > -1e-2 * max(1, s["sigma"].abs().sum())

class SixFeatures: num_features, num_spatial, published, name = 6, 4, True, "six"

def read_moments(path):
    from tmpq_dm.evaluation.real_images import npz_moments, require_source
    require_source(path)
    npz_moments(path, SixFeatures)

def read_batch(path):
    from tmpq_dm.evaluation.real_images import npz_source
    _, n, images = npz_source(path)
    for _, image in zip(range(5), images): assert image.shape[0] == 3

def batch(): return dict(arr_0=torch.arange(5 * 4 * 4 * 3, dtype=torch.uint8).view(5, 4, 4, 3))

def read_cache(path):
    from tmpq_dm.core.fields import check_tensors
    from tmpq_dm.evaluation.inception import read_safetensors
    from tmpq_dm.evaluation.real_images import kept_table
    check_tensors(read_safetensors(path)[0], kept_table(SixFeatures), str(path))

def cached(): return statistics() | dict(mu_s=torch.zeros(4), sigma_s=torch.eye(4))

def read_photo(path):
    from tmpq_dm.evaluation.real_images import read_image
    assert read_image(path).shape[0] == 3

def read_weights(path):
    from tmpq_dm.evaluation.inception import read_pth
    read_pth(path)

def weights()->bytes:
    file = io.BytesIO()
    torch.save(dict(a=torch.zeros(3)), file)
    return file.getvalue()

@lru_cache
def recipe(tmp): return json.loads((Path(__file__).parents[1]/"tmpq_dm/assets/recipes/cifar10.json").read_text())

IN_INTEGERS = "integers.json", "scheduler/scheduler_config.json"
IN_MODEL = "model_index.json", "unet/config.json", "scheduler/scheduler_config.json", "policy.json"
READERS = {     # name -> (what puts a changed file, its share of the executions)
    "policy": (json_reader(POLICY, read_policy), 14), "recipe": (json_reader(recipe, read_recipe), 12),
    "machine": (json_reader(MACHINE, read_machine), 8), "manifest": (put_manifest, 10), "run": (put_run, 10),
    "report": (put_report, 7), "spec": (json_reader(spec_of_model, read_spec), 6),
    "supernet.json": (partial(put_supernet, name="supernet", tensors=False), 2),
    "supernet tensors": (partial(put_supernet, name="supernet", tensors=True), 2),
    "partial.json": (partial(put_supernet, name="partial", tensors=False), 4),
    "partial tensors": (partial(put_supernet, name="partial", tensors=True), 3),
    "integers.json": (partial(put_exported, kind="openvino", names=["integers.json"], read=read_spec_of_openvino), 4),
    "openvino": (partial(put_exported, kind="openvino", read=read_openvino,
                         names=["graph-0.xml", "graph-0.bin", *IN_INTEGERS]), 0.6),
    "onnx": (partial(put_exported, kind="onnx", read=read_onnx,
                     names=["graph-0.onnx", *IN_INTEGERS]), 0.6),
    "compressed": (partial(put_exported, kind="model", names=IN_MODEL, read=read_model), 1),
    "statistics npz": (tensor_reader(statistics, npz_bytes, "x.npz", read_statistics), 5),
    "statistics": (tensor_reader(statistics, safetensors_bytes, "x.safetensors", read_statistics), 4),
    "moments npz": (tensor_reader(statistics, npz_bytes, "x.npz", read_moments), 3),
    "images npz": (tensor_reader(batch, npz_bytes, "x.npz", read_batch), 3),
    "cache": (tensor_reader(cached, safetensors_bytes, "x.safetensors", read_cache), 3),
    "image": (bytes_reader(png, "x.png", read_photo), 2), "weights": (bytes_reader(weights, "x.pth", read_weights), 1),
    "prompts": (bytes_reader(lambda: "a cat\nein Vögelchen\n".encode(), "x.txt", read_prompts), 1)}


# ---- the test

@contextmanager
def within(seconds):
    "Interrupt what takes more time of the processor, however busy the machine is, or twenty times as long by the clock"
    def late(*_): raise AssertionError(f"took more than {seconds} seconds")
    signals = signal.SIGPROF, signal.SIGALRM
    before = [signal.signal(s, late) for s in signals]
    signal.setitimer(signal.ITIMER_PROF, seconds)
    signal.alarm(20 * seconds)
    try: yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.alarm(0)
        for s, handler in zip(signals, before): signal.signal(s, handler)

def one(put, root, tmp, rng)->str:
    "Put a changed file into a folder, read it, and say what became of it"
    folder = root/"in"
    folder.mkdir()
    read = put(folder, rng, tmp)
    try:
        with within(SLOWEST): read()
        return "accepted"
    except TmpqError as e:
        assert "\n" not in str(e) and str(e).isprintable() and len(str(e)) <= 2000
        return "refused"
    finally:
        shutil.rmtree(folder)
        assert os.listdir(root) == [], "something was written outside of the folder"

@pytest.fixture(scope="module")
def tmp(tmp_path_factory): return tmp_path_factory.mktemp("valid")

@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", READERS)
def test_changed_files(name, tmp, tmp_path, monkeypatch):
    put, share = READERS[name]
    runs = max(3, round(RUNS * share / sum(s for _, s in READERS.values())))
    root, found, slowest = tmp_path/"root", dict(accepted=0, refused=0), 0
    root.mkdir()
    monkeypatch.chdir(root)
    one(put, root, tmp, random.Random(name))       # makes the valid files, and imports what it needs
    before, threads = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, torch.get_num_threads()
    torch.set_num_threads(1)
    for i in range(runs):
        rng, start = random.Random(f"{name} {i}"), time.process_time()
        try: found[one(put, root, tmp, rng)] += 1
        except Exception as e: raise AssertionError(f"{name}, execution {i}: {type(e).__name__}") from e
        slowest = max(slowest, time.process_time() - start)
    torch.set_num_threads(threads)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print(f"\n{name:18} {runs:6} executions, {found['accepted']:6} accepted, {found['refused']:6} refused, "
          f"slowest {slowest:.1f} s, {grown/1024:.0f} MiB more")
    assert grown < LARGEST


# ---- what must not happen

@pytest.mark.parametrize("runtime", ["openvino", "onnx"])
@pytest.mark.parametrize("change", [
    dict(parts={"scheduler": ["evil", "Evil"]}), dict(parts={"scheduler": ["os", "path"]}), dict(pipeline="load_evil"),
    dict(parts={"../scheduler": ["tmpq_dm", "SubsetDDIMScheduler"]}), {"class": "Evil"}], ids=str)
def test_names_in_a_file_are_not_imported(tmp, tmp_path, monkeypatch, runtime, change):
    "A module that lies about does not run because a file names it"
    folder, evil = tmp_path/"model", tmp_path/"evil.py"
    shutil.copytree(exported(tmp)/runtime, folder)
    evil.write_text(f"open({str(tmp_path/'ran')!r}, 'w')\nclass Evil:\n    from_pretrained = lambda *a, **k: None\n")
    monkeypatch.syspath_prepend(tmp_path)
    spec = json.loads((folder/"integers.json").read_text())
    (folder/"integers.json").write_text(json.dumps(spec | change))
    (folder/MANIFEST).write_text(as_text(manifest_of(folder)))
    with pytest.raises(TmpqError, match="integers.json"): (read_onnx if runtime == "onnx" else read_openvino)(folder)
    assert not (tmp_path/"ran").exists()

@pytest.mark.parametrize("change", [
    dict(unet=["evil", "Evil"]), dict(scheduler=["diffusers", "DDPMPipeline"]), dict(_class_name="Evil"),
    dict(_class_name=["pipeline", "Evil"]), dict(more=["os", "path"])], ids=str)
def test_a_compressed_model_names_classes_of_the_list(tmp, tmp_path, monkeypatch, change):
    folder = tmp_path/"model"
    shutil.copytree(exported(tmp)/"model", folder)
    (tmp_path/"evil.py").write_text(f"open({str(tmp_path/'ran')!r}, 'w')")
    monkeypatch.syspath_prepend(tmp_path)
    index = json.loads((folder/"model_index.json").read_text())
    (folder/"model_index.json").write_text(json.dumps(index | change))
    (folder/MANIFEST).write_text(as_text(manifest_of(folder)))
    with pytest.raises(TmpqError, match="model_index.json"): read_model(folder)
    assert not (tmp_path/"ran").exists()
