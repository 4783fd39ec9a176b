"""Damaged outputs, cached objects and records of DVC's are found, removed and brought back; the rest is left alone."""

import re

from dvc.utils.serialize import load_yaml

from verify import cut_short, recorded, unreadable_records


def flip(path, at=-100):
    """Change one bit of a file, whoever may write it."""
    content = bytearray(path.read_bytes())
    content[at] ^= 4
    mode = path.stat().st_mode
    path.chmod(0o644)
    path.write_bytes(content)
    path.chmod(mode)


def cached(project, path):
    md5 = recorded((project.root / "dvc.lock").read_text())[path][1]
    return project.root / ".dvc/cache/files/md5" / md5[:2] / md5[2:]


def verify(project, status):
    return project.run("python", "tools/verify.py", status=status)


NETWORK = "runs/seed0/sap/iteration-1/network.safetensors"
METRICS = "runs/seed0/dense/metrics.json"


def test_outputs_are_read_from_dvc_lock_as_dvc_reads_them(by_snakemake):
    path = by_snakemake.root / "dvc.lock"
    expected = {
        out["path"]: (name, out["md5"]) for name, stage in load_yaml(path)["stages"].items() for out in stage["outs"]
    }
    assert recorded(path.read_text()) == expected


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


def test_damage_is_named_and_dvc_brings_it_back(finished):
    root = finished.root
    before = {path: (root / path).read_bytes() for path in (NETWORK, METRICS)}
    entry = sorted((root / ".dvc/cache/runs").glob("??/*/*"))[0]
    damaged = cached(finished, NETWORK)
    for path in (damaged, entry, root / METRICS):
        flip(path, 60)
    (root / "dvc.lock").write_bytes((root / "dvc.lock").read_bytes().replace(b"    cmd:", b"   \xffcmd:", 1))
    (root / NETWORK).unlink()
    said = verify(finished, 1).splitlines()
    assert [line.rpartition("/")[2] for line in said[:-2]] == [
        f"{damaged.name} is damaged: removed",
        f"{entry.name} is damaged: removed",
        f"{entry.parent.name} is empty: removed",
        "metrics.json is not what pretrain@0 made: removed",
        "dvc.lock cannot be read: removed",
    ]
    finished.repro()
    assert {path: (root / path).read_bytes() for path in before} == before
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


def test_snakemake_restores_nothing_from_a_damaged_cached_object(finished):
    path = finished.root / NETWORK
    content = path.read_bytes()
    flip(cached(finished, NETWORK))
    path.unlink()
    assert finished.snakemake() == {"prune_iteration@0-sap-iteration0", "compare", "report"}
    assert path.read_bytes() == content == cached(finished, NETWORK).read_bytes()


def test_an_empty_folder_in_the_run_cache_stops_no_stage(finished):
    """A DVC that is killed between making it and writing into it leaves one, and the next DVC stumbles over it."""
    for entry in (finished.root / ".dvc/cache/runs").glob("??/*/*"):
        entry.unlink()
    lock = finished.root / "dvc.lock"
    lock.write_text(re.sub(r"(?m)^  report:\n(    .*\n)+", "", lock.read_text()))
    (finished.root / "reports/report.html").unlink()
    assert finished.snakemake() == {"report"}


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


def test_records_that_are_no_text_are_found(tmp_path):
    (tmp_path / "folder").mkdir()
    for name, content in {"whole": b'{"rule": "a"}', "cut": b'{"rule"', "folder/flipped": b'{"rule": "\xae"}'}.items():
        (tmp_path / name).write_bytes(content)
    assert list(unreadable_records(tmp_path)) == [tmp_path / "folder/flipped"]
