"""The HTTP API: routes over the door (admission.py) and the store. docs/serve.md is its description for people."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, FastAPI, Header, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import JSONResponse, PlainTextResponse
from sqlalchemy.exc import OperationalError
from starlette.exceptions import HTTPException
from starlette.responses import Response

import longvie
from pipelines.errors import storage_errors
from serve import schemas
from serve.bodies import read_extension, read_request, validation_error
from serve.derived import extend, remix
from serve.errors import ApiError, not_found
from serve.guard import Guard
from serve.metrics import CONTENT_TYPE, exposition
from serve.page import add_page
from serve.playing import playing
from serve.rooms import OwnerOf, Rooms, RoomsOf, owner_of, rooms_of, said
from serve.settings import ServeSettings
from serve.store import Busy, JobStore
from serve.uploads import NotAtOnce

_CREATE = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": {"$ref": "#/components/schemas/VideoRequest"}},
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "description": "The fields of VideoRequest as text (segments and controls as JSON), and files.",
                    "properties": {
                        "prompt": {"type": "string"},
                        "seconds": {"type": "string"},
                        "size": {"type": "string"},
                        "segments": {"type": "string", "description": "JSON: a list of objects with a prompt."},
                        **{
                            name: {"type": "string", "format": "binary"}
                            for name in ("first_frame", "input_reference", "source", "dense", "sparse")
                        },
                    },
                }
            },
        },
    }
}


Key = Annotated[str | None, Header(alias="Idempotency-Key", min_length=1, max_length=255)]
videos = APIRouter(prefix="/v1/videos", tags=["videos"])
service = APIRouter(tags=["service"])


@videos.post("", response_model=schemas.Video, responses=said(400, 401, 409, 413, 415, 422, 429), openapi_extra=_CREATE)
async def create_video(request: Request, key: Key = None) -> Response:
    """Ask for a video. It is recorded before this answers; the same Idempotency-Key makes it once."""
    owner, rooms = owner_of(request), rooms_of(request)
    asked, fill = await read_request(request)
    door = rooms.admission
    try:
        job = await door.create_at_once(asked, owner, key, fill)  # quicker than a thread, for what is small
    except (NotAtOnce, Busy):
        job = await run_in_threadpool(door.create, asked, owner, key, fill)
    finally:
        await request.close()
    return rooms.answer(job)


@videos.post(
    "/extensions",
    response_model=schemas.Video,
    responses=said(400, 401, 404, 409, 413, 422, 429),
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {"schema": {"$ref": "#/components/schemas/ExtensionRequest"}},
                "multipart/form-data": {
                    "schema": {
                        "type": "object",
                        "description": "The fields of ExtensionRequest as text, and the video as a file.",
                        "properties": {
                            "video": {"type": "string", "format": "binary"},
                            "video[id]": {"type": "string"},
                            "prompt": {"type": "string"},
                            "seconds": {"type": "string"},
                        },
                    }
                },
            },
        }
    },
)
async def extend_video(request: Request, owner: OwnerOf, rooms: RoomsOf, key: Key = None) -> Response:
    """Continue a finished video, or one that is uploaded, from its last frame and history; the new one holds both."""
    asked, fill = await read_extension(request)
    try:
        return rooms.answer(await run_in_threadpool(extend, rooms.admission, asked, owner, key, fill))
    finally:
        await request.close()


@videos.get("", response_model=schemas.VideoList, responses=said(401, 404, 422))
def list_videos(
    owner: OwnerOf,
    rooms: RoomsOf,
    after: Annotated[str | None, Query(max_length=64, description="The last id of the page before.")] = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    order: Literal["asc", "desc"] = "desc",
) -> schemas.VideoList:
    """Your videos, the newest first."""
    try:
        jobs = rooms.store.list(owner.name, after=after, limit=limit + 1, newest_first=order == "desc")
    except KeyError as error:
        raise not_found(str(after)) from error
    data = [rooms.video(job) for job in jobs[:limit]]
    return schemas.VideoList(
        data=data,
        first_id=data[0].id if data else None,
        last_id=data[-1].id if data else None,
        has_more=len(jobs) > limit,
    )


@videos.get("/{video_id}", response_model=schemas.Video, responses=said(401, 404))
async def get_video(video_id: str, request: Request) -> Response:
    """A video and how far it is. What it says exists, exists."""
    rooms = rooms_of(request)
    return rooms.answer(await rooms.found(video_id, owner_of(request)))


@videos.delete("/{video_id}", response_model=schemas.Deleted, responses=said(401, 404))
def delete_video(video_id: str, owner: OwnerOf, rooms: RoomsOf) -> schemas.Deleted:
    """Delete a video, what was uploaded for it and all that is known of it; work at it stops."""
    if not rooms.store.delete(video_id, owner.name):
        raise not_found(video_id)
    return schemas.Deleted(id=video_id)


@videos.post("/{video_id}/cancel", response_model=schemas.Video, responses=said(401, 404))
def cancel_video(video_id: str, owner: OwnerOf, rooms: RoomsOf) -> schemas.Video:
    """Stop a video within one denoising step. It ends as failed, with the error code `cancelled`."""
    job = rooms.store.cancel(video_id, owner.name)
    if job is None:
        raise not_found(video_id)
    return rooms.video(job)


@videos.post("/{video_id}/remix", response_model=schemas.Video, responses=said(400, 401, 404, 409, 422, 429))
def remix_video(
    video_id: str, asked: schemas.RemixRequest, owner: OwnerOf, rooms: RoomsOf, key: Key = None
) -> schemas.Video:
    """Make a video anew from one of its segments on; the new one keeps what was before, to the byte."""
    return rooms.video(remix(rooms.admission, video_id, asked, owner, key))


@service.get("/v1/models", response_model=schemas.ModelList, responses=said(401))
def list_models(rooms: RoomsOf) -> schemas.ModelList:
    """The server's model, with its defaults."""
    card = rooms.settings.card
    model = schemas.Model(
        id=card.name,
        width=card.width,
        height=card.height,
        fps=card.fps,
        segment_length=card.segment_length,
        steps=card.num_inference_steps,
        guidance_scale=card.guidance_scale,
        size_multiple=card.size_multiple,
    )
    return schemas.ModelList(data=[model])


