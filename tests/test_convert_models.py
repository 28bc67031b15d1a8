"""Pickled weights become safetensors: bit for bit, whole or not at all, and nothing in the pickle is run."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file
from torch import Tensor

from oneseek import child
from oneseek.cli import oneseek
from oneseek.engine.convert import convert
from oneseek.errors import ModelError
from oneseek.executors.converting import convert_model
from oneseek.registry.discover import describe
from support.base_models import write_model

pytestmark = pytest.mark.engine


class Hostile:
    """A pickle that makes a file when it is loaded."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.marker}",)


def pickled(directory: Path, shards: int = 1) -> dict[str, Tensor]:
    """A whole model whose weights are only there as pickle; what they are."""
    write_model(directory, family="gpt2")
    tensors: dict[str, Tensor] = load_file(directory / "model.safetensors")
    (directory / "model.safetensors").unlink()
    names = sorted(tensors)
    if shards == 1:
        torch.save(tensors, directory / "pytorch_model.bin")
        return tensors
    files = {name: f"pytorch_model-{at % shards + 1:05d}-of-{shards:05d}.bin" for at, name in enumerate(names)}
    for file in set(files.values()):
        torch.save({name: tensors[name] for name in names if files[name] == file}, directory / file)
    (directory / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": files}))
    return tensors


def converted(directory: Path) -> list[str]:
    """The same in this process, which can be watched."""
    scratch = directory / "scratch"
    scratch.mkdir(exist_ok=True)
    return convert(directory, scratch)


def bits_of(tensors: dict[str, Tensor]) -> dict[str, bytes]:
    return {name: tensor.numpy().tobytes() for name, tensor in tensors.items()}


def test_the_fix_that_a_pickled_model_names_makes_it_usable(tmp_path: Path) -> None:
    tensors = pickled(tmp_path / "models" / "Old_Model")
    (problem,) = describe(tmp_path / "models" / "Old_Model").problems

    done = CliRunner().invoke(oneseek, ["models", "convert", "old-model", "--models-dir", str(tmp_path / "models")])

    assert "oneseek models convert old-model" in problem.fix
    assert done.exit_code == 0, done.output
    assert describe(tmp_path / "models" / "Old_Model").usable
    assert bits_of(load_file(tmp_path / "models" / "Old_Model" / "model.safetensors")) == bits_of(tensors)


def test_a_model_in_shards_becomes_shards_with_an_index(tmp_path: Path) -> None:
    tensors = pickled(tmp_path, shards=3)

    written = converted(tmp_path)

    assert written == [*(f"model-0000{n}-of-00003.safetensors" for n in (1, 2, 3)), "model.safetensors.index.json"]
    assert describe(tmp_path).usable
    assert bits_of({name: t for file in written[:3] for name, t in load_file(tmp_path / file).items()}) == bits_of(
        tensors
    )


def test_tensors_that_share_memory_are_written_once_each(tmp_path: Path) -> None:
    tensors = pickled(tmp_path)
    embedding = tensors["transformer.wte.weight"]
    torch.save({**tensors, "lm_head.weight": embedding, "half": embedding[:3]}, tmp_path / "pytorch_model.bin")

    converted(tmp_path)

    found = load_file(tmp_path / "model.safetensors")
    assert torch.equal(found["lm_head.weight"], embedding)
    assert torch.equal(found["half"], embedding[:3])


def test_the_older_file_format_is_read_too_and_nan_is_kept(tmp_path: Path) -> None:
    pickled(tmp_path)
    old = {"a": torch.tensor([float("nan"), 1.0], dtype=torch.bfloat16), "b": torch.arange(6).view(2, 3).t()}
    torch.save(old, tmp_path / "pytorch_model.bin", _use_new_zipfile_serialization=False)

    converted(tmp_path)

    found = load_file(tmp_path / "model.safetensors")
    assert found["a"].view(torch.int16).tolist() == old["a"].view(torch.int16).tolist()
    assert found["b"].tolist() == old["b"].tolist()


@pytest.mark.parametrize("how", ["torch", "pickle"])
def test_a_hostile_pickle_is_refused_and_nothing_of_it_is_run(tmp_path: Path, how: str) -> None:
    model = tmp_path / "m"
    tensors = pickled(model)
    marker = tmp_path / "marker"
    content: Any = {**tensors, "x": Hostile(marker)}
    if how == "torch":
        torch.save(content, model / "pytorch_model.bin")
    else:
        (model / "pytorch_model.bin").write_bytes(pickle.dumps(content))

    with pytest.raises(ModelError) as refusal:
        convert_model(model)

    assert refusal.value.problem == (
        f"{model / 'pytorch_model.bin'} is not read: it holds more than tensors, which could run code."
    )
    assert refusal.value.fix == "Select a model with safetensors."
    assert not marker.exists()
    assert not list(model.glob("*.safetensors*"))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({}, "no tensor"),
        ([torch.ones(1)], "something else"),
        ({"a": 1}, "something else"),
        ({1: torch.ones(1)}, "else"),
    ],
    ids=["nothing", "a list", "a number", "a nameless tensor"],
)
def test_a_pickle_of_anything_but_tensors_by_name_is_refused(tmp_path: Path, content: Any, words: str) -> None:
    pickled(tmp_path)
    torch.save(content, tmp_path / "pytorch_model.bin")

    with pytest.raises(ModelError, match=words):
        converted(tmp_path)

    assert not (tmp_path / "model.safetensors").exists()


