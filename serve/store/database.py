"""How the job store's database is opened and entered: SQLite by default, PostgreSQL by URL."""

from __future__ import annotations

import threading
import zlib
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, OperationalError, SQLAlchemyError

from pipelines.errors import UserError
from serve.store.tables import SCHEMA, TOTALS, metadata, schema, totals

_BUSY_SECONDS = 30  # that SQLite waits for another writer


class Busy(RuntimeError):
    """Another writes at this moment."""


class Database:
    """A database with all tables.

    Raises:
        UserError: the URL is wrong, or the tables are another version's.
    """

    def __init__(self, url: str) -> None:
        parsed = _parsed(url)
        self.local = parsed.get_backend_name() == "sqlite"
        try:
            self._engine = _sqlite(parsed, _BUSY_SECONDS) if self.local else _postgresql(parsed)
        except ImportError as error:
            raise UserError("--database postgresql needs a driver: pip install 'longvie[postgres]'") from error
        # made once: an engine with options is not cheap
        self._writer = self._engine.execution_options(writes=True)
        self._hasty = _sqlite(parsed, 0).execution_options(writes=True) if self.local else self._writer
        self._reader = self._engine
        if self.local:
            reading = {"reads": True, "isolation_level": "AUTOCOMMIT"}
            self._reader = _sqlite(parsed, _BUSY_SECONDS, poolclass=sa.NullPool).execution_options(**reading)
        self._kept = threading.local()
        self._turn = threading.Lock() if self.local else None
        self._create()

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """A connection for one statement that reads: on SQLite it needs no transaction around it, and each thread
        keeps its own, as to take one out of a pool costs as much as the statement."""
        if not self.local:
            with self._reader.connect() as connection:
                yield connection
            return
        if not hasattr(self._kept, "connection"):
            self._kept.connection = self._reader.connect()
        try:
            yield self._kept.connection
        except SQLAlchemyError:
            self._forget()
            raise

    def snapshot(self) -> AbstractContextManager[sa.Connection]:
        """A transaction for several."""
        return self._engine.begin()

    @contextmanager
    def write(self, *, wait: bool = True) -> Iterator[sa.Connection]:
        """A transaction that writes: on SQLite it takes the lock at once, so that it cannot fail half-way.

        SQLite lets writers sleep and try again; those of one process wait for each other instead, and go on at once.

        Args:
            wait: for other writers; else `Busy` on SQLite if there is one.
        """
        with ExitStack() as stack:
            if self._turn is not None:
                if not self._turn.acquire(blocking=wait):
                    raise Busy
                stack.callback(self._turn.release)
            try:
                tx = stack.enter_context((self._writer if wait else self._hasty).begin())
            except OperationalError as error:
                if wait or "locked" not in str(error.orig):
                    raise
                raise Busy from error
            yield tx

    def dispose(self) -> None:
        """Close all connections but those that other threads read with."""
        self._forget()
        self._engine.dispose()
        self._hasty.dispose()

    def _forget(self) -> None:
        """Close the connection that this thread reads with, if there is one."""
        if hasattr(self._kept, "connection"):
            self._kept.connection.close()
            del self._kept.connection

    def _create(self) -> None:
        metadata.create_all(self._engine)
        with self.write() as tx:
            found = tx.scalar(sa.select(schema.c.version))
            if found is None:
                tx.execute(schema.insert().values(version=SCHEMA))
                tx.execute(totals.insert(), [{"name": name, "value": 0.0} for name in TOTALS])
            elif found != SCHEMA:
                raise UserError(f"--database has tables of version {found}, this is {SCHEMA}; give another database")


def one_at_a_time(tx: sa.Connection, what: str) -> None:
    """From here to the end of the transaction, nobody else is at the same: on SQLite no two write anyway.

    Rows that are locked are not enough where a decision is over many (jobs that an owner has at work, turns).
    """
    if tx.dialect.name == "postgresql":
        tx.execute(sa.select(sa.func.pg_advisory_xact_lock(zlib.crc32(f"longvie {what}".encode()))))


def _parsed(url: str) -> URL:
    try:
        parsed = make_url(url)
        backend = parsed.get_backend_name()
    except (ArgumentError, NoSuchModuleError) as error:
        raise UserError(
            "--database is not an SQLAlchemy URL; give sqlite:///FILE or postgresql+psycopg://..."
        ) from error
    if backend not in ("sqlite", "postgresql"):
        raise UserError(f"--database {backend}: jobs are kept in sqlite or postgresql")
    if backend == "sqlite" and parsed.database in (None, "", ":memory:"):
        raise UserError("--database sqlite: give a file; a database in memory is lost with its process")
    return parsed


def _postgresql(url: URL) -> sa.Engine:
    if url.drivername == "postgresql":
        url = url.set(drivername="postgresql+psycopg")
    return sa.create_engine(url, pool_pre_ping=True, pool_size=16, max_overflow=64)


def _sqlite(url: URL, busy_seconds: float, **pool: Any) -> sa.Engine:
    Path(str(url.database)).parent.mkdir(parents=True, exist_ok=True)
    pool = pool or {"pool_size": 16, "max_overflow": 64}
    engine = sa.create_engine(url, connect_args={"timeout": busy_seconds}, **pool)

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

    return engine