@service.get("/healthz", response_class=PlainTextResponse)
def healthz() -> str:
    """This process answers."""
    return "ok\n"


@service.get("/readyz", response_class=PlainTextResponse, responses=said(503))
def readyz(rooms: RoomsOf) -> str:
    """The store answers, and an engine has its model loaded."""
    if not rooms.store.num_workers(rooms.settings.boot, rooms.settings.lease_seconds):
        raise ApiError(503, "not_ready", "no engine has its model loaded yet", headers={"Retry-After": "2"})
    return "ready\n"


@service.get("/metrics", response_class=PlainTextResponse, responses=said(401))
def metrics(rooms: RoomsOf) -> Response:
    """For Prometheus."""
    settings = rooms.settings
    engines = rooms.store.num_workers(settings.boot, settings.lease_seconds)
    return Response(exposition(rooms.store, engines), media_type=CONTENT_TYPE)


def build_api(settings: ServeSettings, store: JobStore | None = None) -> FastAPI:
    """The application, over a store of its own if none is given."""
    app = FastAPI(
        title="LongVie",
        version=longvie.__version__,
        description="Long videos from controls, made segment by segment, watched while they are made.",
        docs_url=None,  # its pages load scripts from elsewhere
        redoc_url=None,
        openapi_tags=[{"name": "videos"}, {"name": "service"}],
    )
    app.state.rooms = Rooms(settings, store or JobStore(settings.database_url, settings.retention_seconds))
    app.include_router(videos)
    app.include_router(playing)
    app.include_router(service)
    _describe(app, bool(settings.owners))
    app.add_exception_handler(ApiError, _answer)
    app.add_exception_handler(RequestValidationError, _answer_validation)
    app.add_exception_handler(HTTPException, _answer_http)
    for kind in (OperationalError, *storage_errors()):
        app.add_exception_handler(kind, _answer_unavailable)
    app.add_middleware(Guard, settings=settings)
    if settings.origins:
        app.add_middleware(
            CORSMiddleware, allow_origins=list(settings.origins), allow_methods=["*"], allow_headers=["*"]
        )
    add_page(app)
    return app


def _describe(app: FastAPI, tokens: bool) -> None:
    """Add what FastAPI cannot see to the OpenAPI document: bodies read by hand, and the token."""
    made = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = made()
            components = document["components"]
            for model in (schemas.VideoRequest, schemas.ExtensionRequest):
                schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
                components["schemas"].update(schema.pop("$defs", {}))
                components["schemas"][model.__name__] = schema
            if tokens:
                components["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
                document["security"] = [{"token": []}]
        return app.openapi_schema or {}

    app.openapi = openapi  # type: ignore[method-assign]


def _json(error: ApiError) -> JSONResponse:
    return JSONResponse(error.body(), error.status, error.headers)


async def _answer(_: Request, error: Any) -> JSONResponse:
    return _json(error)


async def _answer_validation(_: Request, error: Any) -> JSONResponse:
    return _json(validation_error(error.errors()))


async def _answer_http(_: Request, error: Any) -> JSONResponse:
    code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "http_error")
    return _json(ApiError(error.status_code, code, str(error.detail), headers=error.headers))


async def _answer_unavailable(_: Request, error: Any) -> JSONResponse:
    return _json(ApiError(503, "unavailable", "the store does not answer; try again", headers={"Retry-After": "5"}))
