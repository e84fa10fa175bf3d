"""Find the packages: those of ``vmcore``, and those of ``arches``, which are installed as ``vmcore_arches``."""

from setuptools import find_packages, setup

arches = ["vmcore_arches", *(f"vmcore_arches.{name}" for name in find_packages("arches"))]
setup(
    packages=[*find_packages(include=["vmcore", "vmcore.*"]), *arches],
    package_dir={"vmcore_arches": "arches"},
)
