"""The content key that an assignment of a sealed artifact carries for its device."""

import logging
from dataclasses import dataclass

from quarterdeck_controller.release.catalog import Catalog
from quarterdeck_controller.repository.seal import Seals
from quarterdeck_shared.errors import RejectedError
from quarterdeck_shared.sealing import is_sealed

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ContentKeys:
    """Encrypts keys of artifacts to devices."""

    catalog: Catalog
    seals: Seals

    def wrap(self, device: str, artifact: str, seal_key: bytes | None) -> bytes | None:
        """Return the key of ``artifact`` for ``device``; None when it is not sealed.

        None too when it cannot be given: the device then refuses the assignment with
        ``seal_invalid``, so that the rollout counts it instead of waiting for it.

        Args:
            device: Its id.
            artifact: Digest of the artifact's index.
            seal_key: The device's X25519 public key; None when it gave none.
        """
        variant = self.catalog.variant(artifact)
        if variant is None or not is_sealed(variant.index):
            return None
        if seal_key is None:
            _log.warning("event=unsealable device=%s: it gave no seal key", device)
            return None
        try:
            return self.seals.wrap(variant.index, device=device, seal_key=seal_key)
        except RejectedError as error:
            _log.warning("event=unsealable device=%s %s", device, error)
            return None
