"""The documentation against the project: links, commands, flags, code blocks, the notebook and the picture."""

import ast
import importlib
import importlib.util
import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from PIL import Image

from animation.flags import FILES, Settings, flag, parse
from animation.settings import InferenceSettings

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *ROOT.glob("checkpoints/**/*.md"), *ROOT.glob("models/*.md")]
)
SCRIPTS = sorted(path.stem for path in (ROOT / "animation" / "commands").glob("[a-z]*.py"))
# Of pip, TensorBoard, pytest, launchers, and every script.
OTHERS_FLAGS = {
    "--no-deps",
    "--logdir",
    "--no-compile",
    "--pdb",
    "--num_processes",
    "--nproc_per_node",
    "--multi_gpu",
    "--machine_rank",
    "--help",
}
EXAMPLE = {"--no_mp4"}  # of CONTRIBUTING.md: a flag that is not there
PARTS = {"make_puppets": ("clips", "training", "cases")}  # commands that have parts with flags of their own
FRONT_DOOR = "pip install --no-compile -r requirements.txt && bash command_basic_infer.sh"
TEST_COMMAND = "<!-- the test command -->\n```bash\npip install -r requirements-dev.txt && python -m pytest\n```"


def read(page):
    return (ROOT / page).read_text(encoding="utf-8")


def slug(heading):
    """A heading's anchor, as GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def broken_links(text, folder):
    """The links of a page to files and headings that are not there."""
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        name, _, anchor = target.partition("#")
        if re.match(r"[a-z]+:", target):
            continue
        path = folder / name
        lines = path.read_text(encoding="utf-8").splitlines() if path.suffix == ".md" and path.is_file() else []
        headings = {slug(line.lstrip("#")) for line in lines if line.startswith("#")}
        if not path.exists() or (anchor and anchor not in headings):
            broken.append(target)
    return broken


def blocks(text, language):
    """The code blocks of a language, without the indentation of a list."""
    found = re.findall(rf"^( *)```{language}\n(.*?)^ *```", text, re.DOTALL | re.MULTILINE)
    return ["\n".join(line.removeprefix(indent) for line in block.splitlines()) for indent, block in found]


def commands(text):
    """The commands of the shell blocks of a page, a list of words each, without comments and what follows `<<`."""
    for block in blocks(text, "bash"):
        joined = re.sub(r"<<'(\w+)'\n.*?^\1$", "", block.replace("\\\n", " "), flags=re.DOTALL | re.MULTILINE)
        for line in re.split(r"\n|&&", joined):
            words = re.sub(r"(^|\s)#.*", "", line).split()
            while words and re.fullmatch(r"[A-Z]+=\S*", words[0]):
                words = words[1:]
            if words:
                yield words


@pytest.fixture(scope="module")
def flags():
    """The flags of each script, as its help shows them, and those that it refuses with a reason."""
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        for name in SCRIPTS:
            module = importlib.import_module(f"animation.commands.{name}")
            helps = []
            patch.setattr(sys, "stdout", type("Out", (), {"write": lambda _, text, to=helps: to.append(text)})())
            for part in PARTS.get(name, ("",)):
                patch.setattr(sys, "argv", [name, *([part] if part else []), "--help"])
                with pytest.raises(SystemExit):
                    module.main()
            found[name] = set(re.findall(r"--[\w-]+", "".join(helps)))
            patch.undo()
    return found


def refused_flags(cls=Settings):
    """The flags that any settings class refuses with a reason."""
    return {f"--{name}" for name in cls.REFUSED}.union(*map(refused_flags, cls.__subclasses__()))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    assert broken_links(page.read_text(encoding="utf-8"), page.parent) == []


def test_a_broken_link_is_found():
    text = "[a](nowhere.md) [b](README.md#no-such-heading) [c](README.md#install) [d](https://example.org/x)"
    assert broken_links(text, ROOT) == ["nowhere.md", "README.md#no-such-heading"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_exist_and_have_their_flags(page, flags):
    for words in commands(page.read_text(encoding="utf-8")):
        script = next((word for word in words if re.fullmatch(r"[\w/]+\.(py|sh)", word)), None)
        if script is not None and words[0] in ("python", "bash", "accelerate"):
            assert (ROOT / script).is_file(), f"{page.name}: {script}"
        if words[:2] == ["python", "-m"]:
            assert importlib.util.find_spec(words[2]), f"{page.name}: {words[2]}"
        if script is not None and Path(script).stem in flags:
            given = {word.split("=")[0] for word in words[words.index(script) :] if word.startswith("--")}
            assert given <= flags[Path(script).stem], f"{page.name}: {script}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_flags_that_are_named_exist(page, flags):
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    spans = [span for span in re.findall(r"`([^`\n]+)`", text) if "pip " not in span]
    named = {name for span in spans for name in re.findall(r"(?<![\w-])--[a-z][\w-]*", span)}
    modules = [*ROOT.glob("recipes/*.py"), *ROOT.glob("benchmarks/*.py"), *ROOT.glob("tests/robustness/*.py")]
    own = {name for path in modules for name in re.findall(r'"(--[\w-]+)"', path.read_text(encoding="utf-8"))}
    known = own.union(OTHERS_FLAGS, EXAMPLE, refused_flags(), *flags.values())
    assert named - known == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_python_blocks_import_what_exists(page):
    text = page.read_text(encoding="utf-8")
    for block in blocks(text, "python"):
        if "class " in block or "..." in block:
            continue  # a part of a file
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom):
                module = importlib.import_module(node.module)
                assert all(hasattr(module, alias.name) for alias in node.names), f"{page.name}: {node.module}"


def test_the_two_commands_of_the_readme_stand():
    text = read("README.md")
    assert f"```bash\n{FRONT_DOOR}\n```" in text
    assert TEST_COMMAND in text
    assert len(text.splitlines()) <= 180


def test_the_picture_of_the_readme_moves_and_is_small():
    path = ROOT / "docs" / "images" / "strip.gif"
    assert path.stat().st_size < 2_000_000
    with Image.open(path) as picture:
        assert picture.n_frames >= 16
        assert picture.width >= 3.5 * picture.height  # photo, driver, skeleton and result


def test_adding_a_flag_takes_one_line_and_its_use():
    """The example of CONTRIBUTING.md, executed."""
    (line,) = re.findall(r"^ *(no_mp4: .*)$", read("CONTRIBUTING.md"), re.MULTILINE)
    namespace = {"flag": flag, "FILES": FILES, "InferenceSettings": InferenceSettings, "dataclass": dataclass}
    exec(f"@dataclass(kw_only=True)\nclass Changed(InferenceSettings):\n    {line}", namespace)
    Changed = namespace["Changed"]
    given = ["--validation_image=a", "--validation_control_folder=b", "--output_dir=c", "--width=64", "--height=64"]
    assert not hasattr(parse(InferenceSettings, "", given), "no_mp4")
    assert parse(Changed, "", given).no_mp4 is False
    settings = parse(Changed, "", [*given, "--no_mp4"])
    settings.check()
    assert settings.no_mp4 is True
    assert "no_mp4" in settings.affecting(FILES)


def test_the_map_names_every_room():
    text = read("CONTRIBUTING.md")
    rooms = [path.parent for path in (ROOT / "animation").glob("*/__init__.py")]
    rooms += [path.parent for path in ROOT.glob("*/__init__.py")]
    assert rooms
    assert [room.name for room in rooms if f"{room.name}/" not in text] == []


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A working folder with the shipped inputs and networks, in which code of the documentation writes."""
    for name in ("inference", "checkpoints/tiny", "models/tiny"):  # never a user's own weights
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return tmp_path


