"""A vision model behind an OpenAI-compatible server (vLLM, SGLang, llama.cpp, a cloud): captions and their rewrite.

One POST a caption, stateless. The server is not trusted: how long it may take, how much it may say and how often it is
asked again are bounded, it cannot send us elsewhere, and what it says in an error is shown as one short line.
"""

from __future__ import annotations

import base64
import json
import os
import random
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import cv2
import httpx
import numpy as np
from jaxtyping import UInt8
from numpy import ndarray

from pipelines.captions.bounded_http import (
    Answer,
    TooLargeError,
    check_base_url,
    client,
    exchange,
    one_line,
    reason,
    short,
)
from pipelines.captions.captioners import CaptionError
from pipelines.errors import UserError

API_KEY_VARIABLE = "LONGVIE_CAPTION_API_KEY"

# The paper captions segments with Qwen2.5-VL-7B and does not publish its instruction; this one is ours.
CAPTION_INSTRUCTION = (
    "These frames were taken evenly, in order, from one short video clip. Write the caption of the clip as one "
    "paragraph of 60 to 100 English words for a text-to-video model. Say who or what is seen and how it looks, what "
    "happens from the first frame to the last, the place, the light, the style, and how the camera moves. State only "
    "what is visible. Do not mention frames, images, clips or videos. Answer with the caption only."
)
# P1 §2.3: for an edited first frame, a language model rewrites the caption by comparing it with the original.
REWRITE_INSTRUCTION = (
    "The first image is the original first frame of a video, the second is an edited version of it. The video will be "
    "made again from the edited frame, with the same motion. Compare the two images and rewrite the caption of the "
    "original video so that it describes the edited one: change what the edit changed (subjects, appearance, place, "
    "weather, light, style) and keep everything else, above all the actions and the camera's movement, word for word. "
    "Answer with the rewritten caption only.\n\nCaption of the original video: {caption}"
)

NUM_FRAMES = 6  # shown of a segment; 81 frames at 16 fps are five seconds
MAX_SIDE = 768  # pixels; Qwen2.5-VL spends one token on 28x28 of them
JPEG_QUALITY = 90
MAX_TOKENS = 300  # 100 words are about 140 tokens; Wan's text encoder reads 512
MAX_ATTEMPTS = 5
FIRST_WAIT, MAX_WAIT = 1.0, 60.0  # seconds between attempts: doubled each time, or what Retry-After says
_CHECK_SECONDS = 5.0
_TRY_AGAIN = (408, 429)  # and every 5xx
_WHOLE_SENTENCES = re.compile(r".*(?:[.!?](?=\s|$)|[\u3002\uff01\uff1f])")  # the latter: CJK full stops


