"""Does a workflow body depend on anything but its payload and its journal? Found at the first run of a unit test."""

from boxflow.testing.auditing.audit import Audit
from boxflow.testing.auditing.audited_execution import AuditError
from boxflow.testing.auditing.direct_reads import DirectRead

__all__ = ["Audit", "AuditError", "DirectRead"]
