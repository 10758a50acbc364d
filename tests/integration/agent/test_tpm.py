"""A device whose key is in a TPM: enrolment, sessions, statements, renewal."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
import pytest_asyncio
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_der_public_key

from quarterdeck_agent.identity.key import make_key
from quarterdeck_agent.identity.openssl import OpenSsl
from quarterdeck_agent.status import read_status
from tests.support.enrolling import Fleet, certificate, command, running_fleet
from tests.support.tpm import missing, software_tpm

LACKING = missing()
pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(bool(LACKING), reason=f"no software TPM here: {LACKING}"),
]
LABEL = b"-----BEGIN TSS2 PRIVATE KEY-----"
PATIENCE_S = 40
SHORT = timedelta(seconds=120)
"""A life of which two thirds are over at once, because certificates are backdated."""

SIGN = """
import sys
from pathlib import Path
from quarterdeck_agent.identity.files import IdentityFiles
from quarterdeck_agent.settings import load_settings
used = IdentityFiles(load_settings(Path(sys.argv[1]))).load()
sys.stdout.buffer.write(used.key.sign(b"a refusal"))
"""


@pytest.fixture(scope="module")
def tpm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    with software_tpm(tmp_path_factory.mktemp("tpm") / "state") as environment:
        yield environment


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def fleet(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Fleet]:
    async with running_fleet(tmp_path_factory.mktemp("fleet")) as fleet:
        yield fleet


def place(bundle: Path) -> Path:
    return bundle / "state" / "identity.pem"


async def until_connected(bundle: Path, generation: int) -> dict[str, object]:
    """Return how the identity stands once an agent is in with that certificate."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            shown = read_status(bundle / "state")
            identity = shown.get("identity")
            told = identity if isinstance(identity, dict) else {}
            if shown.get("connected") and told.get("generation") == generation:
                return told
            await asyncio.sleep(0.1)


async def test_a_key_is_made_in_the_tpm_and_lets_the_agent_in(
    fleet: Fleet, tpm: dict[str, str]
) -> None:
    bundle = fleet.newcomer()

    done = await command(bundle, "enrol", "--tpm", "--json", environment=tpm)

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["key"] == "tpm"
    identity = place(bundle).read_bytes()
    assert LABEL in identity
    assert b"BEGIN PRIVATE KEY" not in identity
    fleet.run(bundle, environment=tpm)
    standing = await until_connected(bundle, 1)
    assert standing["key"] == "tpm"
    assert standing["code"] is None


async def test_a_statement_signed_in_the_tpm_is_verified_with_the_certificate(
    fleet: Fleet, tpm: dict[str, str]
) -> None:
    bundle = fleet.newcomer()
    await command(bundle, "enrol", "--tpm", environment=tpm)

    signed = await command_of(bundle, tpm)

    used = certificate(bundle)
    assert used is not None
    public = load_der_public_key(used.public)
    assert isinstance(public, ec.EllipticCurvePublicKey)
    public.verify(signed, b"a refusal", ec.ECDSA(SHA256()))


async def command_of(bundle: Path, tpm: dict[str, str]) -> bytes:
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", SIGN, str(bundle / "agent.toml")],
        capture_output=True,
        check=True,
        env={**os.environ, **tpm},
    )
    return done.stdout


async def test_a_key_in_the_tpm_is_renewed_by_another_in_the_tpm(
    tmp_path: Path, tpm: dict[str, str]
) -> None:
    async with running_fleet(tmp_path, lives=SHORT) as fleet:
        bundle = fleet.newcomer()
        toml = bundle / "agent.toml"
        text = toml.read_text().replace("[identity]", "[identity]\ntpm = true", 1)
        toml.write_text(text)

        fleet.run(bundle, environment=tpm)  # enrols by itself

        await until_connected(bundle, 1)
        before = place(bundle).read_bytes()
        standing = await until_connected(bundle, 2)
        assert standing["key"] == "tpm"
        assert LABEL in place(bundle).read_bytes()
        assert place(bundle).read_bytes() != before


async def test_a_key_that_was_made_by_hand_is_the_first(
    fleet: Fleet, tpm: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = fleet.newcomer()
    toml, blob = bundle / "agent.toml", bundle / "tpm.pem"
    for name, value in tpm.items():
        monkeypatch.setenv(name, value)
    blob.write_bytes(make_key(tpm=True, openssl=OpenSsl()))
    text = toml.read_text().replace("[identity]", '[identity]\nkey = "tpm.pem"', 1)
    toml.write_text(text)

    fleet.run(bundle, environment=tpm)

    standing = await until_connected(bundle, 1)
    assert standing["key"] == "tpm"
    assert blob.read_bytes() in place(bundle).read_bytes()


async def test_another_machines_tpm_cannot_use_the_key(
    fleet: Fleet, tpm: dict[str, str], tmp_path: Path
) -> None:
    bundle = fleet.newcomer()
    await command(bundle, "enrol", "--tpm", environment=tpm)

    with software_tpm(tmp_path / "other") as other:
        agent = fleet.run(bundle, environment=other)
        async with asyncio.timeout(PATIENCE_S):
            while "key_unusable" not in json.dumps(read_status(bundle / "state")):
                await asyncio.sleep(0.1)

        assert agent.poll() is None
        assert not read_status(bundle / "state")["connected"]


async def test_without_its_tpm_the_agent_goes_on_and_says_so(
    fleet: Fleet, tpm: dict[str, str]
) -> None:
    bundle = fleet.newcomer()
    await command(bundle, "enrol", "--tpm", environment=tpm)
    away = {**tpm, "TPM2OPENSSL_TCTI": "device:/dev/no-tpm-here"}

    agent = fleet.run(bundle, environment=away)

    async with asyncio.timeout(PATIENCE_S):
        while "key_unusable" not in json.dumps(read_status(bundle / "state")):
            await asyncio.sleep(0.1)
    assert agent.poll() is None


async def test_without_a_tpm_no_key_is_made_elsewhere(
    fleet: Fleet, tpm: dict[str, str]
) -> None:
    bundle = fleet.newcomer()
    away = {**tpm, "TPM2OPENSSL_TCTI": "device:/dev/no-tpm-here"}

    done = await command(bundle, "enrol", "--tpm", environment=away)

    assert done.returncode == 1
    assert "error key_unusable" in done.stderr
    assert "did not find the TPM" in done.stderr
    assert not place(bundle).exists()
