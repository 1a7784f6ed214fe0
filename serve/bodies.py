"""Bodies that make a video, JSON or multipart with files, as one request and what fills its uploads."""

from __future__ import annotations

import json
from functools import partial
from typing import Any, TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException

from serve.admission import Fill
from serve.errors import ApiError, invalid
from serve.schemas import ExtensionRequest, VideoRequest
from serve.uploads import Uploads

# fields of a multipart body that hold files, and which upload each is; to OpenAI, the first frame is a reference
_FILES = {
    "first_frame": "first_frame",
    "input_reference": "first_frame",
    "dense": "dense",
    "sparse": "sparse",
    "source": "source",
    "controls.dense": "dense",
    "controls.sparse": "sparse",
    "controls.source": "source",
    "controls[dense]": "dense",
    "controls[sparse]": "sparse",
    "controls[source]": "source",
}
_STRUCTURED = ("segments", "controls")  # JSON in a text field
Model = TypeVar("Model", bound=BaseModel)
_MAX_FIELDS = 100
_MAX_FIELD_BYTES = 4 << 20


async def read_request(request: Request) -> tuple[VideoRequest, Fill]:
    """The request in a body, whatever its form, and what puts its files into uploads."""
    kind = request.headers.get("content-type", "").split(";", 1)[0].strip().lower()
    if kind in ("multipart/form-data", "application/x-www-form-urlencoded"):
        return _from_form(await _form(request, max_files=len(_FILES)))
    if kind not in ("application/json", ""):
        raise ApiError(415, "unsupported_media_type", "give application/json or multipart/form-data", "Content-Type")
    return parse(VideoRequest, await read_json(request)), lambda uploads: None


async def read_extension(request: Request) -> tuple[ExtensionRequest, Fill | None]:
    """The request in a body, and what puts the uploaded video into uploads, if there is one."""
    kind = request.headers.get("content-type", "").split(";", 1)[0].strip().lower()
    if kind != "multipart/form-data":
        return parse(ExtensionRequest, await read_json(request)), None
    form = await _form(request, max_files=1)
    fields: dict[str, Any] = {}
    fill = None
    for name, value in form.multi_items():
        if isinstance(value, UploadFile):
            if name != "video":
                raise invalid(name[:64], f"{name[:64]} is no field for a file; known is video")
            fill = partial(_add_clip, value)
        else:
            fields["video" if name == "video[id]" else name] = _structured(name, value) if name == "segments" else value
    return parse(ExtensionRequest, fields), fill


def _add_clip(file: UploadFile, uploads: Uploads) -> None:
    uploads.add_file("clip", "video", file.file)


async def _form(request: Request, max_files: int) -> FormData:
    try:
        return await request.form(max_files=max_files, max_fields=_MAX_FIELDS, max_part_size=_MAX_FIELD_BYTES)
    except (MultiPartException, HTTPException, ValueError, KeyError) as error:
        detail = getattr(error, "detail", None) or getattr(error, "message", None) or "it cannot be read"
        raise ApiError(400, "invalid_body", f"the multipart body is not valid: {detail}", "body") from error


def _structured(name: str, value: str) -> Any:
    try:
        return json.loads(value, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise invalid(name, f"{name} is not JSON; in a multipart body it is written as JSON text") from error


async def read_json(request: Request) -> Any:
    try:
        return json.loads(await request.body(), parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise ApiError(400, "invalid_body", "the body is not valid JSON", "body") from error


def parse(model: type[Model], content: Any) -> Model:
    """A validated body; 422 naming the first field that is wrong."""
    try:
        return model.model_validate(content)
    except ValidationError as error:
        raise validation_error(error.errors()) from error


def validation_error(errors: Any) -> ApiError:
    """pydantic's findings as one of ours."""
    first = errors[0]
    param = ".".join(str(part) for part in first["loc"] if part not in ("body", "query", "path")) or "body"
    return invalid(param, f"{param}: {first['msg']}")


def _from_form(form: FormData) -> tuple[VideoRequest, Fill]:
    fields: dict[str, Any] = {}
    files: list[tuple[str, str, UploadFile]] = []
    for name, value in form.multi_items():
        if isinstance(value, UploadFile):
            if name not in _FILES:
                raise invalid(name[:64], f"{name[:64]} is no field for a file; known are {', '.join(_FILES)}")
            files.append((_FILES[name], name, value))
        elif name in fields:
            raise invalid(name[:64], f"{name[:64]} is given twice")
        elif name in _STRUCTURED:
            fields[name] = _structured(name, value)
        elif name.startswith("controls[") and name.endswith("]"):
            controls = fields.setdefault("controls", {})
            if not isinstance(controls, dict):
                raise invalid("controls", "controls is not an object")
            controls[name[9:-1]] = value
        else:
            fields[name] = value
    asked = parse(VideoRequest, fields)

    def fill(uploads: Uploads) -> None:
        for name, param, file in files:
            uploads.add_file(name, param, file.file)

    return asked, fill


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")
