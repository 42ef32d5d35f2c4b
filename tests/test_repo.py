"""What holds the repository together: notebooks run and are clean, modules and README follow from them.

Whatever runs or exports does so in a copy, so that testing leaves the tree as it was."""
import ast, email, importlib.metadata, json, re, shutil, subprocess, sys, tarfile, zipfile
from configparser import ConfigParser
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from forks import Forks
from readme import ROOT, readme
from run_notebooks import environment, notebooks

try: import tomllib
except ImportError: import tomli as tomllib  # Python 3.10

config = ConfigParser(delimiters=["="], interpolation=None)
config.read(ROOT/"settings.ini", encoding="utf-8")
SETTINGS = config["DEFAULT"]
LIB = ROOT/SETTINGS["lib_name"]
NAMES = [p.relative_to(ROOT).as_posix() for p in reversed(notebooks())]      # those that take longest come first
MODULES = sorted(LIB.rglob("*.py"))
LEFT = shutil.ignore_patterns(".git", ".venv", "__pycache__", "build", "dist", "*.egg-info", ".*_cache",
                              ".ipynb_checkpoints", "runs")
WIDTH = 120             # characters in a line of code; lines of a notebook's markdown are as long as they like
HOOKED = {"quantization/network.py", "deployment/packed.py"}  # the model carries these hooks as long as it lives

def lines(key): return SETTINGS[key].strip().splitlines()

def normal(name): return re.sub(r"[-_.]+", "-", name).lower()

def copy_of_repo(to): return Path(shutil.copytree(ROOT, to, ignore=LEFT))

def run(*command, cwd, env=None):
    "Run a command, which has to succeed, and return what it printed"
    command = [str(o) for o in command]
    env = env or environment(slow=False)
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True)
    assert done.returncode == 0, f"{command} failed\n{done.stdout}{done.stderr}"
    return done.stdout

def tool(name): return Path(sys.executable).parent/name

def cells(name, kind):
    "The sources of a notebook's cells of one kind, `code` or `markdown`"
    found = json.loads((ROOT/name).read_text(encoding="utf-8"))["cells"]
    return ["".join(c["source"]) for c in found if c["cell_type"] == kind]

def own_modules():
    "Modules that notebooks write: path inside the package and syntax tree"
    for p in MODULES:
        if p.name not in ("_modidx.py", "__init__.py"):
            yield p.relative_to(LIB).as_posix(), ast.parse(p.read_text(encoding="utf-8"))

def is_patch(node): return any("patch" in ast.unparse(d) for d in getattr(node, "decorator_list", []))

def imports(tree):
    "The modules that a syntax tree imports, at its top or inside functions, each with the names taken from it"
    for node in ast.walk(tree):
        if isinstance(node, ast.Import): yield from ((o.name, []) for o in node.names)
        if isinstance(node, ast.ImportFrom): yield "."*node.level + (node.module or ""), [o.name for o in node.names]

# ---- notebooks

@pytest.fixture(scope="session")
def tree(tmp_path_factory): return copy_of_repo(tmp_path_factory.mktemp("run")/"repo")

@pytest.fixture(scope="session")
def run_alone(tree):
    "A process that runs notebooks of the copy, started once: importing PyTorch for each would take minutes"
    env = environment(slow=False) | dict(PYTHONPATH=str(tree))
    return Forks("run_notebooks:alone", tree/"tests/forks.py", cwd=tree, env=env)

@pytest.mark.parametrize("name", NAMES)
def test_notebook_runs(name, run_alone, tree):
    status, *said = run_alone(name, tree)
    assert status == 0, f"{name} failed\n{''.join(said)}"

def test_modules_follow_from_notebooks(tmp_path):
    files = lambda lib: {p.relative_to(lib).as_posix(): p.read_text(encoding="utf-8") for p in lib.rglob("*.py")}
    lib = copy_of_repo(tmp_path/"repo")/LIB.name
    for p in lib.rglob("*.py"):
        if p.name != "__init__.py": p.unlink()  # a module that no notebook writes does not come back
    run(tool("nbdev-export"), cwd=lib.parent)
    exported, committed = files(lib), files(LIB)
    assert sorted(exported) == sorted(committed)
    assert [p for p in exported if exported[p] != committed[p]] == [], "run: make export"

