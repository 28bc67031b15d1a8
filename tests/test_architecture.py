"""The rules of the house, kept by reading every module's syntax tree, function bodies included."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src" / "oneseek"

# In the order in which a request meets them: each may import only what stands above it, and its own folder.
ORDER = (
    "errors",
    "names",
    "files",
    "child",
    "config",
    "events",
    "chat",
    "registry",
    "datasets",
    "estimate",
    "ledger",
    "preflight",
    "policy",
    "journal",
    "certificate",
    "state",
    "engine",
    "executors",
    "runs",
    "demo",
    "server",
    "client",
    "api",
    "cli",
)

# Core: could run in a browser. No disk, clock, network, environment, randomness, terminal or torch.
CORE = (
    "errors",
    "names",
    "files.layout",
    "files.spelling",
    "config.schema",
    "config.aliases",
    "config.parse",
    "config.layers",
    "config.body",
    "config.text",
    "config.reference",
    "config.json_schema",
    "events",
    "events.state",
    "events.wire",
    "chat.answers",
    "chat.probe",
    "chat.render",
    "chat.template",
    "chat.turns",
    "registry.capabilities",
    "registry.context",
    "registry.coverage",
    "registry.families",
    "registry.licence",
    "registry.model_files",
    "registry.modules",
    "registry.safetensors",
    "registry.tokenizer",
    "registry.vocabulary",
    "registry.weights",
    "datasets.alpaca",
    "datasets.convert",
    "datasets.faults",
    "datasets.formats",
    "datasets.messages",
    "datasets.preference",
    "datasets.scan",
    "datasets.sharegpt",
    "datasets.split",
    "estimate",
    "preflight.facts",
    "preflight.finding",
    "preflight.fixes",
    "preflight.rules",
    "policy",
    "journal.record",
    "ledger.checkpoint",
    "ledger.entry",
    "ledger.log",
    "ledger.merkle",
    "ledger.note",
    "ledger.proof",
    "ledger.served",
    "ledger.tiles",
    "certificate.card",
    "certificate.contents",
    "certificate.dna",
    "certificate.documents",
    "certificate.ledger_proof",
    "certificate.manifest",
    "certificate.provenance",
    "certificate.report",
    "certificate.signature",
    "certificate.tensors",
    "engine.interface",
    "engine.schedule",
)

OUTSIDE = {
    "asyncio", "click", "concurrent", "ctypes", "fcntl", "filelock", "glob", "http", "importlib", "io", "logging",
    "mmap", "multiprocessing", "os", "peft", "platform", "psutil", "queue", "random", "requests", "resource", "rich",
    "secrets", "select", "shutil", "signal", "socket", "sqlite3", "subprocess", "sys", "tempfile", "threading",
    "time", "tokenizers", "torch", "transformers", "urllib", "uuid",
}  # fmt: skip
OUTSIDE_CALLS = {
    "absolute", "chmod", "cwd", "exists", "expanduser", "fromtimestamp", "glob", "home", "is_dir", "is_file",
    "is_symlink", "iterdir", "mkdir", "now", "read_bytes", "read_text", "readlink", "resolve", "rglob", "rmdir",
    "samefile", "stat", "symlink_to", "today", "touch", "unlink", "utcnow", "write_bytes", "write_text",
}  # fmt: skip
OUTSIDE_BUILTINS = {"open", "print", "input", "breakpoint"}
HEAVY = {"torch", "transformers", "peft", "accelerate"}
GRAB_BAGS = {"utils", "util", "common", "helpers", "helper", "manager", "misc"}


def module_of(path: Path) -> str:
    """`journal.record` for src/oneseek/journal/record.py; `journal` for its __init__.py."""
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path.read_text() for path in sorted(SOURCE.rglob("*.py"))}


def imports(source: str, module: str = "") -> Iterator[str]:
    """Every module that `source` imports, wherever it does so; each name of a `from` import as a module of its own,
    since it may be one. Relative imports are resolved against `module`."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = ["oneseek", *module.split(".")][: -node.level or None]
                base = ".".join([*above, *([node.module] if node.module else [])])
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def ours(source: str, module: str = "") -> set[str]:
    """The modules of OneSeek that `source` imports, without the package's name."""
    named = {name.removeprefix("oneseek.") for name in imports(source, module) if name.startswith("oneseek.")}
    return {name for name in named if name in MODULES}


