"""Training stages of one machine on two pretended GPUs: Snakemake starts them, each sees one GPU, none is overfull."""

import json

import pytest

HOOK = """
import json, sys, time
from pathlib import Path

if sys.argv[0].startswith("stages/") and sys.orig_argv[1:] != sys.argv:  # the copy, not its client
    seen = {{name: os.environ.get(name) for name in ("CUDA_VISIBLE_DEVICES", "PRUNUS_GPU_SLOT")}}
    folder = Path("seen", Path(sys.argv[0]).stem)
    folder.mkdir(parents=True, exist_ok=True)
    Path(folder, str(os.getpid())).write_text(json.dumps(seen))
    patience = time.monotonic() + 120
    while folder.name == "prune_iteration" and len(list(folder.iterdir())) < {at_once} and time.monotonic() < patience:
        time.sleep(0.05)  # until as many as have room hold what they were given
"""


METHODS = ["sap", "lth", "incop_if", "one_shot"]


@pytest.fixture
def placed(fresh, tmp_path, monkeypatch):
    """A function: what each stage saw, by its script's name, with so many of them on a GPU at most."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-aaaa,GPU-bbbb")

    def run(per_gpu):
        project = fresh("placed")
        project.edit(study__methods=METHODS, device__accelerator="auto", device__jobs_per_gpu=per_gpu)
        start = project.root / "stages/prunus/__init__.py"
        start.write_text(start.read_text() + HOOK.format(at_once=2 * per_gpu))
        targets = [f"runs/seed0/{method}/iteration-1/network.safetensors" for method in METHODS]
        ran = project.snakemake("--cores", "4", "--", *targets)
        assert len([name for name in ran if name.startswith("prune_iteration")]) == 4
        seen = {}
        for file in (project.root / "seen").rglob("*"):
            if file.is_file():
                seen.setdefault(file.parent.name, []).append(tuple(json.loads(file.read_text()).values()))
        return seen

    return run


@pytest.mark.timeout(600)
@pytest.mark.parametrize("per_gpu", [1, 2])
def test_four_stages_on_two_gpus_share_them_evenly_and_wait_for_room(placed, per_gpu):
    """With one stage per GPU two wait, and each slot is taken twice."""
    seen = placed(per_gpu)
    slots = [f"{name},{number}" for name in ("GPU-aaaa", "GPU-bbbb") for number in range(per_gpu)]
    found = sorted((name, slot.rpartition("/")[2]) for name, slot in seen["prune_iteration"])
    if per_gpu == 2:
        assert found == [(slot.split(",")[0], slot) for slot in slots]
    else:
        assert len(found) == 4 and {slot for _, slot in found} <= set(slots)
        assert {name for name, _ in found} == {"GPU-aaaa", "GPU-bbbb"}
    assert [name for name, _ in seen["pretrain"] + seen["reference_flow"]] == ["GPU-aaaa"] * 2
    assert seen["prepare_data"] == [("GPU-aaaa,GPU-bbbb", None)]
