"""Run notebooks as nbdev-test does, each in a fresh process: what `make test`, `outputs`, `figures` and `bench` share.

Cells marked `#| slow`, `#| gpu` and `#| eval: false` are left out unless --flags names the mark. With --save, outputs
are written back after success and cleaned, so that the same code gives the same file."""
import argparse, hashlib, os, re, subprocess, sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

def notebooks():
    "Every notebook of the repository, in reading order"
    hidden = lambda p: any(part[0] in "._" for part in p.relative_to(ROOT).parts)
    return sorted(p for p in (ROOT/"nbs").rglob("*.ipynb") if not hidden(p))

def with_figures():
    "The experiments, and every other notebook that writes a figure"
    draws = lambda p: re.search(r"(?<!def )\bsave_fig\(", p.read_text(encoding="utf-8"))
    return [p for p in notebooks() if "experiments" in p.parts or draws(p)]

def environment(slow):
    "A notebook's environment: this checkout, no progress bars, a fixed hash seed; one thread and no hub unless slow"
    env = dict(os.environ, PYTHONPATH=str(ROOT), PYTHONHASHSEED="0", TQDM_DISABLE="1", HF_HUB_DISABLE_PROGRESS_BARS="1",
               TRANSFORMERS_VERBOSITY="error")
    # One thread: sums round alike with any number of cores
    if not slow: env.update(HF_HUB_OFFLINE="1", OMP_NUM_THREADS="1")
    return env

def execute(path, flags, save):
    "Run one notebook in this process; True if it succeeded"
    from nbdev.clean import nbdev_clean
    from nbdev.config import get_config
    from nbdev.test import test_nb
    os.chdir(ROOT)
    cfg = get_config()
    ok, _ = test_nb(path, skip_flags=cfg.tst_flags.split(), force_flags=flags, basepath=ROOT, save=save,
                    cell_timeout=None if flags else cfg.cell_timeout)
    if ok and save: nbdev_clean(str(path))
    return ok

def alone(name):
    "For `forks`: run a notebook, named from the root; the exit status"
    return not execute(ROOT/name, [], False)

def digests():
    figures = [p for p in (ROOT/"figures").glob("*") if p.suffix in {".pdf", ".png"}]
    return {p.name: hashlib.sha256(p.read_bytes()).digest() for p in figures}

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("notebooks", nargs="*", type=Path)
    p.add_argument("--all", action="store_true", help="every notebook")
    p.add_argument("--figures", action="store_true",
                   help="every notebook that writes a figure; lists the figures that changed")
    p.add_argument("--flags", default="", help='marks of cells to run as well: "slow", "slow gpu"')
    p.add_argument("--save", action="store_true", help="keep the outputs")
    p.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    a = p.parse_args()
    if a.here: sys.exit(not execute(a.notebooks[0], a.flags.split(), a.save))

    paths = notebooks() if a.all else with_figures() if a.figures else [o.resolve() for o in a.notebooks]
    missing = [o for o in paths if not o.is_file()]
    if missing: p.error(f"no notebook {missing[0]}")
    if not paths: p.error("name a notebook, or --all, or --figures")
    before, failed = digests(), []
    for path in paths:
        args = [sys.executable, __file__, "--here", path, "--flags", a.flags] + ["--save"]*a.save
        bad = subprocess.run(args, env=environment("slow" in a.flags)).returncode
        print("FAILED" if bad else "ok    ", path.relative_to(ROOT), flush=True)
        if bad: failed.append(path)
    if a.figures:
        after = digests()
        changed = [o for o in sorted(after) if after[o] != before.get(o)]
        print(f"{len(after)} files in figures/, {len(changed)} changed", *changed)
    sys.exit(bool(failed))

if __name__ == "__main__": main()
