"""Every way to load and save a compressed model: python loading.py FIRST FOLDER IMAGES NEW

FIRST is the library that is imported first, FOLDER holds the model, IMAGES what it draws, and NEW is an empty folder.
Each way runs in a fork, so that nothing but the two imports has happened before it."""
import os, sys, traceback
from pathlib import Path
import torch
from safetensors.torch import load_file

FIRST, FOLDER, IMAGES, NEW = sys.argv[1:]

def draws_alike(pipe):
    pipe.set_progress_bar_config(disable=True)
    generator = [torch.Generator().manual_seed(i) for i in range(2)]
    images = pipe(batch_size=2, generator=generator, output_type="pt").images
    assert torch.equal(images, load_file(IMAGES)["images"])

def without_the_package():
    "Refused by its name, unless diffusers imports the package itself, as 0.41.0 does"
    for cls, folder in ((diffusers.DiffusionPipeline, FOLDER), (diffusers.UNet2DModel, f"{FOLDER}/unet")):
        try: cls.from_pretrained(folder)
        except Exception as e: assert "tmpq_dm" in str(e), e
        else: assert "tmpq_dm" in sys.modules, folder

def pipeline(): draws_alike(diffusers.DiffusionPipeline.from_pretrained(FOLDER))

def with_network():
    unet = diffusers.UNet2DModel.from_pretrained(FOLDER, subfolder="unet")
    return diffusers.DDPMPipeline(unet, diffusers.DiffusionPipeline.from_pretrained(FOLDER).scheduler)

def network(): draws_alike(with_network())

def checked_pipeline(): draws_alike(tmpq_dm.load_compressed(FOLDER))

def check_saved(pipe, folder):
    "Saving keeps policy, card and manifest"
    pipe.save_pretrained(folder)
    names = [sorted(p.name for p in Path(f).rglob("*")) for f in (folder, FOLDER)]
    assert names[0] == names[1]
    assert Path(folder, "README.md").read_bytes() == Path(FOLDER, "README.md").read_bytes()
    policies = [tmpq_dm.Policy.load(f"{f}/policy.json").to_dict() for f in (folder, FOLDER)]
    assert policies[0] == policies[1]

def save_again(): check_saved(diffusers.DiffusionPipeline.from_pretrained(FOLDER), f"{NEW}/again")

def save_network_again():
    tmpq_dm.TmpqConfig
    check_saved(with_network(), f"{NEW}/network")

def saved_again(): draws_alike(diffusers.DiffusionPipeline.from_pretrained(f"{NEW}/again"))

def saved_again_checked(): draws_alike(tmpq_dm.load_compressed(f"{NEW}/again"))

def save_plain(): tmpq_dm.load_reference().unet.save_pretrained(f"{NEW}/plain")

def pack_on_the_fly():
    config = tmpq_dm.TmpqConfig(weights=4)
    light = diffusers.UNet2DModel.from_pretrained(f"{NEW}/plain", quantization_config=config)
    light.save_pretrained(f"{NEW}/light")
    diffusers.DDPMPipeline(light, tmpq_dm.load_reference().scheduler).save_pretrained(f"{NEW}/pipeline")

def packed_on_the_fly(): assert diffusers.UNet2DModel.from_pretrained(f"{NEW}/light").is_quantized

def packed_in_a_pipeline(): assert diffusers.DiffusionPipeline.from_pretrained(f"{NEW}/pipeline").unet.is_quantized

def run(way):
    "Run a function in a fork, which has to succeed"
    child = os.fork()
    if child == 0:
        try: way()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    if os.waitpid(child, 0)[1]: sys.exit(f"{way.__name__} failed")

if FIRST == "tmpq_dm": import tmpq_dm
import diffusers
from diffusers import DDPMPipeline, UNet2DModel      # their modules, and with them what knows quantization methods
if FIRST == "diffusers":
    run(without_the_package)
    import tmpq_dm
assert not [name for name in sys.modules if name.startswith("tmpq_dm.")]
torch.set_num_threads(1)
for way in (pipeline, network, checked_pipeline, save_again, save_network_again, saved_again,
            saved_again_checked, save_plain, pack_on_the_fly, packed_on_the_fly, packed_in_a_pipeline): run(way)
