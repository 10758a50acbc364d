import tomllib
from pathlib import Path

import pytest

from quarterdeck_controller.optimize.measure.derive import derive, to_toml
from quarterdeck_controller.optimize.measure.emulate import PROCESSORS
from quarterdeck_controller.optimize.measure.machine import (
    isa_of,
    latency_known,
    machine_capabilities,
)
from quarterdeck_controller.optimize.measure.on_device import check_class
from quarterdeck_controller.optimize.profile import (
    DEFAULT_CLASSES,
    SHIPPED,
    Profile,
    load_profile,
    profile_names,
)
from quarterdeck_shared.codes import Code
from quarterdeck_shared.device import Capabilities, Isa
from quarterdeck_shared.errors import RejectedError

TEXT = (SHIPPED / "gateway-x86-vnni.toml").read_text("utf-8")


def test_every_class_that_ships_is_valid_and_named_like_its_file() -> None:
    profiles = {name: load_profile(name) for name in profile_names()}

    assert set(profiles) == {
        "accelerator-int8",
        "board-512mb",
        "board-arm64",
        "board-arm64-a53",
        "gateway-x86",
        "gateway-x86-vnni",
        "gpu-fp16",
    }
    assert all(name == profile.name for name, profile in profiles.items())


def test_the_classes_that_are_meant_where_none_is_named_ship() -> None:
    assert set(DEFAULT_CLASSES) <= set(profile_names())


def test_the_reference_profile_explains_every_field() -> None:
    fields = load_profile("gateway-x86-vnni").model_dump()
    told = tomllib.loads(TEXT)

    assert told.keys() == fields.keys()
    for section, values in fields.items():
        if isinstance(values, dict):
            assert told[section].keys() == values.keys()


def test_every_kernel_gets_weights_that_it_does_not_saturate_on() -> None:
    schemes = {n: load_profile(n).support.schemes[0] for n in profile_names()}

    assert schemes["gateway-x86"] == "u8u8"
    assert schemes["gateway-x86-vnni"] == "u8s8"


def test_an_emulated_processor_is_one_that_the_emulator_has() -> None:
    emulated = {load_profile(name).known.emulate for name in profile_names()} - {""}

    assert emulated == {"Haswell", "cortex-a53", "cortex-a76"}
    assert emulated <= set(PROCESSORS)


def test_a_class_that_only_takes_integers_keeps_nothing_in_float() -> None:
    support = load_profile("accelerator-int8").support

    assert (support.per_channel, support.symmetric, support.mixed) == (
        False,
        True,
        False,
    )
    assert support.kinds == ("static",)


def test_only_classes_that_say_so_take_what_is_slower_than_float() -> None:
    ratios = {n: load_profile(n).budget.latency_ratio for n in profile_names()}

    assert {name for name, ratio in ratios.items() if ratio > 1} == {
        "accelerator-int8",
        "board-512mb",
        "gpu-fp16",
    }


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
        ("v = 2", "v = 1", "v: Input should be 2"),
        ("v = 2", "v = [", "profile.toml"),
        ("isa_absent = []", 'isa_absent = ["avx2"]', "present and as absent"),
        ("memory_mb = 1800", "memory_mb = 64", "more than the device's"),
        ('"latency"', '"beauty"', "prefer"),
        ('kinds = ["static"', 'kinds = ["magic"', "support.kinds.0"),
        ('schemes = ["u8s8"]', "schemes = []", "support.schemes"),
        ("threads = 1", "threads = 0", "session.threads"),
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

    assert latency_known(load_profile("gateway-x86-vnni"), vnni) == "measured"
    assert latency_known(load_profile("gateway-x86"), vnni) == "estimated"
    avx2 = ("x86-64", "avx2")
    assert latency_known(load_profile("gateway-x86"), avx2) == "measured"
    assert latency_known(load_profile("board-arm64"), vnni) == "estimated"


def test_a_class_with_another_provider_is_never_measured_on_the_cpu() -> None:
    profile = load_profile("gateway-x86-vnni")
    other = profile.model_copy(update={"provider": "CUDAExecutionProvider"})

    assert latency_known(other, profile.isa) == "estimated"


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


