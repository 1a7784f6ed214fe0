"""One segment: what goes in, what comes out, and what diffusers' machinery does with it."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    FirstBlockCacheConfig,
    MagCacheConfig,
    PyramidAttentionBroadcastConfig,
    TaylorSeerCacheConfig,
    WanImageToVideoPipeline,
    WanTransformer3DModel,
)
from diffusers.hooks import SeaCacheConfig
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from PIL import Image as PILImage
from safetensors.torch import save_file

from longvie import conditioning
from longvie.models.loading import fingerprint, load_pipeline, read_pipeline_config
from longvie.models.names import release_name
from longvie.models.transformer import LongVieTransformer3DModel
from longvie.pipeline import LongViePipeline
from tests.toy import toy_pipeline


@pytest.fixture
def pipe() -> LongViePipeline:
    return toy_pipeline()


def frames(count: int, seed: int) -> torch.Tensor:
    return torch.randint(0, 256, (count, 32, 48, 3), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def call(pipe: LongViePipeline, **overrides: Any) -> torch.Tensor:
    arguments: dict[str, Any] = {
        "image": frames(1, 0)[0],
        "prompt": "a red ball",
        "dense": frames(9, 1),
        "sparse": frames(9, 2),
        "history": frames(8, 3),
        "generator": torch.Generator().manual_seed(4),
    }
    return pipe(**{**arguments, **overrides}).frames


def test_makes_uint8_frames_of_the_images_size(pipe: LongViePipeline) -> None:
    made = call(pipe)
    assert made.dtype == torch.uint8
    assert made.shape == (9, 32, 48, 3)
    assert torch.equal(made, call(pipe)), "the same call gives the same frames"


@pytest.mark.parametrize(
    "changed", ["prompt", "dense", "sparse", "history", "image", "generator", "dense_scale", "guidance"]
)
def test_everything_given_matters(pipe: LongViePipeline, changed: str) -> None:
    other: dict[str, Any] = {
        "prompt": {"prompt": "night rolls"},
        "dense": {"dense": None},
        "sparse": {"sparse": None},
        "history": {"history": None},
        "image": {"image": frames(1, 9)[0]},
        "generator": {"generator": torch.Generator().manual_seed(5)},
        "dense_scale": {"dense_scale": 0.2},
        "guidance": {"guidance_scale": 3.0, "negative_prompt": "night"},
    }[changed]
    latents = call(pipe, output_type="latent")
    assert not torch.equal(latents, call(pipe, output_type="latent", **other))


def test_output_types(pipe: LongViePipeline) -> None:
    made = call(pipe)
    pil = call(pipe, output_type="pil")[0]
    assert len(pil) == 9
    assert isinstance(pil[0], PILImage.Image)
    assert call(pipe, output_type="np").shape == (1, 9, 32, 48, 3)
    as_uint8 = (call(pipe, output_type="pt")[0].permute(0, 2, 3, 1) * 255).round().to(torch.uint8)
    assert (as_uint8.int() - made.int()).abs().max() <= 1
    assert torch.equal(call(pipe, image=PILImage.fromarray(frames(1, 0)[0].numpy())), made)


def test_a_kept_first_frame_is_the_one_given_and_changes_no_other_latent(pipe: LongViePipeline) -> None:
    made = call(pipe, output_type="latent")
    pipe.register_to_config(keeps_first_frame=True)
    kept = call(pipe, output_type="latent")
    given = conditioning.encode(pipe.vae, conditioning.to_pixels(frames(1, 0)))
    assert (kept[:, :, :1] - given).abs().max() <= 1e-5
    assert not torch.allclose(made[:, :, :1], given, atol=0.1)
    assert torch.equal(kept[:, :, 1:], made[:, :, 1:])


def test_save_and_load(pipe: LongViePipeline, tmp_path: Path) -> None:
    pipe.save_pretrained(tmp_path)
    again = LongViePipeline.from_pretrained(tmp_path)
    again.set_progress_bar_config(disable=True)
    assert isinstance(again.transformer, LongVieTransformer3DModel)
    assert again.config.segment_length == 9
    assert (call(again).int() - call(pipe).int()).abs().max() <= 1  # equal weights, other memory alignment
    loaded = load_pipeline(tmp_path)
    assert torch.equal(call(loaded), call(load_pipeline(tmp_path)))
    assert fingerprint(tmp_path) == fingerprint(tmp_path)


def test_fingerprint_follows_every_file(pipe: LongViePipeline, tmp_path: Path) -> None:
    pipe.save_pretrained(tmp_path)
    seen = {fingerprint(tmp_path)}
    for name in ("scheduler/scheduler_config.json", "transformer/diffusion_pytorch_model.safetensors"):
        with (tmp_path / name).open("ab") as file:
            file.write(b" ")
        seen.add(fingerprint(tmp_path))
    assert len(seen) == 3


def test_config_is_read_without_weights(pipe: LongViePipeline, tmp_path: Path) -> None:
    pipe.save_pretrained(tmp_path)
    for weights in tmp_path.rglob("*.safetensors"):
        weights.unlink()
    config = read_pipeline_config(tmp_path)
    assert (config.segment_length, config.height, config.width, config.fps) == (9, 32, 48, 8)
    assert config.size_multiple == pipe.size_multiple == 16


def test_wans_own_folder_with_released_control(pipe: LongViePipeline, tmp_path: Path) -> None:
    """The base as diffusers publishes it, control.safetensors and dit.safetensors as the authors do."""
    from longvie.models.checkpoints import export_release
    from longvie.models.names import is_control

    plain = {k: v for k, v in pipe.transformer.config.items() if not k.startswith("_") and k != "num_control_layers"}
    base = WanTransformer3DModel(**plain)
    base.load_state_dict({k: v for k, v in pipe.transformer.state_dict().items() if not is_control(k)})
    wan = WanImageToVideoPipeline(
        tokenizer=pipe.tokenizer,
        text_encoder=pipe.text_encoder,
        vae=pipe.vae,
        scheduler=pipe.scheduler,
        transformer=base,
    )
    wan.save_pretrained(tmp_path / "wan")
    export_release(pipe.transformer, tmp_path / "release")
    config = read_pipeline_config(tmp_path / "wan")
    assert (config.segment_length, config.fps, config.num_inference_steps) == (81, 16, 50), "the release's defaults"
    loaded = load_pipeline(
        tmp_path / "wan",
        tmp_path / "release" / "control.safetensors",
        tmp_path / "release" / "dit.safetensors",
        num_control_layers=1,
    )
    loaded.register_to_config(max_sequence_length=8, num_inference_steps=2, guidance_scale=1.0)
    assert (call(loaded).int() - call(pipe).int()).abs().max() <= 1


BASE_LINEARS = r"blocks\.\d+\.(attn[12]\.(to_[qkv]|to_out\.0)|ffn\.net\.(0\.proj|2))"


def lora_donor(target: str | list[str]) -> tuple[LongViePipeline, dict[str, torch.Tensor]]:
    """The toy with a random adapter on some of its linears, and the adapter's weights by diffusers' names."""
    donor = toy_pipeline()
    with torch.random.fork_rng():
        torch.manual_seed(3)
        donor.transformer.add_adapter(LoraConfig(r=2, lora_alpha=2, target_modules=target, init_lora_weights=False))
    return donor, {k.replace(".default", ""): v for k, v in get_peft_model_state_dict(donor.transformer).items()}


def test_lora(pipe: LongViePipeline, tmp_path: Path) -> None:
    """A saved LoRA, control layers among its targets, gives the numbers of the model it was taken from."""
    plain = call(pipe, output_type="latent")
    donor, layers = lora_donor(["to_q", "to_v", "fuse", "dense_proj"])
    assert any("dense_block" in name for name in layers)
    LongViePipeline.save_lora_weights(tmp_path, transformer_lora_layers=layers)
    pipe.load_lora_weights(tmp_path)
    with_lora = call(pipe, output_type="latent")
    assert not torch.allclose(plain, with_lora, atol=1e-3)
    assert torch.allclose(with_lora, call(donor, output_type="latent"), atol=1e-6)
    scaled = call(pipe, output_type="latent", attention_kwargs={"scale": 0.0})
    assert torch.allclose(scaled, plain, atol=1e-5)
    pipe.unload_lora_weights()
    assert torch.allclose(call(pipe, output_type="latent"), plain, atol=1e-6)


def test_lora_as_others_publish_it(pipe: LongViePipeline, tmp_path: Path) -> None:
    """With original Wan names, as LoRAs for the base model are found; fused into the weights it gives the same."""
    donor, layers = lora_donor(BASE_LINEARS)
    expected = call(donor, output_type="latent")

    def published(name: str) -> str:
        layer, _, half = name.rpartition(".lora_")
        return f"diffusion_model.{release_name(f'{layer}.weight').removesuffix('.weight')}.lora_{half}"

    save_file({published(name): tensor.contiguous() for name, tensor in layers.items()}, tmp_path / "wan.safetensors")
    pipe.load_lora_weights(tmp_path, weight_name="wan.safetensors")
    assert torch.allclose(call(pipe, output_type="latent"), expected, atol=1e-6)
    pipe.fuse_lora()
    assert torch.allclose(call(pipe, output_type="latent"), expected, atol=1e-4)


def test_model_offload_wakes_each_part_in_turn(pipe: LongViePipeline) -> None:
    """diffusers' own hooks, here from the CPU to the CPU: no part is used before its hook has brought it."""
    plain = call(pipe, history=None)
    pipe.enable_model_cpu_offload(device="cpu")
    names = {id(part): name for name, part in pipe.components.items()}
    woken: list[str] = []
    for offload in pipe._all_hooks:

        def pre_forward(
            module: torch.nn.Module, *args: Any, original: Any = offload.hook.pre_forward, **kwargs: Any
        ) -> Any:
            woken.append(names[id(module)])
            return original(module, *args, **kwargs)

        offload.hook.pre_forward = pre_forward
    assert torch.equal(call(pipe, history=None), plain)
    assert [name for name, _ in itertools.groupby(woken)] == ["text_encoder", "vae", "transformer", "vae"]


