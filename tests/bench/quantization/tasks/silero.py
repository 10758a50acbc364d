"""Silero's voice detector in the middle of recordings: speech, music and noise."""

import io
import wave
from collections.abc import Iterator

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from tests.bench.quantization.fetch import member, members
from tests.bench.quantization.task import GROUPS, LABELS, Array, Made, Recipe

RATE = 16_000
WINDOW, CONTEXT = 512, 64
STATE = (2, 1, 128)
QUIET = 0.02
"""Root mean square below which a window of a speech recording is not taken."""
SPEECH_CLIPS, WINDOWS_A_CLIP = 240, 3
OTHER_CLIPS, CLIP_S = 120, 4
EVERY = 5
"""One clip in so many calibrates, the others judge."""
VOICE = "usr/share/asterisk/sounds/en_US_f_Allison/"
SOUNDLESS = ("silence/", "beep", "ascending", "descending", "conf-", "tt-")

Sound = NDArray[np.float32]


def make() -> Made:
    """Return the detector with windows, each with the state that the ones before left.

    Label 1 is speech. A group is one recording.
    """
    model = member("silero", "silero_vad/data/silero_vad_16k_op15.onnx")
    session = ort.InferenceSession(model)
    rows: dict[bool, list[tuple[Sound, Sound, int, int]]] = {True: [], False: []}
    for number, (sound, label) in enumerate([*_speech(), *_others()]):
        rows[number % EVERY == 0] += [
            (heard, state, label, number)
            for heard, state in _windows(session, sound, speech=label == 1)
        ]
    return Made(model, _feed(rows[True]), _judged(rows[False]))


def _judged(rows: list[tuple[Sound, Sound, int, int]]) -> dict[str, Array]:
    labels, groups = (np.array([row[at] for row in rows], np.int64) for at in (2, 3))
    return {**_feed(rows), LABELS: labels, GROUPS: groups}


def _feed(rows: list[tuple[Sound, Sound, int, int]]) -> dict[str, Array]:
    return {
        "input": np.stack([row[0] for row in rows]),
        "state": np.stack([row[1] for row in rows]),
        "sr": np.full(len(rows), RATE, np.int64),
    }


def _windows(
    session: ort.InferenceSession, sound: Sound, *, speech: bool
) -> Iterator[tuple[Sound, Sound]]:
    """Yield a few windows of a recording with the detector's state before them."""
    state = np.zeros(STATE, np.float32)
    found = []
    for start in range(CONTEXT, len(sound) - WINDOW, WINDOW):
        heard = sound[start - CONTEXT : start + WINDOW]
        if not speech or np.sqrt((heard**2).mean()) > QUIET:
            found.append((heard, state))
        feed = {"input": heard[None], "state": state, "sr": np.array(RATE)}
        _, state = session.run(None, feed)
    taken = np.linspace(2, len(found) - 1, WINDOWS_A_CLIP).astype(int)
    if len(found) > WINDOWS_A_CLIP:
        yield from (found[row] for row in taken)


def _speech() -> Iterator[tuple[Sound, int]]:
    clips = [
        data
        for path, data in members("speech", VOICE)
        if path.endswith(".wav") and not path.removeprefix(VOICE).startswith(SOUNDLESS)
    ]
    long = [clip for clip in clips if len(clip) > RATE]
    order = np.random.default_rng(7).permutation(len(long))[:SPEECH_CLIPS]
    return ((_heard(long[row]), 1) for row in order)


def _others() -> Iterator[tuple[Sound, int]]:
    """Yield music, noises of several colours and near silence."""
    rng = np.random.default_rng(8)
    tracks = [_heard(data) for path, data in members("music") if path.endswith(".wav")]
    for number in range(OTHER_CLIPS):
        size = CLIP_S * RATE
        if number % 3:
            track = tracks[number % len(tracks)]
            start = int(rng.integers(len(track) - size))
            yield track[start : start + size], 0
        else:
            noise = np.cumsum(rng.normal(size=size)) if number % 2 else None
            white = rng.normal(size=size) if noise is None else noise - noise.mean()
            level = 10.0 ** rng.uniform(-4, -0.7)
            yield (white / np.abs(white).max() * level).astype(np.float32), 0


def _heard(data: bytes) -> Sound:
    """Return a recording of 8 kHz as one of 16 kHz, by Fourier interpolation."""
    with wave.open(io.BytesIO(data)) as recording:
        assert recording.getframerate() * 2 == RATE
        raw = np.frombuffer(recording.readframes(-1), np.int16) / 32768.0
    spectrum = np.fft.rfft(raw)
    return (2 * np.fft.irfft(spectrum, 2 * len(raw))).astype(np.float32)


RECIPE = Recipe(
    "silero",
    1,
    "top1",
    "probability",
    "Silero VAD 6.2 at 16 kHz (MIT); prompts, music (CC-BY-SA) and noise: LSTM and "
    "convolutions inside If, a state whose first dimension counts layers, scalar input",
    make,
)
