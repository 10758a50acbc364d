"""The agent's settings, and what the device is."""

from pathlib import Path

import pytest

from quarterdeck_agent.device import fingerprint, isa
from quarterdeck_agent.settings import load_settings
from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import RejectedError

GOOD = """
device = "dev-1"
device_class = "gateway"
state = "state"

[broker]
host = "localhost"
port = 8883
ca = "ca.pem"

[source]
path = "samples"
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "agent.toml"
    path.write_text(text)
    return path


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    settings = load_settings(write(tmp_path, GOOD))

    assert settings.state == tmp_path / "state"
    assert settings.broker.ca == tmp_path / "ca.pem"
    assert settings.identity_file == tmp_path / "state" / "identity.pem"
    assert settings.enrolment.claim == tmp_path / "claim.pem"
    assert settings.enrolment.token == tmp_path / "token"
    assert settings.root == tmp_path / "root.json"
    assert settings.source is not None
    assert settings.source.path == tmp_path / "samples"


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (("port = 8883", "port = 0"), "broker.port"),
        (('device = "dev-1"', 'device = "Dev 1"'), "device"),
        (('state = "state"', 'stat = "state"'), "state"),
        (("[source]", "[sources]"), "sources"),
        (("[broker]", "[broker"), "not TOML"),
        (("[broker]", f"deep = {'[' * 5000}\n[broker]"), "not TOML"),
        (("[source]", "[source]\ninterval_s = -1"), "source.interval_s"),
        (('ca = "ca.pem"', 'key = "key.pem"'), "broker.key is no setting"),
        (("[source]", '[identity]\nkeys = "k"\n[source]'), "identity.keys"),
        (('ca = "ca.pem"', 'ca = "${NOT_SET_HERE}/ca"'), "NOT_SET_HERE is not set"),
    ],
)
def test_a_wrong_line_is_named(
    tmp_path: Path, change: tuple[str, str], word: str
) -> None:
    path = write(tmp_path, GOOD.replace(*change))

    with pytest.raises(RejectedError) as caught:
        load_settings(path)

    assert caught.value.code is Code.SETTINGS_INVALID
    assert word in caught.value.detail


def test_a_service_manager_may_tell_where_credentials_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", "/run/credentials/agent")
    text = """
        [identity]
        key = "${CREDENTIALS_DIRECTORY}/key"
        [enrolment]
        token = "${CREDENTIALS_DIRECTORY}/token"
    """

    settings = load_settings(write(tmp_path, GOOD + text))

    assert settings.identity.key == Path("/run/credentials/agent/key")
    assert settings.enrolment.token == Path("/run/credentials/agent/token")
    assert settings.identity_file == tmp_path / "state" / "identity.pem"


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(RejectedError, match=r"nowhere\.toml: No such file"):
        load_settings(tmp_path / "nowhere.toml")


@pytest.mark.parametrize(
    ("machine", "flags", "found"),
    [
        ("x86_64", {"avx2", "avx512_vnni"}, ("x86-64", "avx2", "avx512-vnni")),
        ("x86_64", {"sse2"}, ("x86-64",)),
        ("aarch64", {"asimddp", "fphp"}, ("aarch64", "dotprod", "fp16")),
    ],
)
def test_instruction_sets_are_found(
    machine: str, flags: set[str], found: tuple[str, ...]
) -> None:
    assert isa(machine, frozenset(flags)) == found


def test_a_simulated_cpu_is_reported_as_such() -> None:
    real, pretended = fingerprint(), fingerprint(("aarch64",))

    assert not real.simulated
    assert real.runtime != "0"
    assert pretended.simulated
    assert pretended.isa == ("aarch64",)
