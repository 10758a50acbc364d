"""Functions of the operator's own: found, called, and refused by the line that failed.

A function is named ``module:function`` or ``path/to/file.py:function``. One that brings
samples is called without arguments and yields batches: a mapping from the model's
inputs to arrays with the samples first, where it likes with ``labels`` and ``groups``.
"""

import importlib
import importlib.util
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from quarterdeck_controller.optimize.data.batch import Batch, Source, invalid
from quarterdeck_controller.optimize.data.fit import match_names
from quarterdeck_controller.optimize.data.samples import GROUPS, LABELS, Array
from quarterdeck_controller.optimize.steps import Tensor
from quarterdeck_shared.errors import RejectedError

MAX_TOLD = 300
_MODULE = "quarterdeck_entry_point"


def names_function(given: str) -> bool:
    """Return whether ``given`` is written like the name of a function."""
    module, colon, function = given.rpartition(":")
    return bool(colon and module) and function.isidentifier()


def find_function(given: str) -> Callable[..., Any]:
    """Return the function that ``given`` names; its module is imported.

    Raises:
        RejectedError: ``DATA_INVALID`` when there is none, or importing it fails.
    """
    module, _, name = given.rpartition(":")
    with told(given):
        found = _import_file(Path(module)) if module.endswith(".py") else None
        if found is None:
            if str(Path.cwd()) not in sys.path:
                sys.path.insert(0, str(Path.cwd()))
            found = importlib.import_module(module)
    function = getattr(found, name, None)
    if not callable(function):
        raise invalid(f"{given}: there is no function {name} in {module}")
    found_function: Callable[..., Any] = function
    return found_function


def open_function(given: str, tensors: Sequence[Tensor]) -> Source:
    """Return the samples that the function named ``given`` yields.

    Raises:
        RejectedError: ``DATA_INVALID`` when there is no such function.
    """
    function = find_function(given)

    def batches(rows: Array | None) -> Iterator[Batch]:
        assert rows is None
        with told(given):
            yielded = iter(function())
        while True:
            with told(given):
                one = next(yielded, None)
            if one is None:
                return
            batch = _batch(given, one, tensors)
            if len(batch):
                yield batch

    return Source(given, None, None, batches)


@contextmanager
def told(given: str) -> Iterator[None]:
    """Turn whatever the operator's own code raises into a refusal with its line."""
    try:
        yield
    except RejectedError:
        raise
    except (Exception, SystemExit) as error:
        why = f"{type(error).__name__}: {error}"[:MAX_TOLD]
        raise invalid(f"{given} failed{_line(error)}: {why}") from error


def _import_file(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(_MODULE, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    folder = str(path.resolve().parent)
    if folder not in sys.path:  # so that it finds the modules beside it
        sys.path.insert(0, folder)
    module = importlib.util.module_from_spec(spec)
    sys.modules[_MODULE] = module
    spec.loader.exec_module(module)
    return module


def _line(error: BaseException) -> str:
    """Return where in the operator's code it happened: the innermost line of it."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [one for one in frames if _is_own(one.filename)]
    if not own:
        return ""
    return f" in {own[-1].filename}, line {own[-1].lineno}"


def _is_own(file: str) -> bool:
    apart = ("quarterdeck_controller", "site-packages", "<frozen", "importlib")
    return not any(part in file for part in apart)


def _batch(given: str, one: object, tensors: Sequence[Tensor]) -> Batch:
    if not isinstance(one, Mapping):
        raise invalid(
            f"{given} yielded {type(one).__name__}, not a mapping from the model's "
            "inputs to arrays"
        )
    with told(given):
        arrays = {str(name): np.asarray(value) for name, value in one.items()}
    names = match_names(given, arrays, tensors)
    inputs = {tensor.name: arrays[names[tensor.name]] for tensor in tensors}
    counts = {name: len(a) if a.ndim else -1 for name, a in inputs.items()}
    if len(set(counts.values())) > 1 or -1 in counts.values():
        shapes = {name: list(array.shape) for name, array in inputs.items()}
        raise invalid(f"{given} yielded arrays of different sample counts: {shapes}")
    return Batch(inputs, arrays.get(LABELS), arrays.get(GROUPS))
