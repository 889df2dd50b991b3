"""Settings declared once: the command line that is made of them, and what is refused."""

import re
from dataclasses import dataclass
from typing import ClassVar

import pytest

from animation.errors import InputError
from animation.flags import FILES, FRAMES, LATENTS, Parser, Settings, add_flags, flag, parse


@dataclass(kw_only=True)
class Windows(Settings):
    TITLE: ClassVar = "windows"

    tile: int = flag(16, "frames at once", least=2, most=64)
    scale: float = flag(3, "100% of it", above=0, below=10)
    chunk: int | None = flag(None, "frames; left out, all", least=1, affects=FRAMES)


@dataclass(kw_only=True)
class Script(Windows):
    RETIRED: ClassVar = {"overlap": "see --tile"}
    REFUSED: ClassVar = {"old": "use --tile"}

    photo: str = flag(help="the photo", metavar="FILE")
    fit: str = flag("crop", "how", choices=("crop", "pad"), affects=FILES)
    again: bool = flag(False, "make it anew")
    faces: bool | None = flag(None, "optimise faces; left out, as the preset says")
    crop: int | None = flag(None, "margin", const=8, least=0)
    cases: list[str] = flag([], "names")
    own: int = 7  # no flag


def script(*arguments):
    return parse(Script, "About.", ["--photo=a", *arguments])


def test_flags_fill_the_settings_and_what_is_left_out_keeps_its_default():
    assert script() == Script(photo="a")
    found = script("--tile", "8", "--scale=2", "--fit=pad", "--again", "--faces", "--crop", "--cases", "x", "y")
    assert found == Script(photo="a", tile=8, scale=2.0, fit="pad", again=True, faces=True, crop=8, cases=["x", "y"])
    assert (script("--crop=3").crop, script("--again=false").again, script("--no-faces").faces) == (3, False, False)
    assert script("--cases", "x", "--cases", "y").cases == ["x", "y"]
    script().cases.append("shared?")
    assert script().cases == []


def test_help_shows_groups_defaults_and_nothing_of_what_has_none():
    parser = Parser("About.")
    add_flags(parser, Script)
    text = re.sub(r"\s+", " ", parser.format_help())
    for part in ("inputs and outputs:", "windows:", "(default: 16)", "100% of it (default: 3)", "(default: crop)"):
        assert part in text
    assert "--overlap" in text and "see --tile" in text
    for part in ("--old", "(default: None)", "(default: False)", "(default: [])", "--own"):
        assert part not in text


def test_old_flags_do_nothing_or_say_what_to_do(caplog):
    caplog.set_level("INFO", "animation")
    assert script("--overlap", "3") == Script(photo="a")
    assert "--overlap does nothing: see --tile" in caplog.text
    with pytest.raises(InputError, match="--old is not accepted here: use --tile"):
        script("--old=3")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tlie=3"], "unrecognized arguments: --tlie=3; did you mean --tile?"),
        (["--tile=many"], "argument --tile: invalid int value: 'many'"),
        (["--fit=squeeze"], "invalid choice: 'squeeze'"),
        (["--again=maybe"], "'maybe' is neither true nor false"),
    ],
)
def test_a_wrong_command_line_is_one_line(arguments, message):
    with pytest.raises(InputError, match=re.escape(message)) as raised:
        script(*arguments)
    assert "\n" not in str(raised.value)


def test_a_missing_flag_is_named():
    with pytest.raises(InputError, match="--photo"):
        parse(Script, None, [])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tile": 1}, "--tile 1 is below 2; give 2 or more"),
        ({"tile": 65}, "--tile 65 is above 64; give 64 or less"),
        ({"scale": 0.0}, "--scale 0.0 is not above 0; give more"),
        ({"scale": 10.0}, "--scale 10.0 is not below 10; give less"),
        ({"scale": float("inf")}, "--scale inf is not a finite number"),
        ({"scale": float("nan")}, "--scale nan is not a finite number"),
        ({"scale": "3"}, "--scale is '3', of type str; it must be float"),
        ({"tile": True}, "--tile is True, of type bool; it must be int"),
        ({"tile": None}, "--tile is None, of type NoneType; it must be int"),
        ({"chunk": 0}, "--chunk 0 is below 1"),
        ({"chunk": "a"}, "it must be int or nothing"),
        ({"fit": "squeeze"}, "--fit 'squeeze' is unknown; give one of crop, pad"),
        ({"photo": ""}, "--photo is empty"),
        ({"photo": "a\0"}, "'a\\x00' has a character in it that no name has"),
        ({"photo": "\ud800"}, "'\\ud800' has a character"),
        ({"cases": ["a", ""]}, "--cases is empty"),
        ({"cases": "a"}, "it must be list"),
        ({"tile": 10**400}, "--tile a number of more than 30 digits is above 64"),
        ({"scale": 10**400}, "a number of more than 30 digits, of type int; it must be float"),
    ],
)
def test_what_makes_no_sense_is_refused(changes, message):
    with pytest.raises(InputError, match=re.escape(message)) as raised:
        Script(**{"photo": "a", **changes}).check()
    assert len(str(raised.value)) < 200
    Script(photo="a", scale=3).check()  # a whole number does for a float


def test_values_of_a_file():
    values = Script.checked_values({"photo": "a", "scale": 2})
    assert values == {"photo": "a", "scale": 2.0}
    assert type(values["scale"]) is float
    with pytest.raises(InputError, match="'tlie' is no setting; did you mean 'tile'"):
        Script.checked_values({"tlie": 2})
    with pytest.raises(InputError, match="7 is no setting"):
        Script.checked_values({7: 2})
    with pytest.raises(InputError, match="'own' is no setting"):
        Script.checked_values({"own": 2})


def test_what_a_setting_affects():
    found = Script(photo="a")
    assert set(found.affecting(FRAMES)) == {"chunk"}
    assert set(found.affecting(FILES)) == {"fit"}
    assert {"tile", "photo"} <= set(found.affecting(LATENTS))
    assert Script(photo="a", tile=9).shared(Windows) == {"tile": 9, "scale": 3, "chunk": None}
