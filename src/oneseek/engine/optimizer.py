"""AdamW over all trained parameters as one vector."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

_MOMENTS = ("exp_avg", "exp_avg_sq", "step")


class FlatAdamW:
    """AdamW (Loshchilov and Hutter 2019, arXiv:1711.05101), betas 0.9 and 0.999, eps 1e-8.

    An adapter is hundreds of small matrices. Here they are parts of one vector, and their gradients of another, so that
    clipping and the update are one call each. The parameters stay where they are in the model.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], weight_decay: float) -> None:
        every = list(parameters.values())
        self._vector = nn.Parameter(torch.cat([parameter.detach().reshape(-1) for parameter in every]))  # (n,)
        self._vector.grad = torch.zeros_like(self._vector)
        sizes = [parameter.numel() for parameter in every]
        values, gradients = torch.split(self._vector.detach(), sizes), torch.split(self._vector.grad, sizes)
        for parameter, value, gradient in zip(every, values, gradients, strict=True):
            parameter.data = value.view_as(parameter)
            parameter.grad = gradient.view_as(parameter)  # backward adds to it in place
        self._adamw = torch.optim.AdamW([self._vector], weight_decay=weight_decay, fused=True)

    def zero_grad(self) -> None:
        self._gradient.zero_()

    def clip(self, max_norm: float) -> float:
        """Scale the gradient down to the L2 norm `max_norm` if it is longer; its norm before."""
        return float(nn.utils.clip_grad_norm_([self._vector], max_norm))

    def step(self, learning_rate: float) -> None:
        for group in self._adamw.param_groups:
            group["lr"] = learning_rate
        self._adamw.step()

    def forget(self) -> None:
        """Begin anew, as before the first step."""
        self._adamw.state.clear()

    def state(self) -> dict[str, Tensor]:
        """Both moments (n,) and the count of steps, on the CPU; nothing before the first step."""
        return {name: value.cpu() for name, value in self._adamw.state.get(self._vector, {}).items()}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Set what `state` gave."""
        self.forget()
        if state:
            device = self._vector.device
            self._adamw.state[self._vector] = {name: state[name].clone().to(device) for name in _MOMENTS}

    @property
    def _gradient(self) -> Tensor:
        assert self._vector.grad is not None
        return self._vector.grad
