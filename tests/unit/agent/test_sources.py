"""A folder of samples as a source."""

import asyncio
import logging
from pathlib import Path

import pytest

from quarterdeck_agent.runtime.sources import DirectorySource, Sample, read_labels
from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import RejectedError
from tests.support.installed import npy


def source(folder: Path, *, repeat: bool = False) -> DirectorySource:
    return DirectorySource(folder, interval_s=0, repeat=repeat)


async def take(giving: DirectorySource, count: int) -> list[Sample]:
    samples: list[Sample] = []
    async with asyncio.timeout(5):
        async for sample in giving.samples():
            samples.append(sample)
            if len(samples) == count:
                break
    return samples


def lay(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).write_bytes(npy())


async def test_samples_come_in_the_order_of_their_names(tmp_path: Path) -> None:
    lay(tmp_path, "b.npy", "a.npy", "c.npy", "notes.txt")
    (tmp_path / "labels.csv").write_text("file,label\na.npy,2\n")

    samples = await take(source(tmp_path), 3)

    assert [(s.name, s.label) for s in samples] == [
        ("a.npy", 2),
        ("b.npy", None),
        ("c.npy", None),
    ]


async def test_they_begin_again_when_told_to(tmp_path: Path) -> None:
    lay(tmp_path, "a.npy", "b.npy")

    samples = await take(source(tmp_path, repeat=True), 5)

    assert [s.name[0] for s in samples] == list("ababa")


async def test_new_files_are_picked_up(tmp_path: Path) -> None:
    lay(tmp_path, "a.npy")
    giving = source(tmp_path)
    taking = asyncio.create_task(take(giving, 2))
    await asyncio.sleep(0)
    lay(tmp_path, "late.npy")

    samples = await taking

    assert [s.name for s in samples] == ["a.npy", "late.npy"]


async def test_a_broken_file_is_skipped_with_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lay(tmp_path, "good.npy")
    (tmp_path / "broken.npy").write_bytes(b"junk")

    with caplog.at_level(logging.WARNING):
        samples = await take(source(tmp_path, repeat=True), 4)

    assert {s.name for s in samples} == {"good.npy"}
    assert len(caplog.records) == 1
    assert "no .npy or .npz" in caplog.text


async def test_a_rejected_sample_comes_again_only_when_it_has_changed(
    tmp_path: Path,
) -> None:
    lay(tmp_path, "a.npy", "b.npy")
    giving = source(tmp_path, repeat=True)
    giving.reject(Sample("a.npy", b""), "for a test")

    before = await take(giving, 2)
    (tmp_path / "a.npy").write_bytes(npy((1.0, 2.0, 3.0, 4.0, 5.0)))
    after = await take(giving, 2)

    assert [s.name for s in before] == ["b.npy", "b.npy"]
    assert {s.name for s in after} == {"a.npy", "b.npy"}


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("name,class\n", "line 1"),
        ("file,label\na.npy\n", "line 2"),
        ("file,label\na.npy,1\nb.npy,cat\n", "line 3"),
        ("file,label\na.npy,-1\n", "line 2"),
        ("file,label\na.npy,1,2\n", "line 2"),
    ],
)
def test_wrong_labels_are_named_by_their_line(
    tmp_path: Path, text: str, word: str
) -> None:
    (tmp_path / "labels.csv").write_text(text)

    with pytest.raises(RejectedError) as caught:
        read_labels(tmp_path)

    assert caught.value.code is Code.DATA_INVALID
    assert word in caught.value.detail


def test_a_folder_that_is_not_there_is_an_error_at_once(tmp_path: Path) -> None:
    with pytest.raises(RejectedError, match="not a folder"):
        source(tmp_path / "nowhere")


def test_a_folder_without_samples_is_told_at_the_start(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    DirectorySource(tmp_path, interval_s=0, repeat=True)

    assert f"no .npy or .npz file is in {tmp_path} yet" in caplog.text
