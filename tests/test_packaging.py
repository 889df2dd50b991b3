"""The package that `pip install .` makes: what is in it, and that it works away from the checkout."""

import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = ("animation", "DWPose", "puppets", "checkpoints/tiny", "models/tiny")
FILES = ("pyproject.toml", "README.md", "LICENSE", "requirements.txt", "requirements-app.txt", "requirements-eval.txt")


def test_every_package_is_listed():
    """A folder that is missing in pyproject.toml would be missing in the installed package."""
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    folders = {path.parent for name in SOURCES[:3] for path in (ROOT / name).rglob("*.py")}
    found = {".".join(folder.relative_to(ROOT).parts) for folder in folders}
    assert set(listed) == found | {"animation.shipped.checkpoints", "animation.shipped.models"}


def test_requirements_are_plain_where_the_package_reads_them():
    for name in ("requirements.txt", "requirements-app.txt", "requirements-eval.txt"):
        assert not [line for line in (ROOT / name).read_text().splitlines() if line.startswith("-")]


@pytest.fixture
def installed(tmp_path_factory):
    """The `bin` of a new environment with the package, built from a copy; its dependencies are this environment's."""
    folder = tmp_path_factory.mktemp("install")
    source = folder / "source"
    for name in SOURCES:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in FILES:
        shutil.copy(ROOT / name, source)
    venv.create(folder / "env", symlinks=True)
    python = folder / "env" / "bin" / "python"
    command = [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    packages = Path(subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip())
    (packages / "parent.pth").write_text(sysconfig.get_path("purelib"))
    command = [sys.executable, "-m", "pip", "--python", python, "install", "--no-index", "--no-deps"]
    subprocess.run([*command, "--no-build-isolation", source], capture_output=True, text=True, check=True)
    shutil.rmtree(source)
    return python.parent


def run(folder, command, *arguments):
    """A command in a folder, without the variables that tell where weights and modules are."""
    hidden = ("PYTHONPATH", "STABLEANIMATOR_HOME")
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    return subprocess.run([command, *arguments], cwd=folder, env=environment, capture_output=True, text=True)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="an environment laid out otherwise")
def test_the_installed_command_animates_from_an_empty_folder(installed, tmp_path):
    command = installed / "stableanimator"
    done = run(tmp_path, command, "--help")
    assert done.returncode == 0
    assert "animate" in done.stdout
    photo, video = ROOT / "inference/case-1/reference.png", ROOT / "inference/driver.mp4"
    flags = ["--photo", photo, "--video", video, "--output", "out", "--end", "0.4", "--num_inference_steps", "1"]
    done = run(tmp_path, command, "animate", *flags)
    assert done.returncode == 0, done.stderr
    assert "shipped/checkpoints/tiny" in done.stderr
    assert (tmp_path / "out" / "animation.mp4").is_file()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    done = run(tmp_path, command, "doctor")
    assert done.returncode == 0, done.stdout
    assert "ok       libraries: all " in done.stdout
    check_contents(installed)


def check_contents(installed):
    """The small weights are in the package, whole, and nothing else is beside it."""
    (package,) = installed.parent.glob("lib/python*/site-packages/animation")
    files = [path for path in (package / "shipped").rglob("*") if path.is_file()]
    shipped = {path.relative_to(package / "shipped").as_posix(): path.stat().st_size for path in files}
    expected = {
        path.relative_to(ROOT).as_posix(): path.stat().st_size
        for name in SOURCES[3:]
        for path in (ROOT / name).rglob("*")
        if path.is_file()
    }
    assert shipped == expected
    for name in ("tests", "recipes", "benchmarks", "checkpoints", "models"):
        assert not (package.parent / name).exists()
