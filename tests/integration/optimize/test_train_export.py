"""PyTorch modules as models. Needs PyTorch."""

from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from quarterdeck_controller.optimize.steps import ExportRequest
from quarterdeck_controller.optimize.train.export import export
from quarterdeck_shared.errors import RejectedError

pytest.importorskip("torch", reason="PyTorch is an optional extra")

HEAD = "import torch\nfrom torch import nn\n"


def source(folder: Path, body: str) -> str:
    (folder / "net.py").write_text(HEAD + body, "utf-8")
    return f"{folder / 'net.py'}:make"


def test_a_module_becomes_a_file_that_takes_any_number_of_samples(
    tmp_path: Path,
) -> None:
    given = source(
        tmp_path, "def make():\n    return nn.Linear(3, 2), torch.randn(4, 3)\n"
    )

    exported = export(ExportRequest(source=given, out=tmp_path / "net.onnx"))

    session = ort.InferenceSession(str(tmp_path / "net.onnx"))
    (found,) = session.run(None, {"input": np.zeros((7, 3), np.float32)})
    assert found.shape == (7, 2)
    assert any("tracing" in note for note in exported.notes)


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("def make():\n    return 3\n", "must return a torch.nn.Module"),
        ("def make():\n    return nn.ReLU(), 3\n", "example inputs"),
        ("def make():\n    1 / 0\n", "ZeroDivisionError"),
        ("def other(): ...\n", "no function make"),
        (
            "def make():\n    return nn.Linear(3, 2), torch.randn(4, 5)\n",
            "the module fails",
        ),
    ],
)
def test_what_is_no_module_with_inputs_is_refused(
    tmp_path: Path, body: str, told: str
) -> None:
    given = source(tmp_path, body)

    with pytest.raises(RejectedError) as refused:
        export(ExportRequest(source=given, out=tmp_path / "net.onnx"))

    assert told in refused.value.detail
