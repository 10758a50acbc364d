"""A fleet home is made whole or not at all, and a bundle is what an agent reads."""

import json
import ssl
import stat
import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner

from quarterdeck_agent.settings import load_settings
from quarterdeck_controller.cli import build
from quarterdeck_controller.founding import create_home, key_places, render
from quarterdeck_controller.home import BrokerSettings, Home, Settings
from quarterdeck_controller.identity.enrol import write_bundle
from quarterdeck_controller.identity.tokens import Invitation
from quarterdeck_controller.repository.keyfile import make_key
from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import RejectedError
from tests.support.releases import CLASSES, NOW, ManualClock, make_home, write_variants


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def home(tmp_path: Path, clock: ManualClock) -> Home:
    return make_home(tmp_path / "home", clock)


def test_a_new_home_has_everything_and_only_its_owner_reads_the_keys(
    home: Home,
) -> None:
    for place in key_places(home, CLASSES):
        assert stat.S_IMODE(place.file.stat().st_mode) == 0o600
    told = {place.file for place in key_places(home, CLASSES)}
    keys = {*home.path.rglob("*.key"), *home.keys.iterdir()}
    assert keys == told
    assert home.database.is_file()
    assert [file.name for file in home.path.parent.iterdir()] == ["home"]


@pytest.mark.parametrize(
    "settings",
    [
        Settings(fleet="f", classes=("a",), test=True),
        Settings(
            fleet='quotes " and \\ and ünïcode',
            classes=("a", "b-c"),
            broker=BrokerSettings(
                kind="mosquitto",
                host="edge.example",
                port=8883,
                username="u",
                password_file=Path("/etc/secret"),
            ),
            chunk_bytes=4096,
            transfer_bytes_s=1_000_000,
            assignment_days=0.5,
        ),
    ],
)
def test_settings_read_back_as_they_were_written(settings: Settings) -> None:
    assert Settings.model_validate(tomllib.loads(render(settings))) == settings


@pytest.mark.parametrize("there", ["home", "file", "folder", "link"])
def test_nothing_that_exists_is_overwritten(
    tmp_path: Path, clock: ManualClock, there: str
) -> None:
    path = tmp_path / "there"
    if there == "home":
        make_home(path, clock)
    elif there == "file":
        path.write_text("mine")
    elif there == "folder":
        path.mkdir()
        (path / "mine").write_text("mine")
    else:
        path.symlink_to(tmp_path / "nowhere")
    before = sorted(tmp_path.rglob("*"))

    with pytest.raises(RejectedError) as refusal:
        make_home(path, clock)

    assert refusal.value.code is Code.CONFLICT
    assert str(path) in refusal.value.detail
    assert sorted(tmp_path.rglob("*")) == before


def test_an_empty_folder_becomes_the_home(tmp_path: Path, clock: ManualClock) -> None:
    (tmp_path / "home").mkdir()

    assert make_home(tmp_path / "home", clock).settings().fleet == "test fleet"


def test_a_failure_in_the_middle_leaves_nothing(
    tmp_path: Path, clock: ManualClock
) -> None:
    settings = Settings(
        fleet="f",
        classes=("a",),
        broker=BrokerSettings(host="not a host"),
        test=True,
    )

    with pytest.raises(RejectedError, match="not a host"):
        create_home(tmp_path / "home", settings, clock)

    assert not list(tmp_path.iterdir())


def test_what_a_killed_attempt_left_is_removed(
    tmp_path: Path, clock: ManualClock
) -> None:
    (tmp_path / ".home.new-999999999" / "keys").mkdir(parents=True)

    make_home(tmp_path / "home", clock)

    assert [file.name for file in tmp_path.iterdir()] == ["home"]


def test_a_place_that_cannot_be_written_is_named(
    tmp_path: Path, clock: ManualClock
) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(RejectedError, match="cannot be made") as refusal:
        make_home(tmp_path / "file" / "home", clock)

    assert refusal.value.code is Code.DISK_FAILED


def test_a_bundle_is_what_an_agent_starts_from(
    home: Home, tmp_path: Path, clock: ManualClock
) -> None:
    samples = tmp_path / "samples"
    invitation = Invitation(
        "cam-1", "cam", "t" * 32, "claim-1", b"claim and key", clock.now()
    )

    bundle = write_bundle(
        home,
        "cam-1",
        "cam",
        tmp_path / "devices" / "cam-1",
        clock,
        invitation=invitation,
        source=samples,
        interval_s=0.05,
        repeat=False,
        simulate_isa=["x86-64", "avx2"],
        telemetry_period_s=2.5,
    )

    settings = load_settings(bundle / "agent.toml")
    assert (settings.device, settings.device_class) == ("cam-1", "cam")
    assert settings.simulate_isa == ("x86-64", "avx2")
    assert settings.telemetry.period_s == 2.5
    assert settings.source is not None
    assert (settings.source.path, settings.source.repeat) == (samples, False)
    assert settings.root == bundle / "root.json"
    assert settings.state == bundle / "state"
    assert settings.identity.file == bundle / "state" / "identity.pem"
    assert settings.enrolment.claim.read_bytes() == b"claim and key"
    assert settings.enrolment.token.read_text() == "t" * 32 + "\n"
    secrets = (settings.enrolment.claim, settings.enrolment.token)
    assert {stat.S_IMODE(it.stat().st_mode) for it in secrets} == {0o600}
    assert not any(bundle.rglob("*.key"))
    ssl.create_default_context(cafile=bundle / "ca.pem")


