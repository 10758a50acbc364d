"""The two exporters of PyTorch, and the check of what they wrote."""

import inspect
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import onnx
import torch
from torch import Tensor

from quarterdeck_controller.optimize.session import infer, open_session
from quarterdeck_controller.optimize.train.exactness import relative_error
from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import RejectedError

OPSET = 17
NEWER_OPSET = 18
"""The lowest that the exporter of programs writes."""
TOLERANCE = 1e-3
MAX_TOLD = 200


class _FailedError(Exception):
    """An exporter failed, or what it wrote says something else."""


@dataclass(frozen=True, slots=True)
class _Work:
    """A module and what it is called with.

    Attributes:
        batched: Whether every input and output has the samples first.
    """

    module: torch.nn.Module
    inputs: dict[str, Tensor]
    outputs: list[str]
    batched: bool


def write(source: str, given: object, out: Path) -> list[str]:
    """Write a module to ``out`` and return what there is to tell about it.

    Args:
        source: Where the module is from, to say so in a refusal.
        given: A module and its example inputs: a tensor, or a tuple or dictionary of
            them. Where all have the same number of samples first, so has the model,
            any number of them.
        out: The file.

    Raises:
        RejectedError: ``MODEL_INVALID`` when this is no module with inputs, no
            exporter takes it, or the file says something else.
    """
    work = _prepare(source, given)
    failed: list[str] = []
    for name, exporter in EXPORTERS.items():
        try:
            with _failing():
                exporter(work, out)
                onnx.checker.check_model(str(out))
                error = _check(work, work.inputs, out)
            notes = [f"{failure}; the other exporter was taken" for failure in failed]
            told = f"made by the exporter by {name}, within {error:.1e} of the module"
            return [*notes, told, *_about_batch(work, out)]
        except _FailedError as error_:
            failed.append(f"by {name}: {error_}")
    raise RejectedError(
        Code.MODEL_INVALID,
        f"{source}: no exporter takes the module: {'; '.join(failed)}",
    )


def _prepare(source: str, given: object) -> _Work:
    pair = given if isinstance(given, tuple) and len(given) == len("xy") else (None, 0)
    module, example = pair
    if not isinstance(module, torch.nn.Module):
        raise _refused(
            source, "it must return a torch.nn.Module and its example inputs"
        )
    module = module.cpu().eval()
    inputs = _named(source, module, example)
    try:
        outputs = _outputs(module, inputs)
    except Exception as error:
        raise _refused(source, f"the module fails: {_line(error)}") from error
    rows = {len(one) if one.dim() else -1 for one in (*inputs.values(), *outputs)}
    names = [f"output{at}" if at else "output" for at in range(len(outputs))]
    return _Work(module, inputs, names, batched=len(rows) == 1 and -1 not in rows)


def _named(source: str, module: torch.nn.Module, example: object) -> dict[str, Tensor]:
    example = (example,) if isinstance(example, Tensor) else example
    named: dict[str, Tensor] = {}
    if isinstance(example, Mapping):
        named = {str(name): one for name, one in example.items()}
    elif isinstance(example, tuple | list):
        names = inspect.signature(module.forward).parameters
        named = dict(zip(names, example, strict=False))
    if not named or not all(isinstance(one, Tensor) for one in named.values()):
        raise _refused(
            source, "its example inputs must be a tensor, or a tuple or dict of them"
        )
    return named


def _outputs(module: torch.nn.Module, inputs: Mapping[str, Tensor]) -> list[Tensor]:
    with torch.no_grad():
        found = module(**inputs)
    if isinstance(found, Tensor):
        return [found]
    listed = list(found.values() if isinstance(found, Mapping) else found)
    if not all(isinstance(one, Tensor) for one in listed):
        raise TypeError("it must give a tensor, or a tuple or dict of tensors")
    return listed


def _trace(work: _Work, out: Path) -> None:
    names = [*work.inputs, *work.outputs]
    axes = {name: {0: "batch"} for name in names} if work.batched else {}
    torch.onnx.export(
        work.module,
        (),
        str(out),
        kwargs=dict(work.inputs),
        input_names=list(work.inputs),
        output_names=work.outputs,
        dynamic_axes=axes,
        opset_version=OPSET,
        dynamo=False,
    )


def _read(work: _Work, out: Path) -> None:
    batch = torch.export.Dim("batch")
    shapes = {name: {0: batch} for name in work.inputs} if work.batched else None
    torch.onnx.export(
        work.module,
        (),
        str(out),
        kwargs=dict(work.inputs),
        input_names=list(work.inputs),
        output_names=work.outputs,
        dynamic_shapes=shapes,
        opset_version=NEWER_OPSET,
        dynamo=True,
        external_data=False,
    )


EXPORTERS: Mapping[str, Callable[[_Work, Path], None]] = {
    "tracing": _trace,
    "reading the program": _read,
}


def _check(work: _Work, inputs: Mapping[str, Tensor], out: Path) -> float:
    """Return the greatest relative error of the file's outputs."""
    session = open_session(out)
    known = {one.name for one in session.get_inputs()}
    feed = {name: one.numpy() for name, one in inputs.items() if name in known}
    found = infer(session, work.outputs, feed)
    wanted = _outputs(work.module, inputs)
    pairs = zip(found, wanted, strict=True)
    worst = max(relative_error(one, other.numpy()) for one, other in pairs)
    if worst > TOLERANCE:
        raise _FailedError(f"the file is off by {worst:.1e} of what the module says")
    return worst


def _about_batch(work: _Work, out: Path) -> list[str]:
    """Tell whether the file takes more samples at once than the example has."""
    if not work.batched:
        return []
    twice = {name: torch.cat([one, one]) for name, one in work.inputs.items()}
    try:
        with _failing():
            _check(work, twice, out)
    except _FailedError as error:
        return [f"it takes only as many samples as its example: {error}"]
    return []


@contextmanager
def _failing() -> Iterator[None]:
    """Turn whatever goes wrong in an exporter, of any type, into one."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except _FailedError:
        raise
    except Exception as error:
        raise _FailedError(_line(error)) from error


def _line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:MAX_TOLD]


def _refused(source: str, why: str) -> RejectedError:
    return RejectedError(Code.MODEL_INVALID, f"{source}: {why}")
