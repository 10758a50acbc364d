"""The inventory: which devices there are, and how a cohort is named.

A selector names a cohort:

    all                           every device
    class=board-arm64             devices of one class
    tag=site-a                    devices with a tag
    id=till-1                     one device
    class=board-arm64,tag=site-a  both must hold
    class=a|b                     either value
    till-1 till-2                 these ids, separated by blanks

Terms joined by a comma must all hold. An unknown id is an error, since it is most
likely a typing mistake; a class or tag that no device has yet is not.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Self

from quarterdeck_controller.identity.authority import check_device_name
from quarterdeck_controller.store.records import Device
from quarterdeck_controller.store.store import Records
from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import RejectedError
from quarterdeck_shared.ids import is_name

MAX_TAGS = 32
MAX_SELECTOR = 8192
_KEYS = ("class", "tag", "id")
_TERM = re.compile(r"(?P<key>[a-z]+)\s*=\s*(?P<values>[^=]*)")


@dataclass(frozen=True, slots=True)
class Selector:
    """A cohort's query.

    Attributes:
        terms: Each is a key and the values of which one must fit; all must hold.
    """

    terms: tuple[tuple[str, tuple[str, ...]], ...]

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the selector that ``text`` spells.

        Raises:
            RejectedError: ``SELECTOR_INVALID``, with the part that was not understood.
        """
        words = text.strip()
        if not words or len(words) > MAX_SELECTOR:
            raise _invalid(text, "it is empty" if not words else "it is too long")
        if words == "all":
            return cls(())
        if "=" not in words:
            ids = tuple(words.replace(",", " ").split())
            return cls((("id", tuple(_names(text, ids))),))
        return cls(tuple(_term(text, part.strip()) for part in words.split(",")))

    def matches(self, device: Device) -> bool:
        """Return whether ``device`` belongs to the cohort."""
        return all(_holds(device, key, values) for key, values in self.terms)

    def of(self, devices: Iterable[Device]) -> tuple[Device, ...]:
        """Return those of ``devices`` that belong to the cohort."""
        return tuple(device for device in devices if self.matches(device))

    def unknown(self, devices: Iterable[Device]) -> tuple[str, ...]:
        """Return the ids that are named but that no device has."""
        known = {device.id for device in devices}
        named = [it for key, values in self.terms if key == "id" for it in values]
        return tuple(sorted(set(named) - known))


def select(records: Records, text: str) -> tuple[Device, ...]:
    """Return the devices of the cohort that ``text`` names.

    Raises:
        RejectedError: ``SELECTOR_INVALID``, or ``NOT_FOUND`` for ids nobody has.
    """
    selector = Selector.parse(text)
    devices = records.devices.all()
    unknown = selector.unknown(devices)
    if unknown:
        raise RejectedError(Code.NOT_FOUND, f"no device {', '.join(unknown)}")
    return selector.of(devices)


def enrol(
    records: Records,
    device: str,
    device_class: str,
    *,
    tags: Iterable[str] = (),
    now: datetime,
) -> Device:
    """Record a new device, which has no certificate yet, and return it.

    Raises:
        RejectedError: ``NAME_INVALID``, or ``CONFLICT`` when the id exists.
    """
    named = tuple(dict.fromkeys(tags))
    _check_new(records, device, device_class, named)
    enrolled = Device(device, device_class, named, now)
    records.devices.add(enrolled)
    return enrolled


def known(records: Records, device: str, device_class: str) -> Device:
    """Return a device that is there already, to invite it anew.

    Raises:
        RejectedError: ``NOT_FOUND``, or ``CONFLICT`` when it is of another class.
    """
    found = records.devices.get(device)
    if found is None:
        raise RejectedError(Code.NOT_FOUND, f"no device {device}")
    if found.device_class != device_class:
        raise RejectedError(
            Code.CONFLICT,
            f"device {device} is of class {found.device_class}, now {device_class} was"
            " asked for; enrol it under another id",
        )
    return found


def check_tags(tags: Sequence[str]) -> None:
    """Refuse tags that no device may have.

    Raises:
        RejectedError: ``NAME_INVALID``.
    """
    for tag in tags:
        if not is_name(tag):
            raise RejectedError(Code.NAME_INVALID, f"tag {tag!r}")
    if len(tags) > MAX_TAGS:
        raise RejectedError(
            Code.NAME_INVALID, f"{len(tags)} tags, at most {MAX_TAGS} allowed"
        )


def _check_new(
    records: Records, device: str, device_class: str, tags: Iterable[str]
) -> None:
    check_device_name(device)
    check_tags(tuple(tags))
    there = records.devices.get(device)
    if there is not None:
        raise RejectedError(
            Code.CONFLICT,
            f"device {device} was entered at {there.enrolled_at:%Y-%m-%d %H:%M} as"
            f" {there.device_class}, now {device_class} was asked for; take another"
            " id, or invite it anew with --again",
        )


def _term(text: str, part: str) -> tuple[str, tuple[str, ...]]:
    found = _TERM.fullmatch(part)
    if found is None:
        raise _invalid(text, f"{part!r} is not of the form key=value")
    key = found["key"]
    if key not in _KEYS:
        raise _invalid(text, f"{key!r} is none of {', '.join(_KEYS)}")
    values = tuple(value.strip() for value in found["values"].split("|"))
    return key, tuple(_names(text, values))


def _names(text: str, values: Iterable[str]) -> Iterable[str]:
    for value in values:
        if not is_name(value):
            raise _invalid(text, f"{value!r} is not a name")
        yield value


def _invalid(text: str, why: str) -> RejectedError:
    return RejectedError(Code.SELECTOR_INVALID, f"selector {text[:80]!r}: {why}")


def _holds(device: Device, key: str, values: tuple[str, ...]) -> bool:
    match key:
        case "class":
            return device.device_class in values
        case "tag":
            return any(value in device.tags for value in values)
        case _:
            return device.id in values