def test_notebooks_are_clean(tmp_path):
    copy = copy_of_repo(tmp_path/"repo")
    run(tool("nbdev-clean"), cwd=copy)
    assert [o for o in NAMES if (copy/o).read_bytes() != (ROOT/o).read_bytes()] == [], "run: make clean"

@pytest.mark.parametrize("name", NAMES)
def test_committed_outputs(name):
    "Small; no failure, widget or path of one machine among them"
    text = (ROOT/name).read_text(encoding="utf-8")
    outputs = [o for c in json.loads(text)["cells"] for o in c.get("outputs", [])]
    parts = []
    for out in outputs:
        for kind, o in [("text", out.get("text", "")), *out.get("data", {}).items()]:
            if kind.startswith(("text", "application")): parts.append((kind, "".join(o)))
    assert len(text.encode()) < 1_000_000
    assert not [o["evalue"] for o in outputs if o["output_type"] == "error"]
    assert not [kind for kind, _ in parts if "widget" in kind]
    path = re.compile(r"(?<![\w.:/-])/(work|home|root|tmp|usr|opt|Users|private|var)/\S*")
    assert not [m[0] for _, o in parts for m in path.finditer(o)]

def test_lines_are_short():
    sources = [p.read_text(encoding="utf-8") for p in [*(ROOT/"tests").glob("*.py"), ROOT/"setup.py"]]
    for name in NAMES: sources += cells(name, "code")
    assert [line for line in "\n".join(sources).splitlines() if len(line) > WIDTH] == []

def reading_order(path):
    "Sort key: notebooks and folders by their numbers; the index and the experiments, which export nothing, come last"
    parts = path.relative_to(ROOT/"nbs").parts
    return [(0, part) if part[0].isdigit() else (1, part) for part in parts]

def test_imports_go_one_way():
    """A notebook imports, in its tests as well, only from notebooks before it in reading order.

    The package's top level is for its users."""
    sources, modules = {}, []
    for p in sorted(map(ROOT.joinpath, NAMES), key=reading_order):
        source = "\n".join(cells(p, "code"))
        module = re.search(r"^#\|\s*default_exp\s+(\S+)", source, re.M)
        sources[p.relative_to(ROOT).as_posix()] = (module and module[1], list(modules), source)
        if module: modules.append(module[1])
    wrong = []
    for name, (module, before, source) in sources.items():
        for imported, taken in imports(ast.parse(source)):
            top, _, part = imported.partition(".")
            if top != LIB.name: continue
            if module is None: continue  # a notebook that exports nothing may import anything
            # a policy that was found saves itself
            if (module, part) == ("searching.run", "deployment.exported_folder"): continue
            if part in before or part == module or taken == ["__version__"]: continue
            wrong.append((name, imported, taken))
    assert wrong == []

def top_level(tree):
    "The names that a module defines at its top, methods that `@patch` adds to a class left out"
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not is_patch(node): yield node.name
        for target in getattr(node, "targets", []):
            yield from (o.id for o in ast.walk(target) if isinstance(o, ast.Name) and isinstance(o.ctx, ast.Store))

def test_a_name_has_one_home():
    "No two modules define the same name"
    homes = {}
    for module, tree in own_modules():
        for name in set(top_level(tree)) - {"__all__"}: homes.setdefault(name, []).append(module)
    assert {name: where for name, where in homes.items() if len(where) > 1} == {}

def test_classes_are_whole():
    "A class is whole in its cell, or grows by `@patch` in its notebook; two methods of diffusers are replaced"
    wrong = []
    for module, tree in own_modules():
        own = {o.name for o in tree.body if isinstance(o, ast.ClassDef)}
        for node in tree.body:
            if is_patch(node):
                cls = ast.unparse(node.args.args[0].annotation)
                if cls not in own: wrong.append((module, f"{cls}.{node.name}"))
            for target in getattr(node, "targets", []):
                if not isinstance(target, ast.Attribute): continue
                if ast.unparse(target.value)[0].isupper(): wrong.append((module, ast.unparse(target)))
    assert sorted(wrong) == [("deployment/exported_folder.py", "DiffusionPipeline.save_pretrained"),
                             ("deployment/packed.py", "DiffusionPipeline.__setattr__")]

