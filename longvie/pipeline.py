"""`LongViePipeline`: a diffusers pipeline that makes one segment.

It knows one segment only: what came before arrives as `history`, what stays the same as `latents` (the unified noise).
The loop over segments is in long_video.py. Offload, LoRA, attention backends and step caches are diffusers' own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from diffusers import AutoencoderKLWan, DiffusionPipeline, FlowMatchEulerDiscreteScheduler, WanImageToVideoPipeline
from diffusers.loaders import WanLoraLoaderMixin
from diffusers.utils import BaseOutput
from diffusers.video_processor import VideoProcessor
from PIL import Image as PILImage
from torch import Tensor
from torchvision.transforms.functional import pil_to_tensor
from transformers import CLIPImageProcessor, CLIPVisionModel, PreTrainedTokenizerBase, UMT5EncoderModel

from longvie import conditioning, sampling
from longvie.config import GenerationConfig, check_size
from longvie.models.block_vae import BlockVAE
from longvie.models.transformer import LongVieTransformer3DModel, Scale
from longvie.types import Frames, Image


@dataclass
class LongViePipelineOutput(BaseOutput):
    """`frames`: uint8 (t, h, w, 3) for output_type "uint8"; else as diffusers gives them; latents for "latent"."""

    frames: Any


@dataclass(frozen=True, kw_only=True)
class Condition:
    """Everything one segment is conditioned on, as the transformer takes it; built once, used at every step."""

    image: Tensor  # (1, m + z, F, H, W)
    dense: Tensor | None  # (1, 2z + m, F, H, W)
    sparse: Tensor | None
    history: Tensor | None  # (1, z, FH, H, W)
    prompt: Tensor  # (1, L, text_dim)
    negative_prompt: Tensor | None  # only with guidance
    image_tokens: Tensor | None  # (1, 257, image_dim), only with an image encoder


class LongViePipeline(DiffusionPipeline, WanLoraLoaderMixin):
    """Makes one segment from a first frame, a prompt, dense and sparse control, and the frames before it.

    Args, beyond the components of diffusers' Wan pipelines (`image_encoder` and `image_processor` are optional):
        segment_length: frames of a segment, 1 + a multiple of the VAE's temporal factor (LongVie 2: 81).
        num_history_frames: how many frames of the segment before are seen (released code: 8).
        fps: frames a second of the videos the model was trained on (LongVie 2: 16).
        height, width, num_inference_steps, guidance_scale: the model's defaults (released code: 50 steps, 5.0).
        max_sequence_length: text tokens; models with an image encoder need 512.
        keeps_first_frame: whether latent frame 0 of a result is the given first frame's own, as in Wan2.2's 5B model,
            and not what was denoised (Wan2.1, the release). What is decoded then goes on from just what was given: a
            model that mends its own faults in frame 0 would jump at each seam.
    """

    model_cpu_offload_seq = "text_encoder->image_encoder->transformer->vae"
    _callback_tensor_inputs = ["latents"]  # noqa: RUF012  diffusers' own form
    _optional_components = ["image_encoder", "image_processor"]  # noqa: RUF012

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        text_encoder: UMT5EncoderModel,
        vae: AutoencoderKLWan | BlockVAE,
        transformer: LongVieTransformer3DModel,
        scheduler: FlowMatchEulerDiscreteScheduler,
        image_encoder: CLIPVisionModel | None = None,
        image_processor: CLIPImageProcessor | None = None,
        segment_length: int = 81,
        num_history_frames: int = 8,
        fps: int = 16,
        height: int = 352,
        width: int = 640,
        num_inference_steps: int = 50,
        guidance_scale: float = 5.0,
        max_sequence_length: int = 512,
        keeps_first_frame: bool = False,
    ) -> None:
        super().__init__()
        self.register_modules(
            tokenizer=tokenizer,
            text_encoder=text_encoder,
            vae=vae,
            transformer=transformer,
            scheduler=scheduler,
            image_encoder=image_encoder,
            image_processor=image_processor,
        )
        temporal = vae.config["scale_factor_temporal"]
        if segment_length < 2 or segment_length % temporal != 1:
            raise ValueError(f"segment_length is {segment_length}; take 1 + a multiple of {temporal}")
        self.register_to_config(
            segment_length=segment_length,
            num_history_frames=num_history_frames,
            fps=fps,
            height=height,
            width=width,
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            max_sequence_length=max_sequence_length,
            keeps_first_frame=keeps_first_frame,
        )
        self.video_processor = VideoProcessor(vae_scale_factor=vae.config["scale_factor_spatial"])
        self._interrupt = False
        self._num_timesteps = 0
        self._current_timestep: Tensor | None = None

    # Text and image encoding are diffusers' own, borrowed from the pipeline for the base model.
    _get_t5_prompt_embeds = WanImageToVideoPipeline._get_t5_prompt_embeds
    encode_prompt = WanImageToVideoPipeline.encode_prompt
    encode_image = WanImageToVideoPipeline.encode_image

    @property
    def segment_length(self) -> int:
        return self.config["segment_length"]

    @property
    def num_history_frames(self) -> int:
        return self.config["num_history_frames"]

    @property
    def fps(self) -> int:
        return self.config["fps"]

    @property
    def size_multiple(self) -> int:
        """Height and width must be multiples of this (Wan: 8 of the VAE times 2 of the patch)."""
        return self.vae.config.scale_factor_spatial * self.transformer.config.patch_size[1]

    @property
    def interrupt(self) -> bool:
        """Set `_interrupt` from a callback to skip the remaining steps, as in every diffusers pipeline."""
        return self._interrupt

    @property
    def num_timesteps(self) -> int:
        return self._num_timesteps

    @property
    def current_timestep(self) -> Tensor | None:
        """The timestep that is being denoised; diffusers' step caches ask for it. None between segments."""
        return self._current_timestep

    def noise_shape(self, num_frames: int, height: int, width: int) -> tuple[int, int, int, int, int]:
        """The shape of the starting noise of one segment, (1, z, F, H, W)."""
        spatial = self.vae.config.scale_factor_spatial
        latent_frames = conditioning.num_latent_frames(num_frames, self.vae.config.scale_factor_temporal)
        return (1, self.vae.config.z_dim, latent_frames, height // spatial, width // spatial)

    @torch.no_grad()
    def __call__(
        self,
        image: Image | PILImage.Image,
        prompt: str | None = None,
        negative_prompt: str | None = None,
        dense: Frames | None = None,
        sparse: Frames | None = None,
        history: Frames | None = None,
        num_frames: int | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        dense_scale: Scale = 1.0,
        sparse_scale: Scale = 1.0,
        generator: torch.Generator | None = None,
        latents: Tensor | None = None,
        prompt_embeds: Tensor | None = None,
        negative_prompt_embeds: Tensor | None = None,
        output_type: str = "uint8",
        return_dict: bool = True,
        attention_kwargs: dict[str, Any] | None = None,
        callback_on_step_end: Callable[[Any, int, Any, dict[str, Any]], dict[str, Any]] | None = None,
        callback_on_step_end_tensor_inputs: list[str] | None = None,
    ) -> LongViePipelineOutput | tuple[Any]:
        """Make one segment, of the size of `image`.

        Args:
            image: the first frame, uint8 (h, w, 3) or PIL; sides are multiples of `size_multiple`.
            dense, sparse: control frames, uint8 (num_frames, h, w, 3); either may be absent.
            history: the last frames made before this segment, oldest first, uint8 (t, h, w, 3).
            num_frames: of the segment; default: that of the controls, else `segment_length`.
            generator: draws the noise if `latents` is not given; a CPU generator gives the same on every device.
            latents: the starting noise (1, z, F, H, W) float32; its first frame is mixed with the history here.
            output_type: "uint8" (a tensor), "pt", "np", "pil" as in diffusers, or "latent".
            callback_on_step_end: as in diffusers, with `latents` among its tensors.
        """
        first = pil_to_tensor(image.convert("RGB")).permute(1, 2, 0) if isinstance(image, PILImage.Image) else image
        height, width = first.shape[:2]
        num_frames = num_frames or next((len(c) for c in (dense, sparse) if c is not None), self.segment_length)
        config = GenerationConfig.for_pipeline(
            self.config,
            height=height,
            width=width,
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
        )
        self._check(first, dense, sparse, history, num_frames, callback_on_step_end_tensor_inputs)
        self._guidance_scale = config.guidance_scale
        self._interrupt = False
        self.transformer._reset_stateful_cache()  # a step cache must not leak from the segment before
        try:
            condition = self.build_condition(
                first,
                prompt,
                negative_prompt,
                dense,
                sparse,
                history,
                num_frames,
                prompt_embeds,
                negative_prompt_embeds,
            )
            if latents is None:
                shape = self.noise_shape(num_frames, height, width)
                latents = torch.randn(shape, generator=generator, dtype=torch.float32)
            latents = self._denoise(
                condition,
                latents,
                config.num_inference_steps,
                dense_scale,
                sparse_scale,
                attention_kwargs,
                callback_on_step_end,
                callback_on_step_end_tensor_inputs or ["latents"],
            )
            frames = self._decode(latents, output_type)
        finally:
            self._current_timestep = None
            self.maybe_free_model_hooks()
        return LongViePipelineOutput(frames=frames) if return_dict else (frames,)

    def build_condition(
        self,
        first: Image,
        prompt: str | None,
        negative_prompt: str | None,
        dense: Frames | None,
        sparse: Frames | None,
        history: Frames | None,
        num_frames: int,
        prompt_embeds: Tensor | None = None,
        negative_prompt_embeds: Tensor | None = None,
    ) -> Condition:
        """All a segment is conditioned on, from frames and text; see conditioning.py for the layouts."""
        device, dtype = self._execution_device, self.transformer.dtype
        embeds, negative_embeds = self.encode_prompt(
            prompt=cast(str, prompt),  # None where embeddings are given
            negative_prompt=negative_prompt or "",
            do_classifier_free_guidance=self.do_classifier_free_guidance,
            prompt_embeds=prompt_embeds,
            negative_prompt_embeds=negative_prompt_embeds,
            max_sequence_length=self.config["max_sequence_length"],
            device=device,
        )
        image_tokens = None
        if self.transformer.config.image_dim is not None:
            pil = PILImage.fromarray(first.cpu().numpy())
            image_tokens = self.encode_image(pil, device).to(dtype)

        def control(frames: Frames | None) -> Tensor | None:
            return None if frames is None else conditioning.control_states(self.vae, frames.to(device)).to(dtype)

        past = None if history is None else conditioning.history_states(self.vae, history.to(device))
        return Condition(
            image=conditioning.image_states(self.vae, first.to(device), num_frames),
            dense=control(dense),
            sparse=control(sparse),
            history=past,
            prompt=embeds.to(dtype),
            negative_prompt=None if negative_embeds is None else negative_embeds.to(dtype),
            image_tokens=image_tokens,
        )

    @property
    def do_classifier_free_guidance(self) -> bool:
        return self._guidance_scale > 1

    def _denoise(
        self,
        condition: Condition,
        noise: Tensor,
        num_steps: int,
        dense_scale: Scale,
        sparse_scale: Scale,
        attention_kwargs: dict[str, Any] | None,
        callback: Callable[[Any, int, Any, dict[str, Any]], dict[str, Any]] | None,
        callback_tensors: list[str],
    ) -> Tensor:
        device, dtype = self._execution_device, self.transformer.dtype
        self.scheduler.set_timesteps(sigmas=sampling.unshifted_sigmas(num_steps), device=device)
        timesteps = self.scheduler.timesteps
        self._num_timesteps = len(timesteps)
        latents = sampling.start_latents(noise.to(device), condition.history)
        history = None if condition.history is None else condition.history.to(dtype)

        def predict(name: str, text: Tensor, step: int) -> Tensor:
            timestep, sigma = timesteps[step], self.scheduler.sigmas[step].item()
            with self.transformer.cache_context(name, step_index=step, num_inference_steps=num_steps, sigma=sigma):
                (velocity,) = self.transformer(
                    hidden_states=torch.cat([latents, condition.image], dim=1).to(dtype),
                    timestep=sampling.model_timestep(timestep, dtype).expand(1),
                    encoder_hidden_states=text,
                    encoder_hidden_states_image=condition.image_tokens,
                    dense_states=condition.dense,
                    sparse_states=condition.sparse,
                    history_states=history,
                    dense_scale=dense_scale,
                    sparse_scale=sparse_scale,
                    attention_kwargs=attention_kwargs,
                    return_dict=False,
                )
            return velocity.float()

        with cast(Any, self.progress_bar)(total=num_steps) as progress_bar:
            for step, timestep in enumerate(timesteps):
                if self.interrupt:
                    continue
                self._current_timestep = timestep
                velocity = predict("cond", condition.prompt, step)
                if condition.negative_prompt is not None:
                    negative = predict("uncond", condition.negative_prompt, step)
                    velocity = sampling.guide(velocity, negative, self._guidance_scale)
                (latents,) = self.scheduler.step(velocity, timestep, latents, return_dict=False)
                if callback is not None:
                    tensors = {"latents": latents} if "latents" in callback_tensors else {}
                    latents = callback(self, step, timestep, tensors).pop("latents", latents)
                progress_bar.update()
        if self.config["keeps_first_frame"]:
            latents = conditioning.with_first_latent(latents, condition.image[:, -latents.shape[1] :])
        return latents

    def _decode(self, latents: Tensor, output_type: str) -> Any:
        if output_type == "latent":
            return latents
        pixels = conditioning.decode(self.vae, latents)
        if output_type == "uint8":
            return conditioning.to_frames(pixels)
        return self.video_processor.postprocess_video(pixels, output_type=output_type)

    def _check(
        self,
        first: Image,
        dense: Frames | None,
        sparse: Frames | None,
        history: Frames | None,
        num_frames: int,
        callback_tensors: list[str] | None,
    ) -> None:
        height, width = first.shape[:2]
        check_size(height, width, self.size_multiple)
        temporal = self.vae.config.scale_factor_temporal
        if num_frames < 1 or num_frames % temporal != 1:
            raise ValueError(f"num_frames is {num_frames}; a segment has 1 + a multiple of {temporal} frames")
        for name, frames, length in (
            ("dense", dense, num_frames),
            ("sparse", sparse, num_frames),
            ("history", history, None),
        ):
            if frames is None:
                continue
            if frames.dtype != torch.uint8 or frames.ndim != 4 or frames.shape[1:] != (height, width, 3):
                raise ValueError(
                    f"{name} is {frames.dtype} {tuple(frames.shape)}; give uint8 (t, {height}, {width}, 3) as the image"
                )
            if length is not None and len(frames) != length:
                raise ValueError(f"{name} has {len(frames)} frames; the segment has {length}")
        unknown = set(callback_tensors or ()) - set(self._callback_tensor_inputs)
        if unknown:
            raise ValueError(f"callback_on_step_end_tensor_inputs {sorted(unknown)}: only latents can be asked for")
