"""How a runtime session is opened, the same where a variant is measured and runs.

Runtime options are chosen by the class's profile, signed with the artifact, and turned
into the runtime's own words here, so that both ends open a model alike.
"""

from typing import Protocol

from pydantic import Field

from quarterdeck_shared.wire import Wire

LOG_NOTHING = 4
"""Severity of what the runtime may print: what goes wrong is raised as well."""


class RuntimeOptions(Protocol):
    """What the runtime's ``SessionOptions`` let themselves be told."""

    intra_op_num_threads: int
    inter_op_num_threads: int
    log_severity_level: int
    enable_cpu_mem_arena: bool
    enable_mem_pattern: bool

    def add_session_config_entry(self, key: str, value: str, /) -> None:
        """Set an option that has no attribute of its own."""
        ...


class Session(Wire):
    """Options of a runtime session.

    Attributes:
        threads: Threads within an operator. They never spin: spinning steals the
            cores from whatever else the device does.
        arena: Keep memory of activations between runs. Off saves memory where input
            shapes vary, and costs time.
        prepack: Keep weights in the kernels' own layout. Off saves some memory where
            a kernel needs the weights as they were too, and costs time.
        precise: Widen int8 products on x86 without VNNI, whose kernels saturate;
            slower. Nothing on other machines.
    """

    threads: int = Field(default=1, ge=1, le=64)
    arena: bool = True
    prepack: bool = True
    precise: bool = False

    def configure(self, options: RuntimeOptions) -> None:
        """Tell the runtime; the one place that says what each option becomes."""
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.log_severity_level = LOG_NOTHING
        options.enable_cpu_mem_arena = self.arena
        options.enable_mem_pattern = self.arena
        for key, value in self.entries().items():
            options.add_session_config_entry(key, value)

    def entries(self) -> dict[str, str]:
        """Return the runtime's configuration entries, by their names there."""
        found = {"session.intra_op.allow_spinning": "0"}
        if not self.prepack:
            found["session.disable_prepacking"] = "1"
        if self.precise:
            found["session.x64quantprecision"] = "1"
        return found
