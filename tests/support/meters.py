"""A meter that remembers what it was told."""

from dataclasses import dataclass, field

from quarterdeck_agent.evidence import Answer, GoldenReport


@dataclass
class NotingMeter:
    """Remembers every count in order."""

    answers: list[tuple[str, int]] = field(default_factory=list)
    failures: int = 0
    drops: int = 0
    reports: list[GoldenReport] = field(default_factory=list)
    restarts: list[str] = field(default_factory=list)
    swaps: list[str | None] = field(default_factory=list)

    def answered(self, artifact: str, answer: Answer, label: int | None) -> None:
        del label
        self.answers.append((artifact, answer.top))

    def failed(self, artifact: str | None) -> None:
        del artifact
        self.failures += 1

    def dropped(self) -> None:
        self.drops += 1

    def proved(self, artifact: str, report: GoldenReport) -> None:
        del artifact
        self.reports.append(report)

    def restarted(self, artifact: str) -> None:
        self.restarts.append(artifact)

    def swapped(self, artifact: str | None) -> None:
        self.swaps.append(artifact)
