"""The task type as a baseline: whether a text is maths, code or reasoning."""

from edge_agent.task_type import TaskType, task_type

__all__ = ["TaskType", "is_hard", "task_type"]


def is_hard(text: str) -> bool:
    """Whether a text is maths, code or reasoning."""
    return task_type(text) != "other"
