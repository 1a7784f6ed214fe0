"""What the routes share: settings, store, places and door; whose request it is; and the refusals they document."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Depends, Request
from fastapi.concurrency import run_in_threadpool
from starlette.responses import Response

from serve import schemas
from serve.admission import Admission
from serve.errors import not_found
from serve.places import Places
from serve.settings import Owner, ServeSettings
from serve.store import Job, JobStore

_ERRORS: dict[int | str, dict[str, Any]] = {
    code: {"model": schemas.ErrorBody, "description": text}
    for code, text in {
        400: "The body cannot be read.",
        401: "No valid token.",
        404: "No such video.",
        409: "Not in this state.",
        413: "The body is too large.",
        415: "Another kind of body.",
        416: "No such range.",
        422: "A field cannot be used.",
        429: "The queue is full.",
        503: "Not ready, or the store does not answer.",
    }.items()
}


def said(*codes: int) -> dict[int | str, dict[str, Any]]:
    return {code: _ERRORS[code] for code in codes}


class Rooms:
    """What the routes share."""

    def __init__(self, settings: ServeSettings, store: JobStore) -> None:
        self.settings = settings
        self.store = store
        self.places = Places(settings.home)
        self.admission = Admission(settings, store, self.places)

    def job(self, video_id: str, owner: Owner) -> Job:
        job = self.store.get(video_id, owner.name)
        if job is None:
            raise not_found(video_id)
        return job

    def video(self, job: Job) -> schemas.Video:
        return schemas.video_of(job, self.settings.card.name)

    def answer(self, job: Job) -> Response:
        """A video as a response, which FastAPI takes as it is."""
        return Response(self.video(job).model_dump_json(), media_type="application/json")

    async def found(self, video_id: str, owner: Owner) -> Job:
        """As `job`, for the routes that are polled: a database in a file is read at once, quicker than in a thread."""
        if self.store.local:
            return self.job(video_id, owner)
        return await run_in_threadpool(self.job, video_id, owner)


def owner_of(request: Request) -> Owner:
    return request.scope["state"]["owner"]


def rooms_of(request: Request) -> Rooms:
    return request.app.state.rooms


async def _owner(request: Request) -> Owner:  # async: FastAPI sends others through a thread, at every request
    return owner_of(request)


async def _rooms(request: Request) -> Rooms:
    return rooms_of(request)


# for routes; those that are asked most call the functions themselves, at a tenth of the cost
OwnerOf = Annotated[Owner, Depends(_owner)]
RoomsOf = Annotated[Rooms, Depends(_rooms)]
