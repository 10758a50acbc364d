import platform
import re
import sys
from importlib import metadata
from pathlib import Path

import pytest

from quarterdeck_controller.optimize.measure import emulate
from quarterdeck_controller.optimize.measure.emulate import (
    PROCESSORS,
    Emulator,
    find_emulator,
    what_differs,
)
from quarterdeck_controller.optimize.profile import load_profile, profile_names

ROOT = Path(__file__).parents[3]
HASWELL, A53 = PROCESSORS["Haswell"], PROCESSORS["cortex-a53"]


@pytest.fixture
def nothing_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(emulate.FOLDER_VARIABLE, str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


def install_qemu(folder: Path, architecture: str) -> Path:
    qemu = folder / "qemu/usr/bin" / f"qemu-{architecture}"
    qemu.parent.mkdir(parents=True, exist_ok=True)
    qemu.touch(0o755)
    return qemu


@pytest.mark.usefixtures("nothing_installed")
@pytest.mark.parametrize("processor", ["Haswell", "cortex-a53"])
def test_without_an_emulator_it_says_how_to_get_one(processor: str) -> None:
    why = find_emulator(processor)

    assert isinstance(why, str)
    assert "no emulator of" in why
    assert "deploy/emulation/install" in why


def test_without_the_aarch64_root_it_says_how_to_get_it(
    nothing_installed: Path,
) -> None:
    install_qemu(nothing_installed, "aarch64")

    why = find_emulator("cortex-a53")

    assert isinstance(why, str)
    assert str(nothing_installed / "aarch64") in why
    assert "deploy/emulation/install" in why


@pytest.mark.parametrize("processor", ["Icelake-Server", "max", "", "cortex-m4"])
def test_a_processor_that_cannot_be_emulated_is_told_with_those_that_can(
    processor: str,
) -> None:
    why = find_emulator(processor)

    assert isinstance(why, str)
    assert repr(processor) in why
    assert "cortex-a53" in why


@pytest.mark.skipif(platform.machine() != "x86_64", reason="emulates x86-64 on x86-64")
def test_x86_processors_run_this_python(nothing_installed: Path) -> None:
    qemu = install_qemu(nothing_installed, "x86_64")

    found = find_emulator("Haswell")

    assert isinstance(found, Emulator)
    assert found.command[:3] == (str(qemu), "-cpu", "Haswell")
    assert sys.executable in found.command
    assert found.runtime == metadata.version("onnxruntime")


def test_a_processor_that_is_what_it_should_be_has_nothing_wrong() -> None:
    found = {"machine": "x86_64", "features": ["AVX", "AVX2"]}

    assert what_differs(HASWELL, found) == ""


@pytest.mark.parametrize(
    ("found", "wrong"),
    [
        ({"machine": "aarch64", "features": ["ASIMD"]}, "is aarch64, not x86_64"),
        ({"machine": "x86_64", "features": ["AVX"]}, "has no AVX2"),
        (
            {"machine": "x86_64", "features": ["AVX2", "AVX512F", "AVX512VNNI"]},
            "has AVX512F, AVX512VNNI, which it must not have",
        ),
        ({}, "is None, not x86_64"),
    ],
)
def test_a_processor_that_is_another_is_noticed(
    found: dict[str, object], wrong: str
) -> None:
    assert what_differs(HASWELL, found) == wrong


def test_a_dot_product_on_a_cortex_a53_is_noticed() -> None:
    found = {"machine": "aarch64", "features": ["ASIMD", "ASIMDDP"]}

    assert "ASIMDDP" in what_differs(A53, found)


def test_the_emulated_root_has_the_versions_that_the_tests_passed_with() -> None:
    constraints = (ROOT / "deploy/constraints.txt").read_text("utf-8")
    emulated = (ROOT / "deploy/emulation/aarch64.txt").read_text("utf-8")

    pins = re.findall(
        r"^(\w+==\S+) --hash=sha256:[0-9a-f]{64}$", emulated, re.MULTILINE
    )

    assert len(pins) == 2
    assert set(pins) <= set(constraints.splitlines())


def test_every_processor_that_a_shipped_class_names_can_be_emulated() -> None:
    profiles = [load_profile(name) for name in profile_names()]

    named = {profile.known.emulate for profile in profiles} - {""}

    assert named
    assert named <= PROCESSORS.keys()
