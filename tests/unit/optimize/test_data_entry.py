from pathlib import Path

import numpy as np
import pytest

from quarterdeck_controller.optimize.data.load import load
from quarterdeck_controller.optimize.data.stored import Stored
from quarterdeck_controller.optimize.steps import Loaded, LoadRequest, Tensor
from quarterdeck_shared.errors import RejectedError

X = Tensor(name="x", dtype="float32", shape=(None, 2))
HEAD = "import numpy as np\n"


SOME_LABELS = """
def batches():
    yield {'x': np.zeros((2, 2), 'f4'), 'labels': [0, 1]}
    yield {'x': np.zeros((2, 2), 'f4')}
"""
OTHER_LABELS = """
def batches():
    yield {'x': np.zeros((2, 2), 'f4'), 'labels': [0, 1]}
    yield {'x': np.zeros((2, 2), 'f4'), 'labels': ['a', 'b']}
"""
INFINITE = """
def batches():
    yield {'x': np.zeros((5, 2), 'f4')}
    yield {'x': np.full((2, 2), np.inf, 'f4')}
"""


def bring(tmp_path: Path, body: str, most: int | None = None) -> Loaded:
    file = tmp_path / "mine.py"
    file.write_text(HEAD + body, "utf-8")
    request = LoadRequest(
        source=f"{file}:batches", out=tmp_path / "out", inputs=(X,), most=most
    )
    return load(request)


def test_batches_of_a_function_are_samples(tmp_path: Path) -> None:
    body = (
        "def batches():\n"
        "    for n in (3, 1, 0, 2):\n"
        "        x = np.full((n, 2), n, np.float32)\n"
        "        yield {'x': x, 'labels': np.full(n, n), 'groups': ['a'] * n}\n"
    )

    loaded = bring(tmp_path, body)

    assert (loaded.count, loaded.labels, loaded.groups) == (6, True, True)
    assert Stored.open(tmp_path / "out").array("x")[:, 0].tolist() == [3, 3, 3, 1, 2, 2]
    assert np.load(tmp_path / "out" / "labels.npy").tolist() == [3, 3, 3, 1, 2, 2]


def test_an_endless_function_is_stopped_and_it_is_said(tmp_path: Path) -> None:
    body = (
        "def batches():\n"
        "    while True:\n"
        "        yield {'x': np.zeros((8, 2), np.float32)}\n"
    )

    loaded = bring(tmp_path, body, most=20)

    assert loaded.count == 20
    assert loaded.notes == ("the first 20 samples were taken, and there are more",)


def test_sequences_of_different_lengths_are_padded_and_texts_widened(
    tmp_path: Path,
) -> None:
    body = (
        "def batches():\n"
        "    for n in (1, 3):\n"
        "        labels = np.arange(n)[None]\n"
        "        yield {'x': np.zeros((1, 2), np.float32), 'labels': labels,\n"
        "               'groups': np.array(['a' * n])}\n"
    )

    bring(tmp_path, body)

    padded = [[0, -1, -1], [0, 1, 2]]
    assert np.load(tmp_path / "out" / "labels.npy").tolist() == padded
    assert np.load(tmp_path / "out" / "groups.npy").tolist() == ["a", "aaa"]


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("def batches():\n    return 1 / 0\n", "line 3: ZeroDivisionError"),
        ("def batches():\n    yield {}\n    None.x\n", "no array for input x"),
        (
            "def batches():\n    yield {'x': np.zeros((1, 2), 'f4')}\n    None.x\n",
            "line 4: AttributeError",
        ),
        ("import nothing_like_it\n", "line 2: ModuleNotFoundError"),
        ("def batches(:\n", "SyntaxError"),
        ("def batches():\n    raise SystemExit(3)\n", "line 3: SystemExit"),
        ("def batches():\n    return 3\n", "TypeError"),
        ("def batches():\n    yield 3\n", "yielded int, not a mapping"),
        ("def batches():\n    return []\n", "holds no samples"),
        ("batches = 3\n", "there is no function batches"),
        (
            "def batches():\n    yield {'x': np.zeros((2, 3), 'f4')}\n",
            r"\[2, 3\], the model takes \[N, 2\]",
        ),
        (SOME_LABELS, "only some of the samples have labels"),
        (OTHER_LABELS, "bring one kind for all samples"),
        (INFINITE, "NaN or infinity in sample 5"),
    ],
)
def test_a_function_that_fails_is_refused_by_its_line(
    tmp_path: Path, body: str, told: str
) -> None:
    with pytest.raises(RejectedError, match=told):
        bring(tmp_path, body)


@pytest.mark.parametrize(
    "source", ["nowhere.py:batches", "no_such_module_here:batches", "nothing.npz"]
)
def test_a_source_that_is_not_there_is_named(tmp_path: Path, source: str) -> None:
    request = LoadRequest(source=source, out=tmp_path / "out", inputs=(X,))

    with pytest.raises(RejectedError, match=source.partition(":")[0]):
        load(request)


def test_a_file_finds_the_modules_beside_it(tmp_path: Path) -> None:
    (tmp_path / "quarterdeck_test_neighbour.py").write_text("COUNT = 4\n", "utf-8")
    body = (
        "from quarterdeck_test_neighbour import COUNT\n"
        "def batches():\n"
        "    yield {'x': np.zeros((COUNT, 2), np.float32)}\n"
    )

    assert bring(tmp_path, body).count == 4


def test_the_digest_is_of_the_samples_and_not_of_how_they_came(tmp_path: Path) -> None:
    x = np.arange(40, dtype=np.float32).reshape(20, 2)
    np.savez_compressed(tmp_path / "d.npz", x=x, labels=np.arange(20))
    body = (
        "def batches():\n"
        "    x = np.arange(40, dtype=np.float32).reshape(20, 2)\n"
        "    for at in range(0, 20, 3):\n"
        "        labels = np.arange(20)[at:at + 3]\n"
        "        yield {'x': x[at:at + 3], 'labels': labels}\n"
    )
    request = LoadRequest(
        source=str(tmp_path / "d.npz"), out=tmp_path / "other", inputs=(X,)
    )

    assert bring(tmp_path, body).sha256 == load(request).sha256
