"""The tables of the job store."""

from __future__ import annotations

import sqlalchemy as sa

SCHEMA = 1  # of these tables; another one is refused
SECONDS_BUCKETS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800)  # of a segment or a step, in metrics
TOTALS = (
    *(f"jobs_{what}" for what in ("completed", "failed", "cancelled", "deleted", "taken_over")),
    *("segments", "segment_seconds", "steps", "step_seconds", "gpu_seconds", "bytes"),
    *(f"segment_seconds_{bucket:g}" for bucket in SECONDS_BUCKETS),
    *(f"step_seconds_{bucket:g}" for bucket in SECONDS_BUCKETS),
)
metadata = sa.MetaData()

schema = sa.Table("longvie_schema", metadata, sa.Column("version", sa.Integer, primary_key=True))

jobs = sa.Table(
    "jobs",
    metadata,
    sa.Column("number", sa.Integer, primary_key=True),  # the order of creation
    sa.Column("id", sa.String(64), nullable=False, unique=True),
    sa.Column("owner", sa.String(64), nullable=False),
    sa.Column("owner_concurrency", sa.Integer),
    sa.Column("priority", sa.Integer, nullable=False),
    sa.Column("status", sa.String(16), nullable=False),
    sa.Column("request", sa.JSON, nullable=False),
    sa.Column("num_segments", sa.Integer, nullable=False),
    sa.Column("segments_done", sa.Integer, nullable=False, default=0),
    sa.Column("step", sa.Integer, nullable=False, default=0),  # done within the segment being made
    sa.Column("num_steps", sa.Integer, nullable=False),
    sa.Column("stage", sa.String(16)),  # of work in progress: preparing or generating
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Column("started_at", sa.Float),
    sa.Column("completed_at", sa.Float),
    sa.Column("expires_at", sa.Float),
    sa.Column("error_code", sa.String(64)),
    sa.Column("error_message", sa.Text),
    sa.Column("video", sa.JSON),  # sha256, bytes and num_frames of the finished file
    sa.Column("cancel_requested", sa.Boolean, nullable=False, default=False),
    sa.Column("token", sa.Integer, nullable=False, default=0),  # fencing: grows with every lease
    sa.Column("worker", sa.String(128)),
    sa.Column("lease_until", sa.Float),
    sa.Column("failures", sa.Integer, nullable=False, default=0),  # in a row, without a segment in between
    sa.Index("jobs_by_status", "status", "owner"),
    sqlite_autoincrement=True,
)

inputs = sa.Table(  # small files that came with a job
    "inputs",
    metadata,
    sa.Column("job_id", sa.String(64), primary_key=True),
    sa.Column("name", sa.String(64), primary_key=True),
    sa.Column("content", sa.LargeBinary, nullable=False),
)

segments = sa.Table(
    "segments",
    metadata,
    sa.Column("job_id", sa.String(64), primary_key=True),
    sa.Column("index", sa.Integer, primary_key=True),
    sa.Column("num_frames", sa.Integer, nullable=False),
    sa.Column("bytes", sa.BigInteger, nullable=False),
    sa.Column("seconds", sa.Float, nullable=False),
    sa.Column("token", sa.Integer, nullable=False),
)

events = sa.Table(
    "events",
    metadata,
    sa.Column("job_id", sa.String(64), primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("type", sa.String(16), nullable=False),
    sa.Column("data", sa.JSON, nullable=False),
)

idempotency = sa.Table(
    "idempotency",
    metadata,
    sa.Column("owner", sa.String(64), primary_key=True),
    sa.Column("key", sa.String(255), primary_key=True),
    sa.Column("job_id", sa.String(64), nullable=False, index=True),
    sa.Column("fingerprint", sa.String(64), nullable=False),
)

owners = sa.Table(
    "owners",
    metadata,
    sa.Column("owner", sa.String(64), primary_key=True),
    sa.Column("turn", sa.Integer, nullable=False),  # when an engine last took a job of theirs: fair share
)

workers = sa.Table(
    "workers",
    metadata,
    sa.Column("id", sa.String(128), primary_key=True),
    sa.Column("boot", sa.String(64), nullable=False),
    sa.Column("seen_at", sa.Float, nullable=False),
)

boots = sa.Table(
    "boots",
    metadata,
    sa.Column("boot", sa.String(64), primary_key=True),
    sa.Column("draining", sa.Boolean, nullable=False),
)

trash = sa.Table(  # files that no job owns, or may never own: the janitor's list
    "trash",
    metadata,
    sa.Column("job_id", sa.String(64), primary_key=True),
    sa.Column("not_before", sa.Float, nullable=False),
)

totals = sa.Table(
    "totals",
    metadata,
    sa.Column("name", sa.String(64), primary_key=True),
    sa.Column("value", sa.Float, nullable=False),
)
