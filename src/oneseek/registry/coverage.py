"""Which layers of a model a LoRA request would train, and how much of it: module by module, from its files alone."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence, Set
from typing import Any, Literal

import msgspec

from oneseek.registry.capabilities import ModelInfo, answers_to, lora_targets, missing_targets
from oneseek.registry.modules import OUTSIDE, module_name

Status = Literal["matched", "partial", "absent", "forbidden", "left out", "not asked for"]


class ModuleCoverage(msgspec.Struct, frozen=True, kw_only=True):
    """One row of the matrix.

    name: the module's, or for `absent` the target as it was asked for. `present` and `trained` are the numbers of the
    layers that have it, and that would train it, of `layers` that there are where it is; `places` and
    `trained_places` count it also outside the layers. `parameters` are its own, not the adapter's. `reason`: why it is
    absent, forbidden or left out.
    """

    name: str
    status: Status
    layers: int = 0
    present: tuple[int, ...] = ()
    trained: tuple[int, ...] = ()
    places: int = 0
    trained_places: int = 0
    parameters: int = 0
    trained_parameters: int = 0
    reason: str = ""


class Coverage(msgspec.Struct, frozen=True, kw_only=True):
    """What a request would train of a model's linear layers. `targets` is what it comes to, `paths` are the modules
    whose adapters are trained."""

    targets: tuple[str, ...]
    paths: tuple[str, ...]
    modules: tuple[ModuleCoverage, ...]

    @property
    def places(self) -> int:
        return sum(module.places for module in self.modules)

    @property
    def trained_places(self) -> int:
        return sum(module.trained_places for module in self.modules)

    @property
    def parameters(self) -> int:
        return sum(module.parameters for module in self.modules)

    @property
    def trained_parameters(self) -> int:
        return sum(module.trained_parameters for module in self.modules)

    def of(self, status: Status) -> tuple[ModuleCoverage, ...]:
        """The rows of one status."""
        return tuple(module for module in self.modules if module.status == status)

    def wire(self) -> dict[str, Any]:
        """What programs are told of it."""
        sums = ("places", "trained_places", "parameters", "trained_parameters")
        return {**msgspec.to_builtins(self), **{name: getattr(self, name) for name in sums}}


def asked_for(names: Sequence[str]) -> str | Sequence[str]:
    """What `coverage` takes for the names that somebody gave: none of them is `auto`."""
    first = next(iter(names), "auto")
    return first if first in ("auto", "all-linear") else names


def coverage(info: ModelInfo, requested: str | Sequence[str]) -> Coverage:
    """The matrix of a model for `auto`, `all-linear` or a list of names, as `lora_targets` takes them.

    Rows are sorted by name; the model's own modules come before targets that it has not.
    """
    targets = lora_targets(info, requested)
    sizes = dict(zip(info.linear_paths, info.linear_sizes, strict=False))
    own = {module_name(path) for path in info.linear_paths}
    outside = (path for path, what in info.beside.items() if what == OUTSIDE and module_name(path) in own)
    paths = defaultdict(list)
    for path in [*info.linear_paths, *outside]:
        paths[module_name(path)].append(path)
    layers: dict[str, set[str]] = defaultdict(set)
    for path in info.linear_paths:
        stack, number = _place(path)
        layers[stack].add(number)
    asked = {path for name in own for path in paths[name] if any(answers_to(path, target) for target in targets)}
    rows = [_row(info, name, paths[name], asked, layers, sizes) for name in sorted(own)]
    absent = [
        ModuleCoverage(name=name, status="absent", reason=_why_absent(info, name))
        for name in sorted(missing_targets(info, targets))
    ]
    trained = sorted(path for path in asked if module_name(path) not in info.forbidden)
    return Coverage(targets=targets, paths=tuple(trained), modules=(*rows, *absent))


def _row(
    info: ModelInfo,
    name: str,
    paths: Sequence[str],
    asked: Set[str],
    layers: Mapping[str, Set[str]],
    sizes: Mapping[str, int],
) -> ModuleCoverage:
    trained = [] if name in info.forbidden else [path for path in paths if path in asked]
    present = {_place(path) for path in paths if path in sizes}
    reached = {_place(path) for path in trained if path in sizes}
    there = {(stack, number) for stack in {stack for stack, _ in present} for number in layers[stack]}
    status: Status
    if asked.isdisjoint(paths):
        status = "left out" if name in info.left_out else "not asked for"
    elif name in info.forbidden:
        status = "forbidden"
    else:
        status = "matched" if reached == there and len(trained) == len(paths) else "partial"
    return ModuleCoverage(
        name=name,
        status=status,
        layers=len(there),
        present=tuple(sorted(int(number) for _, number in present)),
        trained=tuple(sorted(int(number) for _, number in reached)),
        places=len(paths),
        trained_places=len(trained),
        parameters=sum(sizes.get(path, 0) for path in paths),
        trained_parameters=sum(sizes.get(path, 0) for path in trained),
        reason=info.left_out.get(name, ""),
    )


def _place(path: str) -> tuple[str, str]:
    """The stack of layers that a path is in, and its number there: what stands before the first number, and that."""
    parts = path.split(".")
    at = next((at for at, part in enumerate(parts) if part.isdecimal()), None)
    return (path, "") if at is None else (".".join(parts[:at]), parts[at])


def _why_absent(info: ModelInfo, target: str) -> str:
    """What a target that is no linear module of the decoder is instead; "" where the model has nothing of the name."""
    what = next((what for path, what in info.beside.items() if answers_to(path, target)), "")
    if what:
        return f"it is {_ARTICLES.get(what, 'a')} {what}"
    if any(path.endswith(f".{target}") or f".experts.*.{target}" in path for path in info.fused_experts):
        return "it is an expert's weight, which LoRA cannot adapt in this release"
    if target == "lm_head":
        return "it is the model's output head, and shares its weight with the embedding"
    return ""


_ARTICLES = {"output head": "the model's", "embedding": "an"}
