"""Say in plain words what a change of signed metadata does (pure).

Whoever signs reads this and nothing else, so it leaves nothing out: every key, every
threshold, every target and every expiry that differs from what is in force. What else
could differ is not signed at all (``soundness``).
"""

from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta

from securesystemslib.signer import Key
from tuf.api.metadata import Root, Signed, TargetFile, Targets

from quarterdeck_controller.repository.chain import Chain, Quorum, quorum
from quarterdeck_controller.repository.keyfile import fingerprint, key_name
from quarterdeck_controller.repository.roles import lifetime, pattern


def describe(
    role: str, new: Signed, chain: Chain | None, made: datetime
) -> tuple[str, ...]:
    """Return what ``new``, made at ``made``, changes in ``role``, a line each."""
    old = chain.signed().get(role) if chain else None
    lines = (
        *_differences(new, old),
        *_unknown(new, old),
        *_expiry(role, new, old, made),
    )
    return tuple(printable(line) for line in lines)


def printable(text: str) -> str:
    """Return ``text`` so that it cannot steer a terminal."""
    return "".join(it if it.isprintable() else f"\\u{ord(it):04x}" for it in text)


def _differences(new: Signed, old: Signed | None) -> Iterator[str]:
    if isinstance(new, Root):
        yield from _root(new, old if isinstance(old, Root) else None)
    elif isinstance(new, Targets):
        before = old if isinstance(old, Targets) else None
        yield from _delegations(new, before)
        yield from _targets(new, before)
    else:
        yield f"a new {new.type}"


def _root(new: Root, old: Root | None) -> Iterator[str]:
    if old is None:
        yield "the fleet begins with this root: every device trusts it from enrolment"
    for role in new.roles:
        yield from _signers(quorum(role, new), quorum(role, old) if old else None)


def _delegations(new: Targets, old: Targets | None) -> Iterator[str]:
    after, before = _delegated(new), _delegated(old)
    for role in before.keys() - after.keys():
        yield f"WARNING: {role} is no longer delegated to"
    for role in after:
        if role not in before:
            yield f"{role} is delegated to: it may list {pattern(role)}"
        was = quorum(role, old) if old and role in before else None
        yield from _signers(quorum(role, new), was)


def _delegated(targets: Targets | None) -> Mapping[str, object]:
    if targets is None or targets.delegations is None:
        return {}
    return targets.delegations.roles or {}


def _signers(new: Quorum, old: Quorum | None) -> Iterator[str]:
    role = new.role
    before: Mapping[str, Key] = old.keys if old else {}
    for keyid in before.keys() - new.keys.keys():
        yield f"{_key(before, keyid)} may no longer sign for {role}"
    for keyid in new.keys:
        if keyid not in before:
            yield f"{_key(new.keys, keyid)} may sign for {role}"
        elif key_name(new.keys[keyid]) != key_name(before[keyid]):
            yield f"{_key(before, keyid)} is called {key_name(new.keys[keyid])} now"
    count = f"{new.threshold} of {len(new.keys)}"
    if old is None:
        yield f"{role} is signed by {count}"
    elif (old.threshold, len(before)) != (new.threshold, len(new.keys)):
        warning = "WARNING: " if new.threshold < old.threshold else ""
        was = f"{old.threshold} of {len(before)}"
        yield f"{warning}{role} is signed by {count} (it was {was})"


def _key(keys: Mapping[str, Key], keyid: str) -> str:
    return f"the key {key_name(keys[keyid])} ({fingerprint(keyid)})"


def _targets(new: Targets, old: Targets | None) -> Iterator[str]:
    before: Mapping[str, TargetFile] = old.targets if old else {}
    for path in before.keys() - new.targets.keys():
        yield f"{path} may no longer be installed"
    for path, file in new.targets.items():
        if path not in before:
            yield f"{path} may be installed: {_file(file)}"
        elif file != before[path]:
            yield f"{path} changes: {_file(file)} (it was {_file(before[path])})"


def _file(file: TargetFile) -> str:
    beside = ", ".join(f"{k} {v}" for k, v in (file.custom or {}).items() if v)
    sha256 = file.hashes.get("sha256", "none")
    return f"index {sha256[:16]} of {file.length} bytes, {beside}"


def _expiry(
    role: str, new: Signed, old: Signed | None, made: datetime
) -> Iterator[str]:
    was = f" (it was {old.expires:%Y-%m-%d})" if old else ""
    yield f"{role} is valid until {new.expires:%Y-%m-%d}{was}"
    if new.expires > made + lifetime(role) + timedelta(days=1):
        days = (new.expires - made).days
        yield f"WARNING: that is {days} days; usual are {lifetime(role).days}"


def _unknown(new: Signed, old: Signed | None) -> Iterator[str]:
    before = old.unrecognized_fields if old else {}
    for name, value in new.unrecognized_fields.items():
        if before.get(name) != value:
            yield f"{name} is {value!r}"
    for name in before.keys() - new.unrecognized_fields.keys():
        yield f"{name} is gone"
