"""Virtual environments in the cache, for what must not enter the controller's own.

Networks are trained, and peers run, with packages of up to two gigabytes that the
optimizer itself never needs. Each set of packages is installed once.
"""

import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from tests.bench.quantization.fetch import CACHE, UnavailableError
from tests.bench.quantization.task import Array

ROOT = Path(__file__).parents[3]
RUNTIME = ("onnx==1.23.2", "onnxruntime==1.32.0")
TORCH = ("torch==2.13.0",)
"""On its own and first: what else is installed would pull the build with CUDA."""
INSTALL_S, TRAIN_S = 3600, 1800


def python(name: str, *installs: tuple[str, ...]) -> Path:
    """Return the interpreter of the environment ``name``, made unless it is there.

    Args:
        name: One per set of packages.
        installs: What pip installs, one call after the other.

    Raises:
        UnavailableError: It could not be made.
    """
    folder = CACHE / "venvs" / name
    interpreter, complete = folder / "bin" / "python", folder / "complete"
    wanted = repr(installs)
    if complete.is_file() and complete.read_text("utf-8") == wanted:
        return interpreter
    _run([sys.executable, "-m", "venv", "--clear", str(folder)], INSTALL_S)
    for packages in installs:
        install = [str(interpreter), "-m", "pip", "install", "--quiet", *packages]
        _run(install, INSTALL_S)
    complete.write_text(wanted, "utf-8")
    return interpreter


def trained(script: str, arrays: Mapping[str, Array]) -> bytes:
    """Return the ONNX file that ``train.SCRIPT`` makes of ``arrays`` with PyTorch.

    Raises:
        UnavailableError: PyTorch could not be had, or the script failed.
    """
    interpreter = python("torch", TORCH, RUNTIME)
    with tempfile.TemporaryDirectory(dir=CACHE) as folder:
        data, out = Path(folder) / "data.npz", Path(folder) / "model.onnx"
        np.savez(data, allow_pickle=False, **dict(arrays))
        module = f"tests.bench.quantization.train.{script}"
        _run([str(interpreter), "-m", module, str(data), str(out)], TRAIN_S)
        return out.read_bytes()


def _run(command: list[str], seconds: float) -> None:
    try:
        subprocess.run(
            command,
            cwd=ROOT,
            check=True,
            capture_output=True,
            text=True,
            timeout=seconds,
        )
    except subprocess.TimeoutExpired as error:
        raise UnavailableError(
            f"{' '.join(command)} did not end in {seconds:g} s"
        ) from error
    except subprocess.CalledProcessError as error:
        last = (error.stderr.strip().splitlines() or ["no message"])[-1]
        raise UnavailableError(f"{' '.join(command)} failed: {last}") from error