def test_hooks_are_registered_in_one_place():
    "Modules other than core.hooks that register forward hooks; to watch or replace a module, use core.hooks"
    hooked = set()
    for module, tree in own_modules():
        attributes = [o.attr for o in ast.walk(tree) if isinstance(o, ast.Attribute)]
        if any(re.fullmatch("register_forward_(pre_)?hook", o) for o in attributes): hooked.add(module)
    assert hooked - {"core/hooks.py"} <= HOOKED

def test_links_lead_somewhere():
    "Every link of a notebook's text to a file of the repository"
    broken = []
    for name in NAMES:
        text = "\n".join(cells(name, "markdown"))
        for link in re.findall(r"\]\(([^)\s#]+)", text):
            if re.match(r"[a-z]+:", link): continue
            if not (ROOT/name).parent.joinpath(link).exists(): broken.append((name, link))
    assert broken == []

def test_readme_is_the_index_notebook():
    text = (ROOT/"README.md").read_text(encoding="utf-8")
    assert text == readme(), "run: make readme"
    links = re.findall(r'(?:\]\(|(?:src|href)=")([^)"\s#]+)', text)
    assert [o for o in links if not re.match(r"[a-z]+:", o) and not (ROOT/o).exists()] == []

# ---- package

def test_public_names_have_docstrings():
    bare = []
    for p in MODULES:
        for node in ast.parse(p.read_text(encoding="utf-8")).body:
            if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)): continue
            if not node.name.startswith("_") and not ast.get_docstring(node): bare.append(f"{p.name}: {node.name}")
    assert bare == []

def undeclared(sources, keys):
    "Imports that are neither Python's own nor ours nor named under these keys of settings.ini"
    declared = {normal(Requirement(o).name) for k in keys for o in lines(k)}
    homes = importlib.metadata.packages_distributions()
    tops = set()
    for p, source in sources.items(): tops |= {(p, name.partition(".")[0]) for name, _ in imports(ast.parse(source))}
    tops = sorted(tops)
    return [f"{p}: {top}" for p, top in tops if top not in sys.stdlib_module_names and top not in ("", LIB.name)
            and not declared & {normal(o) for o in homes.get(top, [top])}]

def test_imports_are_declared():
    "What a module imports is named in settings.ini, and not under dev; notebooks may use tools of development, too"
    keys = [k for k in SETTINGS if k.endswith("requirements")]
    modules = {p.name: p.read_text(encoding="utf-8") for p in MODULES}
    assert undeclared(modules, [k for k in keys if k != "dev_requirements"]) == []
    assert undeclared({name: "\n".join(cells(name, "code")) for name in NAMES}, keys) == []

HELP = "import sys; sys.argv = ['tmpq-dm', '--help']; import tmpq_dm.cli as c; c.main()"

@pytest.mark.parametrize("code", ["import tmpq_dm", HELP], ids=["import", "help"])
def test_light_things_stay_light(code):
    "Importing the package, and asking the command for help, load neither torch nor diffusers"
    loaded = "sorted({'torch', 'diffusers'} & set(sys.modules))"
    after = f"import sys, atexit; atexit.register(lambda: print('LOADED', {loaded}));"
    assert run(sys.executable, "-c", after + code, cwd=ROOT).endswith("LOADED []\n")

def test_homes_of_a_fact_agree():
    project = tomllib.loads((ROOT/"pyproject.toml").read_text(encoding="utf-8"))
    version = re.search(r'^__version__ = "(.+)"$', (LIB/"__init__.py").read_text(encoding="utf-8"), re.M)
    assert version and version[1] == SETTINGS["version"]
    assert project["project"]["name"] == SETTINGS["pip_name"]
    assert project["project"]["requires-python"] == f">={SETTINGS['min_python']}"
    assert project["project"]["license"] == SETTINGS["license"]
    assert project["tool"]["nbdev"]["lib_path"] == SETTINGS["lib_name"]
    assert f"({SETTINGS['min_python'].replace('.', ', ')})" in (ROOT/"Makefile").read_text(encoding="utf-8")

