"""Run a command of tmpq-dm in a fork and kill it: before its k-th operation on a file of the current folder, or after
some time. For `forks`; run as a script, it is the process that has imported everything and forks."""
import os, signal, sys, threading, time
from pathlib import Path
from forks import serve

CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.chmod", "os.link", "os.symlink"}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


def die(): os.kill(os.getpid(), signal.SIGKILL)


class Counter:
    "Counts the operations that change files below a folder, and dies before one of them."
    def __init__(self, folder, before=None):
        self.folder, self.before, self.n = os.path.realpath(folder), before, 0
        fsync = os.fsync
        def counted_fsync(fd):
            self.count()
            fsync(fd)
        os.fsync = counted_fsync
        sys.addaudithook(self.hear)

    def hear(self, event, args):
        opened = event == "open" and args[2] is not None and args[2] & WRITING
        if (opened or event in CHANGES) and self.inside(args[0]): self.count()

    def inside(self, path):
        if not isinstance(path, (str, bytes, os.PathLike)): return False
        return os.path.realpath(os.fsdecode(path)).startswith(self.folder)

    def count(self):
        self.n += 1
        if self.n == self.before: die()


def kill_after(seconds):
    def wait():
        time.sleep(seconds)
        die()
    threading.Thread(target=wait, daemon=True).start()


def blank(fig, name, folder):
    "The files of a figure, written as ever, without the figure, which would take longer than a search."
    from tmpq_dm.core.files import write_atomic
    paths = [Path(folder)/f"{name}.{kind}" for kind in ("pdf", "png")]
    for p in paths: write_atomic(p, b"\x89PNG\r\n\x1a\n" + bytes(24))
    return paths


def command(job):
    "A job has `args`, and `before`, the number of an operation, or `after`, seconds. It prints how many there were."
    from tmpq_dm.cli import main
    counter = Counter(Path.cwd(), job.get("before"))
    if "after" in job: kill_after(job["after"])
    started = time.monotonic()
    status = main(job["args"])
    print(f"\n{counter.n} operations in {time.monotonic() - started} seconds")
    return status


if __name__ == "__main__":
    import torch
    import tmpq_dm.cli, tmpq_dm.searching.report, tmpq_dm.searching.run, tmpq_dm.searching.practice
    import tmpq_dm.models.reference, tmpq_dm.models.texture, tmpq_dm.deployment.exported_folder
    from tmpq_dm.core import plotting
    torch.set_num_threads(1)
    plotting.save_fig = blank
    serve(sys.argv[1])
