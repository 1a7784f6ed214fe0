"""Durable jobs: what is asked for, who works at it, and how far it is. It knows rows and leases, no files.

tables.py    the tables
database.py  how they are opened and entered: SQLite or PostgreSQL
records.py   jobs as values
rows.py      what is done to rows within a transaction
jobs.py      what clients do: create, get, list, cancel, delete; events, counts
leases.py    what engines do: claim, renew, record, release; nothing without a valid lease
"""

from serve.store.database import Busy
from serve.store.jobs import ORPHAN_SECONDS, JobStore
from serve.store.leases import Cancelled, Lease, LeaseLost, Leases
from serve.store.records import Conflict, Entry, Job, NewJob, QueueFull

__all__ = [
    "ORPHAN_SECONDS",
    "Busy",
    "Cancelled",
    "Conflict",
    "Entry",
    "Job",
    "JobStore",
    "Lease",
    "LeaseLost",
    "Leases",
    "NewJob",
    "QueueFull",
]
