"""All that `longvie serve` is told, as frozen dataclasses that every process of it shares. It needs no torch."""

from __future__ import annotations

import hmac
import os
import re
from dataclasses import dataclass, field
from pathlib import Path

from pipelines.errors import UserError
from pipelines.storage import OUTPUT_SCHEMES, check_uri, scheme_of

TOKENS_VARIABLE = "LONGVIE_SERVE_TOKENS"
ANONYMOUS = "anonymous"  # the owner of everything where no tokens are asked for
_OWNER = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_MIN_TOKEN = 16  # characters; shorter ones can be guessed


@dataclass(frozen=True, kw_only=True)
class ModelCard:
    """What the door must know of the model. Sizes in pixels."""

    name: str
    fingerprint: str
    segment_length: int
    fps: int
    height: int
    width: int
    num_inference_steps: int
    guidance_scale: float
    size_multiple: int


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a client may ask for; beyond it 413, 422 or 429 say which."""

    body_bytes: int = 1 << 30
    queued: int = 1000  # jobs that wait, of everyone together
    seconds: float = 600.0  # of a video, its beginning included
    pixels: int = 1280 * 720  # of a frame made
    upload_pixels: int = 4096 * 2304  # of a frame uploaded
    steps: int = 100
    segments: int = 1000
    prompt_characters: int = 8192
    retry_after: int = 10  # seconds, told with 429
    probe_seconds: float = 120.0  # CPU time to decode one upload
    probe_bytes: int = 4 << 30  # address space of the process that does

    def __post_init__(self) -> None:
        for name in self.__dataclass_fields__:
            if not getattr(self, name) > 0:
                raise UserError(f"limit {name} is {getattr(self, name)}; give more than 0")


@dataclass(frozen=True, kw_only=True)
class Owner:
    """Whom a token belongs to.

    Args:
        concurrency: jobs at once; None for as many as there are engines.
        priority: the highest a job of theirs may ask for.
    """

    name: str
    token: str = field(repr=False, default="")
    concurrency: int | None = None
    priority: int = 0


@dataclass(frozen=True, kw_only=True)
class ServeSettings:
    """One server.

    Args:
        home: URI under which inputs, prepared data and videos lie; kept over restarts.
        database: SQLAlchemy URL of the jobs; default: `jobs.sqlite` in a local home.
        model, control, attention: as in `longvie generate`.
        url_prefixes: of URLs that clients may name as inputs, as in "https://example.org/"; none by default.
        origins: that browsers may call from (CORS); none by default.
        owners: by token; none: everyone is let in.
        lease_seconds: after which a silent engine's job goes to another.
        retention_seconds: that a finished video is kept; None: for ever.
        max_failures: engines lost or errors in a row, without a segment in between, before a job is given up.
        boot: names this start of the server.
    """

    home: str
    card: ModelCard
    model: str | None = None
    control: str | None = None
    attention: str | None = None
    database: str | None = None
    dtype: str = "float32"
    device: str = "cpu"
    threads: int = 1
    host: str = "127.0.0.1"
    port: int = 8000
    replicas: tuple[int, int] = (1, 1)
    gpus: float = 0.0
    owners: tuple[Owner, ...] = ()
    limits: Limits = field(default_factory=Limits)
    url_prefixes: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()
    lease_seconds: float = 15.0
    retention_seconds: float | None = 7 * 86400.0
    max_failures: int = 3
    boot: str = "boot"

    def __post_init__(self) -> None:
        check_uri(self.home, "--home", OUTPUT_SCHEMES)
        if scheme_of(self.home) == "memory":
            raise UserError("--home memory:// lives within one process; give a folder or an object store")
        if self.database is None and scheme_of(self.home) != "file":
            raise UserError(f"--home {self.home} cannot hold the jobs' database; give --database URL, too")
        if not 1 <= self.replicas[0] <= self.replicas[1]:
            raise UserError(f"--replicas {self.replicas[0]}:{self.replicas[1]}: give MIN:MAX with 1 <= MIN <= MAX")
        for flag, value, low in (
            ("--lease-seconds", self.lease_seconds, 1),
            ("--threads", self.threads, 1),
            ("--port", self.port, 0),
        ):
            if value < low:
                raise UserError(f"{flag} is {value}; give {low} or more")
        for prefix in self.url_prefixes:
            if not re.fullmatch(r"https?://[^/?#@]+/.*", prefix):
                raise UserError(f"--allow-url {prefix}: give a prefix with a host, as in https://example.org/")

    @property
    def database_url(self) -> str:
        return self.database or f"sqlite:///{Path(self.home).expanduser().absolute() / 'jobs.sqlite'}"

    def owner_of(self, authorization: str | None) -> Owner | None:
        """Whose `Authorization` header this is; None if nobody's. Every token is compared, in constant time."""
        if not self.owners:
            return Owner(name=ANONYMOUS)
        scheme, _, token = (authorization or "").partition(" ")
        given = token.strip().encode() if scheme.lower() == "bearer" else b""
        found = None
        for owner in self.owners:
            if hmac.compare_digest(owner.token.encode(), given):
                found = owner
        return found


def read_owners(path: str | None) -> tuple[Owner, ...]:
    """Owners from a file, or from the environment: lines `name token [concurrency [priority]]`; `#` begins a remark."""
    if path is not None:
        try:
            text, where = Path(path).read_text(encoding="utf-8"), path
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"--tokens {path} is not a readable text file ({error})") from error
    else:
        text, where = os.environ.get(TOKENS_VARIABLE, ""), TOKENS_VARIABLE
    owners = []
    for number, line in enumerate(text.splitlines(), start=1):
        words = line.split("#", 1)[0].split()
        if not words:
            continue
        numbers = words[2:]
        if not 2 <= len(words) <= 4 or not _OWNER.fullmatch(words[0]) or not all(map(_is_number, numbers)):
            raise UserError(f"{where} line {number}: give name, token and, if wanted, concurrency and priority")
        if len(words[1]) < _MIN_TOKEN:
            raise UserError(f"{where} line {number}: the token is too short; give {_MIN_TOKEN} characters or more")
        concurrency = int(numbers[0]) if numbers else 0
        priority = int(numbers[1]) if len(numbers) > 1 else 0
        owners.append(Owner(name=words[0], token=words[1], concurrency=concurrency or None, priority=priority))
    if path is not None and not owners:
        raise UserError(f"--tokens {path} has no tokens; it would let nobody in")
    if len({owner.token for owner in owners}) < len(owners):
        raise UserError(f"{where}: a token occurs twice")
    return tuple(owners)


def _is_number(word: str) -> bool:
    return word.isascii() and word.isdigit()
