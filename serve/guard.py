"""What stands before every request: whose token it carries, how large its body may be. ASGI, so that streams pass."""

from __future__ import annotations

import json
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve.errors import ApiError
from serve.settings import Limits, ServeSettings

# for load balancers, which have no token; the page and the API's description hold no data
OPEN_PATHS = ("/healthz", "/readyz", "/openapi.json")
_OPEN_PREFIXES = ("/static/",)


class Guard:
    """Sets `scope["state"]["owner"]`, or answers 401; counts body bytes, or answers 413."""

    def __init__(self, app: ASGIApp, settings: ServeSettings) -> None:
        self._app = app
        self._settings = settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        path = scope["path"]
        free = path in OPEN_PATHS or path == "/" or path.startswith(_OPEN_PREFIXES) or scope["method"] == "OPTIONS"
        owner = self._settings.owner_of(headers.get(b"authorization", b"").decode("latin-1") or None)
        if owner is None and not free:
            error = ApiError(
                401, "invalid_token", "a valid bearer token is needed", headers={"WWW-Authenticate": "Bearer"}
            )
            await refuse(error, send)
            return
        scope.setdefault("state", {})["owner"] = owner
        limits = self._settings.limits
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length) > limits.body_bytes:
            await refuse(_too_large(limits), send)
            return
        seen, begun = 0, False

        async def counted() -> Message:
            nonlocal seen
            message = await receive()
            if message["type"] == "http.request":
                seen += len(message.get("body", b""))
                if seen > limits.body_bytes:
                    raise _too_large(limits)
            return message

        async def sent(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self._app(scope, counted, sent)
        except ApiError as error:
            if begun:
                raise
            await refuse(error, send)


async def refuse(error: ApiError, send: Send) -> None:
    """Answer with an error, outside of FastAPI."""
    body = json.dumps(error.body()).encode()
    headers: list[Any] = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    headers += [(name.lower().encode(), value.encode()) for name, value in error.headers.items()]
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _too_large(limits: Limits) -> ApiError:
    return ApiError(413, "too_large", f"the body has more than {limits.body_bytes} bytes", "body")
