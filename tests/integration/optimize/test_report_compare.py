import json
import subprocess
import sys
from pathlib import Path

from quarterdeck_controller.optimize.evaluation import Evaluation
from tests.support.stories import evaluation, story

QUARTERDECK = [
    sys.executable,
    "-c",
    "from quarterdeck_controller.cli import main; main()",
]


def run(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*QUARTERDECK, "model", "compare", *map(str, words)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def put(folder: Path, one: Evaluation) -> Path:
    folder.mkdir(parents=True)
    (folder / "evaluation.json").write_text(one.model_dump_json())
    (folder / "search.json").write_text(story().model_dump_json())
    return folder


def test_two_classes_are_shown_side_by_side(tmp_path: Path) -> None:
    a = put(tmp_path / "a" / "gateway-x86", evaluation())
    b = put(tmp_path / "b" / "gateway-x86", evaluation(files={}, latency_ratio=0.2))

    said = run(a, b)

    assert said.returncode == 0, said.stderr
    assert "verdict  B is better: latency -50 %" in said.stdout
    assert "…" not in said.stdout


def test_folders_of_several_classes_are_compared_class_by_class(
    tmp_path: Path,
) -> None:
    for name in ("gateway-x86", "board-arm64"):
        put(tmp_path / "a" / name, evaluation(device_class=name))
    put(tmp_path / "b" / "gateway-x86", evaluation())
    put(tmp_path / "b" / "wearable", evaluation(device_class="wearable"))

    said = run(tmp_path / "a", tmp_path / "b", "--json")

    told = json.loads(said.stdout)
    assert said.returncode == 0
    assert [one["a_class"] for one in told["classes"]] == ["gateway-x86"]
    assert told["only_a"] == ["board-arm64"]
    assert told["only_b"] == ["wearable"]


def test_model_files_are_sent_to_evaluate(tmp_path: Path) -> None:
    model = tmp_path / "model.onnx"
    model.write_bytes(b"x")

    said = run(model, model)

    assert said.returncode != 0
    assert "quarterdeck model evaluate" in " ".join(said.stderr.split())


def test_a_folder_without_results_says_what_to_give(tmp_path: Path) -> None:
    said = run(tmp_path, tmp_path)

    assert said.returncode != 0
    assert "holds no evaluation.json" in " ".join(said.stderr.split())


def test_an_older_version_is_refused_by_its_number(tmp_path: Path) -> None:
    a = put(tmp_path / "a", evaluation())
    old = json.loads((a / "evaluation.json").read_text()) | {"v": 1}
    (a / "evaluation.json").write_text(json.dumps(old))

    said = run(a, a)

    assert said.returncode != 0
    assert "version_unknown" in said.stderr
    assert "Traceback" not in said.stderr
