"Hands settings.ini to setuptools; nothing is decided here."
import os
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

config = ConfigParser(delimiters=["="], interpolation=None)
config.read("settings.ini", encoding="utf-8")
s = config["DEFAULT"]
lib, lines = s["lib_name"], lambda key: s[key].strip().splitlines()
extra, start = "_requirements", f"{s['lib_name']}.pth"


# diffusers loads parts of a pipeline only from libraries that are imported already. The one line of the .pth file lets Python
# import the package, which is a list of names until it is used, so that a compressed model loads like any other. (An editable
# installation cannot bring such a file; the Makefile copies it.)
class WithStart(build_py):
    def run(self):
        super().run()
        if not self.editable_mode: self.copy_file(start, os.path.join(self.build_lib, start))

    def get_outputs(self, *args, **kwargs): return super().get_outputs(*args, **kwargs) + ([] if self.editable_mode else [os.path.join(self.build_lib, start)])


setup(
    version=s["version"], description=s["description"], author=s["author"], keywords=s["keywords"].split(),
    classifiers=lines("classifiers"),
    long_description=Path("README.md").read_text(encoding="utf-8"), long_description_content_type="text/markdown",
    packages=find_packages(include=[lib, f"{lib}.*"]), package_data={lib: ["assets/**/*"]}, include_package_data=False,
    cmdclass=dict(build_py=WithStart),
    install_requires=lines("requirements"),
    extras_require={key[:-len(extra)]: lines(key) for key in s if key.endswith(extra)},
    entry_points={"console_scripts": lines("console_scripts"), "nbdev": [f"{lib} = {lib}._modidx:d"]},
)