def test_the_vaes_receptive_field_is_looked_for_where_it_works(pipe: LongViePipeline) -> None:
    """Under offload the VAE's weights are elsewhere until it is called; what it is given must not follow them."""
    given: list[str] = []
    vae = pipe.vae.to("meta")
    vae.encode = lambda pixels: (
        given.append(pixels.device.type) or pipe.vae.__class__.encode(toy_pipeline().vae, pixels)
    )
    conditioning.repeat_from(vae, "cpu")
    assert set(given) == {"cpu"}


def test_group_offload_changes_nothing(pipe: LongViePipeline) -> None:
    plain = call(pipe)
    pipe.enable_group_offload(onload_device=torch.device("cpu"), offload_type="block_level", num_blocks_per_group=1)
    assert (call(pipe).int() - plain.int()).abs().max() <= 1


def test_attention_backend(pipe: LongViePipeline) -> None:
    plain = call(pipe, output_type="latent")
    pipe.transformer.set_attention_backend("_native_math")
    assert torch.allclose(call(pipe, output_type="latent"), plain, atol=1e-4)


CACHES: dict[str, Callable[[LongViePipeline], Any]] = {  # all set to skip whatever they may
    "first block": lambda _: FirstBlockCacheConfig(threshold=10.0),
    "mag": lambda _: MagCacheConfig(
        mag_ratios=torch.ones(6), num_inference_steps=6, threshold=9.0, retention_ratio=0.2
    ),
    "taylor": lambda _: TaylorSeerCacheConfig(
        cache_interval=2, disable_cache_before_step=2, max_order=1, cache_identifiers=[r"blocks\.\d+\.attn1"]
    ),
    "attention broadcast": lambda pipe: PyramidAttentionBroadcastConfig(
        spatial_attention_block_skip_range=2,
        spatial_attention_timestep_skip_range=(100, 990),
        current_timestep_callback=lambda: pipe.current_timestep,
    ),
    "sea": lambda _: SeaCacheConfig(
        threshold=10.0, raw_vision_callback=lambda _, __, given: [given["hidden_states"][0, :4]]
    ),
}


