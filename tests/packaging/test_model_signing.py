"""OpenSSF's own tool accepts what ``release export-signature`` writes."""

import subprocess
import sys
import venv
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from securesystemslib.signer import CryptoSigner

from quarterdeck_controller.release.catalog import Catalog
from quarterdeck_controller.release.export import export_signed
from tests.support.releases import copied_home

pytestmark = [pytest.mark.packaging, pytest.mark.timeout(400)]

PACKAGES = ("model-signing==1.1.1", "pyOpenSSL")
"""The tool imports OpenSSL, and does not say so among its dependencies."""


@pytest.fixture(scope="module")
def tool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the tool in an environment of its own: it brings 37 packages."""
    if sys.version_info >= (3, 14):
        pytest.skip("the tool is not known to work there")
    folder = tmp_path_factory.mktemp("tool")
    venv.create(folder, with_pip=True)
    install = [str(folder / "bin" / "pip"), "install", "--quiet", *PACKAGES]
    done = subprocess.run(install, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"model-signing cannot be installed here: {done.stderr[-200:]}")
    return folder / "bin" / "model_signing"


def test_the_tool_accepts_the_export_and_notices_a_change(
    tool: Path, tmp_path: Path
) -> None:
    catalog = Catalog(copied_home(tmp_path / "home", released=True))
    signer = CryptoSigner(generate_private_key(SECP256R1()))
    written = export_signed(catalog, "model@1", "cam", signer, tmp_path / "out")
    verify = [
        str(tool), "verify", "key", str(written["folder"]),
        "--signature", str(written["signature"]),
        "--public_key", str(written["public key"]),
    ]  # fmt: skip

    accepted = subprocess.run(verify, capture_output=True, text=True, check=False)
    (written["folder"] / "golden.npz").write_bytes(b"others")
    refused = subprocess.run(verify, capture_output=True, text=True, check=False)

    assert accepted.returncode == 0, accepted.stderr
    assert refused.returncode == 1
    assert "golden.npz" in refused.stderr
