"""Copies the notebooks into the package that is built: `workbench init` writes them from there."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithNotebooks(build_py):
    """The package with ``notebooks/`` below ``workbench/project/files``."""

    def run(self) -> None:
        """Build, then copy; an editable install reads the notebooks where they are."""
        super().run()
        if not self.editable_mode:
            into = Path(self.build_lib) / "workbench/project/files/notebooks"
            shutil.rmtree(into, ignore_errors=True)
            (into / "profiles").mkdir(parents=True)
            for path in [*Path("notebooks").glob("*.ipynb"), *Path("notebooks").glob("profiles/*.yaml")]:
                shutil.copyfile(path, into / path.relative_to("notebooks"))


setup(cmdclass={"build_py": BuildWithNotebooks})
