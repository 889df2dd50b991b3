"""Settings declared once: a dataclass field carries its flag's default, help, bounds, and what the setting affects.

    @dataclass(kw_only=True)
    class Sampling(Settings):
        TITLE: ClassVar = "sampling"
        tile_size: int = flag(16, "frames that the UNet sees at once", least=2)

`parse(Sampling, __doc__)` makes the command line of it, `settings.check()` validates it, and a settings class that
needs the same flags inherits them. After transformers' HfArgumentParser, without its import time.
"""

import argparse
import dataclasses
import difflib
import functools
import logging
import math
import operator
import types
import typing
from collections.abc import Sequence
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, ClassVar, TypeVar

from animation.errors import InputError

logger = logging.getLogger(__name__)

LATENTS, FRAMES, FILES, NOTHING = "latents", "frames", "files", "nothing"  # what a setting affects, and all after it
BOOLEANS = {"true": True, "1": True, "yes": True, "on": True, "false": False, "0": False, "no": False, "off": False}
METAVARS = {int: "N", float: "X", str: "NAME"}


@dataclass(frozen=True)
class Flag:
    """What a field's metadata says under "flag".

    Attributes:
        help: one line; "left out, …" where the default is None.
        least, most: bounds that the value may have.
        above, below: bounds that it may not have.
        const: the value of the flag given without one; None: a value is needed.
        affects: LATENTS (and so frames and files), FRAMES, FILES, or NOTHING of the result.
    """

    help: str
    least: float | None = None
    most: float | None = None
    above: float | None = None
    below: float | None = None
    choices: Sequence[str] | None = None
    metavar: str | None = None
    const: Any = None
    aliases: Sequence[str] = ()
    affects: str = LATENTS


def flag(default: Any = MISSING, help: str = "", **facts: Any) -> Any:
    """A dataclass field that is a flag; without a default it must be given. `facts` are those of `Flag`."""
    metadata = {"flag": Flag(help, **facts)}
    if isinstance(default, list):
        return field(default_factory=functools.partial(list, default), metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(kw_only=True)
class Settings:
    """A group of flags, or a script's settings that inherit such groups. Fields without `flag` are no flags.

    Attributes:
        TITLE: the group's heading in the help.
        RETIRED: flags of the original that are accepted and do nothing, and why.
        REFUSED: flags of the original that are not accepted, and what to do instead.
    """

    TITLE: ClassVar[str] = "inputs and outputs"
    RETIRED: ClassVar[dict[str, str]] = {}
    REFUSED: ClassVar[dict[str, str]] = {}

    def check(self) -> None:
        """Raise InputError for a setting that makes no sense; subclasses add what depends on more than one."""
        for name, (hint, facts) in _flags(type(self)).items():
            _check_value(name, getattr(self, name), hint, facts)

    @classmethod
    def checked_values(cls, values: dict[Any, Any]) -> dict[str, Any]:
        """Values by name, such as a file's. Raises InputError for an unknown name or a wrong type."""
        known = _flags(cls)
        for name in (name for name in values if name not in known):
            near = difflib.get_close_matches(str(name)[:100], known, n=1)
            meant = f"did you mean {near[0]!r}?" if near else "--help lists them"
            raise InputError(f"{shown(name)} is no setting; {meant}")
        return {name: _checked_type(name, value, known[name][0]) for name, value in values.items()}

    def affecting(self, what: str) -> dict[str, Any]:
        """The settings, by name, that affect just this: LATENTS, FRAMES or FILES."""
        return {name: getattr(self, name) for name, (_, facts) in _flags(type(self)).items() if facts.affects == what}

    def shared(self, cls: type) -> dict[str, Any]:
        """The values of the settings that another settings class has too."""
        return {f.name: getattr(self, f.name) for f in fields(cls) if f.init and hasattr(self, f.name)}


def _flags(cls: type) -> dict[str, tuple[Any, Flag]]:
    """The type and the facts of each flag of a settings class."""
    hints = typing.get_type_hints(cls)
    return {f.name: (hints[f.name], f.metadata["flag"]) for f in fields(cls) if "flag" in f.metadata}


def _kinds(hint: Any) -> tuple[Any, ...]:
    """The types that a hint allows."""
    return typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)


def _checked_type(name: str, value: Any, hint: Any) -> Any:
    """The value, a whole number as a float where that is due. Raises InputError for another type than the hint's."""
    kinds = [typing.get_origin(kind) or kind for kind in _kinds(hint)]
    if type(value) in kinds:
        return value
    if float in kinds and isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**53:
        return float(value)
    wanted = " or ".join("nothing" if kind is types.NoneType else kind.__name__ for kind in kinds)
    raise InputError(f"--{name} is {shown(value)}, of type {type(value).__name__}; it must be {wanted}")


def shown(value: Any) -> str:
    """A value for a message, however long or deep it is."""
    if isinstance(value, int) and abs(value) >= 10**30:
        return "a number of more than 30 digits"
    if isinstance(value, str):
        text = repr(value[:61]) if value.isprintable() else ascii(value[:61])
        return text if len(value) <= 60 else f"{text[:-2]}…'"
    if isinstance(value, list | tuple | dict | set):
        return f"a {type(value).__name__} of {len(value)}"
    return repr(value)[:60]


