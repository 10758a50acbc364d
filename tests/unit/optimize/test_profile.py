from pathlib import Path

import pytest

from quarterdeck_controller.optimize.measure.machine import isa_of
from quarterdeck_controller.optimize.profile import (
    SHIPPED,
    load_profile,
    profile_names,
)
from quarterdeck_controller.optimize.search.record import is_measured
from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import RejectedError

TEXT = (SHIPPED / "gateway-x86-vnni.toml").read_text("utf-8")


def test_every_class_that_ships_is_valid_and_named_like_its_file() -> None:
    profiles = {name: load_profile(name) for name in profile_names()}

    assert set(profiles) == {"gateway-x86-vnni", "gateway-x86", "board-arm64"}
    assert all(name == profile.name for name, profile in profiles.items())


def test_every_kernel_gets_weights_that_it_does_not_saturate_on() -> None:
    schemes = {n: load_profile(n).quantization.scheme for n in profile_names()}

    assert schemes["gateway-x86"] == "u8u8"
    assert schemes["gateway-x86-vnni"] == "u8s8"


def test_two_classes_with_the_same_hints_ask_for_equal_recipes() -> None:
    vnni = load_profile("gateway-x86-vnni").recipes()

    assert vnni == load_profile("board-arm64").recipes()
    assert vnni != load_profile("gateway-x86").recipes()


def test_a_profile_file_of_ones_own_is_read(tmp_path: Path) -> None:
    path = tmp_path / "camera.toml"
    path.write_text(TEXT.replace('"gateway-x86-vnni"', '"camera"'), "utf-8")

    profile = load_profile(str(path))

    assert profile.name == "camera"


def test_an_unknown_class_is_refused_with_those_that_exist() -> None:
    with pytest.raises(RejectedError, match="gateway-x86-vnni") as refused:
        load_profile("toaster")

    assert refused.value.code is Code.PROFILE_INVALID


@pytest.mark.parametrize("name", ["../profiles/gateway-x86", "/etc/passwd", ""])
def test_a_name_never_leaves_the_folder_of_profiles(name: str) -> None:
    with pytest.raises(RejectedError, match="no device class"):
        load_profile(name)


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("size_ratio = 0.6", "size_ratio = -1", "budget.size_ratio"),
        ("size_ratio = 0.6", "size_ration = 0.6", "size_ratio"),
        ('"x86-64", "avx2"', '"x86-64", "mmx"', "isa.1"),
        ("v = 1", "v = 2", "v: Input should be 1"),
        ("v = 1", "v = [", "profile.toml"),
        ("isa_absent = []", 'isa_absent = ["avx2"]', "present and as absent"),
        ("memory_mb = 512", "memory_mb = 64", "more than the device's"),
    ],
)
def test_a_profile_that_makes_no_sense_is_refused_by_field(
    tmp_path: Path, old: str, new: str, told: str
) -> None:
    path = tmp_path / "profile.toml"
    path.write_text(TEXT.replace(old, new), "utf-8")

    with pytest.raises(RejectedError) as refused:
        load_profile(str(path))

    assert refused.value.code is Code.PROFILE_INVALID
    assert told in refused.value.detail


def test_a_profile_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RejectedError, match="No such file"):
        load_profile(str(tmp_path / "none.toml"))


def test_a_machine_with_vnni_only_stands_in_for_a_class_without_it() -> None:
    vnni = ("x86-64", "avx2", "avx512-vnni")

    assert is_measured(load_profile("gateway-x86-vnni"), vnni)
    assert not is_measured(load_profile("gateway-x86"), vnni)
    assert is_measured(load_profile("gateway-x86"), ("x86-64", "avx2"))
    assert not is_measured(load_profile("board-arm64"), vnni)


def test_a_class_with_another_provider_is_never_measured_on_the_cpu() -> None:
    profile = load_profile("gateway-x86-vnni")
    other = profile.model_copy(update={"provider": "CUDAExecutionProvider"})

    assert not is_measured(other, profile.isa)


@pytest.mark.parametrize(
    ("machine", "text", "isa"),
    [
        (
            "x86_64",
            "flags\t\t: fpu avx2 avx512_vnni\n",
            ("x86-64", "avx2", "avx512-vnni"),
        ),
        ("x86_64", "flags : fpu sse4_2", ("x86-64",)),
        (
            "aarch64",
            "Features\t: fp asimd asimdhp asimddp",
            ("aarch64", "dotprod", "fp16"),
        ),
        ("riscv64", "isa : rv64imafdc", ()),
        ("x86_64", "", ("x86-64",)),
    ],
)
def test_instruction_sets_are_read_from_the_kernel(
    machine: str, text: str, isa: tuple[str, ...]
) -> None:
    assert isa_of(machine, text) == isa