@pytest.mark.parametrize("weight_map", [None, {}, {"a": 1}, {"a": "../pytorch_model.bin"}, {"a": "/etc/passwd"}])
def test_an_index_that_names_no_file_of_the_directory_is_refused(tmp_path: Path, weight_map: Any) -> None:
    pickled(tmp_path, shards=2)
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))

    with pytest.raises(ModelError, match="weight_map"):
        converted(tmp_path)


def test_a_missing_shard_and_a_missing_file_are_named(tmp_path: Path) -> None:
    pickled(tmp_path, shards=2)
    (tmp_path / "pytorch_model-00002-of-00002.bin").unlink()

    with pytest.raises(ModelError, match=r"pytorch_model-00002-of-00002\.bin is missing"):
        converted(tmp_path)
    (tmp_path / "pytorch_model.bin.index.json").unlink()
    with pytest.raises(ModelError, match=r"no pytorch_model\.bin"):
        converted(tmp_path)


def test_what_was_not_written_as_it_was_read_gets_no_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pickled(tmp_path)

    def damage(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
        first = next(iter(tensors))
        save_file({**tensors, first: tensors[first] + 1}, path, metadata)

    monkeypatch.setattr("oneseek.engine.convert.save_file", damage)

    with pytest.raises(ModelError, match="not written as it should be"):
        converted(tmp_path)

    assert not list(tmp_path.glob("*.safetensors*"))


@pytest.mark.parametrize(
    "content", [b"version https://git-lfs.github.com/spec/v1\n", b"<html>", b"", b"PK", b"\x80\x02"]
)
def test_what_is_no_pickle_of_torch_is_called_so_and_no_danger(tmp_path: Path, content: bytes) -> None:
    pickled(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(content)

    with pytest.raises(ModelError, match=r"torch\.save did not write it|may be damaged") as refusal:
        converted(tmp_path)

    assert "weights_only" not in str(refusal.value)


@pytest.mark.parametrize("archive", [True, False])
def test_a_pickle_that_is_cut_off_is_called_so(tmp_path: Path, archive: bool) -> None:
    tensors = pickled(tmp_path)
    torch.save(tensors, tmp_path / "pytorch_model.bin", _use_new_zipfile_serialization=archive)
    whole = (tmp_path / "pytorch_model.bin").read_bytes()
    (tmp_path / "pytorch_model.bin").write_bytes(whole[: len(whole) // 2])

    with pytest.raises(ModelError, match="is cut off" if archive else "may be damaged"):
        converted(tmp_path)


def test_no_shard_gets_a_name_before_all_are_written(tmp_path: Path) -> None:
    pickled(tmp_path, shards=2)
    (tmp_path / "pytorch_model-00002-of-00002.bin").write_bytes(b"<html>")

    with pytest.raises(ModelError, match="did not write it"):
        converted(tmp_path)

    assert not list(tmp_path.glob("*.safetensors*"))


def large(directory: Path) -> set[str]:
    """A pickled model that takes a moment to convert; the names in its directory."""
    tensors = pickled(directory)
    torch.save({**tensors, "more": torch.zeros(2**28, dtype=torch.int8)}, directory / "pytorch_model.bin")
    return names_in(directory)


def names_in(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


def test_ctrl_c_leaves_nothing_behind(tmp_path: Path) -> None:
    before = large(tmp_path / "m")
    command = [sys.executable, "-m", "oneseek", "models", "convert", "m", "--models-dir", str(tmp_path)]

    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        while process.poll() is None and not list((tmp_path / "m").glob("converting.tmp/*")):
            time.sleep(0.002)
        process.send_signal(signal.SIGINT)
        process.communicate()

    assert process.returncode == 130
    assert names_in(tmp_path / "m") == before


def test_a_process_that_is_killed_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pickled(tmp_path)
    before = names_in(tmp_path)
    start = child.start

    def half_done(module: str, stderr: int, threads: int) -> subprocess.Popen[bytes]:
        (tmp_path / "converting.tmp" / "model.safetensors").write_bytes(b"half")
        process = start(module, stderr, threads)
        process.kill()
        return process

    monkeypatch.setattr("oneseek.child.start", half_done)

    with pytest.raises(ModelError, match="exit code -9"):
        convert_model(tmp_path)

    assert names_in(tmp_path) == before


def test_what_a_conversion_left_that_was_killed_with_its_parent_is_removed(tmp_path: Path) -> None:
    pickled(tmp_path)
    before = names_in(tmp_path)
    (tmp_path / "converting.tmp").mkdir()
    (tmp_path / "converting.tmp" / "model.safetensors").write_bytes(b"half")

    convert_model(tmp_path)

    assert names_in(tmp_path) == before | {"model.safetensors"}
    assert describe(tmp_path).usable