@dataclass(frozen=True, kw_only=True)
class CaptionEndpoint:
    """A `Captioner` that asks a vision model, at temperature 0 and with a fixed seed.

    Args:
        url: the API's base, as in `http://localhost:8000/v1`.
        model: the name the server knows it by.
        instruction: what it is told beside the frames.
        num_frames: how many of a segment's frames it is shown, evenly spaced, the first and the last among them.
        timeout: seconds that one request may take in all.
        api_key: sent as bearer token; see `from_environment`. Never shown, and no part of the identity.
        sleep: waits between attempts.
    """

    url: str
    model: str
    instruction: str = CAPTION_INSTRUCTION
    num_frames: int = NUM_FRAMES
    max_tokens: int = MAX_TOKENS
    seed: int = 0
    timeout: float = 120.0
    max_attempts: int = MAX_ATTEMPTS
    api_key: str | None = field(default=None, repr=False)
    sleep: Callable[[float], None] = field(default=time.sleep, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_base_url(self.url, "--captioner", API_KEY_VARIABLE)
        if not self.model.strip():
            raise UserError(
                f"--captioner {self.url} needs --caption-model NAME, the name the server knows its model by"
            )
        for name, value in (
            ("num_frames", self.num_frames),
            ("max_tokens", self.max_tokens),
            ("max_attempts", self.max_attempts),
        ):
            if value < 1:
                raise UserError(f"captions: {name} is {value}; give 1 or more")
        if not self.timeout > 0:
            raise UserError(f"captions: timeout is {self.timeout}; give seconds, more than 0")
        if self.api_key is not None and not (self.api_key.isascii() and self.api_key.isprintable() and self.api_key):
            raise UserError(
                f"{API_KEY_VARIABLE} is not a key: it is empty or holds characters no HTTP header can carry"
            )

    @staticmethod
    def from_environment(url: str, model: str, **settings: Any) -> CaptionEndpoint:
        """An endpoint with the key of LONGVIE_CAPTION_API_KEY, if that is set and not empty."""
        return CaptionEndpoint(url=url, model=model, api_key=os.environ.get(API_KEY_VARIABLE) or None, **settings)

    @property
    def identity(self) -> str:
        """What is asked of which model. Not where it runs: a server that moved writes the same captions."""
        asked = [self.model, self.instruction, self.num_frames, self.max_tokens, self.seed, MAX_SIDE, JPEG_QUALITY]
        return json.dumps(["endpoint", *asked])

    def check(self) -> None:
        """Raise `UserError` where it is plain, before any work, that the server will caption nothing."""
        try:
            with client(min(self.timeout, _CHECK_SECONDS), self.api_key) as opened:
                answer = exchange(opened, opened.build_request("GET", self._url("models")), _CHECK_SECONDS)
        except TooLargeError:
            return  # a list we do not read says nothing against the model
        except httpx.TransportError as error:
            raise UserError(f"--captioner {self.url} cannot be reached ({reason(error)}); is the server up?") from error
        if answer.status in (401, 403):
            raise UserError(f"--captioner {self.url} {self._refused(answer.status)}")
        if answer.status != 200:
            return  # not every server lists its models
        try:
            served = [str(entry["id"]) for entry in json.loads(answer.body)["data"]]
        except (ValueError, KeyError, TypeError, RecursionError):
            return
        if served and self.model not in served:
            names = short(", ".join(served))
            raise UserError(f"--caption-model {self.model} is not served by {self.url}; it serves {names}")

    def __call__(self, frames: UInt8[ndarray, "t h w 3"], index: int, video_id: str) -> str:
        """The caption of a segment, one line."""
        if not len(frames):
            raise CaptionError(f"{video_id} segment {index} has no frames to caption")
        chosen = np.unique(np.linspace(0, len(frames) - 1, self.num_frames).round().astype(int))
        images = [frames[i] for i in chosen]
        return self._ask([*map(_image_part, images), _text_part(self.instruction)], f"{video_id}/{index}")

    def rewrite(self, caption: str, original: UInt8[ndarray, "h w 3"], edited: UInt8[ndarray, "h w 3"]) -> str:
        """The caption as it holds for an edited first frame: changed where the edit changed what is seen (P1 §2.3).

        Args:
            caption: of the original segment.
            original, edited: the first frame before and after the edit, RGB 0..255; sizes may differ.
        """
        instruction = REWRITE_INSTRUCTION.format(caption=caption)
        return self._ask([_image_part(original), _image_part(edited), _text_part(instruction)], caption)

    def _ask(self, content: Sequence[Mapping[str, Any]], where: str) -> str:
        """One answer, in as many attempts as it takes. `where` seeds the waits, so that workers spread."""
        body = {
            "model": self.model,
            "messages": [{"role": "user", "content": list(content)}],
            "temperature": 0,
            "seed": self.seed,
            "max_tokens": self.max_tokens,
        }
        jitter = random.Random(where)
        failure = ""
        with client(self.timeout, self.api_key) as opened:
            for attempt in range(self.max_attempts):
                wait = min(MAX_WAIT, FIRST_WAIT * 2**attempt) * (0.5 + 0.5 * jitter.random())
                try:
                    request = opened.build_request("POST", self._url("chat/completions"), json=body)
                    answer = exchange(opened, request, self.timeout)
                except httpx.TransportError as error:
                    failure = (
                        f"cannot be reached ({reason(error)}); is the server up, and is {self.timeout:g} s enough?"
                    )
                except TooLargeError as error:
                    raise CaptionError(f"{self.url}: {error}; is it a chat completions API?") from error
                else:
                    if answer.status == 200:
                        return self._caption(answer)
                    failure = self._complaint(answer)
                    if answer.status not in _TRY_AGAIN and answer.status < 500:
                        raise CaptionError(f"{self.url} {failure}")
                    asked = answer.retry_after
                    if asked is not None and asked > MAX_WAIT:
                        raise CaptionError(f"{self.url} {failure} (it asks to wait {asked:.0f} s, longer than we do)")
                    wait = wait if asked is None else asked
                if attempt + 1 < self.max_attempts:
                    self.sleep(wait)
        raise CaptionError(f"{self.url} {failure} ({self.max_attempts} attempts)")

    def _caption(self, answer: Answer) -> str:
        """The text of a chat completion, in one line; of one that was cut off, its whole sentences."""
        try:
            choice = json.loads(answer.body)["choices"][0]
            text, finished = choice["message"]["content"], choice.get("finish_reason")
        except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError) as error:
            said = self._without_key(answer.said)
            raise CaptionError(f"{self.url} did not answer with a chat completion, but: {said}") from error
        text = one_line(text) if isinstance(text, str) else ""
        if not text:
            raise CaptionError(f"{self.url}: {self.model} answered with no text; is it a chat model that takes images?")
        if finished != "length":
            return text
        whole = _WHOLE_SENTENCES.match(text)
        if whole is None:
            raise CaptionError(
                f"{self.url}: {self.model} was cut off after {self.max_tokens} tokens without ending a sentence; "
                "give it an instruction to be brief, or more tokens"
            )
        return whole[0]

    def _complaint(self, answer: Answer) -> str:
        status = answer.status
        if 300 <= status < 400:
            return f"redirects ({status}) to {short(answer.headers.get('Location', 'nowhere'))}; give the API's own URL"
        if status in (401, 403):
            return self._refused(status)
        remedy = {
            400: "does the model take images, and so many of them?",
            404: f"does the URL end as the API's base does (/v1), and is {self.model} the model's name there?",
            413: "show it fewer frames",
            429: "it is too busy: run again later, or with fewer workers",
        }.get(status, "see the server's log")
        return f"answers {status} ({self._without_key(answer.said) or 'no explanation'}); {remedy}"

    def _refused(self, status: int) -> str:
        sent = "the key in" if self.api_key else "a request without a key; set"
        return f"refuses ({status}) {sent} {API_KEY_VARIABLE}"

    def _url(self, path: str) -> str:
        return f"{self.url.rstrip('/')}/{path}"

    def _without_key(self, said: str) -> str:
        """What a server said, without our key, should it repeat it."""
        return said.replace(self.api_key, "***") if self.api_key else said


def _image_part(image: UInt8[ndarray, "h w 3"]) -> dict[str, Any]:
    """An image as the API takes it: a data URI of a JPEG with no side above `MAX_SIDE`."""
    scale = MAX_SIDE / max(image.shape[:2])
    if scale < 1:
        size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    done, data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    if not done:
        raise ValueError(f"an image of shape {image.shape} cannot be written as JPEG")
    return {
        "type": "image_url",
        "image_url": {"url": f"data:image/jpeg;base64,{base64.b64encode(data.tobytes()).decode()}"},
    }


def _text_part(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}
