"""What `oneseek models show` says of one base model."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from oneseek.chat.probe import TemplateTraits
from oneseek.cli.output import visible
from oneseek.datasets.limited import Trouble
from oneseek.engine.interface import Computed
from oneseek.names import size
from oneseek.registry.capabilities import ModelInfo
from oneseek.registry.coverage import Coverage, ModuleCoverage
from oneseek.registry.discover import lacks_parts
from oneseek.registry.families import guess


def show(
    console: Console,
    model: ModelInfo,
    cover: Coverage,
    traits: TemplateTraits | Trouble | None,
    computed: Computed | None,
) -> None:
    """A line for each thing to know, then the matrix of the linear layers."""
    console.print(Text(model.display_name, style="bold"))
    for label, value in (
        ("key", model.key),
        ("here", whereabouts(model)),
        *([("path", model.path)] if model.source != "hub" else []),
        ("architecture", model.architecture),
        ("licence", model.licence or "not stated"),
        ("parameters", f"{parameters(model)} ({', '.join(model.dtypes)})" if model.dtypes else parameters(model)),
        ("size", size(model.size_bytes)),
        ("context", f"{model.context_length} tokens" if model.context_length else "not stated"),
        ("chat template", _chat(model, traits)),
        ("LoRA targets", ", ".join(cover.targets) or "none"),
        ("trained", _share(cover)),
        ("computed", _computed(computed) if computed else "found out when it is loaded (--load)"),
    ):
        console.print(Text(f"  {label:14}", style="dim") + Text(value), soft_wrap=True)
    for problem in model.problems:
        console.print(Text(f"  ✗ {problem.problem} {problem.fix}", style="yellow"), soft_wrap=True)
    if cover.modules:
        console.print(_matrix(model, cover))


def whereabouts(model: ModelInfo) -> str:
    """Whether a model is here, and what a download of it would still fetch."""
    if model.source == "directory":
        return "✓"
    if model.source == "hub" or lacks_parts(model) or model.missing_bytes:
        return f"⬇ {size(model.missing_bytes)}" if model.missing_bytes else "⬇"
    return "✓ cached"


def parameters(model: ModelInfo) -> str:
    """How many there are, which only safetensors tell."""
    return f"{model.parameters:,}" if model.parameters else "not known"


def _chat(model: ModelInfo, traits: TemplateTraits | Trouble | None) -> str:
    if model.unseen:
        usual = guess(model.model_type, model.hub_id or model.key).chat
        return {True: "usual in its family", False: "unusual in its family", None: "not known yet"}[usual]
    if model.chat_template is None:
        return "no"
    if isinstance(traits, Trouble):
        return f"yes, but: {traits.problem}"
    if traits is None:
        return "yes"
    if not traits.renders:
        return f"yes, but it renders no chat: {visible(traits.refusals.get('chat', ''))}"
    found = {"tags": "by generation tags", "growth": "by how the text grows", "hidden": "not found"}
    parts = [
        f"answers {found[traits.answers]}",
        f"ends them with {traits.ends_with.strip()!r}" if traits.ends_with.strip() else "ends them with nothing",
        "takes a system text" if traits.system else "takes no system text",
        *(["writes a system text of its own"] if traits.default_system else []),
        *([] if traits.several_turns else ["takes one turn only"]),
        "takes tools" if traits.tools and traits.tool_calls and traits.tool_results else "takes no tools",
    ]
    return f"yes: {', '.join(parts)}"


def _share(cover: Coverage) -> str:
    if not cover.places:
        return "not known"
    share = f", {cover.trained_parameters / cover.parameters:.0%} of their parameters" if cover.parameters else ""
    return f"{cover.trained_places} of {cover.places} linear layers{share}"


def _computed(computed: Computed) -> str:
    rows = {
        "packed": "rows packed side by side, attention per example",
        "padded": "rows padded to the longest, as the model does not allow packing",
        "single": "each row by itself, as the model lets rows change each other",
    }
    head = {"chunked": "head in chunks, at learned tokens only", "own": "the model's own head"}
    return f"{rows[computed.attention]}; {head[computed.head]}"


def _matrix(model: ModelInfo, cover: Coverage) -> Table:
    table = Table()
    for column in ("module", "in × out", "layers", "places", "trained"):
        table.add_column(column, justify="left" if column in ("module", "trained") else "right")
    shapes: dict[str, list[str]] = {}
    for part in model.linear_modules:
        shapes.setdefault(part.name, []).append(f"{part.in_features} × {part.out_features}")
    for module in cover.modules:
        table.add_row(
            Text(module.name),
            "\n".join(shapes.get(module.name, [])),
            f"{len(module.present)} of {module.layers}" if module.layers else "",
            str(module.places or ""),
            Text(_trained(module), style="yellow" if module.status in ("absent", "forbidden") else ""),
        )
    return table


def _trained(module: ModuleCoverage) -> str:
    match module.status:
        case "matched":
            return "yes"
        case "partial":
            return f"yes, in {len(module.trained)} of {module.layers} layers"
        case "absent":
            return module.reason or "there is no such module"
        case "forbidden" | "left out":
            return f"{module.status}: {module.reason}"
        case _:
            return "no"
