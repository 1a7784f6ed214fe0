"""Released files in, released files out, and every key accounted for."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from diffusers import WanTransformer3DModel
from safetensors.torch import load_file, save_file

from longvie.config import wan2_1_i2v_14b
from longvie.models.checkpoints import CheckpointError, account_files, export_release, load_transformer
from longvie.models.names import is_attention, is_control, release_name
from longvie.models.transformer import LongVieTransformer3DModel

CONFIG = {  # the original vocabulary
    "dim": 32,
    "num_heads": 2,
    "ffn_dim": 48,
    "num_layers": 3,
    "control_layers": 2,
    "text_dim": 8,
    "freq_dim": 16,
    "clip_dim": 12,
}


@pytest.fixture
def model() -> LongVieTransformer3DModel:
    from longvie.config import from_release_config

    torch.manual_seed(0)
    model = LongVieTransformer3DModel(**from_release_config(CONFIG))
    for parameter in model.parameters():
        parameter.data = torch.randn_like(parameter)
    return model.eval()


@pytest.fixture
def files(model: LongVieTransformer3DModel, tmp_path: Path) -> dict[str, Path]:
    export_release(model, tmp_path, base=True)
    return {name: tmp_path / f"{name}.safetensors" for name in ("base", "control", "dit")}


def assert_same_weights(a: torch.nn.Module, b: torch.nn.Module) -> None:
    mine, theirs = a.state_dict(), b.state_dict()
    assert mine.keys() == theirs.keys()
    for name in mine:
        assert torch.equal(mine[name], theirs[name]), name


def test_14b_has_the_released_counts() -> None:
    """800 tensors / 2,633,637,888 in control.safetensors, 400 / 4,195,532,800 in dit.safetensors."""
    with torch.device("meta"):
        model = LongVieTransformer3DModel(**wan2_1_i2v_14b())
    state = model.state_dict()
    control = {name: t for name, t in state.items() if is_control(name)}
    attention = {name: t for name, t in state.items() if is_attention(name)}
    assert len(control) == 800
    assert sum(t.numel() for t in control.values()) == 2_633_637_888
    assert len(attention) == 400
    assert sum(t.numel() for t in attention.values()) == 4_195_532_800


def test_names_are_the_released_ones() -> None:
    with torch.device("meta"):
        model = LongVieTransformer3DModel(**wan2_1_i2v_14b())
    names = {release_name(name) for name in model.state_dict()}
    assert len(names) == len(model.state_dict()), "two of our parameters have one released name"
    block = [
        name.removeprefix("control_blocks_dense.11.") for name in names if name.startswith("control_blocks_dense.11.")
    ]
    expected = [
        *(f"self_attn.{x}.{p}" for x in "qkvo" for p in ("weight", "bias")),
        *(f"self_attn.norm_{x}.weight" for x in "qk"),
        *(f"cross_attn.{x}.{p}" for x in ("q", "k", "v", "o", "k_img", "v_img") for p in ("weight", "bias")),
        *(f"cross_attn.norm_{x}.weight" for x in ("q", "k", "k_img")),
        *(f"{x}.{p}" for x in ("norm3", "ffn.0", "ffn.2") for p in ("weight", "bias")),
        "modulation",
    ]
    assert sorted(block) == sorted(expected)
    assert len(block) == 32
    others = (
        "control_combine_linears.0.weight",
        "control_initial_combine_linear_dense.bias",
        "control_t_mod.weight",
        "control_text_linear.bias",
        "head.head.weight",
        "head.modulation",
        "img_emb.proj.4.bias",
        "time_projection.1.weight",
        "blocks.39.self_attn.norm_q.weight",
    )
    assert names.issuperset(others)


def test_names_of_the_reference_files(golden: Path) -> None:
    config = json.loads((golden / "dev_config.json").read_text())
    base, control, attention = account_files(
        golden / "dev_dit_full.safetensors",
        golden / "dev_control.safetensors",
        golden / "dev_dit.safetensors",
        config=golden / "dev_config.json",
    )
    assert base.fits
    assert control.fits
    assert attention.fits
    assert attention.num_tensors == 10 * config["num_layers"]


def test_round_trip(model: LongVieTransformer3DModel, files: dict[str, Path]) -> None:
    loaded = load_transformer(files["base"], files["control"], files["dit"], config=CONFIG)
    assert_same_weights(loaded, model)
    assert not any(p.is_meta for p in (*loaded.parameters(), *loaded.buffers()))


def test_attention_overlays_the_base(model: LongVieTransformer3DModel, files: dict[str, Path]) -> None:
    overlay = {name: tensor + 1 for name, tensor in load_file(files["dit"]).items()}
    save_file(overlay, files["dit"])
    loaded = load_transformer(files["base"], files["control"], files["dit"], config=CONFIG)
    mine, theirs = model.state_dict(), loaded.state_dict()
    for name in mine:
        assert torch.equal(theirs[name], mine[name] + 1 if is_attention(name) else mine[name]), name


def test_without_control_it_is_the_base(model: LongVieTransformer3DModel, files: dict[str, Path]) -> None:
    loaded = load_transformer(files["base"], config=CONFIG)
    assert loaded.config.num_control_layers == 0
    assert not any(is_control(name) for name in loaded.state_dict())


def test_prefixes_of_the_release(model: LongVieTransformer3DModel, files: dict[str, Path]) -> None:
    save_file({f"pipe.dual_controller.{k}": v for k, v in load_file(files["control"]).items()}, files["control"])
    assert_same_weights(load_transformer(files["base"], files["control"], config=CONFIG), model)


def test_sharded_index(model: LongVieTransformer3DModel, files: dict[str, Path], tmp_path: Path) -> None:
    tensors = load_file(files["base"])
    names = sorted(tensors)
    shards = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for shard, keys in shards.items():
        save_file({key: tensors[key] for key in keys}, tmp_path / shard)
    index = tmp_path / "base.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {key: shard for shard, keys in shards.items() for key in keys}}))
    assert_same_weights(load_transformer(index, files["control"], config=CONFIG), model)
    index.write_text(json.dumps({"weight_map": {"x": "../a.safetensors"}}))
    with pytest.raises(CheckpointError, match="outside its own folder"):
        load_transformer(index, config=CONFIG)


@pytest.mark.parametrize("whole_pipeline", [False, True])
def test_diffusers_folder_as_base(
    model: LongVieTransformer3DModel, files: dict[str, Path], tmp_path: Path, whole_pipeline: bool
) -> None:
    config = {k: v for k, v in model.config.items() if not k.startswith("_") and k != "num_control_layers"}
    wan = WanTransformer3DModel(**config)
    wan.load_state_dict({k: v for k, v in model.state_dict().items() if not is_control(k)})
    folder = tmp_path / "wan"
    wan.save_pretrained(folder / "transformer" if whole_pipeline else folder, max_shard_size="50KB")
    assert list(folder.rglob("*.index.json")), "the folder is sharded"
    with_control = {**wan.config, "num_control_layers": 2}
    assert_same_weights(load_transformer(folder, files["control"], config=with_control), model)


def test_longvie_folder_as_base(model: LongVieTransformer3DModel, files: dict[str, Path], tmp_path: Path) -> None:
    model.save_pretrained(tmp_path / "saved")
    assert_same_weights(load_transformer(tmp_path / "saved"), model)
    save_file({name: tensor + 1 for name, tensor in load_file(files["control"]).items()}, files["control"])
    replaced = load_transformer(tmp_path / "saved", files["control"])
    for name, tensor in model.state_dict().items():
        assert torch.equal(replaced.state_dict()[name], tensor + 1 if is_control(name) else tensor), name


def test_every_bad_key_is_listed_at_once(files: dict[str, Path]) -> None:
    base, control = load_file(files["base"]), load_file(files["control"])
    del base["blocks.1.ffn.0.bias"]
    base["stray.weight"] = torch.zeros(2)
    control["control_t_mod.weight"] = torch.zeros(3, 3)
    save_file(base, files["base"])
    save_file(control, files["control"])
    with pytest.raises(CheckpointError) as raised:
        load_transformer(files["base"], files["control"], config=CONFIG)
    message = str(raised.value)
    assert re.search(r"missing: blocks\.1\.ffn\.0\.bias", message)
    assert "unexpected: stray.weight" in message
    assert re.search(r"mis-shaped: control_t_mod\.weight is \(3, 3\)", message)


def test_control_file_of_another_size_is_refused(files: dict[str, Path]) -> None:
    with pytest.raises(CheckpointError, match="mis-shaped"):
        load_transformer(files["base"], files["control"], config={**CONFIG, "dim": 64})


def test_old_conversions_may_carry_norm_added_q(model: LongVieTransformer3DModel, files: dict[str, Path]) -> None:
    base = load_file(files["base"])
    base["blocks.0.cross_attn.norm_added_q.weight"] = torch.zeros(4)
    save_file(base, files["base"])
    assert_same_weights(load_transformer(files["base"], files["control"], config=CONFIG), model)


def test_dtype_keeps_what_diffusers_keeps_in_float32(files: dict[str, Path]) -> None:
    loaded = load_transformer(files["base"], files["control"], config=CONFIG, dtype=torch.bfloat16)
    state = loaded.state_dict()
    assert state["blocks.0.attn1.to_q.weight"].dtype == torch.bfloat16
    assert state["blocks.0.dense_block.attn1.to_q.weight"].dtype == torch.bfloat16
    assert state["blocks.0.scale_shift_table"].dtype == torch.float32
    assert state["condition_embedder.time_embedder.linear_1.weight"].dtype == torch.float32


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.safetensors", None, "does not exist"),
        ("weights.pt", b"PK", "not safetensors"),
        ("zero.safetensors", b"", "not a readable safetensors"),
        ("noise.safetensors", bytes(range(200)), "not a readable safetensors"),
        ("x.index.json", b"[]", "not a safetensors index"),
    ],
)
def test_unreadable_files(tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as raised:
        load_transformer(tmp_path / name, config=CONFIG)
    assert name in str(raised.value)


def test_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"holds no \.safetensors"):
        load_transformer(tmp_path, config=CONFIG)


def test_accounting_reads_only_headers(files: dict[str, Path]) -> None:
    (accounting,) = account_files(control=files["control"], config=CONFIG)
    assert accounting.fits
    assert accounting.num_tensors == accounting.expected_tensors == 2 * 64 + 2 * 2 + 8
    assert "control" in str(accounting)
