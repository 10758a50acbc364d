"""An operator of a fleet who enrols devices and releases models."""

from quarterdeck_controller.release.assemble import create_release
from quarterdeck_shared.clock import SystemClock
from tests.support.commands import Deck, Said
from tests.support.releases import write_variants

CLOCK = SystemClock()


class Operator(Deck):
    """Types commands about devices and releases."""

    def enrols(self, device: str, device_class: str = "gateway", *more: object) -> Said:
        """Enrol a device into a folder of its own."""
        folder = self.path / "bundles" / device
        folder.parent.mkdir(exist_ok=True)
        return self.types(
            "device", "enrol", device, "--class", device_class, "--out", folder, *more
        )

    def releases(self, version: int) -> None:
        """Release that version of the model ``m``."""
        folder = self.path / f"variants-{version}"
        write_variants(folder, name="m", classes=("gateway",), home=self.home)
        create_release(self.home, folder, "m", version, CLOCK)