def test_without_a_source_the_section_is_there_to_be_filled_in(
    home: Home, tmp_path: Path, clock: ManualClock
) -> None:
    bundle = write_bundle(home, "cam-1", "cam", tmp_path / "cam-1", clock)

    assert load_settings(bundle / "agent.toml").source is None
    text = (bundle / "agent.toml").read_text()
    opened = "\n".join(
        line.removeprefix("# ")
        if line.startswith(("# [source]", "# kind", "# path", "# interval", "# repeat"))
        else line
        for line in text.splitlines()
    )
    (bundle / "agent.toml").write_text(opened)
    filled = load_settings(bundle / "agent.toml").source
    assert filled is not None
    assert filled.path == bundle / "samples"


def test_a_bundle_that_exists_is_not_overwritten(
    home: Home, tmp_path: Path, clock: ManualClock
) -> None:
    bundle = write_bundle(home, "cam-1", "cam", tmp_path / "cam-1", clock)
    before = (bundle / "agent.toml").read_bytes()
    (bundle / "mine").write_bytes(b"")

    with pytest.raises(RejectedError) as refusal:
        write_bundle(home, "cam-1", "cam", bundle, clock)

    assert refusal.value.code is Code.CONFLICT
    assert (bundle / "agent.toml").read_bytes() == before
    assert (bundle / "mine").exists()


@pytest.mark.parametrize(
    "case",
    [
        ("cam-1", "toaster", Code.NOT_FOUND),
        ("Cam 1", "cam", Code.NAME_INVALID),
        ("controller", "cam", Code.NAME_INVALID),
    ],
)
def test_a_bundle_for_nobody_is_refused_and_leaves_nothing(
    home: Home,
    tmp_path: Path,
    clock: ManualClock,
    case: tuple[str, str, Code],
) -> None:
    device, device_class, code = case
    with pytest.raises(RejectedError) as refusal:
        write_bundle(home, device, device_class, tmp_path / "out", clock)

    assert refusal.value.code is code
    assert [file.name for file in tmp_path.iterdir()] == ["home"]


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(build(arguments), arguments)
    if isinstance(result.exception, RejectedError):
        return 1, str(result.exception)
    return result.exit_code, result.output


def test_init_tells_where_each_key_is_and_what_comes_next(tmp_path: Path) -> None:
    code, told = run("init", "--test", "--home", str(tmp_path / "h"), "--class", "cam")

    assert code == 0
    for name in ("root-1.pem", "class-cam.pem", "director.pem", "issuing.key"):
        assert name in told
    assert "quarterdeck model optimize" in told


def test_init_speaks_json(tmp_path: Path) -> None:
    code, told = run(
        "init", "--test", "--home", str(tmp_path / "h"), "--fleet", "acme", "--json"
    )

    value = json.loads(told)
    assert code == 0
    assert value["fleet"] == "acme"
    assert set(value["classes"]) == {"board-arm64", "gateway-x86", "gateway-x86-vnni"}
    assert all(Path(key["file"]).exists() for key in value["keys"])


@pytest.mark.parametrize(
    "wrong",
    [
        ("--class", "Bad Name"),
        ("--broker", "rabbit"),
        ("--port", "70000"),
        ("--fleet", ""),
        ("--host", "a b"),
    ],
)
def test_init_names_what_is_wrong_and_leaves_nothing(
    tmp_path: Path, wrong: tuple[str, str]
) -> None:
    code, told = run("init", "--test", "--home", str(tmp_path / "h"), *wrong)

    assert code == 1
    assert wrong[1] in told
    assert not list(tmp_path.iterdir())


def test_a_release_is_made_listed_and_shown(home: Home, tmp_path: Path) -> None:
    variants = write_variants(tmp_path / "variants", home=home)
    at = ("--home", str(home.path))
    made = run(
        "release", "create", str(variants), "--name", "model", "--version", "1", *at
    )
    listed = run("release", "list", *at, "--json")
    shown = run("release", "show", "model@1", *at, "--json")

    assert made[0] == 0
    assert "model@1" in made[1]
    assert json.loads(listed[1])[0]["classes"] == ["cam", "gateway"]
    variant = json.loads(shown[1])["variants"]["cam"]
    assert (variant["decision"], variant["score"]) == ("accepted", 0.89)
    assert run("release", "show", "model@2", *at)[0] == 1


def test_init_alone_explains_both_ways_and_makes_nothing(tmp_path: Path) -> None:
    code, told = run("init", "--home", str(tmp_path / "h"), "--class", "cam")

    assert code == 1
    assert "quarterdeck init --test" in told
    assert "quarterdeck init --keys FOLDER" in told
    assert "quarterdeck key create class-cam" in told
    assert not list(tmp_path.iterdir())


def test_init_is_either_a_test_or_in_earnest(tmp_path: Path) -> None:
    make_key(tmp_path / "k", "root-1", "ed25519", None, NOW)
    home = ("--home", str(tmp_path / "h"))

    both = run("init", "--test", "--keys", str(tmp_path / "k"), *home)
    nowhere = run("init", "--keys", str(tmp_path / "nowhere"), *home)
    empty = run("init", "--keys", str(tmp_path), *home)
    too_few = run("init", "--key", str(tmp_path / "k" / "root-1.pub"), *home)

    assert {both[0], nowhere[0], empty[0], too_few[0]} == {1}
    assert "leave --key and --keys out" in both[1]
    assert "is not a folder" in nowhere[1]
    assert "no public halves" in empty[1]
    assert "root needs 2 key(s), 1" in too_few[1]
    assert not (tmp_path / "h").exists()