@pytest.mark.parametrize("cache", CACHES)
def test_step_caches_skip_and_are_reset_for_every_segment(pipe: LongViePipeline, cache: str) -> None:
    """diffusers' caches work with control and guidance, and nothing of one segment is left in the next."""
    given: dict[str, Any] = {"output_type": "latent", "num_inference_steps": 6, "guidance_scale": 3.0}
    plain = call(pipe, **given)
    pipe.transformer.enable_cache(CACHES[cache](pipe))
    first = call(pipe, **given)
    assert not torch.equal(first, plain), "nothing was skipped"
    call(pipe, image=frames(1, 7)[0], dense=frames(9, 8), **{**given, "output_type": "uint8"})
    assert torch.equal(call(pipe, **given), first), "another segment leaked in through the cache"
    assert pipe.current_timestep is None


def test_callback_sees_and_changes_latents(pipe: LongViePipeline) -> None:
    steps = []

    def after(_: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        steps.append((step, float(timestep)))
        return {"latents": tensors["latents"] * 0}

    latents = call(pipe, callback_on_step_end=after, output_type="latent", num_inference_steps=3)
    assert [step for step, _ in steps] == [0, 1, 2]
    assert latents.abs().max() == 0
    with pytest.raises(ValueError, match="only latents"):
        call(pipe, callback_on_step_end=after, callback_on_step_end_tensor_inputs=["prompt_embeds"])


def test_interruption_skips_the_remaining_steps(pipe: LongViePipeline) -> None:
    steps = []

    def stop(pipe: LongViePipeline, step: int, _: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        steps.append(step)
        pipe._interrupt = step == 1
        return tensors

    call(pipe, callback_on_step_end=stop, num_inference_steps=5)
    assert steps == [0, 1]


def test_guidance_costs_two_passes(pipe: LongViePipeline) -> None:
    passes = []
    pipe.transformer.register_forward_hook(lambda *_: passes.append(1))
    call(pipe, guidance_scale=1.0)
    once = len(passes)
    call(pipe, guidance_scale=4.0)
    assert (once, len(passes) - once) == (2, 4)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"image": frames(1, 0)[0, :30]}, "height is 30; this model makes multiples of 16: take 16 or 32"),
        ({"dense": frames(5, 0)}, "dense has 5 frames; the segment has 9"),
        ({"sparse": frames(9, 0).float()}, "sparse is torch.float32"),
        ({"history": frames(8, 0)[:, :16]}, "history is torch.uint8"),
        ({"num_frames": 8, "dense": None, "sparse": None}, "num_frames is 8"),
        ({"num_inference_steps": 0}, "num_inference_steps is 0"),
        ({"guidance_scale": float("nan")}, "guidance_scale is nan"),
    ],
)
def test_wrong_inputs_are_refused(pipe: LongViePipeline, wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(pipe, **({"num_frames": 9} | wrong))
