"""Many clips by one command: a file of cases, each with settings of its own, checked before any network is loaded."""

import logging
import re
from dataclasses import dataclass, replace
from pathlib import Path

from animation.clip.request import RUN_FILE, finished
from animation.clip.settings import ClipInputs, ClipSettings
from animation.errors import InputError
from animation.files import read_json
from animation.flags import shown

logger = logging.getLogger(__name__)

NAME = "name"  # of a case: its folder in the output folder, unless it names an output of its own
SUFFIXES = (".yaml", ".yml")
LARGEST_FILE = 4 << 20  # bytes
DEEPEST = 20  # lists and mappings within each other
NAME_PATTERN = re.compile(r"\w[\w .+,@=()-]{0,99}")
TAKEN_NAMES = ("cases.json",)  # of the output folder, in small letters


@dataclass
class Case:
    """One clip of many.

    Attributes:
        name: as the file has it, or its place there.
        settings: resolved; None where they make no sense.
        asked: the same as the file has them, with those that hold for all.
        inputs: what was read; None where something is wrong, or it was not kept.
        error: what is wrong, in one line; None where all is well.
        made: the facts in its run.json where the clip is there already, made of the same.
    """

    name: str
    settings: ClipSettings | None = None
    asked: ClipSettings | None = None
    inputs: ClipInputs | None = None
    error: str | None = None
    made: dict | None = None


def read_cases(path: str | Path) -> list:
    """The cases of a YAML file, a list of mappings.

    Raises:
        InputError: no such file, not readable, too large, or nothing in it.
    """
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(f"--cases {path}: give a file that ends with .yaml or .yml")
    if not path.is_file():
        raise InputError(f"--cases {path}: no such file; give a list of cases as YAML")
    if path.stat().st_size > LARGEST_FILE:
        raise InputError(f"--cases {path}: more than {LARGEST_FILE >> 20} MB; divide it among several files")
    import yaml

    try:
        text = path.read_text(encoding="utf-8")
        loader, depth = getattr(yaml, "CSafeLoader", yaml.SafeLoader), 0  # the first where libyaml is: 7 times as fast
        for event in yaml.parse(text, loader):  # a few lines of aliases stand for gigabytes
            if isinstance(event, yaml.AliasEvent):
                raise ValueError("an alias (*name) in it; write each case out")
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > DEEPEST:
                raise ValueError("nested too deeply")
        cases = yaml.load(text, loader)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise InputError(f"--cases {path}: cannot be read ({' '.join(str(error).split())[:300]})") from None
    if not isinstance(cases, list) or not cases:
        raise InputError(f"--cases {path}: holds {type(cases).__name__} where a list of cases was due")
    return cases


def check_cases(common: ClipSettings, contents: list, keep_inputs: bool = True) -> list[Case]:
    """Read and check everything of every case that can be checked without torch; what is wrong stands in `error`.

    Args:
        common: settings that hold for all cases, unresolved; `output` is the folder of their folders.
        contents: as `read_cases` returns them.
        keep_inputs: else they are only checked, and whoever makes the clip reads them.
    """
    cases: list[Case] = []
    outputs: dict[str, str] = {}
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
    for case in cases:
        if case.error is not None:
            continue
        logger.info("%s:", case.name)
        try:
            case.asked, case.settings = case.settings, case.settings.resolve()
            inputs = case.settings.read_inputs()
            case.inputs = inputs if keep_inputs else None
            if finished(case.settings, inputs):
                case.made = read_json(Path(case.settings.output) / RUN_FILE)
        except (InputError, OSError) as error:
            case.error = str(error)
    return cases


def _name(content: object, number: int) -> str:
    name = content.get(NAME) if isinstance(content, dict) else None
    return f"case-{number:03d}" if name is None else shown(name).strip("'")


def _settings(common: ClipSettings, content: object, name: str) -> ClipSettings:
    if not isinstance(content, dict):
        raise InputError(f"{shown(content)} is no case; give settings by their names")
    given = str(content.get(NAME, name))
    if given != given.strip() or not NAME_PATTERN.fullmatch(given) or given.lower() in TAKEN_NAMES:
        raise InputError(f"name {shown(given)} cannot be a folder's here; give one of letters, digits, spaces, - and _")
    values = common.checked_values({key: value for key, value in content.items() if key != NAME})
    folder = Path(common.output or ".")
    settings = replace(common, **({"output": str(folder / given)} | values))
    if not Path(settings.output or ".").resolve().is_relative_to(folder.resolve()):
        raise InputError(f"its output {shown(settings.output)} is not in --output {folder}; leave it out")
    return settings
