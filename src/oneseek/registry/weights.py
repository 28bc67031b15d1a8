"""The weight files of a base model: which of them are loaded, what is missing or damaged, which tensors they hold."""

from __future__ import annotations

from collections.abc import Mapping

from oneseek.names import normalize_model_name
from oneseek.registry.model_files import ModelFiles, ModelProblem, json_object
from oneseek.registry.safetensors import DamagedWeightsError, TensorInfo, parse_safetensors_header


def read_tensors(files: ModelFiles, problems: list[ModelProblem]) -> dict[str, TensorInfo]:
    """The tensors of all weight files together; each file that is missing or damaged is a problem."""
    index = _index(files, problems)
    names = _safetensors_files(files, index)
    if not names:
        if not any(problem.kind == "broken-index" for problem in problems):
            problems.append(_no_safetensors(files))
        return {}
    by_file: dict[str, dict[str, TensorInfo]] = {}
    for name in names:
        if name not in files.sizes:
            problems.append(
                ModelProblem(
                    kind="missing-shard",
                    problem=f"{name} is missing; model.safetensors.index.json names it.",
                    fix="Download or copy the model again.",
                )
            )
        elif name in files.headers:
            try:
                by_file[name] = parse_safetensors_header(files.headers[name], files.sizes[name])
            except DamagedWeightsError as error:
                problems.append(
                    ModelProblem(kind=error.kind, problem=f"{name} {error.problem}.", fix=error.fix),
                )
    absent = [tensor for tensor, name in index.items() if name in by_file and tensor not in by_file[name]]
    if absent:
        problems.append(
            ModelProblem(
                kind="broken-index",
                problem=f"model.safetensors.index.json promises {len(absent)} tensor(s) that are not in their file, "
                f"{absent[0]!r} for one.",
                fix="Download or copy the model again.",
            )
        )
    tensors = {name: tensor for content in by_file.values() for name, tensor in content.items()}
    if not tensors and len(by_file) == len(names):
        problems.append(
            ModelProblem(kind="no-weights", problem=f"{', '.join(names)} holds no tensor.", fix="Download it again.")
        )
    return tensors


def _index(files: ModelFiles, problems: list[ModelProblem]) -> dict[str, str]:
    """Tensor name to file name of a sharded model; empty for one in a single file, which wins as in transformers."""
    if "model.safetensors" in files.sizes or "model.safetensors.index.json" not in files.contents:
        return {}
    index = json_object(files, "model.safetensors.index.json", "broken-index", problems).get("weight_map")
    if isinstance(index, dict) and index and all(isinstance(name, str) for name in index.values()):
        return index
    if not any(problem.kind == "broken-index" for problem in problems):
        problems.append(
            ModelProblem(
                kind="broken-index",
                problem="model.safetensors.index.json has no weight_map from tensors to files.",
                fix="Download or copy the model again.",
            )
        )
    return {}


def _safetensors_files(files: ModelFiles, index: Mapping[str, str]) -> list[str]:
    return ["model.safetensors"] if "model.safetensors" in files.sizes else sorted(set(index.values()))


def weight_files(files: ModelFiles) -> list[str]:
    """The weight files that are there, those that would be loaded before any others."""
    ours = [name for name in _safetensors_files(files, _index(files, [])) if name in files.sizes]
    return ours or _pickles(files)


def _pickles(files: ModelFiles) -> list[str]:
    return sorted(
        name for name in files.sizes if name.endswith((".bin", ".pt", ".pth")) and not name.startswith("training_args")
    )


def _no_safetensors(files: ModelFiles) -> ModelProblem:
    if pickles := _pickles(files):
        return ModelProblem(
            kind="only-pickle",
            problem=f"The weights are only there as pickle ({pickles[0]}), which can run code when it is loaded.",
            fix=f"Type oneseek models convert {normalize_model_name(files.directory)}: it writes safetensors beside it."
            if pickles[0].startswith("pytorch_model")
            else "Put the model's safetensors files into the directory.",
        )
    others = sorted(name for name in files.sizes if name.endswith((".safetensors", ".gguf")))
    return ModelProblem(
        kind="no-weights",
        problem="There is no model.safetensors and no model.safetensors.index.json"
        + (f"; {others[0]} is not loaded under that name." if others else "."),
        fix="Put the model's safetensors files into the directory.",
    )
