"""A TPM in software with a resource manager, for keys that never leave it.

A machine with a TPM has ``/dev/tpmrm0``, where the kernel manages its resources. Here
``swtpm`` is the chip and ``tpm2-abrmd`` the manager, on a message bus of their own.
"""

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

NEEDED = ("swtpm", "tpm2-abrmd", "dbus-daemon", "openssl")
LIBRARIES = ("ossl-modules/tpm2.so", "libtss2-tcti-tabrmd.so.0")
PATIENCE_S = 20
_PATH = os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin"


def missing() -> str:
    """Return what there is not on this machine; empty when a TPM can be had."""
    lacking = [name for name in NEEDED if shutil.which(name, path=_PATH) is None]
    folders = [Path("/usr/lib"), *Path("/usr/lib").glob("*-linux-gnu")]
    lacking += [
        name for name in LIBRARIES if not any((it / name).exists() for it in folders)
    ]
    return ", ".join(lacking)


@contextmanager
def software_tpm(folder: Path) -> Iterator[dict[str, str]]:
    """Run one with its state in ``folder``; give the environment that leads to it."""
    folder.mkdir()
    chip, bus = folder / "chip", folder / "bus"
    environment = {
        "DBUS_SESSION_BUS_ADDRESS": f"unix:path={bus}",
        "TPM2OPENSSL_TCTI": "tabrmd:bus_type=session",
    }
    running: list[subprocess.Popen[bytes]] = []
    with (folder / "log").open("wb") as log:

        def start(*command: str) -> None:
            running.append(
                subprocess.Popen(
                    [str(shutil.which(command[0], path=_PATH)), *command[1:]],
                    stdout=log,
                    stderr=log,
                    env={**os.environ, **environment},
                )
            )

        try:
            start(
                *("swtpm", "socket", "--tpm2", "--tpmstate", f"dir={folder}"),
                *("--server", f"type=unixio,path={chip}"),
                *("--ctrl", f"type=unixio,path={chip}.ctrl"),
                *("--flags", "not-need-init,startup-clear"),
            )
            start("dbus-daemon", "--session", "--nofork", f"--address=unix:path={bus}")
            _until(lambda: chip.exists() and bus.exists(), folder)
            start(
                *("tpm2-abrmd", "--session", "--allow-root"),
                *("--tcti", f"swtpm:path={chip}"),
            )
            _until(lambda: _answers(environment), folder)
            yield environment
        finally:
            for process in reversed(running):
                process.terminate()
                process.wait(10)


def _answers(environment: dict[str, str]) -> bool:
    """Return whether random numbers come out of the TPM."""
    asked = subprocess.run(
        ["openssl", "rand", "-provider", "tpm2", "-hex", "8"],
        capture_output=True,
        check=False,
        env={**os.environ, **environment},
    )
    return asked.returncode == 0


def _until(holds: Callable[[], bool], folder: Path) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        if time.monotonic() > deadline:
            raise AssertionError((folder / "log").read_text(errors="replace"))
        time.sleep(0.05)
