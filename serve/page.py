"""The web page: static files, the sample, and what the browser may load for them."""

from __future__ import annotations

from pathlib import Path

from fastapi import FastAPI
from fastapi.responses import FileResponse
from fastapi.staticfiles import StaticFiles
from starlette.responses import Response
from starlette.types import Scope

from serve.uploads import SAMPLE

WEB = Path(__file__).parent / "web"
# nothing from elsewhere and no inline script; players and pictures are fed from blobs, as tokens go in headers
_POLICY = (
    "default-src 'self'; img-src 'self' blob:; media-src 'self' blob:; object-src 'none'; base-uri 'none'; "
    "form-action 'self'; frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",  # asked again with its ETag: a new version is seen at once
}


class _Files(StaticFiles):
    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        response.headers.update(_HEADERS)
        return response


def add_page(app: FastAPI) -> None:
    """The page at `/`, its files and the sample under `/static`; they hold no data, so no token is asked for."""

    def page() -> FileResponse:
        return FileResponse(WEB / "index.html", headers=_HEADERS)

    def sample() -> FileResponse:
        return FileResponse(SAMPLE, media_type="video/mp4", headers=_HEADERS)

    app.get("/", include_in_schema=False)(page)
    if SAMPLE.is_file():
        app.get("/static/sample.mp4", include_in_schema=False)(sample)
    app.mount("/static", _Files(directory=WEB), name="static")
