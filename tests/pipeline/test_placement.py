"""Training stages of one machine on two pretended GPUs: Snakemake starts them, each sees one GPU, none is overfull."""

import json

import pytest

HOOK = """
import json, sys, time
from pathlib import Path

if sys.argv[0].startswith("stages/"):
    seen = {name: os.environ.get(name) for name in ("CUDA_VISIBLE_DEVICES", "PRUNUS_GPU_SLOT")}
    folder = Path("seen", Path(sys.argv[0]).stem)
    folder.mkdir(parents=True, exist_ok=True)
    Path(folder, str(os.getpid())).write_text(json.dumps(seen))
    patience = time.monotonic() + 120
    while folder.name == "prune_iteration" and len(list(folder.iterdir())) < 4 and time.monotonic() < patience:
        time.sleep(0.05)  # until all four hold what they were given
"""


@pytest.mark.timeout(600)
def test_four_stages_on_two_gpus_are_two_on_each(fresh, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-aaaa,GPU-bbbb")
    project = fresh("placed")
    methods = ["sap", "lth", "incop_if", "one_shot"]
    project.edit(study__methods=methods, device__accelerator="auto", device__jobs_per_gpu=2)
    start = project.root / "stages/prunus/__init__.py"
    start.write_text(start.read_text() + HOOK)
    targets = [f"runs/seed0/{method}/iteration-1/network.safetensors" for method in methods]
    ran = project.snakemake("--cores", "4", "--", *targets)
    assert len(ran) == 7
    seen = {}
    for file in (project.root / "seen").rglob("*"):
        if file.is_file():
            seen.setdefault(file.parent.name, []).append(tuple(json.loads(file.read_text()).values()))
    slots = [f"{name},{number}" for name in ("GPU-aaaa", "GPU-bbbb") for number in (0, 1)]
    assert sorted((name, slot.rpartition("/")[2]) for name, slot in seen["prune_iteration"]) == [
        (slot.split(",")[0], slot) for slot in slots
    ]
    assert [name for name, _ in seen["pretrain"] + seen["reference_flow"]] == ["GPU-aaaa"] * 2
    assert seen["prepare_data"] == [("GPU-aaaa,GPU-bbbb", None)]
