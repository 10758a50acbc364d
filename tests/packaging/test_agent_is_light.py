"""A device imports nothing that only the controller needs."""

import subprocess
import sys
import textwrap

PROBE = """
    import importlib, pkgutil, sys

    HEAVY = {"quarterdeck_controller", "onnx", "typer", "rich", "sqlalchemy"}

    class Refuse:
        def find_spec(self, name, path=None, target=None):
            if name.partition(".")[0] in HEAVY:
                raise ModuleNotFoundError(f"the agent reached for {name}")

    sys.meta_path.insert(0, Refuse())
    import quarterdeck_agent, quarterdeck_shared
    for package in (quarterdeck_shared, quarterdeck_agent):
        prefix = package.__name__ + "."
        for module in pkgutil.walk_packages(package.__path__, prefix):
            importlib.import_module(module.name)
"""


def test_every_agent_module_imports_without_the_controllers_dependencies() -> None:
    probe = [sys.executable, "-I", "-W", "error", "-c", textwrap.dedent(PROBE)]

    done = subprocess.run(probe, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
