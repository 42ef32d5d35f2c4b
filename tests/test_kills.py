"""Commands that are killed: the same command then ends in the same bytes, and nothing hidden is left.

The slow part kills each before every operation on a file, and fifty times at random: make test ARGS="-m slow"."""
import functools, random, shutil, subprocess, sys, tempfile
from pathlib import Path
import pytest
from forks import Forks
from test_cli import ENV

SEARCH = ("--bits 4,8 --steps 2-3 --num-samples 32 --iterations 0 --num-images 4 --population 4 --generations 2 "
          "--budget-bitops 0.05 --out run")
COMMANDS = {
    "export": "export MODEL --policy RUN/best/policy.json --out small",
    "export again": "export MODEL --policy RUN/practice/policy.json --out small",
    "calibrate": "calibrate MODEL --bits 4,8 --num-samples 32 --iterations 1 --out net",
    "search": f"search MODEL {SEARCH}",
}
KILLED = -9


@functools.cache
def forks(): return Forks("kills:command", Path(__file__).with_name("kills.py"), env=ENV)


def below(folder):
    "Every file and folder, hidden ones too: name -> bytes; None for a folder"
    found = sorted(Path(folder).rglob("*"))
    return {p.relative_to(folder).as_posix(): p.read_bytes() if p.is_file() else None for p in found}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    "A folder with a model and a run of it"
    import torch
    from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
    folder = tmp_path_factory.mktemp("kills")
    torch.manual_seed(0)
    unet = UNet2DModel(sample_size=8, in_channels=1, out_channels=1, block_out_channels=(8,), norm_num_groups=4,
                       layers_per_block=1, add_attention=False, down_block_types=("DownBlock2D",), mid_block_type=None,
                       up_block_types=("UpBlock2D",))
    DDPMPipeline(unet, DDPMScheduler()).save_pretrained(folder/"model")
    status, *said = forks()(dict(args=["search", str(folder/"model"), *SEARCH.split()]), folder)
    assert status == 0, said
    return folder


class Trial:
    "A command, what it leaves when nothing disturbs it, and how long that takes."
    def __init__(self, name, place):
        self.name, self.place = name, place
        self.args = COMMANDS[name].replace("MODEL", str(place/"model")).replace("RUN", str(place/"run")).split()
        with self.fresh() as folder:
            (status, said, err) = self.run(folder)
            assert status == 0, err
            self.whole = below(folder)
        operations, seconds = said.strip().splitlines()[-1].split(" operations in ")
        self.operations, self.seconds = int(operations), float(seconds.split()[0])

    def fresh(self):
        "A temporary folder, where the command is to run"
        d = tempfile.TemporaryDirectory()
        if self.name == "export again": shutil.copytree(self.older(), Path(d.name)/"small")
        return d

    def older(self):
        "An exported folder that is in the way"
        if not (self.place/"small").exists():
            assert Trial("export", self.place).run(self.place)[0] == 0
        return self.place/"small"

    def run(self, folder, **kill): return forks()(dict(args=self.args) | kill, folder)

    def kill(self, **kill):
        "Whether it was killed before it had ended; either way the same command then ends in the same bytes"
        with self.fresh() as folder:
            killed, _, err = self.run(folder, **kill)
            assert killed in (0, KILLED), (kill, err)
            status, _, err = self.run(folder)
            assert status == 0, (kill, err)
            found = below(folder)
            assert found.keys() == self.whole.keys(), (kill, found.keys() ^ self.whole.keys())
            assert [name for name in found if found[name] != self.whole[name]] == [], kill
        return killed == KILLED


@pytest.mark.parametrize("name", COMMANDS)
def test_a_few_kills(name, place):
    trial, rng = Trial(name, place), random.Random(0)
    assert not [part for part in trial.whole if Path(part).name.startswith(".")]
    for k in (1, 2, *rng.sample(range(3, trial.operations), 3)): assert trial.kill(before=k), k


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_a_kill_before_every_operation(name, place):
    trial = Trial(name, place)
    for k in range(1, trial.operations + 1):
        assert trial.kill(before=k), k
        print(f"{name}: killed before operation {k} of {trial.operations}", flush=True)


@pytest.mark.slow
def test_fifty_kills_at_random_moments(place):
    trials, rng, killed = [Trial(name, place) for name in COMMANDS], random.Random(1), 0
    for i in range(200):
        trial = trials[i % len(trials)]
        killed += trial.kill(after=rng.uniform(0, trial.seconds))
        print(f"killed {killed} of {i + 1} times before the end", flush=True)
        if killed == 50: return
    raise AssertionError("most had ended before the kill")


ALONE = """
import os, sys
from tmpq_dm.core.errors import TmpqError
from tmpq_dm.core.folders import locked
times = 0
while times < 300:
    try:
        with locked(sys.argv[1]):
            os.close(os.open("inside", os.O_CREAT | os.O_EXCL))      # fails if another process is inside, too
            os.unlink("inside")
            times += 1
    except TmpqError: pass
"""


def test_a_lock_holds_between_processes(tmp_path):
    ways = dict(cwd=tmp_path, env=ENV, stderr=subprocess.PIPE, text=True)
    running = [subprocess.Popen([sys.executable, "-c", ALONE, tmp_path/"locked"], **ways) for _ in range(3)]
    assert [(p.communicate(timeout=120)[1], p.returncode) for p in running] == [("", 0)] * 3
