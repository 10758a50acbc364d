"""An artifact that is partly on disk."""

import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from quarterdeck_agent.update.partial import PartialArtifact
from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import TransientError
from tests.support.artifacts import Artifact, make_artifact

CHUNK = 4096


@pytest.fixture
def artifact() -> Artifact:
    return make_artifact(10 * CHUNK + 17, chunk_bytes=CHUNK)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 16 KiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    options = ["-o", "size=16k", "tmpfs", str(disk)]
    mounted = subprocess.run(["mount", "-t", "tmpfs", *options], check=False)
    if mounted.returncode != 0:
        pytest.skip("no file system can be mounted here")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def fill(parts: PartialArtifact, artifact: Artifact, numbers: set[int]) -> None:
    for number in numbers:
        data = artifact.chunk(number)
        assert data is not None
        parts.write(number, data)


def test_a_new_folder_misses_everything(artifact: Artifact, tmp_path: Path) -> None:
    parts = PartialArtifact(artifact.index, tmp_path / "slot")

    parts.open()
    parts.close()

    assert parts.missing == set(range(artifact.index.chunk_count))


def test_what_was_written_is_found_again(artifact: Artifact, tmp_path: Path) -> None:
    first = PartialArtifact(artifact.index, tmp_path)
    first.open()
    fill(first, artifact, {0, 4, 10, 12})
    first.close()

    again = PartialArtifact(artifact.index, tmp_path)
    again.open()
    again.close()

    everything = set(range(artifact.index.chunk_count))
    assert again.missing == everything - {0, 4, 10, 12}


def test_it_is_whole_when_nothing_is_missing(
    artifact: Artifact, tmp_path: Path
) -> None:
    parts = PartialArtifact(artifact.index, tmp_path)
    parts.open()
    fill(parts, artifact, set(parts.missing))
    parts.sync()
    parts.close()

    assert not parts.missing
    assert artifact.is_whole_in(tmp_path)


def test_files_of_another_length_are_cut_or_grown(
    artifact: Artifact, tmp_path: Path
) -> None:
    (tmp_path / "model.onnx").write_bytes(artifact.parts["model.onnx"] + b"more" * 999)
    (tmp_path / "golden.npz").write_bytes(artifact.parts["golden.npz"][:CHUNK])
    parts = PartialArtifact(artifact.index, tmp_path)

    parts.open()
    fill(parts, artifact, set(parts.missing))
    parts.close()

    assert artifact.is_whole_in(tmp_path)


def test_a_link_in_place_of_a_part_is_not_followed(
    artifact: Artifact, tmp_path: Path
) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    (tmp_path / "slot").mkdir()
    (tmp_path / "slot" / "model.onnx").symlink_to(victim)
    parts = PartialArtifact(artifact.index, tmp_path / "slot")

    with pytest.raises(TransientError) as refused:
        parts.open()

    assert refused.value.code is Code.DISK_FAILED
    assert victim.read_bytes() == b"precious"


def test_a_folder_that_cannot_be_read_is_no_source_but_no_error(
    artifact: Artifact, tmp_path: Path
) -> None:
    parts = PartialArtifact(artifact.index, tmp_path / "slot")

    parts.open([tmp_path / "nowhere"])
    parts.close()

    assert parts.reused_bytes == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
def test_a_full_disk_is_told_before_anything_is_received(
    artifact: Artifact, small_disk: Path
) -> None:
    parts = PartialArtifact(artifact.index, small_disk / "slot")

    with pytest.raises(TransientError) as refused:
        parts.open()

    assert refused.value.code is Code.DISK_FULL
    assert os.strerror(errno.ENOSPC) in refused.value.detail
    assert list((small_disk / "slot").iterdir()) == []
