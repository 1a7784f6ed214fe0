"""The tables of the job store, and how its database is opened: SQLite by default, PostgreSQL by URL."""

from __future__ import annotations

import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError

from pipelines.errors import UserError

SCHEMA = 1  # of these tables; another one is refused
SECONDS_BUCKETS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800)  # of a segment or a step, in metrics
TOTALS = (
    *(f"jobs_{what}" for what in ("created", "completed", "failed", "cancelled", "deleted", "taken_over")),
    *("segments", "segment_seconds", "steps", "step_seconds", "gpu_seconds", "bytes"),
    *(f"segment_seconds_{bucket:g}" for bucket in SECONDS_BUCKETS),
    *(f"step_seconds_{bucket:g}" for bucket in SECONDS_BUCKETS),
)
_turns: WeakKeyDictionary[sa.Engine, threading.Lock] = WeakKeyDictionary()  # of SQLite's, to write within this process
_NO_TURNS = nullcontext()
_BUSY_SECONDS = 30  # that SQLite waits for another writer
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


def open_database(url: str) -> sa.Engine:
    """An engine with all tables; `UserError` if the URL is wrong or the tables are another version's."""
    try:
        parsed = make_url(url)
        backend = parsed.get_backend_name()
    except (ArgumentError, NoSuchModuleError) as error:
        raise UserError(
            "--database is not an SQLAlchemy URL; give sqlite:///FILE or postgresql+psycopg://..."
        ) from error
    if backend not in ("sqlite", "postgresql"):
        raise UserError(f"--database {backend}: jobs are kept in sqlite or postgresql")
    if backend == "postgresql" and parsed.drivername == "postgresql":
        parsed = parsed.set(drivername="postgresql+psycopg")
    if backend == "sqlite":
        if parsed.database in (None, "", ":memory:"):
            raise UserError("--database sqlite: give a file; a database in memory is lost with its process")
        Path(str(parsed.database)).parent.mkdir(parents=True, exist_ok=True)
    try:
        if backend == "sqlite":
            engine = sa.create_engine(parsed, connect_args={"timeout": _BUSY_SECONDS}, pool_size=16, max_overflow=64)
            _listen(engine)
            _turns[engine] = threading.Lock()
        else:
            engine = sa.create_engine(parsed, pool_pre_ping=True, pool_size=16, max_overflow=64)
    except ImportError as error:
        raise UserError(f"--database {backend} needs a driver: pip install 'longvie[postgres]'") from error
    metadata.create_all(engine)
    with begin(engine) as connection:
        found = connection.scalar(sa.select(schema.c.version))
        if found is None:
            connection.execute(schema.insert().values(version=SCHEMA))
            connection.execute(totals.insert(), [{"name": name, "value": 0.0} for name in TOTALS])
        elif found != SCHEMA:
            raise UserError(f"--database has tables of version {found}, this is {SCHEMA}; give another database")
    return engine


@contextmanager
def begin(engine: sa.Engine) -> Iterator[sa.Connection]:
    """A transaction that writes: on SQLite it takes the lock at once, so that it cannot fail half-way.

    SQLite lets writers sleep and try again; those of one process wait for each other instead, and go on at once.
    """
    with _turns.get(engine, _NO_TURNS), engine.execution_options(writes=True).begin() as tx:
        yield tx


def read(engine: sa.Engine) -> Any:
    """A connection for one statement that reads: on SQLite it needs no transaction around it."""
    return engine.execution_options(reads=True).connect()


def one_at_a_time(tx: sa.Connection, what: str) -> None:
    """From here to the end of the transaction, nobody else is at the same: on SQLite no two write anyway.

    Rows that are locked are not enough where a decision is over many (jobs that an owner has at work, turns).
    """
    if tx.dialect.name == "postgresql":
        tx.execute(sa.select(sa.func.pg_advisory_xact_lock(zlib.crc32(f"longvie {what}".encode()))))


def _listen(engine: sa.Engine) -> None:
    @event.listens_for(engine, "connect")
    def connect(connection: Any, _: Any) -> None:
        connection.isolation_level = None  # transactions are ours: see below
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "secure_delete=ON"):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def begun(connection: sa.Connection) -> None:
        options = connection.get_execution_options()
        if options.get("reads"):
            return
        writes = options.get("writes")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
