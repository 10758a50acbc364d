"""End somebody's MQTT session by its client id, as its owner or the controller may.

A broker has one session for a client id: who comes with it ends the one before. The
newcomer leaves at once; what it ended may come back if it is still let in.
"""

from quarterdeck_shared.bus.handlers import Handlers
from quarterdeck_shared.bus.link import open_wire
from quarterdeck_shared.bus.port import Endpoint
from quarterdeck_shared.bus.session import Session

TIMEOUT_S = 10.0


async def take_over(endpoint: Endpoint, client_id: str) -> None:
    """End the session of ``client_id`` on the broker; one that is over is none.

    Raises:
        QuarterdeckError: The broker cannot be reached or does not let us in.
    """
    wire = await open_wire(endpoint, timeout_s=TIMEOUT_S)
    session = Session(
        endpoint, client_id, wire, handlers=Handlers(), on_lost=lambda: None
    )
    try:
        await session.open(None, keepalive_s=60, timeout_s=TIMEOUT_S)
        await session.close()
    finally:
        session.abort()
