"""Data sets pulled from real DVC remotes: over a bad network, by a process that is killed, from a remote that lies."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import mlflow
import pytest
from factories import write_data_set
from servers import (
    KEY,
    SECRET,
    Fault,
    Proxy,
    aws_environment,
    faulty_proxy,
    free_port,
    moto_server,
    s3_server,
    self_signed,
    use_aws_environment,
)

from sa2net.__main__ import main
from sa2net.artifacts import folder_sha256, read_json
from sa2net.config import FetchConfig
from sa2net.data.layout import data_root
from sa2net.data.store import data_md5, s3
from sa2net.data.store.dvc import remote_settings
from sa2net.data.store.objects import open_store
from sa2net.data.store.pull import Pulled, parse_pointer, pull
from sa2net.errors import ConfigError, DataError, Sa2NetError, StorageError
from sa2net.registry.store import tracking_uri, var_folder
from sa2net.steps import fetch as step

ROOT = Path(__file__).parents[2]
BUCKET = "spine"


def dvc(*words: str, cwd: Path) -> None:
    environment = os.environ | {"DVC_NO_ANALYTICS": "1", "DVC_TEST": "1"}
    subprocess.run(
        [sys.executable, "-m", "dvc", *words], cwd=cwd, check=True, capture_output=True, env=environment, timeout=120
    )


class Source:
    """A data set that DVC itself has added and pushed into a folder, which is a bucket too."""

    def __init__(self, home: Path) -> None:
        self.buckets = home / "buckets"
        self.remote = self.buckets / BUCKET / "dvc"
        self.repository = home / "repository"
        self.repository.mkdir(parents=True)
        dvc("init", "--no-scm", "-q", cwd=self.repository)
        dvc("remote", "add", "-q", "team", str(self.remote), cwd=self.repository)
        self.data = write_data_set(self.repository / "data" / "scoliosis3classes").parent
        (self.data / "\u00fcmlaut \u65e5.txt").write_bytes(b"a\r\nb")
        (self.data / "twice.txt").write_bytes(b"a\r\nb")
        (self.data / ".hidden").touch()
        self.pointer = self.push()

    def push(self) -> str:
        """Add and push the data as they are now; return the pointer."""
        dvc("add", "-q", "data", cwd=self.repository)
        dvc("push", "-q", "-r", "team", "data", cwd=self.repository)
        text = (self.repository / "data.dvc").read_text()
        (self.buckets / BUCKET / "data.dvc").write_text(text)
        return text

    @property
    def objects(self) -> set[str]:
        """Names of all objects of the remote."""
        return {path.relative_to(self.remote).as_posix() for path in self.remote.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    """Only read."""
    return Source(tmp_path_factory.mktemp("source"))


@pytest.fixture(scope="module")
def server(source: Source) -> Iterator[str]:
    with s3_server(source.buckets) as endpoint:
        yield endpoint


@pytest.fixture
def own(source: Source, tmp_path: Path) -> Source:
    """A remote of its own, free to be broken."""
    mine = Source.__new__(Source)
    mine.buckets = tmp_path / "buckets"
    shutil.copytree(source.buckets, mine.buckets)
    mine.remote, mine.pointer = mine.buckets / BUCKET / "dvc", source.pointer
    return mine


@pytest.fixture
def proxy(server: str) -> Iterator[Proxy]:
    with faulty_proxy(server) as made:
        yield made


@pytest.fixture(autouse=True)
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    use_aws_environment(monkeypatch)


def bring(
    pointer: str,
    remote: object,
    out: Path,
    *,
    endpoint: str = "",
    cache: Path | None = None,
    retries: int = 2,
    jobs: int = 4,
) -> Pulled:
    """Pull without tracking."""
    store = open_store(str(remote), endpoint_url=endpoint, retries=retries, backoff_seconds=0.01)
    return pull(parse_pointer(pointer), store, out, cache=cache, jobs=jobs, progress=False)


def assert_whole(out: Path, pointer: str) -> None:
    """The very data set of a pointer, and nothing beside it."""
    assert (out / "data.dvc").read_text() == pointer
    assert data_md5(data_root(out)) == parse_pointer(pointer).md5
    assert {path.name for path in out.iterdir()} - {"run.json"} == {"data", "data.dvc"}
    assert not list(out.parent.glob(".*partial*"))


def command(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["fetch", *map(str, arguments)])
    return int(ended.value.code or 0)


def objects_asked_for(proxy: Proxy) -> list[str]:
    return [line.partition("/dvc/")[2] for line in proxy.requests if line.startswith("GET ") and "/dvc/" in line]


def test_the_starter_set_is_pulled_whole(tmp_path: Path) -> None:
    out = tmp_path / "starter"
    result = step.run(
        FetchConfig(remote=str(ROOT / "starter")), pointer=str(ROOT / "data.dvc"), out=out, progress=False
    )
    assert (result.files, result.size, result.data_md5) == (125, 10339928, "ab289847a1a5fa8bfd0e64efeb72a9b4.dir")
    assert result.pulled == 126
    assert data_root(out) == out / "data" / "scoliosis3classes"
    assert_whole(out, (ROOT / "data.dvc").read_text())
    content = read_json(out / "run.json")
    run = mlflow.MlflowClient(tracking_uri()).get_run(content["run_id"])
    assert (content["step"], run.info.status, run.data.tags["data_md5"]) == ("fetch", "FINISHED", result.data_md5)
    assert run.data.metrics == {"files": 125, "bytes": 10339928, "objects_pulled": 126}
    assert run.data.params["fetch.jobs"] == "4"


@pytest.mark.parametrize("form", ["{}", "file://{}"])
def test_from_a_folder(source: Source, tmp_path: Path, form: str) -> None:
    done = bring(source.pointer, form.format(source.remote), tmp_path / "a" / "out")
    assert_whole(tmp_path / "a" / "out", source.pointer)
    assert done.pulled == len(source.objects)
    # Two files of one content are two files: a change of one is none of the other.
    (done.tree / "twice.txt").write_bytes(b"changed")
    assert (done.tree / "\u00fcmlaut \u65e5.txt").read_bytes() == b"a\r\nb"
    assert all(path.stat().st_nlink == 1 for path in done.tree.rglob("*") if path.is_file())


def test_from_s3_with_the_pointer_there_too(
    source: Source, proxy: Proxy, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--remote", f"s3://{BUCKET}/dvc", "--endpoint-url", proxy.endpoint, "--jobs", 8]
    assert command("--pointer", f"s3://{BUCKET}/data.dvc", *arguments, "--out", tmp_path / "out") == 0
    assert_whole(tmp_path / "out", source.pointer)
    assert sorted(objects_asked_for(proxy)) == sorted(source.objects)
    assert f"sa2net validate --data {tmp_path}/out/data/scoliosis3classes" in capsys.readouterr().out

    proxy.requests.clear()  # all is there already: nothing is asked for but the pointer
    assert command("--pointer", f"s3://{BUCKET}/data.dvc", *arguments, "--out", tmp_path / "out", "--quiet") == 0
    assert objects_asked_for(proxy) == []
    assert capsys.readouterr().out == ""
    secrets = [file for file in (*var_folder().rglob("*"), *tmp_path.rglob("*")) if file.is_file()]
    assert not [file for file in secrets if SECRET.encode() in file.read_bytes()]


def test_where_a_checkout_says_that_the_objects_are(source: Source, tmp_path: Path) -> None:
    pointer = source.repository / "data.dvc"
    assert remote_settings(pointer) == {}  # neither the pointer nor the configuration names one
    other = tmp_path / "other"
    shutil.copytree(source.repository / ".dvc", other / ".dvc", ignore=shutil.ignore_patterns("cache", "tmp"))
    dvc("remote", "add", "-q", "-d", "bucket", "s3://spine/dvc", cwd=other)
    for key, value in (
        ("endpointurl", "http://s3:1"),
        ("region", "eu"),
        ("access_key_id", "k"),
        ("secret_access_key", "s"),
    ):
        dvc("remote", "modify", "-q", "bucket", key, value, cwd=other)
    (other / "data.dvc").write_text(source.pointer)
    assert remote_settings(other / "data.dvc") == {
        "remote": "s3://spine/dvc",
        "endpoint_url": "http://s3:1",
        "region": "eu",
    }
    (other / "data.dvc").write_text(source.pointer + "  remote: team\n")
    assert remote_settings(other / "data.dvc") == {"remote": str(source.remote)}
    (other / "data.dvc").write_text(source.pointer + "  remote: unknown\n")
    assert remote_settings(other / "data.dvc") == {}
    assert remote_settings(tmp_path / "elsewhere" / "data.dvc") == {}


@pytest.mark.parametrize(
    "fault",
    [
        Fault("status", 500),
        Fault("status", 503, "SlowDown"),
        Fault("status", 429, "TooManyRequests"),
        Fault("reset"),
        Fault("truncate"),
    ],
    ids=lambda fault: f"{fault.kind}-{fault.status}",
)
def test_what_fails_in_passing_is_tried_again(source: Source, proxy: Proxy, tmp_path: Path, fault: Fault) -> None:
    proxy.choose = lambda method, path, before: fault if before < 2 else None
    # More attempts than faults: a pooled connection that the proxy has closed costs one too.
    bring(source.pointer, f"s3://{BUCKET}/dvc", tmp_path / "out", endpoint=proxy.endpoint, retries=6)
    assert_whole(tmp_path / "out", source.pointer)
    unharmed = 1 if fault.kind == "truncate" else 0  # the empty object has no half
    assert len(objects_asked_for(proxy)) == 3 * len(source.objects) - 2 * unharmed


def test_a_server_that_never_recovers_ends_the_pull(
    source: Source, proxy: Proxy, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    victim = sorted(source.objects)[-1]
    proxy.choose = lambda method, path, before: Fault("status", 500) if victim in path else None
    with pytest.raises(StorageError, match=f"{victim}.*HTTP 500 InternalError") as caught:
        bring(source.pointer, f"s3://{BUCKET}/dvc", tmp_path / "out", endpoint=proxy.endpoint)
    assert caught.value.exit_code == 5
    assert objects_asked_for(proxy).count(victim) == 3
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("status", "words"), [(403, "refuses"), (404, "dvc push")])
def test_a_refusal_is_not_tried_again(source: Source, proxy: Proxy, tmp_path: Path, status: int, words: str) -> None:
    code = {403: "AccessDenied", 404: "NoSuchKey"}[status]
    proxy.choose = lambda method, path, before: Fault("status", status, code)
    with pytest.raises(StorageError, match=words):
        bring(source.pointer, f"s3://{BUCKET}/dvc", tmp_path / "out", endpoint=proxy.endpoint)
    assert len(objects_asked_for(proxy)) == 1


def test_a_server_that_hangs_is_not_waited_for_without_end(
    source: Source, proxy: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3, "ANSWER_SECONDS", 0.5)
    proxy.choose = lambda method, path, before: Fault("delay", seconds=5) if before < 1 else None
    begun = time.monotonic()
    with pytest.raises(StorageError, match=r"no answer from .* within 0.5 s"):
        bring(source.pointer, f"s3://{BUCKET}/dvc", tmp_path / "out", endpoint=proxy.endpoint, retries=0)
    assert time.monotonic() - begun < 5
    bring(source.pointer, f"s3://{BUCKET}/dvc", tmp_path / "out", endpoint=proxy.endpoint, retries=1)
    assert_whole(tmp_path / "out", source.pointer)


def test_a_server_that_is_away_and_comes_back(source: Source, tmp_path: Path) -> None:
    port, remote = free_port(), f"s3://{BUCKET}/dvc"
    with pytest.raises(StorageError, match=r"no connection to 127\.0\.0\.1"):
        bring(source.pointer, remote, tmp_path / "out", endpoint=f"http://127.0.0.1:{port}")
    with s3_server(source.buckets, port=port) as endpoint:
        bring(source.pointer, remote, tmp_path / "out", endpoint=endpoint)
    assert_whole(tmp_path / "out", source.pointer)


def test_one_job_that_fails_ends_the_others_that_wait(source: Source, proxy: Proxy, tmp_path: Path) -> None:
    first, *others = sorted(name for name in source.objects if not name.endswith(".dir"))

    def choose(method: str, path: str, before: int) -> Fault | None:
        if first in path:
            return Fault("delay", seconds=0.5) if before else Fault("status", 403, "AccessDenied")
        return Fault("status", 500) if any(name in path for name in others) else None

    proxy.choose = choose
    store = open_store(f"s3://{BUCKET}/dvc", endpoint_url=proxy.endpoint, retries=5, backoff_seconds=60)
    begun = time.monotonic()
    with pytest.raises(StorageError, match="refuses"):
        pull(parse_pointer(source.pointer), store, tmp_path / "out", jobs=len(source.objects), progress=False)
    assert time.monotonic() - begun < 20


def test_bytes_that_are_not_the_objects_are_refused_and_not_kept(source: Source, proxy: Proxy, tmp_path: Path) -> None:
    victim = sorted(name for name in source.objects if not name.endswith(".dir"))[3]
    proxy.choose = lambda method, path, before: Fault("corrupt") if victim in path else None
    cache = tmp_path / "cache"
    with pytest.raises(StorageError, match=f"{victim} does not hold what its name says"):
        bring(source.pointer, f"s3://{BUCKET}/dvc", tmp_path / "out", endpoint=proxy.endpoint, cache=cache)
    assert objects_asked_for(proxy).count(victim) == 1
    assert not (cache / victim).exists()
    assert not (tmp_path / "out").exists()
    assert not [path for path in cache.rglob("*") if "unfinished" in path.name]
    proxy.choose = lambda method, path, before: None
    bring(source.pointer, f"s3://{BUCKET}/dvc", tmp_path / "out", endpoint=proxy.endpoint, cache=cache)
    assert_whole(tmp_path / "out", source.pointer)


def test_a_remote_that_was_tampered_with(own: Source, tmp_path: Path) -> None:
    victim = own.remote / sorted(own.objects)[0]
    victim.chmod(0o644)
    victim.write_bytes(b"something else")
    with pytest.raises(StorageError, match="does not hold what its name says"):
        bring(own.pointer, own.remote, tmp_path / "out")
    victim.write_bytes(b"x" * 50_000_000)  # without end, for all we know
    with pytest.raises(Sa2NetError, match=r"larger than the pointer allows|does not hold"):
        bring(own.pointer, own.remote, tmp_path / "out")
    victim.unlink()
    with pytest.raises(StorageError, match=r"lacks an object of the data set: files/md5/.*dvc push"):
        bring(own.pointer, own.remote, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_list_that_leads_out_of_the_folder_writes_nothing(own: Source, tmp_path: Path) -> None:
    import hashlib

    content = json.dumps([{"md5": "d41d8cd98f00b204e9800998ecf8427e", "relpath": "../../../../evil"}]).encode()
    md5 = hashlib.md5(content).hexdigest()
    (own.remote / "files/md5" / md5[:2]).mkdir(exist_ok=True)
    (own.remote / "files/md5" / md5[:2] / f"{md5[2:]}.dir").write_bytes(content)
    pointer = json.dumps({"outs": [{"md5": f"{md5}.dir", "hash": "md5", "path": "data"}]})
    with pytest.raises(DataError, match="leads out of the folder"):
        bring(pointer, own.remote, tmp_path / "deep" / "out")
    assert not list(tmp_path.rglob("evil"))
    assert not (tmp_path / "deep" / "out").exists()


@pytest.mark.parametrize(
    ("change", "words"), [("size", "bytes, the pointer says"), ("nfiles", "files, the pointer says")]
)
def test_another_size_than_the_pointers_is_refused(source: Source, tmp_path: Path, change: str, words: str) -> None:
    said = dict(line.strip("- ").split(": ") for line in source.pointer.splitlines() if ": " in line)
    wrong = source.pointer.replace(f"{change}: {said[change]}", f"{change}: {int(said[change]) + 1}")
    with pytest.raises(DataError, match=words) as caught:
        bring(wrong, source.remote, tmp_path / "out")
    assert caught.value.exit_code == 3
    assert not (tmp_path / "out").exists()


def test_keys_and_addresses_that_do_not_open(
    source: Source, server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def ended(remote: str = f"s3://{BUCKET}/dvc", endpoint: str = server) -> tuple[int, str]:
        options = ["--pointer", tmp_path / "data.dvc", "--remote", remote, "--out", tmp_path / "out"]
        code = command(*options, "--endpoint-url", endpoint, "--retries", 1, "--backoff-seconds", 0, "--quiet")
        said = capsys.readouterr().err
        assert SECRET not in said and KEY not in said and "Traceback" not in said
        return code, said

    (tmp_path / "data.dvc").write_text(source.pointer)
    for remote, code, words in (
        ("s3://nowhere/dvc", 5, "there is no bucket nowhere"),
        (f"s3://{BUCKET}/elsewhere", 5, "lacks an object"),
        (str(tmp_path / "nothing"), 5, "there is no folder"),
        ("gs://spine/dvc", 2, "of the kind gs://"),
        ("s3://", 2, "no S3 address"),
    ):
        found = ended(remote)
        assert (found[0], words in found[1]) == (code, True), found
    assert ended(endpoint="ftp://host")[0] == 2
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    code, said = ended()
    assert (code, "refuses" in said) == (5, True)
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    assert ended()[0] == 5
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    code, said = ended()
    assert (code, "there are no keys for S3" in said) == (5, True)
    assert not (tmp_path / "out").exists()


def test_a_certificate_of_an_unknown_authority(source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    certificate = self_signed(tmp_path / "certificate.pem")
    with moto_server(certificate) as endpoint:
        with pytest.raises(StorageError, match=r"certificate of 127\.0\.0\.1"):
            bring(source.pointer, f"s3://{BUCKET}/dvc", tmp_path / "out", endpoint=endpoint)
        monkeypatch.setenv("AWS_CA_BUNDLE", str(certificate))
        store = open_store(f"s3://{BUCKET}/dvc", endpoint_url=endpoint)
        s3.connect(endpoint).create_bucket(Bucket=BUCKET)
        for name in source.objects:
            store.put(source.remote / name, name)
        bring(source.pointer, f"s3://{BUCKET}/dvc", tmp_path / "out", endpoint=endpoint)
    assert_whole(tmp_path / "out", source.pointer)


def started(proxy: Proxy, source: Source, out: Path, *options: object) -> subprocess.Popen[bytes]:
    """The real command, in a process of its own."""
    pointer = out.parent / "pointer.yaml"
    pointer.write_text(source.pointer)
    words = [sys.executable, "-m", "sa2net", "fetch", "--pointer", pointer, "--remote", f"s3://{BUCKET}/dvc"]
    words += ["--endpoint-url", proxy.endpoint, "--out", out, "--quiet", *options]
    return subprocess.Popen([*map(str, words)], cwd=ROOT, env=os.environ | aws_environment())


@pytest.mark.parametrize("with_cache", [False, True], ids=["beside-out", "cache"])
def test_killed_in_the_middle_the_next_attempt_asks_for_what_is_missing(
    source: Source, proxy: Proxy, tmp_path: Path, with_cache: bool
) -> None:
    options = ["--jobs", 2, *(["--cache", tmp_path / "cache"] if with_cache else [])]
    proxy.choose = lambda method, path, before: Fault("delay", seconds=0.3)
    process = started(proxy, source, tmp_path / "out", *options)
    end = time.monotonic() + 120
    while len(objects_asked_for(proxy)) < 8 and time.monotonic() < end:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    asked_first = objects_asked_for(proxy)
    kept = tmp_path / "cache" if with_cache else tmp_path / ".out.partial" / "objects"
    there = {path.relative_to(kept).as_posix() for path in kept.glob("files/md5/*/*") if path.name[0] != "."}
    assert 8 - 2 <= len(there) < len(source.objects)
    assert not (tmp_path / "out").exists()

    time.sleep(0.5)  # what was under way when the process was killed has reached the proxy by now
    proxy.choose = lambda method, path, before: None
    proxy.requests.clear()
    again = started(proxy, source, tmp_path / "out", *options)
    assert again.wait(timeout=120) == 0
    assert sorted(objects_asked_for(proxy)) == sorted(source.objects - there)
    assert len(objects_asked_for(proxy)) + len(asked_first) <= len(source.objects) + 2
    assert_whole(tmp_path / "out", source.pointer)
    if with_cache:  # and a third, on another node, asks for nothing
        proxy.requests.clear()
        bring(source.pointer, f"s3://{BUCKET}/dvc", tmp_path / "n" / "out", endpoint=proxy.endpoint, cache=kept)
        assert objects_asked_for(proxy) == []


def test_a_damaged_object_of_the_cache_is_pulled_again(source: Source, proxy: Proxy, tmp_path: Path) -> None:
    cache, remote = tmp_path / "cache", f"s3://{BUCKET}/dvc"
    first = bring(source.pointer, remote, tmp_path / "a", endpoint=proxy.endpoint, cache=cache)
    victim = sorted(name for name in source.objects if not name.endswith(".dir"))[0]
    (cache / victim).chmod(0o644)
    (cache / victim).write_bytes(b"rotten")
    (first.tree / "twice.txt").write_bytes(b"changed")  # the cache's objects are nobody's files
    proxy.requests.clear()
    bring(source.pointer, remote, tmp_path / "b", endpoint=proxy.endpoint, cache=cache)
    assert objects_asked_for(proxy) == [victim]
    assert_whole(tmp_path / "b", source.pointer)


def test_the_cache_of_dvc_itself_will_do(source: Source, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    shutil.copytree(source.repository / ".dvc" / "cache", cache)
    done = bring(source.pointer, tmp_path / "no remote", tmp_path / "out", cache=cache)
    assert done.pulled == 0
    assert_whole(tmp_path / "out", source.pointer)


def test_several_processes_share_a_cache(source: Source, proxy: Proxy, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    proxy.choose = lambda method, path, before: Fault("delay", seconds=0.02)
    code = (
        "import sys; from pathlib import Path; from sa2net.data.store.objects import open_store;"
        "from sa2net.data.store.pull import parse_pointer, pull;"
        "text, endpoint, out, cache = sys.argv[1:];"
        f"store = open_store('s3://{BUCKET}/dvc', endpoint_url=endpoint);"
        "pull(parse_pointer(text), store, Path(out), cache=Path(cache), progress=False)"
    )
    outs = [tmp_path / str(number) / "out" for number in range(3)]
    processes = [
        subprocess.Popen([sys.executable, "-c", code, source.pointer, proxy.endpoint, str(out), str(cache)], cwd=ROOT)
        for out in outs
    ]
    assert [process.wait(timeout=120) for process in processes] == [0, 0, 0]
    for out in outs:
        assert_whole(out, source.pointer)
    assert {path.relative_to(cache).as_posix() for path in cache.rglob("*") if path.is_file()} == source.objects
    assert all(folder_sha256(out / "data") == folder_sha256(source.data) for out in outs)


def test_two_processes_do_not_write_one_folder(source: Source, proxy: Proxy, tmp_path: Path) -> None:
    proxy.choose = lambda method, path, before: Fault("delay", seconds=0.5)
    process = started(proxy, source, tmp_path / "out")
    try:
        end = time.monotonic() + 120
        while len(objects_asked_for(proxy)) < 3 and time.monotonic() < end:
            time.sleep(0.02)
        with pytest.raises(StorageError, match="another process is fetching"):
            bring(source.pointer, source.remote, tmp_path / "out")
        proxy.choose = lambda method, path, before: None
        assert process.wait(timeout=120) == 0
    finally:
        process.kill()
        process.wait()
    assert_whole(tmp_path / "out", source.pointer)


def test_an_ended_fetch_says_so_and_can_go_on(source: Source, proxy: Proxy, tmp_path: Path) -> None:
    proxy.choose = lambda method, path, before: Fault("delay", seconds=0.5)
    process = started(proxy, source, tmp_path / "out", "--backoff-seconds", 300)
    end = time.monotonic() + 120
    while len(objects_asked_for(proxy)) < 6 and time.monotonic() < end:
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=20) == 128 + signal.SIGTERM
    done = bring(source.pointer, source.remote, tmp_path / "out")
    assert 0 < done.pulled < len(source.objects)


def test_new_data_replace_those_of_an_earlier_fetch_and_nothing_else(tmp_path: Path) -> None:
    source, out = Source(tmp_path / "source"), tmp_path / "out"
    out.mkdir()  # an empty folder may be there: a pipeline makes one
    bring(source.pointer, source.remote, out)
    old = source.pointer
    (source.data / "scoliosis3classes" / "new.txt").write_text("new")
    new = source.push()
    bring(new, source.remote, out)
    assert_whole(out, new)

    (out / "data" / "mine.txt").write_text("work of hours")
    with pytest.raises(DataError, match="not as it was fetched"):
        bring(old, source.remote, out)
    (out / "data" / "mine.txt").unlink()
    (out / "notes.txt").write_text("mine")
    with pytest.raises(DataError, match=r"notes\.txt"):
        bring(old, source.remote, out)
    (out / "notes.txt").unlink()
    (out / "data.dvc").unlink()
    with pytest.raises(DataError, match="not as it was fetched"):
        bring(old, source.remote, out)
    assert (out / "data" / "scoliosis3classes" / "new.txt").is_file()


def test_places_that_cannot_be_written(source: Source, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="is a file"):
        bring(source.pointer, source.remote, tmp_path / "file")
    with pytest.raises(StorageError, match="cannot be written"):
        bring(source.pointer, source.remote, tmp_path / "file" / "below")
    with pytest.raises(StorageError, match="cannot be written"):
        bring(source.pointer, source.remote, tmp_path / "out", cache=tmp_path / "file")
    with pytest.raises(ConfigError, match="cannot be replaced"):
        bring(source.pointer, source.remote, Path("/"))


def test_a_failed_fetch_is_a_failed_run(source: Source, tmp_path: Path) -> None:
    cfg = FetchConfig(remote=str(tmp_path / "nowhere"), retries=0)
    with pytest.raises(StorageError, match="lacks an object"):
        step.run(cfg, pointer=source.pointer, out=tmp_path / "out", progress=False)
    client = mlflow.MlflowClient(tracking_uri())
    runs = client.search_runs([client.get_experiment_by_name("sa2net").experiment_id], order_by=["start_time DESC"])
    run = next(run for run in runs if run.data.tags.get("data_md5") == parse_pointer(source.pointer).md5)
    assert run.info.status == "FAILED"
    assert run.data.params["fetch.remote"] == str(tmp_path / "nowhere")
