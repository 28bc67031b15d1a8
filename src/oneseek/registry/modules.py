"""Which modules of a model LoRA can adapt, read from the names and shapes of its tensors. No family is named here."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping

import msgspec

from oneseek.registry.safetensors import TensorInfo

FLOATING = ("BF16", "F16", "F32", "F64", "F8_E4M3", "F8_E5M2")


class LinearModule(msgspec.Struct, frozen=True, kw_only=True):
    """A linear map that LoRA can adapt: its `module_name`, and how many places have it in this shape.

    `conv1d`: its weight is stored (in, out) as in GPT-2, not (out, in).
    """

    name: str
    in_features: int
    out_features: int
    count: int
    conv1d: bool

    def parameters_at(self, rank: int) -> int:
        """Trainable parameters of LoRA at `rank` on all its places: A is (rank, in), B is (out, rank)."""
        return self.count * rank * (self.in_features + self.out_features)


def module_name(path: str) -> str:
    """What a module is called: the last segment of its path, with those before it as long as that is a number.

    A number alone (`0` of `h.3.ffn.0`) would name every layer of that number too.
    """
    parts = path.split(".")
    start = len(parts) - 1
    while start and parts[start].isdecimal():
        start -= 1
    return ".".join(parts[start:])


def linear_modules(tensors: Mapping[str, TensorInfo]) -> tuple[LinearModule, ...]:
    """The decoder's linear modules, one entry for each name and shape, sorted.

    A decoder linear is a 2-D floating-point `<path>.weight` with a layer number in its path that is no embedding, norm
    or router, and no expert of a mixture: transformers fuses those into one 3-D parameter when it loads them.
    """
    weights = linear_weights(tensors)
    conv1d = _stores_input_first(weights, tensors)
    places: Counter[tuple[str, int, int]] = Counter()
    for path, (rows, columns) in weights.items():
        fan_in, fan_out = (rows, columns) if conv1d else (columns, rows)
        places[module_name(path), fan_in, fan_out] += 1
    return tuple(
        LinearModule(name=name, in_features=fan_in, out_features=fan_out, count=count, conv1d=conv1d)
        for (name, fan_in, fan_out), count in sorted(places.items())
    )


def fused_experts(tensors: Mapping[str, TensorInfo]) -> tuple[str, ...]:
    """Expert weights, which become 3-D parameters in the loaded model and are not LoRA-able in this release.

    Stored fused they go by their tensor's name, stored one by one by `….experts.*.w1`. Convolutions are 3-D too, and so
    is what state-space layers with several heads keep beside A_log.
    """
    mixers = {name.rpartition(".")[0] for name in tensors if name.endswith(".A_log")}
    found = set()
    for name, tensor in tensors.items():
        path = name.removesuffix(".weight")
        if _in_a_layer(path) and tensor.dtype in FLOATING:
            if _EXPERT.search(path) and len(tensor.shape) == 2:
                found.add(_EXPERT.sub(".experts.*", path))
            elif len(tensor.shape) == 3 and "conv" not in path and path.rpartition(".")[0] not in mixers:
                found.add(path)
    return tuple(sorted(found))


def left_out(tensors: Mapping[str, TensorInfo]) -> dict[str, str]:
    """Names of linear modules that are no target unless they are asked for by name, and why.

    Names of expert weights: PEFT renames a target such as gate_proj to the fused experts of the loaded model, and an
    adapter on a shared expert or a dense layer would then not be found. And in a state-space layer x_proj and out_proj,
    whose weights Mamba's kernels on a GPU read without calling the module.
    """
    linear = linear_weights(tensors)
    names = {module_name(path) for path in linear}
    experts = {path.rsplit(".", 1)[-1] for path in fused_experts(tensors)}
    return {
        **dict.fromkeys(
            sorted(experts & names), "it shares its name with expert weights, and PEFT would take it for them"
        ),
        **dict.fromkeys(
            sorted({"x_proj", "out_proj"} & _in_state_space(linear, tensors)),
            "on a GPU the state-space layer reads its weight past any adapter",
        ),
    }


def never_adapted(tensors: Mapping[str, TensorInfo]) -> dict[str, str]:
    """Names of linear modules on which an adapter is never trained, and why: Mamba's code only reads the weight of
    dt_proj, on every device."""
    found = {"dt_proj"} & _in_state_space(linear_weights(tensors), tensors)
    return dict.fromkeys(found, "the state-space layer only reads its weight, so an adapter there learns nothing")


def _in_state_space(linear: Mapping[str, object], tensors: Mapping[str, TensorInfo]) -> set[str]:
    """Names of the linear modules of state-space layers, told by A_log and D; linear attention has no D."""
    mixers = {path.removesuffix(".A_log") for path in tensors if path.endswith(".A_log")}
    mixers = {mixer for mixer in mixers if f"{mixer}.D" in tensors}
    return {module_name(path) for path in linear if path.rpartition(".")[0] in mixers}


def beside(tensors: Mapping[str, TensorInfo]) -> dict[str, str]:
    """Paths of the matrices that are no decoder linear, each with what it is.

    `linear layer` is one outside the layers, as in a head of several; it is adapted where its name is a target.
    """
    linear = linear_weights(tensors)
    paths = (
        name.removesuffix(".weight")
        for name, tensor in tensors.items()
        if name.endswith(".weight") and len(tensor.shape) == 2 and tensor.dtype in FLOATING
    )
    return {path: _what_it_is(path) for path in sorted(paths) if path not in linear and not _EXPERT.search(path)}


def _what_it_is(path: str) -> str:
    last = path.rsplit(".", 1)[-1].lower()
    if last in ("lm_head", "embed_out", "head", "output", "decoder"):
        return "output head"
    if "embed" in last or last in ("wte", "wpe"):
        return "embedding"
    if _is_something_else(path):
        return "norm" if "norm" in last or last.startswith("ln") else "router"
    return OUTSIDE


OUTSIDE = "linear layer"


def embedding_rows(tensors: Mapping[str, TensorInfo]) -> int:
    """Rows of the token embedding, which is how many tokens the model knows; 0 where no tensor has a name for it."""
    return max(
        (
            tensor.shape[0]
            for name, tensor in tensors.items()
            if name.endswith(".weight") and len(tensor.shape) == 2 and not _in_a_layer(name)
            if name.split(".")[-2] in _TOKEN_EMBEDDINGS
        ),
        default=0,
    )


_TOKEN_EMBEDDINGS = ("embed_tokens", "wte", "embed_in", "word_embeddings", "tok_embeddings", "embeddings")

_EXPERT = re.compile(r"\.experts\.\d+(?=\.|$)")


def linear_weights(tensors: Mapping[str, TensorInfo]) -> dict[str, tuple[int, int]]:
    """Path and stored shape of every decoder linear."""
    matrices = {
        name.removesuffix(".weight"): (tensor.shape[0], tensor.shape[1])
        for name, tensor in tensors.items()
        if name.endswith(".weight") and len(tensor.shape) == 2 and tensor.dtype in FLOATING
    }
    return {
        path: shape
        for path, shape in matrices.items()
        if _in_a_layer(path) and not _EXPERT.search(path) and not _is_something_else(path)
    }


def _in_a_layer(path: str) -> bool:
    return any(segment.isdecimal() for segment in path.split("."))


def _is_something_else(path: str) -> bool:
    last = path.rsplit(".", 1)[-1].lower()
    embedding = "embed" in last or last in ("wte", "wpe")
    norm = "norm" in last or re.fullmatch(r"ln(_.*)?", last) is not None
    router = last in ("gate", "router", "shared_expert_gate") or ".router." in path
    return embedding or norm or router


def _stores_input_first(weights: Mapping[str, tuple[int, int]], tensors: Mapping[str, TensorInfo]) -> bool:
    """Whether the model keeps weights (in, out), as GPT-2's Conv1D does: its biases are as long as the rows are wide.

    Square weights say nothing; one bias as long as the other side says no.
    """
    says_so = False
    for path, (rows, columns) in weights.items():
        bias = tensors.get(f"{path}.bias")
        if bias is None or len(bias.shape) != 1 or rows == columns:
            continue
        if bias.shape[0] != columns:
            return False
        says_so = True
    return says_so


def is_buffer(name: str, tensor: TensorInfo) -> bool:
    """Older checkpoints carry causal masks and rotary frequencies; they are no parameters."""
    last = name.rsplit(".", 1)[-1]
    return last in ("inv_freq", "masked_bias") or (last == "bias" and len(tensor.shape) > 2)
