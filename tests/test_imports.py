"""Imports point one way, and importing anything touches no device, file or environment."""

import ast
import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
# Each module may import only from lines above its own.
LAYERS = [
    {"DWPose.errors", "DWPose.keypoints"},
    {"DWPose.sessions", "DWPose.drawing", "DWPose.tracking", "DWPose.smoothing", "DWPose.alignment",
     "DWPose.recording"},
    {"DWPose.detector", "DWPose.pose", "DWPose.limbs"},
    {"DWPose.wholebody", "DWPose.arrangement"},
    {"animation.errors", "animation.windows", "animation.files"},
    {"animation.sound"},
    {"animation.evaluation.metrics", "animation.defaults", "animation.flags"},
    {"animation.frames", "animation.writing", "animation.cli", "animation.face.boxes", "animation.onnx_weights",
     "animation.download"},
    {"animation.video", "animation.skeletons.preview", "animation.face.detection", "animation.framing"},
    {"animation.face.embedding", "animation.face.masks"},
    {"animation.skeletons.settings"},
    {"animation.skeletons.estimation"},
    {"animation.skeletons.extraction"},
    {"animation.modules.attention_processor", "animation.modules.pose_net", "animation.modules.face_encoder",
     "animation.modules.arcface", "animation.modules.i3d", "animation.modules.lpips"},
    {"animation.modules.unet", "animation.settings", "animation.training.clips", "animation.training.cache"},
    {"animation.training.check", "animation.training.losses", "animation.training.plan"},
    {"animation.training.settings", "animation.training.vae_settings", "animation.training.preparation"},
    {"animation.face.settings"},
    {"animation.state_dicts"},
    {"animation.weights", "animation.sampling", "animation.report", "animation.decoding"},
    {"animation.pipeline", "animation.verification"},
    {"animation.runtime", "animation.face_optimization", "animation.diagnosis"},
    {"animation.inference", "animation.training.step", "animation.training.validation", "animation.memory"},
    {"animation.planning"},
    {"animation.training.dataset", "animation.training.model"},
    {"animation.training.checkpoint"},
    {"animation.training.engine", "animation.training.journal", "animation.training.loading"},
    {"animation.training.loop", "animation.training.vae"},
    {"animation.evaluation.cases", "animation.evaluation.records"},
    {"animation.evaluation.settings", "animation.evaluation.contact_sheet"},
    {"animation.showing"},
    {"animation.evaluation.measures"},
    {"animation.evaluation.evaluation"},
    {"animation.clip.files", "animation.clip.colours", "animation.clip.figures", "animation.clip.driver"},
    {"animation.clip.settings"},
    {"animation.clip.skeletons", "animation.clip.state", "animation.clip.cases"},
    {"animation.clip.results", "animation.clip.plan"},
    {"animation.clip.flow", "animation.clip.fitting"},
    {"animation.clip.batch"},
    {"puppets.seeds"},
    {"puppets.characters", "puppets.motions", "puppets.music"},
    {"puppets.anatomy"},
    {"puppets.drawing"},
    {"puppets.rendering"},
    {"puppets.clips"},
    {"puppets.writing"},
    {"inference_basic", "skeleton_extraction", "face_mask_extraction", "evaluate", "make_puppets", "download_weights",
     "train", "train_vae", "prepare_data", "doctor", "animate"},
    {"recipes.loop", "recipes.scenes"},
    {"recipes.detectors", "recipes.pose_estimator", "recipes.recogniser", "recipes.vae", "recipes.image_encoder",
     "recipes.animation"},
    {"recipes.measure", "recipes.figures"},
    {"inference_op"},
]  # fmt: skip
RANK = {module: rank for rank, layer in enumerate(LAYERS) for module in layer}


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
    assert set(modules()) == set(RANK), "name a new module's layer in this test"
    for name, path in modules().items():
        for imported in imported_modules(path):
            if imported in RANK:
                assert RANK[imported] < RANK[name], f"{name} imports {imported}"
            assert imported.split(".")[0] not in ("tests", "benchmarks"), f"{name} imports {imported}"
            if name.split(".")[0] in ("DWPose", "puppets"):
                assert imported.split(".")[0] not in ("animation", "torch"), f"{name} imports {imported}"


SCRIPTS = sorted(path.stem for path in ROOT.glob("*.py"))
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
import accelerate, cv2, onnxruntime, torch, transformers
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
        capture_output=True, text=True, check=True, cwd=folder,
    )  # fmt: skip
    return json.loads(environment_free.stdout.splitlines()[-1])


def test_importing_touches_nothing(tmp_path):
    benchmarks = [f"benchmarks.{path.stem}" for path in (ROOT / "benchmarks").glob("*.py")]
    found = probe(" ".join([*sorted(RANK), *sorted(benchmarks)]), tmp_path)
    assert found["forbidden"] == []
    assert found["cuda"] is False
    assert found["changed"] == []
    assert list(tmp_path.iterdir()) == []


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
    code = f"import sys, json; import {', '.join(SCRIPTS)}; print(json.dumps('torch' in sys.modules))"
    assert probe("-", ROOT, code) is False
