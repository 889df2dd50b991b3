"""Many clips by one command: a file of cases, each with settings of its own, checked before any network is loaded."""

import json
import logging
import os
import re
import types
import typing
from dataclasses import dataclass, replace
from pathlib import Path

from animation.clip.settings import ClipInputs, ClipSettings
from animation.errors import InputError

logger = logging.getLogger(__name__)

NAME = "name"  # of a case: its folder in the output folder, unless it names an output of its own
SUFFIXES = (".yaml", ".yml", ".jsonl")


@dataclass
class Case:
    """One clip of many.

    Attributes:
        name: as the file has it, or its place there.
        settings: resolved; None where they make no sense.
        asked: the same as the file has them, with those that hold for all.
        inputs: what was read; None where something is wrong.
        error: what is wrong, in one line; None where all is well.
    """

    name: str
    settings: ClipSettings | None = None
    asked: ClipSettings | None = None
    inputs: ClipInputs | None = None
    error: str | None = None


def read_cases(path: str | Path) -> list[dict]:
    """The cases of a YAML file, a list of mappings, or of a JSONL file, an object a line.

    Raises:
        InputError: no such file, not readable, or nothing in it.
    """
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(f"--cases {path}: give a file that ends with .yaml, .yml or .jsonl")
    if not path.is_file():
        raise InputError(f"--cases {path}: no such file; give a list of cases as YAML or JSONL")
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix.lower() == ".jsonl":
            cases = [_json_line(line, number) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
        else:
            import yaml

            try:
                cases = yaml.safe_load(text)
            except yaml.YAMLError as error:
                raise ValueError(" ".join(str(error).split())) from None
    except (OSError, ValueError) as error:
        raise InputError(f"--cases {path}: cannot be read ({error})") from None
    if not isinstance(cases, list) or not cases:
        raise InputError(f"--cases {path}: holds {type(cases).__name__} where a list of cases was due")
    return cases


def _json_line(line: str, number: int) -> object:
    try:
        return json.loads(line)
    except ValueError as error:
        raise ValueError(f"line {number}: {error}") from None


def check_cases(common: ClipSettings, contents: list, taken: slice = slice(None)) -> list[Case]:
    """Read and check everything of every case that can be checked without torch; what is wrong stands in `error`.

    Args:
        common: settings that hold for all cases, unresolved; `output` is the folder of their folders.
        contents: as `read_cases` returns them.
        taken: which of them are this process's.
    """
    cases, outputs = [], {}
    for number, content in enumerate(contents):
        case = Case(_name(content, number))
        try:
            case.settings = _settings(common, content, case.name)
            place = str(Path(case.settings.output or "").resolve())
            if place in outputs:
                raise InputError(
                    f"its output {case.settings.output} is that of {outputs[place]} too; give another name"
                )
            outputs[place] = case.name
        except InputError as error:
            case.error = str(error)
        cases.append(case)
    for case in (own := cases[taken]):
        if case.error is not None:
            continue
        logger.info("%s:", case.name)
        try:
            case.asked, case.settings = case.settings, case.settings.resolve()
            case.inputs = case.settings.read_inputs()
        except (InputError, OSError) as error:
            case.error = str(error)
    return own


def _name(content: object, number: int) -> str:
    name = content.get(NAME) if isinstance(content, dict) else None
    return str(name) if name is not None else f"case-{number:03d}"


def _settings(common: ClipSettings, content: object, name: str) -> ClipSettings:
    if not isinstance(content, dict):
        raise InputError(f"{json.dumps(content, default=str)[:60]} is no case; give settings by their names")
    if not re.fullmatch(r"[^/\\\0]+", name) or name in (".", ".."):
        raise InputError(f"name {name!r} cannot be a folder's; give one without slashes")
    values = {key: value for key, value in content.items() if key != NAME}
    hints = typing.get_type_hints(ClipSettings)
    for key, value in values.items():
        if key not in hints:
            raise InputError(f"{key!r} is no setting; --help lists them (photo, video, seed, …)")
        values[key] = _checked(key, value, hints[key])
    if "output" not in values:
        values["output"] = str(Path(common.output or ".") / name)
    return replace(common, **values)


def _checked(key: str, value: object, hint: object) -> object:
    """A value as its setting's type; a whole number does for a float."""
    known = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if float in known and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) not in known:
        wanted = " or ".join("nothing" if kind is type(None) else kind.__name__ for kind in known)
        raise InputError(f"{key} is {value!r}, of type {type(value).__name__}; it must be {wanted}")
    return value


@dataclass(frozen=True)
class Processes:
    """The processes that share the cases, as `accelerate launch` starts them.

    Attributes:
        rank, count: which of how many this is.
        local_rank: which on its machine, and so which GPU.
        launch: tells this launch from earlier ones.
    """

    rank: int = 0
    count: int = 1
    local_rank: int = 0
    launch: str = ""

    @classmethod
    def of_environment(cls) -> "Processes":
        """Read from the variables that launchers set."""
        number = {
            name: int(os.environ.get(name, default))
            for name, default in (("RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_RANK", 0), ("LOCAL_WORLD_SIZE", 1))
        }
        launch = [os.environ.get(name, "") for name in ("TORCHELASTIC_RUN_ID", "MASTER_ADDR", "MASTER_PORT")]
        if number["LOCAL_WORLD_SIZE"] == number["WORLD_SIZE"]:
            launch.append(str(os.getppid()))  # of one machine: the launcher
        return cls(number["RANK"], number["WORLD_SIZE"], number["LOCAL_RANK"], "-".join(launch))

    @property
    def own(self) -> slice:
        """Which cases of a list are this process's: every so many-th."""
        return slice(self.rank, None, self.count)
