"""A finished study goes through an S3 store to a second clone, which trains nothing; nothing secret is in git."""

import configparser
import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from types import SimpleNamespace

import boto3
import pytest
import yaml

from project import ROOT, Project, stages_run

pytestmark = pytest.mark.timeout(600)
BUCKET = "results"
ALLOW = json.dumps({"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}]})
NETWORK = "runs/seed0/sap/iteration-2/network.safetensors"
VARIANT = "prune_iteration@0-incop_if-iteration1"


@contextmanager
def serving(log):
    """A store on a free port. Its first four answers need no key: they make a user, a key and a bucket."""
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"]
    environment = os.environ | {"INITIAL_NO_AUTH_ACTION_COUNT": "4"}
    with log.open("w") as output, subprocess.Popen(command, env=environment, stdout=output, stderr=output) as server:
        try:
            while not (url := re.search(r"http://127\.0\.0\.1:\d+", log.read_text())):
                assert server.poll() is None, log.read_text()
                time.sleep(0.05)
            yield url[0]
        finally:
            server.kill()


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("store") / "log") as url:

        def client(service, key="none", secret="none"):
            keys = {"aws_access_key_id": key, "aws_secret_access_key": secret}
            return boto3.client(service, region_name="us-east-1", endpoint_url=url, **keys)

        client("iam").create_user(UserName="author")
        client("iam").put_user_policy(UserName="author", PolicyName="all", PolicyDocument=ALLOW)
        made = client("iam").create_access_key(UserName="author")["AccessKey"]
        client("s3").create_bucket(Bucket=BUCKET)
        key, secret = made["AccessKeyId"], made["SecretAccessKey"]
        yield SimpleNamespace(url=url, key=key, secret=secret, s3=client("s3", key, secret))


def objects(store, prefix):
    return {found["Key"] for found in store.s3.list_objects_v2(Bucket=BUCKET, Prefix=prefix).get("Contents", [])}


def give_credentials(project, store):
    project.run("dvc", "remote", "modify", "--local", "shared", "access_key_id", store.key)
    project.run("dvc", "remote", "modify", "--local", "shared", "secret_access_key", store.secret)


@pytest.fixture(scope="module")
def author(by_snakemake, store, tmp_path_factory):
    """Who ran a variant and the study, and pushed after each: DVC pushes what the workspace is at."""
    project = by_snakemake.copy(tmp_path_factory.mktemp("author") / "project")
    project.run("dvc", "remote", "add", "--default", "shared", f"s3://{BUCKET}/study")
    project.run("dvc", "remote", "modify", "shared", "endpointurl", store.url)
    project.run("dvc", "remote", "modify", "shared", "verify", "true")
    project.git("add", "-A")
    project.git("commit", "-qm", "results")
    give_credentials(project, store)
    project.edit(methods__incop_if__epsilon=0.9)
    assert len(stages_run(project.run("dvc", "repro", VARIANT))) == 3  # chain_reference among them
    project.run("dvc", "push")
    project.git("checkout", "-q", "--", ".")
    project.run("dvc", "checkout", "-q")
    project.run("dvc", "push", "--run-cache")
    return project


@pytest.fixture(scope="module")
def colleague(author, store, tmp_path_factory):
    """A second clone, pulled."""
    root = tmp_path_factory.mktemp("colleague") / "project"
    author.git("clone", "-q", str(author.root), str(root))
    project = Project(root)
    give_credentials(project, store)
    project.run("dvc", "pull", "--run-cache")
    return project


def outputs(project):
    locked = yaml.safe_load((project.root / "dvc.lock").read_text())["stages"].values()
    return {out["path"]: (project.root / out["path"]).read_bytes() for stage in locked for out in stage["outs"]}


def test_a_second_clone_has_every_byte_and_trains_nothing(author, colleague):
    assert outputs(colleague) == outputs(author)
    assert len(outputs(colleague)) > 50
    assert "Data and pipelines are up to date." in colleague.run("dvc", "status")
    assert "Nothing to be done" in colleague.run("snakemake", "-n")
    assert colleague.repro() == set()
    assert colleague.snakemake() == set()
    assert colleague.git("status", "--porcelain") == ""


def test_a_variant_comes_back_from_the_run_cache(colleague, tmp_path):
    project = colleague.copy(tmp_path / "project")
    project.edit(methods__incop_if__epsilon=0.9)
    assert stages_run(project.run("dvc", "repro", "--pull", VARIANT)) == set()
    metrics = json.loads((project.root / "runs/seed0/incop_if/iteration-2/metrics.json").read_text())
    assert metrics["settings"]["epsilon"] == 0.9


def test_no_commit_holds_the_secret(author, colleague, store):
    for project in (author, colleague):
        assert store.secret in (project.root / ".dvc/config.local").read_text()
        project.git("check-ignore", ".dvc/config.local")
        tracked = [project.root / name for name in project.git("ls-files").splitlines()]
        assert project.root / ".dvc/config" in tracked
        assert [path for path in tracked if store.secret.encode() in path.read_bytes()] == []
        assert store.secret not in project.git("log", "--all", "--patch", "--text")


def test_a_damaged_object_is_noticed_and_named(author, colleague, store, tmp_path):
    project = colleague.copy(tmp_path / "project")
    md5 = re.search(rf"path: {NETWORK}\n +hash: md5\n +md5: (\w+)", (project.root / "dvc.lock").read_text())[1]
    place = {"Bucket": BUCKET, "Key": f"study/files/md5/{md5[:2]}/{md5[2:]}"}
    good = store.s3.get_object(**place)["Body"].read()
    store.s3.put_object(**place, Body=good[:-1] + bytes([good[-1] ^ 1]))
    (project.root / ".dvc/cache/files/md5" / md5[:2] / md5[2:]).unlink()
    (project.root / NETWORK).unlink()
    said = project.run("dvc", "pull", "prune_iteration@0-sap-iteration1", status=1)
    assert NETWORK in said and "Traceback" not in said
    assert not (project.root / NETWORK).exists()
    store.s3.delete_object(**place)
    assert "1 file pushed" in author.run("dvc", "push")
    project.run("dvc", "pull", "prune_iteration@0-sap-iteration1")
    assert (project.root / NETWORK).read_bytes() == good


def test_a_push_refused_or_killed_is_done_again_from_where_it_was(author, store, tmp_path):
    project = author.copy(tmp_path / "project")
    config, local = project.root / ".dvc/config", project.root / ".dvc/config.local"
    config.write_text(config.read_text().replace("/study", "/killed"))
    credentials = local.read_text()
    local.write_text(credentials.replace(store.secret, "wrong"))
    said = project.run("dvc", "push", status=255)
    assert said.count("ERROR") == 1 and "signature" in said and "Traceback" not in said
    assert objects(store, "killed/") == set()
    local.write_text(credentials)
    command = [sys.executable, "-m", "dvc", "push", "--jobs", "1"]
    push = subprocess.Popen(command, cwd=project.root, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not (there := objects(store, "killed/")) and push.poll() is None:
        time.sleep(0.01)
    push.kill()
    assert push.wait() == -signal.SIGKILL and there
    there = objects(store, "killed/")
    pushed = int(re.search(r"(\d+) files? pushed", project.run("dvc", "push"))[1])
    everything = objects(store, "killed/")
    assert there < everything and pushed == len(everything - there)
    assert "up to date" in project.run("dvc", "push")


SECRET = {"access_key_id", "secret_access_key", "session_token", "sse_customer_key"}  # S3
SECRET |= {"password", "passphrase", "token", "account_key", "connection_string", "sas_token", "client_secret"}
SECRET |= {"gdrive_client_secret", "oss_key_id", "oss_key_secret"}


def secrets(path):
    """Options of a DVC configuration that belong into config.local, and addresses with a password in them."""
    config = configparser.ConfigParser(interpolation=None)
    config.read(path)
    options = [(name, value) for section in config.sections() for name, value in config[section].items()]
    return [name for name, value in options if name in SECRET or re.search(r"://[^/@]*:[^/@]*@", value)]


def test_the_tracked_configuration_of_dvc_holds_no_secret(author):
    assert secrets(ROOT / ".dvc/config") == []
    assert secrets(author.root / ".dvc/config") == []
    assert secrets(author.root / ".dvc/config.local") == ["access_key_id", "secret_access_key"]