def test_pins_lie_in_the_ranges():
    pins = {}
    for line in (ROOT/"constraints.txt").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            pin = Requirement(line)
            pins.setdefault(normal(pin.name), []).append(str(pin.specifier).removeprefix("=="))
    for line in lines("requirements") + lines("dev_requirements"):
        need = Requirement(line)
        versions = pins.get(normal(need.name))
        assert versions and all(need.specifier.contains(v) for v in versions), f"{line}: constraints.txt has {versions}"
    # A pin that wants a later 3.x.y keeps pip searching for hours instead of failing
    minor = "%d.%d.0" % sys.version_info[:2]
    for dist in importlib.metadata.distributions():
        if dist.version.partition("+")[0] in pins.get(normal(dist.name), []):
            assert minor in SpecifierSet(dist.metadata["Requires-Python"] or ""), dist.name

def test_ranges_can_be_met():
    "The lowest version that we accept of a package is one that our other requirements accept, too"
    ours = {normal(o.name): o for o in map(Requirement, lines("requirements"))}
    floors = {name: next(s.version for s in o.specifier if s.operator == ">=") for name, o in ours.items()}
    wrong = []
    for name in ours:
        for theirs in map(Requirement, importlib.metadata.requires(name) or []):
            floor = floors.get(normal(theirs.name))
            if theirs.marker and not theirs.marker.evaluate(dict(extra="")): continue
            if floor and not theirs.specifier.contains(floor): wrong.append((name, str(theirs), floor))
    assert wrong == []

@pytest.fixture(scope="session")
def built(tmp_path_factory):
    "The folder with the source archive, and the wheel made from that archive alone"
    copy = copy_of_repo(tmp_path_factory.mktemp("build")/"repo")
    run(sys.executable, "-m", "build", "--no-isolation", cwd=copy)
    return copy/"dist"

def test_archives_are_whole(built):
    need = {p.relative_to(ROOT).as_posix() for p in LIB.rglob("*") if p.is_file() and "__pycache__" not in p.parts}
    with zipfile.ZipFile(next(built.glob("*.whl"))) as z: wheel = set(z.namelist())
    with tarfile.open(next(built.glob("*.tar.gz"))) as t: source = {o.partition("/")[2] for o in t.getnames()}
    assert any("/assets/" in o for o in need) and f"{LIB.name}/py.typed" in need
    assert {o for o in wheel if ".dist-info/" not in o} == need
    assert need | {"settings.ini", "LICENSE", *NAMES} <= source

def test_wheel_says_what_settings_say(built):
    with zipfile.ZipFile(next(built.glob("*.whl"))) as z:
        info = {Path(o).name: z.read(o).decode() for o in z.namelist() if ".dist-info/" in o and not o.endswith("/")}
    meta = email.message_from_string(info["METADATA"])
    assert (meta["Name"], meta["Version"]) == (SETTINGS["pip_name"], SETTINGS["version"])
    assert meta["License-Expression"] == SETTINGS["license"]
    needs = set(lines("requirements"))
    for key in SETTINGS:
        extra = key.removesuffix("_requirements")
        if extra != key: needs |= {f'{o}; extra == "{extra}"' for o in lines(key)}
    assert {str(Requirement(o)) for o in meta.get_all("Requires-Dist")} == {str(Requirement(o)) for o in needs}
    scripts = ConfigParser(delimiters=["="])
    scripts.read_string(info["entry_points.txt"])
    assert dict(scripts["console_scripts"]) == dict(o.split(" = ") for o in lines("console_scripts"))
    assert "nbdev" in scripts

def test_installed_wheel_runs(built, tmp_path):
    "Away from the checkout, the installed package and its command work"
    home = tmp_path/"site"
    install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--target", home]
    run(*install, next(built.glob("*.whl")), cwd=tmp_path)
    env = environment(slow=False) | {"PYTHONPATH": str(home)}
    where = run(sys.executable, "-c", f"import {LIB.name}; print({LIB.name}.__file__)", cwd=tmp_path, env=env)
    assert Path(where.strip()).is_relative_to(home)
    for line in lines("console_scripts"):
        said = run(home/"bin"/line.split(" = ")[0], "--help", cwd=tmp_path, env=env)
        assert "usage" in said.lower()
