"""How many floating-point operations a second the machine does when it does nothing but a step's matrix products.

`python gemm.py SPECIFICATION` prints a JSON object. The specification is JSON: `threads`, `tokens`, `layers` and
`products`, the (inputs, outputs) of the linear layers of one block. Every layer has weights of its own, since a model's
do not lie in the cache either. The best pass of two seconds counts.
"""

from __future__ import annotations

import json
import sys
import time

import torch

SECONDS = 2.0


def flops_per_second(threads: int, tokens: int, layers: int, products: list[tuple[int, int]]) -> float:
    """fp32; each layer's product forward, (tokens, in) by (in, out), and backward with respect to its activations."""
    torch.set_num_threads(threads)
    weights = [torch.randn(outputs, inputs) for _ in range(layers) for inputs, outputs in products]
    widths = {width for product in products for width in product}
    activations = {width: torch.randn(tokens, width) for width in widths}
    results = {width: torch.empty(tokens, width) for width in widths}
    passes: list[float] = []
    until = time.perf_counter() + SECONDS
    while time.perf_counter() < until or len(passes) < 2:
        began = time.perf_counter()
        for weight in weights:
            outputs, inputs = weight.shape
            torch.mm(activations[inputs], weight.t(), out=results[outputs])
            torch.mm(activations[outputs], weight, out=results[inputs])
        passes.append(time.perf_counter() - began)
    return sum(4 * tokens * weight.numel() for weight in weights) / min(passes)


if __name__ == "__main__":
    rate = flops_per_second(**json.loads(sys.argv[1]))
    print(json.dumps({"flops_per_second": rate, "instructions": torch.backends.cpu.get_cpu_capability()}))
