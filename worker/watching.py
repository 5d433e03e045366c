"""How a worker is watched: the spans that it writes, the metrics that it serves, where they were asked for."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from wire.rounds import Rounds
from wire.rpc.audit import AUDIT_FILE, Audit
from wire.rpc.identity import Role, Security
from wire.rpc.revocation import is_revoked, open_revocations
from wire.trace_file import traced

if TYPE_CHECKING:
    from worker.runtime import Attachment


def watch(
    attached: Attachment, metrics: str | None, *, name: str, data_dir: Path, security: Security
) -> ExitStack:
    """Watched until this is closed. `metrics`: where to serve them, if not where the run says."""
    watched, config = ExitStack(), attached.config
    if config.telemetry.trace:
        rounds = Rounds.of(config, origin=attached.origin)
        watched.enter_context(traced(data_dir, role="worker", id=name, run=attached.run, rounds=rounds))
    if listen := metrics or config.telemetry.metrics:
        _serve(watched, attached, listen, name=name, data_dir=data_dir, security=security)
    return watched


def _serve(
    watched: ExitStack, attached: Attachment, listen: str, *, name: str, data_dir: Path, security: Security
) -> None:
    """A worker serves nothing else: it looks by itself which certificates are revoked, and keeps a log of refusals."""
    from wire.exposition import Exposition

    revocations = open_revocations(security, data_dir, tell=lambda serials: None)
    audit = Audit(data_dir / AUDIT_FILE)
    watched.callback(audit.close)

    def denied(serial: str) -> bool:
        if revocations is not None:
            revocations.look()
        return is_revoked(revocations, serial)

    serving = Exposition.serving(
        listen,
        security,
        lambda: attached.samples(),
        role=Role.WORKER,
        id=name,
        run=attached.run,
        places=[attached.out or data_dir, data_dir],
        denied=denied,
        refused=audit.refuse,
    )
    watched.enter_context(serving)
