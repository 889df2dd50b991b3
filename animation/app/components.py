"""A clip's settings as Gradio's components, made of the flags' fields: names, help, bounds and choices."""

import dataclasses
import types
import typing
from typing import Any

import gradio as gr

from animation.app.settings import most_seed
from animation.clip.settings import ClipSettings
from animation.errors import InputError
from animation.flags import Flag
from animation.flags import shown as flag_shown

HINTS = typing.get_type_hints(ClipSettings)
FIELDS = {field.name: field for field in dataclasses.fields(ClipSettings)}
LEFT_OPEN = "left open"  # the choice that leaves a setting of yes and no, or of names, as it comes


def component(name: str, label: str | None = None, info: str | None = None, **changes: Any) -> gr.components.Component:
    """The component of a setting.

    Args:
        name: of the field.
        label, info: other words than the flag's name and help.
        changes: other arguments of the component.
    """
    field, facts = FIELDS[name], FIELDS[name].metadata["flag"]
    kinds = typing.get_args(HINTS[name]) if isinstance(HINTS[name], types.UnionType) else (HINTS[name],)
    default = None if field.default is dataclasses.MISSING else field.default
    common: dict[str, Any] = {
        "label": label or name,
        "info": facts.help if info is None else info,
        "value": default,
        "elem_id": f"setting-{name}",
        "interactive": True,
    }
    if bool in kinds and len(kinds) == 1:
        return gr.Checkbox(**(common | changes))
    if bool in kinds:
        choices = [(LEFT_OPEN, LEFT_OPEN), ("yes", "yes"), ("no", "no")]
        return gr.Dropdown(**(common | {"choices": choices, "value": LEFT_OPEN} | changes))
    if facts.choices is not None:
        names = [*([LEFT_OPEN] if default is None else []), *facts.choices]
        return gr.Dropdown(**(common | {"choices": names, "value": default or LEFT_OPEN} | changes))
    if int not in kinds and float not in kinds:
        return gr.Textbox(**(common | {"placeholder": facts.metavar or LEFT_OPEN, "max_lines": 1} | changes))
    if default is None:  # Gradio's numbers cannot be left out
        told = common["info"] + _bounds_in_words(facts)
        return gr.Textbox(**(common | {"info": told, "placeholder": LEFT_OPEN, "max_lines": 1} | changes))
    return gr.Number(**(common | _bounds(name, facts, int in kinds) | changes))


def _bounds_in_words(facts: Flag) -> str:
    """The bounds of a number, as its help goes on."""
    bounds = {"at least": facts.least, "at most": facts.most, "above": facts.above, "below": facts.below}
    words = [f"{words} {bound:g}" for words, bound in bounds.items() if bound is not None]
    return f" ({', '.join(words)})" if words else ""


def _bounds(name: str, facts: Flag, whole: bool) -> dict[str, Any]:
    """The least and the most of a number; bounds that it may not have are checked with the other settings."""
    least = facts.least if facts.least is not None else facts.above
    most = facts.most if facts.most is not None else facts.below
    if name == "seed":
        most = most_seed()
    bounds: dict[str, Any] = {"minimum": least, "maximum": most}
    return bounds | ({"precision": 0, "step": 1} if whole else {"step": None})


def value_of(name: str, shown: Any) -> Any:
    """What a component shows, as the setting's value; None leaves it open. Raises InputError for no number."""
    if shown is None or shown == LEFT_OPEN or (isinstance(shown, str) and not shown.strip()):
        return None
    kinds = typing.get_args(HINTS[name]) or (HINTS[name],)
    if bool in kinds:
        return shown if isinstance(shown, bool) else shown == "yes"
    number = int if int in kinds else float if float in kinds else None
    if number is None:
        return shown
    if isinstance(shown, float) and number is int and not shown.is_integer():
        raise InputError(f"{name} is {shown}; give a whole number")
    try:
        return number(shown)
    except (ValueError, OverflowError):
        raise InputError(f"{name} is {flag_shown(shown)}; give a number, or leave it empty") from None
