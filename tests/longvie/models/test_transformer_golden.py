"""The released model's numbers: every output and trace of ../shared/golden."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from longvie import sampling
from longvie.models.transformer import LongVieTransformer3DModel
from tests.longvie.golden import assert_close, golden_tensors, load_golden

Tensors = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def data(golden: Path) -> Tensors:
    return golden_tensors(golden)


@pytest.fixture(scope="module")
def model(golden: Path) -> LongVieTransformer3DModel:
    return load_golden(golden)


@torch.no_grad()
def forward(
    model: LongVieTransformer3DModel,
    data: Tensors,
    context: torch.Tensor | None = None,
    history: torch.Tensor | None = None,
    latents: torch.Tensor | None = None,
    timestep: torch.Tensor | None = None,
    control: bool = True,
) -> torch.Tensor:
    context = data["in.context"] if context is None else context
    batch = len(context)

    def repeat(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.expand(batch, *tensor.shape[1:])

    latents = data["in.latents"] if latents is None else latents
    return model(
        hidden_states=repeat(torch.cat([latents, data["in.y"]], dim=1)),
        timestep=repeat(data["in.timestep"] if timestep is None else timestep),
        encoder_hidden_states=context,
        encoder_hidden_states_image=repeat(data["in.clip_feature"]),
        dense_states=repeat(data["in.dense"]) if control else None,
        sparse_states=repeat(data["in.sparse"]) if control else None,
        history_states=history,
    ).sample


def test_forward_without_history(model: LongVieTransformer3DModel, data: Tensors) -> None:
    assert_close(forward(model, data), data["a.out"])


def test_forward_with_history(model: LongVieTransformer3DModel, data: Tensors) -> None:
    assert_close(forward(model, data, history=data["in.history_latents"]), data["b.out"])
    assert_close(forward(model, data, history=data["in.history_latents"][:, :, -1:]), data["b1.out"])


def test_batch_of_two(model: LongVieTransformer3DModel, data: Tensors) -> None:
    context = torch.cat([data["in.context"], data["in.context_neg"]])
    assert_close(forward(model, data, context), data["c.out"])
    assert_close(forward(model, data, context, history=data["in.history_latents"]), data["c_hist.out"])


def test_guidance(model: LongVieTransformer3DModel, data: Tensors) -> None:
    positive, negative = forward(model, data), forward(model, data, data["in.context_neg"])
    assert_close(negative, data["neg.out"])
    assert_close(sampling.guide(positive, negative, 5.0), data["cfg5.out"])


def test_zero_control_is_the_base_model(golden: Path, data: Tensors) -> None:
    model = load_golden(golden)
    for block in model.blocks[: model.config.num_control_layers]:
        torch.nn.init.zeros_(block.fuse.weight)
        torch.nn.init.zeros_(block.fuse.bias)
    assert_close(forward(model, data), data["zero_control.out"])
    assert torch.equal(forward(model, data), forward(model, data, control=False))


def test_attention_overlay(golden: Path, data: Tensors) -> None:
    model = load_golden(golden, attention=golden / "dev_dit.safetensors")
    assert_close(forward(model, data, history=data["in.history_latents"]), data["overlay.out"])


@pytest.mark.parametrize("run", ["a", "b"])
def test_traces(model: LongVieTransformer3DModel, data: Tensors, run: str) -> None:
    """Every intermediate tensor, read by hooks from the places where it comes about."""
    seen: Tensors = {}
    handles = []

    def watch(name: str, module: torch.nn.Module, before: bool = False) -> None:
        def hook(_: torch.nn.Module, inputs: tuple, output: torch.Tensor | None = None) -> None:
            seen[name] = inputs[0] if output is None else output

        handles.append(module.register_forward_pre_hook(hook) if before else module.register_forward_hook(hook))

    embedder = model.control_embedder
    watch("t", model.condition_embedder.time_embedder)
    watch("t_mod_flat", model.condition_embedder.time_proj)
    watch("dit_block0.in", model.blocks[0], before=True)
    watch("dense_in", embedder.dense_proj)
    watch("sparse_in", embedder.sparse_proj)
    watch("control_context", embedder.text_proj)
    watch("control_t_mod", embedder.time_proj)
    watch("head_out", model.proj_out)
    for i, block in enumerate(model.blocks):
        watch(f"dit_block{i}.out", block)  # with the control residual; taken off again below
        if i < model.config.num_control_layers:
            watch(f"dense_block{i}.out", block.dense_block)
            watch(f"sparse_block{i}.out", block.sparse_block)
            watch(f"combine{i}.out", block.fuse)
    try:
        forward(model, data, history=data["in.history_latents"] if run == "b" else None)
    finally:
        for handle in handles:
            handle.remove()
    expected = {k.removeprefix(f"{run}.trace."): v for k, v in data.items() if k.startswith(f"{run}.trace.")}
    assert len(expected) == {"a": 18, "b": 5}[run]
    for name, tensor in expected.items():
        actual = seen[name]
        layer = name.removeprefix("dit_block").removesuffix(".out")
        if name.startswith("dit_block") and layer.isdigit() and int(layer) < model.config.num_control_layers:
            residual = seen[f"combine{layer}.out"]
            actual = actual.clone()
            actual[:, -residual.shape[1] :] -= residual
        assert_close(actual, tensor)


def test_every_reference_tensor_is_compared(data: Tensors) -> None:
    """What is not an input, a trace or a name in this file is TeaCache's, which diffusers does not have."""
    source = Path(__file__).read_text()
    for name in data:
        part = name.replace("clip0", "{name}").replace("clip1", "{name}")
        compared = name.startswith(("in.", "a.trace.", "b.trace.")) or f'"{name}"' in source or f'"{part}"' in source
        assert compared or name in ("tea.t_mod_seq", "tea.skip"), name


def test_four_step_loops(model: LongVieTransformer3DModel, data: Tensors) -> None:
    """Two segments of four steps with guidance 5 and shift 5, the second with history and the mixed first frame."""
    noise = sampling.unified_noise(tuple(data["loop.noise"].shape), seed=0)
    assert torch.equal(noise, data["loop.noise"])
    for name, history in (("clip0", None), ("clip1", data["in.history_latents"])):
        latents = sampling.start_latents(noise, history)
        assert_close(latents, data[f"loop.{name}.init"], tolerance=1e-6)
        scheduler = FlowMatchEulerDiscreteScheduler(shift=5.0)
        scheduler.set_timesteps(sigmas=sampling.unshifted_sigmas(4))
        for timestep in scheduler.timesteps:
            given = sampling.model_timestep(timestep, model.dtype).expand(1)
            positive = forward(model, data, history=history, latents=latents, timestep=given)
            negative = forward(model, data, data["in.context_neg"], history, latents, given)
            velocity = sampling.guide(positive, negative, 5.0)
            (latents,) = scheduler.step(velocity, timestep, latents, return_dict=False)
        assert_close(latents, data[f"loop.{name}.final"])
    assert torch.equal(noise, data["loop.noise"]), "the caller's noise was changed"
