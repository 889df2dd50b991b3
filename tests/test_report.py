"""What run.json says."""

import hashlib
import json

import pytest
import torch

from animation.report import RunReport


@pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")
def test_files_are_hashed_and_one_that_cannot_be_read_says_why(tmp_path):
    (tmp_path / "weights").write_bytes(b"weights")
    report = RunReport({"seed": 1}, torch.device("cpu"))
    report.add_files([tmp_path / "weights"])
    report.add_files([tmp_path / "gone", tmp_path / "weights"])
    report.write(tmp_path / "run.json", num_frames=3)
    found = json.loads((tmp_path / "run.json").read_text())
    assert found["files"] == {
        str(tmp_path / "weights"): {"bytes": 7, "sha256": hashlib.sha256(b"weights").hexdigest()},
        str(tmp_path / "gone"): {"error": "No such file or directory"},
    }
    assert found["settings"] == {"seed": 1}
    assert found["num_frames"] == 3
