"Hands settings.ini to setuptools; nothing is decided here."
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

config = ConfigParser(delimiters=["="], interpolation=None)
config.read("settings.ini", encoding="utf-8")
s = config["DEFAULT"]
lib, lines = s["lib_name"], lambda key: s[key].strip().splitlines()
extra = "_requirements"


setup(
    version=s["version"], description=s["description"], author=s["author"], keywords=s["keywords"].split(),
    classifiers=lines("classifiers"),
    long_description=Path("README.md").read_text(encoding="utf-8"), long_description_content_type="text/markdown",
    packages=find_packages(include=[lib, f"{lib}.*"]), package_data={lib: ["assets/**/*", "py.typed"]},
    include_package_data=False,
    install_requires=lines("requirements"),
    extras_require={key[:-len(extra)]: lines(key) for key in s if key.endswith(extra)},
    entry_points={"console_scripts": lines("console_scripts"), "nbdev": [f"{lib} = {lib}._modidx:d"]},
)