def capabilities(
    *isa: Isa, memory_mb: int = 8000, runtime: str = "1.24.3"
) -> Capabilities:
    return Capabilities(
        isa=isa,
        memory_mb=memory_mb,
        cpus=4,
        runtime=runtime,
        providers=("CPUExecutionProvider",),
    )


@pytest.mark.parametrize(
    ("reported", "scheme", "emulate", "prefer", "fold"),
    [
        (capabilities("x86-64", "avx2", "avx512-vnni"), "u8s8", "", "latency", True),
        (capabilities("x86-64", "avx2", "avx-vnni"), "u8s8", "", "latency", True),
        (capabilities("x86-64", "avx2"), "u8u8", "Haswell", "latency", True),
        (capabilities("x86-64"), "u8u8", "SandyBridge", "latency", True),
        (capabilities("aarch64", "dotprod"), "u8s8", "cortex-a76", "size", True),
        (capabilities("aarch64"), "u8s8", "cortex-a53", "size", True),
        (
            capabilities("aarch64", memory_mb=430),
            "u8s8",
            "cortex-a53",
            "memory",
            False,
        ),
    ],
)
def test_a_class_is_derived_from_what_a_device_reports(
    reported: Capabilities, scheme: str, emulate: str, prefer: str, *, fold: bool
) -> None:
    profile = derive(reported, "mine").profile

    assert profile.support.schemes == (scheme,)
    assert profile.known.emulate == emulate
    assert profile.prefer == prefer
    assert profile.support.fold is fold
    assert latency_known(profile, reported.isa) == "measured"
    check_class(profile, reported)


def test_a_derived_class_shuts_no_device_out_that_runs_the_same_kernels() -> None:
    rich: tuple[Isa, ...] = ("aarch64", "dotprod", "i8mm", "fp16")

    profile = derive(capabilities(*rich, memory_mb=4000), "mine").profile

    assert profile.isa == ("aarch64", "dotprod")
    assert profile.memory_mb == 3600


def test_a_derived_profile_reads_back_from_its_file(tmp_path: Path) -> None:
    derived = derive(capabilities("aarch64", memory_mb=430), "zero")
    path = tmp_path / "zero.toml"
    path.write_text(to_toml(derived), "utf-8")

    assert load_profile(str(path)) == derived.profile


def test_a_derived_profile_says_why() -> None:
    text = to_toml(derive(capabilities("x86-64", "avx2"), "mine"))

    assert "# Unsigned activations with signed weights saturate without VNNI.\n" in text
    assert all(len(line) <= 88 for line in text.splitlines() if line[0:1] == "#")


def test_a_runtime_without_a_version_is_taken_for_the_oldest() -> None:
    derived = derive(capabilities("x86-64", runtime="dev"), "mine")

    assert derived.profile.runtime == "1.20"
    assert "'dev', which is no version" in derived.reasons["runtime"]


def test_a_processor_whose_kernels_are_unknown_is_refused() -> None:
    with pytest.raises(RejectedError, match="neither x86-64 nor aarch64") as refused:
        derive(capabilities(), "mine")

    assert refused.value.code is Code.PROFILE_INVALID


@pytest.mark.parametrize(
    ("name", "machine", "told"),
    [
        ("gateway-x86-vnni", capabilities("x86-64"), "needs avx2"),
        (
            "gateway-x86",
            capabilities("x86-64", "avx2", "avx512-vnni"),
            "its devices lack avx512-vnni",
        ),
        ("board-arm64", capabilities("aarch64", "dotprod", memory_mb=400), "memory"),
        (
            "gateway-x86",
            capabilities("x86-64", "avx2").model_copy(update={"simulated": True}),
            "only pretends",
        ),
    ],
)
def test_a_machine_that_is_not_of_the_class_does_not_measure_for_it(
    name: str, machine: Capabilities, told: str
) -> None:
    with pytest.raises(RejectedError, match=told) as refused:
        check_class(load_profile(name), machine)

    assert refused.value.code is Code.INCOMPATIBLE


def test_this_machine_is_one_of_the_class_derived_from_it() -> None:
    machine = machine_capabilities()

    profile: Profile = derive(machine, "here").profile

    check_class(profile, machine)
