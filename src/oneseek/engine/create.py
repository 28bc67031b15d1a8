"""The trainer that an assignment asks for. Importing this module imports no engine: torch takes seconds."""

from __future__ import annotations

from oneseek.engine.interface import Assignment, Trainer


def create(assignment: Assignment) -> Trainer:
    """The engine named by `assignment.engine`, not yet prepared."""
    if assignment.engine == "scripted":
        from oneseek.engine.scripted import ScriptedTrainer

        return ScriptedTrainer(assignment)
    from oneseek.engine.trainer import TorchTrainer

    return TorchTrainer(assignment)
