"""A short round of fuzzing of everything, in a child of bound time and memory."""

import base64
import json
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quarterdeck_shared.errors import QuarterdeckError
from quarterdeck_shared.wire import Wire
from tests.fuzz.engine import LONGEST, TOKENS, Outcome, run
from tests.fuzz.seeds import examples, messages
from tests.fuzz.targets import Target, targets

ROOT = Path(__file__).parents[2]
MEMORY_BYTES = 3 << 30
CPU_S = 60
SLOWEST_MS = 10_000.0

ALL = {target.name: target for target in targets()}
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=40)
    | st.sampled_from([token.decode("latin-1") for token in TOKENS]),
    lambda below: (
        st.lists(below, max_size=4)
        | st.dictionaries(st.text(max_size=10), below, max_size=4)
    ),
    max_leaves=12,
)


@pytest.mark.parametrize("name", ALL)
def test_every_target_accepts_a_good_input_or_refuses_it_cleanly(name: str) -> None:
    target = ALL[name]

    for data in (*target.seeds, b"", b"\0", b"null", b"[" * LONGEST, b"\xff" * 100):
        target(data)  # anything that it raises is a finding


def test_no_message_is_forgotten() -> None:
    forgotten = [kind for kind in messages() if not examples(kind)]

    assert not forgotten
    assert len(messages()) > 40
    whole = sum(_is_good(kind) for kind in messages())
    assert whole >= 0.8 * len(messages())


def test_a_round_finds_nothing_within_bounded_time_and_memory() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz", "--seconds", "12", "--seed", "1"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=_bounded,
    )

    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    slowest = [float(it) for it in re.findall(r"slowest +([\d.]+) ms", done.stdout)]
    assert len(slowest) == len(ALL)
    assert max(slowest) < SLOWEST_MS


def test_a_finding_is_found() -> None:
    def careless(data: bytes) -> None:
        if b"9" in data:
            raise KeyError("nine")

    target = Target("careless", careless, (b'{"a": 1}',))

    outcome = run(target, lambda it: it.executions < 3000)

    (found,) = outcome.findings
    assert found.startswith("KeyError in careless")
    assert isinstance(outcome, Outcome)


@given(value=JSON, kind=st.sampled_from(messages()))
@settings(max_examples=400, deadline=None)
def test_any_json_is_read_or_refused(value: object, kind: type[Wire]) -> None:
    data = json.dumps(value).encode()
    try:
        message = kind.decode(data)
    except QuarterdeckError:
        return
    assert kind.decode(message.encode()) == message


def _is_good(kind: type[Wire]) -> bool:
    try:
        kind.decode(examples(kind)[0])
    except QuarterdeckError:
        return False
    return True


def _bounded() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S))


def test_a_list_of_revocations_of_a_version_that_nobody_knows_is_left_out() -> None:
    target = ALL["revocations"]
    (lists,) = target.seeds
    first = lists.partition(b"-----END")[0].partition(b"-----\n")[2]
    der = bytearray(base64.b64decode(first))
    at = der.index(b"\x02\x01\x01\x30")
    der[at + 2] = 60
    pem = base64.encodebytes(bytes(der))
    data = b"-----BEGIN X509 CRL-----\n" + pem + b"-----END X509 CRL-----\n"

    assert "version" in str(target.read(data))