def import_order_faults(module: str, source: str) -> list[str]:
    if module in ("", "__main__"):  # the package's own face points at its edges, and does so lazily
        return []
    own = module.split(".")[0]
    if own not in ORDER:
        return [f"{module} has no place in the order"]
    tops = {name.split(".")[0] for name in ours(source, module)}
    return [f"{module} imports {top}, which stands below it" for top in tops if ORDER.index(top) > ORDER.index(own)]


def is_core(module: str) -> bool:
    return any(module == name or module.startswith(f"{name}.") for name in CORE)


def purity_faults(module: str, source: str) -> list[str]:
    if not is_core(module):
        return []
    faults = [f"{module} imports {name}" for name in imports(source, module) if name.split(".")[0] in OUTSIDE]
    for name in ours(source, module):
        package = f"{name}." in {f"{other.rsplit('.', 1)[0]}." for other in MODULES if "." in other}
        if not is_core(name) and not (package and is_docstring_only(MODULES[name])):
            faults.append(f"{module} is core and imports {name}, which is not")
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            if isinstance(node.func, ast.Name) and node.func.id in OUTSIDE_BUILTINS:
                faults.append(f"{module} calls {node.func.id}()")
            elif isinstance(node.func, ast.Attribute) and node.func.attr in OUTSIDE_CALLS:
                faults.append(f"{module} calls .{node.func.attr}()")
    return faults


def is_docstring_only(source: str) -> bool:
    return all(isinstance(node, ast.Expr) for node in ast.parse(source).body)


def heavy_faults(module: str, source: str) -> list[str]:
    if module.split(".")[0] == "engine":
        return []
    return [f"{module} imports {name}" for name in imports(source, module) if name.split(".")[0] in HEAVY]


def name_faults(module: str) -> list[str]:
    return [f"{module} is a grab bag" for part in module.split(".") if part in GRAB_BAGS]


@pytest.mark.parametrize("module", MODULES)
def test_imports_fall_one_way(module: str) -> None:
    assert import_order_faults(module, MODULES[module]) == []


@pytest.mark.parametrize("module", [name for name in MODULES if is_core(name)])
def test_core_touches_nothing_outside(module: str) -> None:
    assert purity_faults(module, MODULES[module]) == []


@pytest.mark.parametrize("module", MODULES)
def test_torch_is_imported_in_the_engine_only(module: str) -> None:
    assert heavy_faults(module, MODULES[module]) == []


@pytest.mark.parametrize("module", MODULES)
def test_no_module_is_a_grab_bag(module: str) -> None:
    assert name_faults(module) == []


def test_every_core_module_is_there() -> None:
    assert [name for name in CORE if name not in MODULES] == []


LAZY_UPWARDS = "def later():\n    from oneseek.runs import train\n"
LAZY_TORCH = "def later():\n    import torch.nn as nn\n"


@pytest.mark.parametrize(
    "faults",
    [
        import_order_faults("journal.record", "from oneseek.runs import train"),
        import_order_faults("journal.record", "import oneseek.runs.train"),
        import_order_faults("journal.record", LAZY_UPWARDS),
        import_order_faults("journal.record", "from ..runs import train"),
        import_order_faults("journal.record", "from oneseek import runs"),
        import_order_faults("surprise.module", ""),
        purity_faults("policy.weights", "import os"),
        purity_faults("policy.weights", "def f():\n    import random"),
        purity_faults("policy.weights", "open('x')"),
        purity_faults("policy.weights", "datetime.now()"),
        purity_faults("policy.weights", "path.read_text()"),
        purity_faults("journal.record", "from oneseek.files.durable import write_bytes"),
        purity_faults("journal.record", "from oneseek.files import durable"),
        heavy_faults("runs.train", LAZY_TORCH),
        heavy_faults("cli.train", "from transformers import AutoModel"),
        name_faults("runs.utils"),
        name_faults("helpers.weights"),
    ],
)
def test_each_gate_finds_a_planted_fault(faults: list[str]) -> None:
    assert faults


@pytest.mark.parametrize(
    "faults",
    [
        import_order_faults("runs.train", "from oneseek.journal.record import encode"),
        import_order_faults("journal.file", "from oneseek.journal.record import encode"),
        purity_faults("journal.record", "import hashlib\nfrom oneseek.errors import JournalDamaged"),
        purity_faults("journal.file", "import os"),
        heavy_faults("engine.sft", LAZY_TORCH),
    ],
)
def test_no_gate_complains_of_what_is_allowed(faults: list[str]) -> None:
    assert faults == []