@pytest.mark.slow
def test_the_notebook_makes_a_gif(project):
    """Its code cells, in their order, without Jupyter."""
    notebook = json.loads(read("notebooks/quickstart.ipynb"))
    namespace = {}
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == []
            exec(compile("".join(cell["source"]), "quickstart.ipynb", "exec"), namespace)
    assert len(namespace["poses"]) == 12
    with Image.open(project / "output" / "notebook" / "animation.gif") as picture:
        assert (picture.n_frames, picture.size) == (12, (128, 128))
        assert len(set(picture.convert("RGB").getdata())) > 100


@pytest.mark.slow
def test_the_readmes_python_runs_as_it_stands(project):
    (block,) = blocks(read("README.md"), "python")
    namespace = {}
    exec(compile(block, "README.md", "exec"), namespace)
    assert [frame.size for frame in namespace["frames"]] == [(128, 128)] * 16


def test_the_cluster_of_the_page_is_one_that_ray_takes():
    schema = importlib.util.find_spec("ray")
    if schema is None:
        pytest.skip("Ray is not installed")
    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads((Path(schema.origin).parent / "autoscaler" / "ray-schema.json").read_text())
    by_ssh, _ = map(yaml.safe_load, blocks((ROOT / "docs" / "cluster.md").read_text(), "yaml"))
    jsonschema.validate(by_ssh, schema)
    with pytest.raises(jsonschema.ValidationError):  # a control
        jsonschema.validate(by_ssh | {"max_worker": 2}, schema)


def test_the_manifest_of_the_page_is_one_that_rays_autoscaler_reads():
    """By a schema of what it uses, and by the code that runs beside a RayCluster's head."""
    jsonschema = pytest.importorskip("jsonschema")
    kuberay = pytest.importorskip("ray.autoscaler._private.kuberay.autoscaling_config")
    _, manifest = map(yaml.safe_load, blocks(read("docs/cluster.md"), "yaml"))
    check = jsonschema.Draft202012Validator(json.loads(read("tests/raycluster.schema.json"))).validate
    check(manifest)
    group, deployed = manifest["spec"]["workerGroupSpecs"][0], {"metadata": {"name": "a", "namespace": "b"}}
    found = kuberay._derive_autoscaling_config_from_ray_cr(manifest | deployed)
    nodes = {name: node["resources"] for name, node in found["available_node_types"].items()}
    assert nodes["headgroup"]["CPU"] == 0 and found["max_workers"] == group["maxReplicas"]
    assert (nodes["gpu"]["GPU"], nodes["gpu"]["CPU"]) == (1, 8)
    limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
    for part, name, value in ((group, "maxReplica", 8), (group["rayStartParams"], "num-gpus", 1), (limits, "gpu", 1)):
        part[name] = value
        with pytest.raises(jsonschema.ValidationError):  # a control
            check(manifest)
        del part[name]
    check(manifest)
    del limits["cpu"]
    with pytest.raises(ValueError, match="CPU"):  # another
        kuberay._derive_autoscaling_config_from_ray_cr(manifest | deployed)
