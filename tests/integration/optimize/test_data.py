"""Loading in the child that does it for real."""

import json
from pathlib import Path

import numpy as np
import pytest

from quarterdeck_controller.optimize.data.stored import Stored
from quarterdeck_controller.optimize.sandbox import Bounds, Sandbox
from quarterdeck_controller.optimize.steps import Loaded, LoadRequest, Tensor
from quarterdeck_shared.errors import RejectedError

MEMORY_MB = 600
X = Tensor(name="x", dtype="float32", shape=(None, 64, 64))

ENDLESS = """
import numpy as np

def batches():
    while True:
        yield {'x': np.zeros((64, 64, 64), np.float32), 'labels': np.zeros(64, int)}
"""


def _load(
    tmp_path: Path, source: str, memory_mb: int, most: int | None = None
) -> Loaded:
    sandbox = Sandbox(tmp_path / "work", Bounds(seconds=60, memory_mb=memory_mb))
    request = LoadRequest(source=source, out=tmp_path / "out", inputs=(X,), most=most)
    return sandbox.run("load", request, Loaded)


def test_a_file_for_which_the_child_has_no_memory_left_is_loaded(
    tmp_path: Path,
) -> None:
    shape = (24_000, 64, 64)
    source = tmp_path / "d.npy"
    np.lib.format.open_memmap(source, "w+", np.float32, shape)[-1] = 1

    loaded = _load(tmp_path, str(source), memory_mb=MEMORY_MB)

    assert loaded.count == shape[0]
    assert (Stored.open(tmp_path / "out").array("x")[-1] == 1).all()


def test_an_endless_function_ends_in_its_child(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(ENDLESS, "utf-8")

    loaded = _load(tmp_path, f"{file}:batches", memory_mb=1024, most=100)

    assert (loaded.count, loaded.labels) == (100, True)


def test_a_function_that_ends_its_process_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("import os\ndef batches():\n    os._exit(7)\n", "utf-8")

    with pytest.raises(RejectedError):
        _load(tmp_path, f"{file}:batches", memory_mb=1024)


def test_a_child_is_not_given_what_opens_keys_and_doors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, told = tmp_path / "data.py", tmp_path / "told.json"
    source.write_text(
        "import json, os\n"
        "import numpy as np\n"
        f"open({str(told)!r}, 'w').write(json.dumps(dict(os.environ)))\n"
        "def batches():\n"
        "    yield {'x': np.zeros((4, 64, 64), np.float32)}\n"
    )
    for name in ("PASSPHRASE", "PASSPHRASE_FILE", "TOKEN", "TOKEN_FILE", "IDENTITY"):
        monkeypatch.setenv(f"QUARTERDECK_{name}", "secret")
    monkeypatch.setenv("QUARTERDECK_EMULATION", "kept")

    _load(tmp_path, f"{source}:batches", memory_mb=1024)

    seen = json.loads(told.read_text())
    assert "secret" not in seen.values()
    assert seen["QUARTERDECK_EMULATION"] == "kept"
