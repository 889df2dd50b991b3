"""Imports point one way, and importing anything touches no device, file or environment."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

from animation.commands.__main__ import NAMES

ROOT = Path(__file__).parents[1]
SCRIPTS = sorted(path.stem for path in ROOT.glob("*.py"))
# Each package, or module at the top of one, may import only from lines above its own, and from within itself.
LAYERS = [
    {"DWPose"},
    {"puppets"},
    {"animation.errors"},
    {"animation.files", "animation.cli", "animation.windows", "animation.schedules"},
    {"animation.networks", "animation.quantization"},
    {"animation.flags", "animation.report", "animation.parallel", "animation.launch"},
    {"animation.cluster"},
    {"animation.media"},
    {"animation.weights.layout", "animation.weights.onnx", "animation.weights.download"},
    {"animation.face"},
    {"animation.settings", "animation.skeletons", "animation.modules"},
    {"animation.face.settings", "animation.weights"},
    {"animation.sampling", "animation.decoding"},
    {"animation.pipeline"},
    {"animation.runtime", "animation.face_optimization"},
    {"animation.run"},
    {"animation.planning"},
    {"animation.evaluation"},
    {"animation.training", "animation.clip"},
    {"animation.app"},
    {"animation.commands"},
    {"scripts"},
    {"recipes"},
]
RANK = {package: rank for rank, layer in enumerate(LAYERS) for package in layer}


def package_of(module):
    """The longest name in RANK that holds a module; a script at the top is of "scripts", anything else of none."""
    parts = module.split(".")
    names = [".".join(parts[:length]) for length in range(len(parts), 0, -1)]
    return next((name for name in names if name in RANK), "scripts" if module in SCRIPTS else None)


def modules():
    """Every module of the project but its tests and benchmarks, by dotted name."""
    paths = [*ROOT.glob("*.py"), *(ROOT / "animation").rglob("*.py"), *(ROOT / "DWPose").rglob("*.py")]
    paths += [*(ROOT / "puppets").rglob("*.py"), *(ROOT / "recipes").rglob("*.py")]
    return {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in paths if path.stem != "__init__"}


def imported_modules(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (node.module, *(f"{node.module}.{alias.name}" for alias in node.names))


def test_imports_point_one_way():
    for name, path in modules().items():
        own = package_of(name)
        assert own, f"name {name}'s layer in this test"
        for imported in imported_modules(path):
            other = package_of(imported)
            assert other in (own, None) or RANK[other] < RANK[own], f"{name} imports {imported}"
            assert imported.split(".")[0] not in ("tests", "benchmarks"), f"{name} imports {imported}"
            if own in ("DWPose", "puppets"):
                assert imported.split(".")[0] not in ("animation", "torch"), f"{name} imports {imported}"


PROBE = """
import builtins, importlib, json, os, pathlib, sys
forbidden = []
SCRIPTS = "SCRIPT_NAMES".split()

def watch(owner, name):
    def refuse(*args, **kwargs):
        caller = sys._getframe(1).f_globals.get("__name__", "")
        if caller.split(".")[0] in ("animation", "DWPose", "puppets", "recipes", "benchmarks", *SCRIPTS):
            forbidden.append(f"{caller}: {name}{args[:1]}")
        return original(*args, **kwargs)
    original = getattr(owner, name)
    setattr(owner, name, refuse)

for owner, names in ((builtins, ["open"]), (os, ["mkdir", "makedirs"]), (pathlib.Path, ["mkdir", "open"])):
    for name in names:
        watch(owner, name)
import accelerate, cv2, gradio, onnxruntime, torch, transformers
from diffusers import StableVideoDiffusionPipeline
watch(onnxruntime, "InferenceSession")
before = dict(os.environ)  # libraries set variables of their own: what counts is what we add
for module in sys.argv[1].split():
    importlib.import_module(module)
changed = {key for key in set(before) | set(os.environ) if before.get(key) != os.environ.get(key)}
print(json.dumps({"forbidden": forbidden, "cuda": torch.cuda.is_initialized(), "changed": sorted(changed)}))
""".replace("SCRIPT_NAMES", " ".join(SCRIPTS))


def probe(module, folder, code=PROBE):
    environment_free = subprocess.run(
        [sys.executable, "-B", "-c", "import sys; sys.path.insert(0, sys.argv.pop(1))\n" + code, ROOT, module],
        capture_output=True,
        text=True,
        check=True,
        cwd=folder,
    )
    return json.loads(environment_free.stdout.splitlines()[-1])


@pytest.mark.slow
def test_importing_touches_nothing(tmp_path):
    benchmarks = [f"benchmarks.{path.stem}" for path in (ROOT / "benchmarks").glob("*.py")]
    found = probe(" ".join([*sorted(modules()), *sorted(benchmarks)]), tmp_path)
    assert found["forbidden"] == []
    assert found["cuda"] is False
    assert found["changed"] == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_the_probe_notices(tmp_path):
    (tmp_path / "inference_basic.py").write_text(
        "import os\nos.mkdir('made')\nopen('made/file', 'w').close()\nos.environ['X_MARK'] = '1'\n"
    )
    code = PROBE.replace(
        "for module in sys.argv[1].split():\n    importlib.import_module(module)",
        "sys.path.insert(0, os.getcwd()); import inference_basic",
    )
    found = probe("-", tmp_path, code)
    assert len(found["forbidden"]) == 2
    assert found["changed"] == ["X_MARK"]


def test_bad_input_is_answered_without_importing_torch():
    code = f"import sys, json; from animation.commands import {', '.join(NAMES)}; "
    assert probe("-", ROOT, f"{code}print(json.dumps('torch' in sys.modules))") is False
