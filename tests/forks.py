"""A process that imports the slow libraries once, but not this package, and runs each job in a fork of itself."""
import atexit, importlib, json, os, subprocess, sys, tempfile, traceback

class Forks:
    "Calls a function, `module:name`, each time in a fork."
    def __init__(self, function, script=__file__, **kwargs):
        command = [sys.executable, str(script), function]
        self.process = subprocess.Popen(command, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, **kwargs)
        atexit.register(self.process.kill)

    def __call__(self, argument, cwd=None):
        "(exit status, standard output, standard error) of the function, called with what JSON makes of the argument"
        print(json.dumps([argument, str(cwd or os.getcwd())]), file=self.process.stdin, flush=True)
        line = self.process.stdout.readline()
        assert line, "the process that does the jobs has ended"
        return json.loads(line)

def attempt(function, argument, cwd, files):
    "Call the function with its output in files; its status"
    os.chdir(cwd)
    for stream, file in zip((1, 2), files): os.dup2(file.fileno(), stream)
    module, _, name = function.partition(":")
    try: return int(getattr(importlib.import_module(module), name)(argument) or 0)
    except SystemExit as e: return e.code or 0
    except BaseException: traceback.print_exc()
    return 1

def serve(function):
    import deap.tools, diffusers, huggingface_hub, matplotlib.pyplot, nbdev.test, seaborn, torch, torchmetrics
    from diffusers import DDIMScheduler, DDPMPipeline, DiTTransformer2DModel, StableDiffusionPipeline
    from diffusers import UNet2DConditionModel, UNet2DModel
    for line in sys.stdin:
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            if (child := os.fork()) == 0:
                status = attempt(function, *json.loads(line), (out, err))
                for stream in (sys.stdout, sys.stderr): stream.flush()
                os._exit(status)
            status, said = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), []
            for file in (out, err):
                file.seek(0)
                said.append(file.read().decode(errors="replace"))
            print(json.dumps([status, *said]), flush=True)

if __name__ == "__main__": serve(sys.argv[1])
