"""A model's losses, computed as quickly as it allows: on packed rows, or padded; with the head in chunks, or its own.

Packed: the examples stand side by side in one row. The linear layers get it whole, without padding; attention is called
once per example, on its own part of it. transformers lets a model's attention function be replaced, so that no
architecture is rewritten here. The head is applied where a token is learned, and nowhere else.

Which way suits a model is found by trying (`choose_forward`), not by a list: one that keeps a state along the row
(state-space layers), makes positions of its own (ALiBi), or does with its attention what our function does not, gives
other numbers when it is packed, and is padded.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface

from oneseek.datasets.tokens import IGNORED, Example
from oneseek.engine import varlen
from oneseek.engine.head import head_nats
from oneseek.engine.interface import Computed
from oneseek.engine.out_of_memory import is_out_of_memory
from oneseek.engine.pairs import Pair
from oneseek.errors import WorkerFailed

Item = Example | Pair
T = TypeVar("T", bound=Item)

PACKED = "oneseek_packed"
# Nats on the mean over an item: another order of summing makes 3e-7 in fp32 and up to 9e-3 in bf16; positions that run
# on from one example into the next made 0.07 and more.
_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float16: 5e-2}
_WHAT_MODELS_RAISE = (AttributeError, IndexError, KeyError, NotImplementedError, RuntimeError, TypeError, ValueError)


def sequences(item: Item) -> tuple[Example, ...]:
    """What the model is to say: an example, or the chosen and the rejected answer of a pair."""
    return (item.chosen, item.rejected) if isinstance(item, Pair) else (item,)


def tokens(item: Item) -> int:
    """Tokens of an item in a packed row. The prompt of a pair is there once."""
    shared = item.shared if isinstance(item, Pair) else 0
    return sum(len(sequence.input_ids) for sequence in sequences(item)) - shared


def learned(items: Sequence[Item]) -> int:
    """Tokens whose loss is counted."""
    return sum(sequence.supervised_tokens for item in items for sequence in sequences(item))


@dataclass(frozen=True)
class Forward:
    """How a model is computed. `head` is its output layer where that is all that follows its hidden states; None where
    the model does more with its logits (scales or caps them) and must make them itself."""

    model: Any
    device: torch.device
    attention: Literal["packed", "padded", "single"]
    head: nn.Linear | None
    own_attention: str

    @property
    def computed(self) -> Computed:
        """The same in words."""
        return Computed(attention=self.attention, head="own" if self.head is None else "chunked")

    def nats(self, items: Sequence[Item]) -> Tensor:
        """Cross-entropy in nats, fp32, of every learned token given the tokens before it: (learned,), item by item, the
        chosen answer of a pair before the rejected one."""
        match self.attention:
            case "packed":
                return self._nats_of(pack(items))
            case "padded":
                return self._nats_of(pad(items))
            case "single":
                return torch.cat([self._nats_of(pad([each])) for item in items for each in sequences(item)])

    def _nats_of(self, row: Row) -> Tensor:
        ids, places, targets, predictors = (
            torch.from_numpy(part).to(self.device) for part in (row.ids, row.places, row.targets, row.predictors)
        )
        # A mask, or a cache, would make transformers join what is kept apart in a packed row.
        inputs: dict[str, Any] = {"input_ids": ids, "use_cache": False, "attention_mask": None}
        if row.segments:
            _attending.row = row
            inputs["position_ids"] = places
        else:
            inputs["attention_mask"] = (places >= 0).long()
        if self.head is not None:
            hidden = self.model.base_model(**inputs)[0].flatten(0, 1)[predictors]  # (learned, width)
            return head_nats(hidden, self.head.weight, self.head.bias, targets)
        if len(ids) == 1 and "logits_to_keep" in inspect.signature(self.model.forward).parameters:
            logits = self.model(**inputs, logits_to_keep=predictors).logits[0]  # (learned, vocab)
        else:
            logits = self.model(**inputs).logits.flatten(0, 1)[predictors]
        return nn.functional.cross_entropy(logits.float(), targets, reduction="none")

    def batches(self, items: Sequence[T], token_budget: int) -> Iterator[list[T]]:
        """The items, in order, in batches of at most `token_budget` tokens each, padding included. An item that is
        longer is a batch of its own."""
        batch: list[T] = []
        size = longest = count = 0
        for item in items:
            lengths = [len(sequence.input_ids) for sequence in sequences(item)]
            longest = max(longest, *lengths)
            count += len(lengths)
            size = longest * count if self.attention == "padded" else size + tokens(item)
            if batch and size > token_budget:
                yield batch
                batch, longest, count = [], max(lengths), len(lengths)
                size = longest * count if self.attention == "padded" else tokens(item)
            batch.append(item)
        if batch:
            yield batch


# -- rows ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Segment:
    """A stretch of a packed row that attends to itself, and to the first `shared` tokens of the segment before it."""

    length: int
    shared: int = 0


@dataclass(frozen=True)
class Row:
    """What a model is given. `predictors` are the places (in the flattened ids) whose outputs predict `targets`.

    ids, places: (rows, tokens), int64; the places of padding are -1. targets, predictors: (learned,), int64.
    """

    ids: np.ndarray[Any, np.dtype[np.int64]]
    places: np.ndarray[Any, np.dtype[np.int64]]
    targets: np.ndarray[Any, np.dtype[np.int64]]
    predictors: np.ndarray[Any, np.dtype[np.int64]]
    segments: tuple[Segment, ...] = ()
    masks: dict[tuple[int, int, int | None], Tensor] = field(default_factory=dict)  # made once for all layers

    def mask(self, asking: int, asked: int, window: int | None, device: torch.device) -> Tensor:
        """(asking, asked): which of `asked` tokens the last `asking` of them see: themselves and those before, of which
        at most `window` - 1."""
        if (asking, asked, window) not in self.masks:
            own = torch.arange(asked - asking, asked, device=device)[:, None]
            distance = own - torch.arange(asked, device=device)
            seen = distance >= 0
            self.masks[asking, asked, window] = seen if window is None else seen & (distance < window)
        return self.masks[asking, asked, window]


def pack(items: Sequence[Item]) -> Row:
    """One row of all items, without padding."""
    ids, places, targets, predictors, segments, end = [], [], [], [], [], 0
    for item in items:
        before, shared = end, 0
        for sequence in sequences(item):
            own = sequence.input_ids[shared:]
            learned = np.flatnonzero(sequence.labels != IGNORED)
            ids.append(own)
            places.append(np.arange(shared, shared + len(own)))
            targets.append(sequence.labels[learned])
            # The token before the first of a rejected answer is the prompt's last, in the segment of the chosen one.
            at = learned - 1
            predictors.append(np.where(at < shared, before + at, end + at - shared))
            segments.append(Segment(len(own), shared))
            end += len(own)
            shared = item.shared if isinstance(item, Pair) else 0
    return Row(_joined(ids)[None], _joined(places)[None], _joined(targets), _joined(predictors), tuple(segments))


def pad(items: Sequence[Item]) -> Row:
    """A row for each sequence, padded on the right to the longest with token 0, which nothing attends to."""
    every = [sequence for item in items for sequence in sequences(item)]
    longest = max(len(sequence.input_ids) for sequence in every)
    ids = np.zeros((len(every), longest), dtype=np.int64)
    places = np.full((len(every), longest), -1, dtype=np.int64)
    targets, predictors = [], []
    for index, sequence in enumerate(every):
        length = len(sequence.input_ids)
        learned = np.flatnonzero(sequence.labels != IGNORED)
        ids[index, :length] = sequence.input_ids
        places[index, :length] = np.arange(length)
        targets.append(sequence.labels[learned])
        predictors.append(index * longest + learned - 1)
    return Row(ids, places, _joined(targets), _joined(predictors))


def _joined(parts: Sequence[Any]) -> np.ndarray[Any, np.dtype[np.int64]]:
    return np.concatenate(parts).astype(np.int64, copy=False)


# -- which way suits a model ---------------------------------------------------------------------------------------


@torch.no_grad()
def choose_forward(model: Any, items: Sequence[Item], device: torch.device) -> Forward:
    """The quickest way that gives this model the losses that each sequence has by itself, with the model's own head and
    attention; the model is left with that attention.

    Tried on the longest item, the shortest and three between; packed, the losses of the others must be the same bits
    when the longest is replaced. The model must still have the attention that transformers chose for it.

    items: what the model will be trained and evaluated on, at least one with a learned token.

    Raises:
        WorkerFailed: an earlier token's loss depends on a later token; such a model would see what it is asked for.
    """
    by_length = sorted((item for item in items if learned([item])), key=lambda item: -tokens(item))
    last = len(by_length) - 1
    probes = [_probe(by_length[last * quarter // 4]) for quarter in range(5)]
    plain = Forward(model, device, "single", head=None, own_attention=model.config._attn_implementation)
    was_training = model.training
    model.eval()
    alone = plain.nats(probes)
    _require_causal(plain, probes[2])
    head = _last_layer(plain, probes[-1])
    ways: Iterator[tuple[Literal["packed", "padded", "single"], nn.Linear | None]]
    ways = product(("packed", "padded", "single"), [None] if head is None else [head, None])
    for attention, own_head in ways:
        way = replace(plain, attention=attention, head=own_head)
        model.set_attn_implementation(PACKED if attention == "packed" else plain.own_attention)
        if way == plain or _agrees(way, probes, alone):
            break
    model.train(was_training)
    return way


_LEARNED_IN_A_PROBE = 128  # tokens; more would take more memory than a step does


def _probe(item: Item) -> Item:
    """The item, of which only the last learned tokens count."""
    if isinstance(item, Pair):
        return replace(item, chosen=_probe(item.chosen), rejected=_probe(item.rejected))  # type: ignore[arg-type]
    places = np.flatnonzero(item.labels != IGNORED)[:-_LEARNED_IN_A_PROBE]
    labels = item.labels.copy()
    labels[places] = IGNORED
    return replace(item, labels=labels)


def _require_causal(plain: Forward, item: Item) -> None:
    sequence = sequences(item)[0]
    other = replace(sequence, input_ids=np.append(sequence.input_ids[:-1], sequence.input_ids[0]))
    earlier = int((sequence.labels[:-1] != IGNORED).sum())
    difference = (plain.nats([sequence]) - plain.nats([other]))[:earlier].abs()
    if len(difference) and float(difference.max()) > _TOLERANCE[plain.model.dtype]:
        raise WorkerFailed(
            "refused",
            f"{type(plain.model).__name__} looks ahead: a token's loss depends on the tokens after it.",
            "Select a causal language model; encoders and models of other kinds can't be trained to answer.",
        )


def _last_layer(plain: Forward, probe: Item) -> nn.Linear | None:
    """The model's head, if its output is the logits, and nothing is done with it.

    A cap on the logits hardly changes the small ones of an untrained model, and all the large ones of a trained one; so
    the head's output is made large, and must arrive as it is.
    """
    head = plain.model.get_output_embeddings()
    if type(head) is not nn.Linear:
        return None
    made: list[Tensor] = []

    def enlarge(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        made.append(output * 1000 / output.abs().max())
        return made[-1]

    hook = head.register_forward_hook(enlarge)
    try:
        row = pad([probe])
        logits = plain.model(input_ids=torch.from_numpy(row.ids).to(plain.device), use_cache=False).logits
    finally:
        hook.remove()
    return head if len(made) == 1 and torch.equal(logits, made[0].to(logits.dtype)) else None


def _agrees(way: Forward, probes: Sequence[Item], alone: Tensor) -> bool:
    try:
        together = way.nats(probes)
        apart = torch.split((alone - together).abs(), [learned([probe]) for probe in probes])
        if not all(part.mean() < _TOLERANCE[way.model.dtype] for part in apart):
            return False
        first = learned(probes[:1])
        return way.attention != "packed" or torch.equal(
            together[first:], way.nats([_other(probes[0]), *probes[1:]])[first:]
        )
    except _WHAT_MODELS_RAISE as error:  # a way that it can't be computed is a no, whatever it says
        if is_out_of_memory(error):
            raise
        return False


def _other(item: Item) -> Item:
    """Other tokens, as many of them."""
    if isinstance(item, Pair):
        turned = {name: _other(getattr(item, name)) for name in ("chosen", "rejected")}
        return replace(item, **turned)  # type: ignore[arg-type]
    return replace(item, input_ids=item.input_ids[::-1])


# -- attention of a packed row -------------------------------------------------------------------------------------


class _Attending:
    """The row that is being computed. It stays until the next one: layers that keep no activations are computed again
    in the backward pass, on a GPU in another thread."""

    row: Row


_attending = _Attending()


def _attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """transformers' attention interface for a packed row of T tokens.

    query (1, heads, T, width), key and value (1, key heads, T, width); returns (1, T, heads, width).
    """
    if softcap is not None or s_aux is not None:
        raise NotImplementedError("capped scores and attention sinks are not computed here")
    row = _attending.row
    lengths = [segment.length for segment in row.segments]
    if query.is_cuda and not dropout and varlen.is_usable(query, key, value):
        shared = [segment.shared for segment in row.segments]
        return varlen.attend(query, key, value, lengths, scaling, sliding_window, shared), None
    queries, keys, values = (torch.split(part, lengths, dim=2) for part in (query, key, value))
    attended = []
    for index, segment in enumerate(row.segments):
        q, k, v = queries[index], keys[index], values[index]
        if segment.shared:
            k = torch.cat([keys[index - 1][:, :, : segment.shared], k], dim=2)
            v = torch.cat([values[index - 1][:, :, : segment.shared], v], dim=2)
        window = None if sliding_window is None or k.shape[2] <= sliding_window else sliding_window
        plain = window is None and not segment.shared
        attended.append(
            nn.functional.scaled_dot_product_attention(
                q,
                k,
                v,
                attn_mask=None if plain else row.mask(q.shape[2], k.shape[2], window, q.device),
                dropout_p=dropout,
                is_causal=plain,
                scale=scaling,
                enable_gqa=query.shape[1] != key.shape[1],
            )
        )
    return torch.cat(attended, dim=2).transpose(1, 2).contiguous(), None


def _no_mask(*_: Any, **__: Any) -> None:
    """The examples are kept apart by calling attention once for each."""


AttentionInterface.register(PACKED, _attend)
AttentionMaskInterface.register(PACKED, _no_mask)
