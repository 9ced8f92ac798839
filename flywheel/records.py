"""Every record's table, imported in one place so that `SQLModel.metadata` is whole (migrations compare against it)."""

from __future__ import annotations

from sqlmodel import SQLModel

from flywheel.adapters import Adapter
from flywheel.approvals import GivenApproval
from flywheel.audit import AuditEntry
from flywheel.dataset_versions import DatasetRow, DatasetVersion
from flywheel.experiments import Experiment
from flywheel.feedback import Feedback
from flywheel.interactions import Interaction
from flywheel.keys import ApiKey
from flywheel.leases import Lease
from flywheel.merges import Merge
from flywheel.pairs import Candidate, Judgment, PreferencePair
from flywheel.promotions import Promotion
from flywheel.prompt_versions import PromptVersion
from flywheel.runs import RunEvent, TrainingRun
from flywheel.webhooks import WebhookReceiver

RECORDS: tuple[type[SQLModel], ...] = (
    Interaction,
    Feedback,
    Candidate,
    PreferencePair,
    Judgment,
    DatasetVersion,
    DatasetRow,
    TrainingRun,
    RunEvent,
    Adapter,
    PromptVersion,
    Experiment,
    GivenApproval,
    Promotion,
    Merge,
    AuditEntry,
    ApiKey,
    Lease,
    WebhookReceiver,
)
