"""The audit of training code that Headwise did not write."""

from headwise.attribution.audit.code.guard import SubjectError
from headwise.attribution.audit.code.subject import Subject
from headwise.attribution.audit.findings import KINDS, NOTES, Finding
from headwise.attribution.audit.report import AuditReport
from headwise.attribution.audit.run import audit
from headwise.attribution.audit.target import audit_target, load_target

__all__ = ["KINDS", "NOTES", "AuditReport", "Finding", "Subject", "SubjectError", "audit"]
__all__ += ["audit_target", "load_target"]
