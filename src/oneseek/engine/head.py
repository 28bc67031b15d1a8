"""The output head's cross-entropy in chunks, with its gradient computed on the way forward.

Logits are the largest tensor of a step: 1,000 learned tokens of a vocabulary of 150,000 are 600 MB, and autograd keeps
them and two more like them until the backward pass. Here one chunk of them exists at a time.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

CHUNK = 256  # tokens: large enough that the matrix products are as quick as one of all of them


class _HeadNats(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor) -> Tensor:
        nats = torch.empty(len(hidden), dtype=torch.float32, device=hidden.device)
        gradient = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        for start in range(0, len(hidden), CHUNK):
            part = slice(start, start + CHUNK)
            logits = torch.nn.functional.linear(hidden[part], weight, bias).float()  # (chunk, vocab)
            total = logits.logsumexp(dim=-1, keepdim=True)
            wanted = targets[part, None]
            nats[part] = (total - logits.gather(1, wanted)).squeeze(1)
            if gradient is not None:
                # d nats / d logits = softmax(logits) - onehot(target)
                logits.sub_(total).exp_()
                logits[torch.arange(len(logits), device=logits.device), targets[part]] -= 1.0
                gradient[part] = logits.to(weight.dtype) @ weight
        if gradient is not None:
            ctx.save_for_backward(gradient)
        return nats

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return gradient * gradients[0][:, None].to(gradient.dtype), None, None, None


def head_nats(hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor) -> Tensor:
    """Cross-entropy in nats, fp32, of each target under a frozen head: (n,).

    hidden: (n, width), the only input that gets a gradient. weight: (vocab, width). bias: (vocab,) or None.
    targets: (n,), token ids.
    """
    nats: Tensor = _HeadNats.apply(hidden, weight, bias, targets)  # type: ignore[no-untyped-call]
    return nats
