"""Damaged outputs, cached objects and records of DVC's are found, removed and brought back; the rest is left alone."""

import re

from dvc.utils.serialize import load_yaml

from dvc_status import cut_short


def flip(path, at=-100):
    """Change one bit of a file, whoever may write it."""
    content = bytearray(path.read_bytes())
    content[at] ^= 4
    mode = path.stat().st_mode
    path.chmod(0o644)
    path.write_bytes(content)
    path.chmod(mode)


def cached(project, path):
    outs = [out for stage in load_yaml(project.root / "dvc.lock")["stages"].values() for out in stage["outs"]]
    md5 = next(out["md5"] for out in outs if out["path"] == path)
    return project.root / ".dvc/cache/files/md5" / md5[:2] / md5[2:]


def verify(project, status):
    return project.run("python", "tools/verify.py", status=status)


NETWORK = "runs/seed0/sap/iteration-1/network.safetensors"
METRICS = "runs/seed0/dense/metrics.json"


def test_a_dvc_lock_that_ends_within_an_entry_is_found(by_snakemake):
    text = (by_snakemake.root / "dvc.lock").read_text()
    assert not cut_short(text)
    assert not cut_short("")
    entry = text.rindex("\n  report:\n") + 1
    outs = text.index("    outs:\n", entry)
    assert all(cut_short(text[:end]) for end in (entry + 5, entry + 40, outs, outs + 5, len(text) - 1))
    assert not cut_short(text[:entry])


def test_nothing_is_said_of_what_is_in_order(finished):
    found = verify(finished, 0)
    assert re.fullmatch(r"\d+ outputs checked, 0 things damaged\n", found)


def named(said):
    """What `tools/verify.py` says of each damaged file, without its folder."""
    return [line.rpartition("/")[2] for line in said.splitlines()[:-2]]


def test_damage_is_named_and_dvc_brings_it_back(finished):
    root = finished.root
    before = {path: (root / path).read_bytes() for path in (NETWORK, METRICS)}
    damaged = cached(finished, NETWORK)
    for path in (damaged, root / METRICS):
        flip(path, 60)
    (root / NETWORK).unlink()
    assert named(verify(finished, 1)) == [f"{damaged.name} is damaged: removed", "metrics.json is damaged: removed"]
    finished.repro()
    assert {path: (root / path).read_bytes() for path in before} == before
    assert verify(finished, 0)


def test_what_dvc_and_snakemake_stumble_over_is_removed(finished):
    root = finished.root
    lock = load_yaml(root / "dvc.lock")["stages"]
    (root / "dvc.lock").write_bytes((root / "dvc.lock").read_bytes().replace(b"    cmd:", b"   \xffcmd:", 1))
    (root / ".dvc/tmp/rwlock").write_text('{"write": {"/runs/a": {"pid": 1, "cm')
    record = next(path for path in sorted((root / ".snakemake/metadata").rglob("*")) if path.is_file())
    record.write_bytes(b'{"rule": "\xae"}')
    entry = sorted((root / ".dvc/cache/runs").glob("??/*/*"))[0]
    made = load_yaml(entry)["outs"][0]["path"]
    stage = next(name for name, own in lock.items() if made in [out["path"] for out in own["outs"]])
    entry.unlink()
    assert named(verify(finished, 1)) == [
        f"{record.name} cannot be read: removed",
        "rwlock cannot be read: removed",
        "dvc.lock cannot be read: removed",
        f"{entry.parent.name} is damaged: removed",
    ]
    content = (root / NETWORK).read_bytes()
    assert finished.snakemake() <= {stage, "compare", "report"}  # whose entry is gone, and what reads its times
    assert (root / NETWORK).read_bytes() == content
    assert verify(finished, 0)


def test_snakemake_brings_damaged_outputs_back_and_runs_nothing(finished):
    paths = [finished.root / name for name in (NETWORK, METRICS, "runs/seed0/dense/warmup.safetensors")]
    content = [path.read_bytes() for path in paths]
    flip(paths[0])
    paths[1].write_bytes(content[1][:100])
    paths[2].unlink()
    assert finished.snakemake() == set()
    assert [path.read_bytes() for path in paths] == content
    assert "Nothing to be done" in finished.run("snakemake", "-n", "--cores", "2")
    assert "up to date" in finished.run("dvc", "status")


def test_a_damaged_cached_object_that_was_restored_is_found(finished):
    """DVC trusts an object that is read-only. Both it and what was restored from it go, and the stage runs again."""
    path = finished.root / NETWORK
    content, damaged = path.read_bytes(), cached(finished, NETWORK)
    flip(damaged)
    path.unlink()
    finished.snakemake()
    assert path.read_bytes() != content
    assert named(verify(finished, 1))[:2] == [f"{damaged.name} is damaged: removed", f"{path.name} is damaged: removed"]
    assert "prune_iteration@0-sap-iteration0" in finished.snakemake()
    assert path.read_bytes() == content == damaged.read_bytes()


def test_an_empty_folder_in_the_run_cache_is_found(finished):
    """A DVC that is killed between making it and writing into it leaves one, and the next DVC stumbles over it."""
    for entry in (finished.root / ".dvc/cache/runs").glob("??/*/*"):
        entry.unlink()
    lock = finished.root / "dvc.lock"
    lock.write_text(re.sub(r"(?m)^  report:\n(    .*\n)+", "", lock.read_text()))
    (finished.root / "reports/report.html").unlink()
    assert "join() argument must be str" in finished.run("snakemake", "--cores", "2", status=1)
    assert "is damaged: removed" in verify(finished, 1)
    assert finished.snakemake() <= {"compare", "report"}
    assert "Nothing to be done" in finished.run("snakemake", "-n")


def test_snakemake_writes_a_dvc_lock_that_is_gone_anew(finished):
    lock = finished.root / "dvc.lock"
    content = load_yaml(lock)
    lock.unlink()
    assert finished.snakemake() == set()
    assert load_yaml(lock) == content


def test_snakemake_names_a_dvc_lock_that_is_damaged(finished):
    lock = finished.root / "dvc.lock"
    text = lock.read_text()
    for damaged in (text[:-30], text.replace("    deps:", "    deps;", 1), text.replace("- path:", "- pith:", 1)):
        lock.write_text(damaged)
        said = finished.run("snakemake", "-n", status=1)
        assert "dvc.lock is damaged; `python tools/verify.py` removes it" in said and "Traceback" not in said
    verify(finished, 1)
    assert not lock.exists()