def _check_value(name: str, value: Any, hint: Any, facts: Flag) -> None:
    value = _checked_type(name, value, hint)
    if isinstance(value, str) and facts.choices is not None and value not in facts.choices:
        raise InputError(f"--{name} {value!r} is unknown; give one of {', '.join(map(str, facts.choices))}")
    for text in value if isinstance(value, list) else [value]:
        if text == "":
            raise InputError(f"--{name} is empty; give a value or leave it out")
        if isinstance(text, str) and ("\0" in text or any("\ud800" <= letter <= "\udfff" for letter in text)):
            raise InputError(f"--{name} {shown(text)} has a character in it that no name has; give another")
    if isinstance(value, bool) or not isinstance(value, int | float):
        return
    if isinstance(value, float) and not math.isfinite(value):
        raise InputError(f"--{name} {value} is not a finite number")
    for bound, outside, problem in (
        (facts.least, operator.lt, "is below {0}; give {0} or more"),
        (facts.most, operator.gt, "is above {0}; give {0} or less"),
        (facts.above, operator.le, "is not above {0}; give more"),
        (facts.below, operator.ge, "is not below {0}; give less"),
    ):
        if bound is not None and outside(value, bound):
            raise InputError(f"--{name} {shown(value)} {problem.format(bound)}")


T = TypeVar("T", bound=Settings)


def boolean(text: str) -> bool:
    """True or False, as people write them on a command line."""
    if text.strip().lower() not in BOOLEANS:
        raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false")
    return BOOLEANS[text.strip().lower()]


class Parser(argparse.ArgumentParser):
    """Tells what is wrong with a command line in one line, with the nearest flag."""

    def __init__(self, description: str | None = None, **options: Any):
        formatter = argparse.RawDescriptionHelpFormatter
        super().__init__(usage="%(prog)s [flags]", description=description, formatter_class=formatter, **options)

    def error(self, message: str) -> typing.NoReturn:
        if message.startswith("unrecognized arguments: "):
            name = message.removeprefix("unrecognized arguments: ").split()[0].split("=")[0]
            near = difflib.get_close_matches(name, self._option_string_actions, n=1)
            message += f"; did you mean {near[0]}?" if near else ""
        raise InputError(f"{message}; {self.prog} --help lists the flags")


class _Refused(argparse.Action):
    """Raises InputError for a flag that is not accepted any more, with what to do instead."""

    def __init__(self, option_strings: Sequence[str], dest: str, reason: str, **options: Any):
        super().__init__(option_strings, dest, nargs="?", default=argparse.SUPPRESS, **options)
        self.reason = reason

    def __call__(self, parser, namespace, values, option_string=None) -> None:
        raise InputError(f"{option_string} is not accepted here: {self.reason}")


def add_flags(parser: argparse.ArgumentParser, cls: type[Settings]) -> None:
    """Add the flags of a settings class to a parser, a group for each class that declares some."""
    groups: dict[str, Any] = {}
    declared, missing = {f.name: f for f in fields(cls)}, _flags(cls)
    for owner in cls.__mro__:
        title = vars(owner).get("TITLE", Settings.TITLE)
        for name in vars(owner).get("__annotations__", {}):
            if name in missing:
                groups[title] = group = groups.get(title) or parser.add_argument_group(title)
                _add_flag(group, name, *missing.pop(name), declared[name])
    if cls.RETIRED:
        group = parser.add_argument_group("accepted, with nothing to do")
        for name, reason in cls.RETIRED.items():
            group.add_argument(f"--{name}", nargs="?", const=True, metavar="…", help=reason, default=argparse.SUPPRESS)
    for name, reason in cls.REFUSED.items():
        parser.add_argument(f"--{name}", action=_Refused, reason=reason, help=argparse.SUPPRESS)


def _add_flag(group, name: str, hint: Any, facts: Flag, declared: dataclasses.Field) -> None:
    """Add one flag; its default is the dataclass's own, so that a flag left out is not passed on at all."""
    kinds = [kind for kind in _kinds(hint) if kind is not types.NoneType]
    names = [f"--{name}", *(f"--{alias}" for alias in facts.aliases)]
    required = declared.default is MISSING and declared.default_factory is MISSING
    shown = facts.help
    if not any(declared.default is nothing for nothing in (MISSING, None, False)):
        shown += f" (default: {declared.default})"
    shown = shown.replace("%", "%%")
    options: dict[str, Any] = {"default": argparse.SUPPRESS, "help": shown, "dest": name, "required": required}
    kind = kinds[0] if len(kinds) == 1 else str
    if kind is bool and len(_kinds(hint)) > 1:
        group.add_argument(*names, action=argparse.BooleanOptionalAction, default=argparse.SUPPRESS, help=shown)
    elif kind is bool:
        group.add_argument(*names, nargs="?", const=True, type=boolean, metavar="BOOL", **options)
    elif typing.get_origin(kind) is list:
        item = typing.get_args(kind)[0]
        group.add_argument(*names, nargs="+", action="extend", type=item, metavar=facts.metavar, **options)
    else:
        if facts.const is not None:
            options |= {"nargs": "?", "const": facts.const}
        if facts.choices is None:
            options["metavar"] = facts.metavar or METAVARS[kind]
        group.add_argument(*names, type=kind, choices=facts.choices, **options)


def parse(cls: type[T], description: str | None, arguments: Sequence[str] | None = None) -> T:
    """Make settings of a command line, or of the arguments given in its place, without checking their ranges.

    Raises:
        InputError: an unknown flag, a missing one, or a value of the wrong type.
    """
    parser = Parser(description)
    add_flags(parser, cls)
    values = vars(parser.parse_args(arguments))
    for name in values.keys() & cls.RETIRED.keys():
        logger.info("--%s does nothing: %s", name, cls.RETIRED[name])
        del values[name]
    return cls(**values)
