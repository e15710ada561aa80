"""The step of `pip install` that compiles the kernels."""

from __future__ import annotations

import runpy
from pathlib import Path

from setuptools import Extension
from setuptools.command.build_ext import build_ext


class BuildKernels(build_ext):
    """Compiles each source once per instruction set, which setuptools' own command does not."""

    def build_extension(self, ext: Extension) -> None:
        # The package cannot be imported yet: what it needs is not installed.
        build = runpy.run_path(str(Path(__file__).with_name("build.py")))
        target = Path(self.get_ext_fullpath(ext.name))
        target.parent.mkdir(parents=True, exist_ok=True)
        build["compile_library"](target, objects=build["OBJECTS"])
