"""One event, one line, on standard error: for people, or as JSON."""

import json
import logging
import sys
from datetime import UTC, datetime

from quarterdeck_shared.plain import plain

_PREFIX = "quarterdeck_agent."


class _Line(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created, UTC).strftime("%H:%M:%S.%f")[:-3]
        told = plain(record.getMessage())
        text = f"{at} {record.levelname:7} {_where(record)}: {told}"
        if record.exc_info:
            text += "\n" + self.formatException(record.exc_info)
        return text


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created, UTC).isoformat()
        line = {
            "at": at,
            "level": record.levelname.lower(),
            "where": _where(record),
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line)


def set_up_logs(*, as_json: bool, verbose: bool) -> None:
    """Send every log line to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Json() if as_json else _Line())
    logging.basicConfig(
        level=logging.DEBUG if verbose else logging.INFO, handlers=[handler]
    )
    for noisy in ("tuf", "securesystemslib", "asyncio"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def _where(record: logging.LogRecord) -> str:
    return record.name.removeprefix(_PREFIX)
