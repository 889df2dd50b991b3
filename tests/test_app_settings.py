"""The page's own settings, and a clip's settings as components: the same names, help, bounds and choices."""

import dataclasses

import pytest

from animation.app.settings import ADVANCED, CHOSEN, MAIN, SERVERS, AppSettings, chosen_settings, is_this_machine
from animation.clip.settings import ClipSettings
from animation.errors import InputError
from animation.flags import parse

FLAGS = {f.name: f.metadata["flag"] for f in dataclasses.fields(ClipSettings)}


@pytest.mark.parametrize("host", ["127.0.0.1", "127.3.2.1", "::1", "localhost"])
def test_this_machine_needs_no_password(host):
    assert is_this_machine(host)
    AppSettings(host=host).check()


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.7", "example.org", "localhost.example.org"])
def test_another_host_wants_a_password_or_no_auth_said_aloud(host):
    with pytest.raises(InputError, match=r"--auth USER:PASSWORD, or say --no_auth"):
        AppSettings(host=host).check()
    AppSettings(host=host, no_auth=True).check()
    settings = AppSettings(host=host, auth="anna:a:b")
    settings.check()
    assert settings.credentials == ("anna", "a:b")


@pytest.mark.parametrize("auth", ["anna", "anna:", ":secret", ":"])
def test_a_password_has_a_name_and_the_other_way_round(auth):
    with pytest.raises(InputError, match="--auth wants a name and a password"):
        AppSettings(auth=auth).check()


def test_auth_and_no_auth_contradict_each_other():
    with pytest.raises(InputError, match="contradict"):
        AppSettings(auth="a:b", no_auth=True).check()


def test_flags_of_a_clip_are_declared_once():
    settings = parse(AppSettings, "", ["--preset=draft", "--max_vram=8"])
    assert (settings.preset, settings.max_vram) == ("draft", 8.0)
    for name in ("preset", "max_vram"):
        assert AppSettings.__dataclass_fields__[name].metadata["flag"] is FLAGS[name]
    with pytest.raises(InputError, match="--preset"):
        AppSettings(preset="fastest").check()


def test_every_setting_is_the_visitors_or_the_servers():
    assert {*CHOSEN, *SERVERS} == set(FLAGS)
    assert set(MAIN) <= set(CHOSEN)
    assert {*MAIN, *ADVANCED} == set(CHOSEN)


@pytest.mark.parametrize("name", sorted(SERVERS))
def test_a_visitor_sets_nothing_of_the_server(name):
    with pytest.raises(InputError, match=f"{name} is the server's to set"):
        chosen_settings({name: "/etc/passwd"})


def test_no_setting_that_a_visitor_may_choose_is_a_path():
    paths = {name for name, facts in FLAGS.items() if facts.metavar in ("FILE", "DIR", "PATH", "FILE.npy")}
    assert paths
    assert paths <= SERVERS


def test_choices_are_checked_by_name_and_type():
    assert chosen_settings({"seed": 3, "end": 2, "size": None}) == ClipSettings(seed=3, end=2.0)
    with pytest.raises(InputError, match="did you mean 'seed'"):
        chosen_settings({"sead": 3})
    with pytest.raises(InputError, match="of type str"):
        chosen_settings({"seed": "3"})


class TestComponents:
    """What the page shows of each setting."""

    @pytest.fixture(autouse=True)
    def gradio(self):
        pytest.importorskip("gradio", reason="the page's package is not installed")

    @pytest.mark.parametrize("name", CHOSEN)
    def test_a_component_has_the_flags_name_help_and_default(self, name):
        from animation.app.components import component, value_of

        part = component(name)
        assert part.label == name
        assert part.info.startswith(FLAGS[name].help)
        default = ClipSettings.__dataclass_fields__[name].default
        assert value_of(name, part.value) == default

    def test_bounds_and_choices_are_the_flags(self):
        from animation.app.components import component

        part = component("seed")
        assert (part.minimum, part.maximum, part.precision) == (0, 2**53 - 1, 0)
        part = component("confidence")
        assert (part.minimum, part.maximum) == (FLAGS["confidence"].least, FLAGS["confidence"].below)
        assert component("loop").maximum == FLAGS["loop"].most
        assert component("canvas").info.endswith("(at least 64, at most 8192)")
        assert [value for _, value in component("fit").choices] == list(FLAGS["fit"].choices)
        assert type(component("gif")).__name__ == "Checkbox"
        assert [value for _, value in component("face_optimization").choices] == ["left open", "yes", "no"]

    def test_what_is_shown_becomes_the_settings_value(self):
        from animation.app.components import value_of

        shown = {"end": "2.5", "fps": "", "seed": 7, "canvas": " 384 ", "face_optimization": "no", "gif": True}
        values = {name: value_of(name, value) for name, value in shown.items()}
        assert values == {"end": 2.5, "fps": None, "seed": 7, "canvas": 384, "face_optimization": False, "gif": True}
        assert value_of("face_optimization", "left open") is None
        for name, text in (("end", "soon"), ("canvas", "1.5"), ("seed", 1.5)):
            with pytest.raises(InputError, match=name):
                value_of(name, text)
