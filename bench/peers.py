"""Who we are compared with: TRL, which is installed beside us, and peers that want other versions of the same libraries
and so live in environments of their own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from compare import Side, last_line, run_script

TRL = Side("TRL", "trl_peer.py")
TRL_PRECOMPUTED = Side("TRL, reference precomputed", "trl_peer.py", changes={"precompute": True})
LIBRARIES = ("torch", "transformers", "peft", "trl", "accelerate", "tokenizers")


@dataclass(frozen=True)
class Elsewhere:
    """A peer in an environment of its own. The environment variable `variable` names its Python; `packages` are those
    that its figures depend on beside the usual ones."""

    name: str
    script: str
    variable: str
    packages: tuple[str, ...]


ELSEWHERE = (
    Elsewhere(
        "LLaMA-Factory", "llamafactory_peer.py", "ONESEEK_BENCH_LLAMAFACTORY_PYTHON", ("llamafactory", "torchaudio")
    ),
    Elsewhere("Unsloth", "unsloth_peer.py", "ONESEEK_BENCH_UNSLOTH_PYTHON", ("unsloth", "unsloth_zoo")),
)


@dataclass(frozen=True)
class Found:
    """The peers elsewhere that can be asked to train, what is installed with each, and why the others can't be."""

    sides: tuple[Side, ...]
    versions: Mapping[str, str]
    absent: tuple[str, ...]


def find(environment: Mapping[str, str]) -> Found:
    sides, versions, absent = [], {}, []
    for peer in ELSEWHERE:
        named = environment.get(peer.variable)
        if not named:
            absent.append(f"{peer.name}: `make bench {peer.variable}=PYTHON`, a Python that has it, measures it")
            continue
        python = str(Path(named).absolute())
        try:
            versions[peer.name] = run_script([python, "versions.py", *peer.packages, *LIBRARIES]).strip()
        except (OSError, RuntimeError) as error:
            absent.append(f"{peer.name}: {last_line(error)}")
        else:
            sides.append(Side(peer.name, peer.script, python))
    return Found(tuple(sides), versions, tuple(absent))
