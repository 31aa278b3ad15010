"""The bucket command against servers that know every setting, and one that knows none."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from servers import Fault, faulty_proxy, moto_server, s3_server, self_signed, use_aws_environment

from sa2net.__main__ import main
from sa2net.data.store.s3 import connect

SETTINGS = ("bucket", "versioning", "encryption", "public access", "old versions", "incomplete uploads")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return self_signed(tmp_path_factory.mktemp("tls") / "certificate.pem")


@pytest.fixture(scope="module")
def server(certificate: Path) -> Iterator[str]:
    with moto_server(certificate) as endpoint:
        yield endpoint


@pytest.fixture(autouse=True)
def keys(monkeypatch: pytest.MonkeyPatch, certificate: Path) -> None:
    use_aws_environment(monkeypatch)
    monkeypatch.setenv("AWS_CA_BUNDLE", str(certificate))


@pytest.fixture
def command(server: str, capsys: pytest.CaptureFixture[str]) -> Any:
    """Run the command; give its exit code and what it says of each setting."""

    def run(name: str, *options: object, endpoint: str = server) -> tuple[int, dict[str, str], str]:
        with pytest.raises(SystemExit) as ended:
            main(["bucket", name, "--endpoint-url", endpoint, *map(str, options)])
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        verdicts = {line[14:34].strip(): line[:14].strip() for line in said.out.splitlines()}
        return int(ended.value.code or 0), verdicts, said.out + said.err

    return run


def state(endpoint: str, bucket: str) -> dict[str, Any]:
    """Everything that the command may change, as the server has it."""
    client = connect(endpoint)
    answers = {
        "versioning": client.get_bucket_versioning(Bucket=bucket),
        "encryption": client.get_bucket_encryption(Bucket=bucket),
        "access": client.get_public_access_block(Bucket=bucket),
        "lifecycle": client.get_bucket_lifecycle_configuration(Bucket=bucket),
    }
    return {name: {k: v for k, v in answer.items() if k != "ResponseMetadata"} for name, answer in answers.items()}


def test_a_bucket_is_made_with_everything_and_a_second_run_changes_nothing(server: str, command: Any) -> None:
    code, verdicts, _ = command("s3://fresh", "--dry-run")
    assert (code, verdicts) == (0, dict.fromkeys(SETTINGS, "would change"))
    assert [bucket["Name"] for bucket in connect(server).list_buckets()["Buckets"]].count("fresh") == 0

    code, verdicts, _ = command("s3://fresh")
    assert (code, verdicts) == (0, dict.fromkeys(SETTINGS, "changed"))
    found = state(server, "fresh")
    assert found["versioning"]["Status"] == "Enabled"
    rule = found["encryption"]["ServerSideEncryptionConfiguration"]["Rules"][0]
    assert rule["ApplyServerSideEncryptionByDefault"]["SSEAlgorithm"] == "AES256"
    assert set(found["access"]["PublicAccessBlockConfiguration"].values()) == {True}
    assert len(found["access"]["PublicAccessBlockConfiguration"]) == 4
    rules = {rule["ID"]: rule for rule in found["lifecycle"]["Rules"]}
    assert rules["sa2net-old-versions"]["NoncurrentVersionExpiration"] == {"NoncurrentDays": 90}
    assert rules["sa2net-incomplete-uploads"]["AbortIncompleteMultipartUpload"] == {"DaysAfterInitiation": 7}

    code, verdicts, _ = command("s3://fresh")
    assert (code, verdicts) == (0, dict.fromkeys(SETTINGS, "ok"))
    assert state(server, "fresh") == found


def test_what_is_stricter_stays_and_what_is_laxer_is_raised(server: str, command: Any) -> None:
    command("s3://strict", "--keep-days", 365, "--abort-days", 2, "--kms-key", "key-1")
    found = state(server, "strict")
    code, verdicts, _ = command("s3://strict")
    assert (code, set(verdicts.values())) == (0, {"ok"})
    assert state(server, "strict") == found
    _, verdicts, _ = command("s3://strict", "--keep-days", 400, "--abort-days", 1)
    assert [name for name, verdict in verdicts.items() if verdict == "changed"] == [
        "old versions",
        "incomplete uploads",
    ]


def test_what_others_set_stays(server: str, command: Any) -> None:
    client = connect(server)
    client.create_bucket(Bucket="shared")
    theirs = {
        "ID": "team", "Status": "Enabled", "Filter": {"Prefix": "tmp/"}, "Expiration": {"Days": 3},
    }  # fmt: skip
    client.put_bucket_lifecycle_configuration(Bucket="shared", LifecycleConfiguration={"Rules": [theirs]})
    client.put_public_access_block(Bucket="shared", PublicAccessBlockConfiguration={"BlockPublicAcls": True})
    reader = {
        "Sid": "Reader", "Effect": "Allow", "Principal": {"AWS": "arn:aws:iam::123456789012:root"},
        "Action": "s3:GetObject", "Resource": "arn:aws:s3:::shared/*",
    }  # fmt: skip
    policy = {"Version": "2012-10-17", "Statement": [reader]}
    client.put_bucket_policy(Bucket="shared", Policy=json.dumps(policy))
    code, verdicts, _ = command("s3://shared", "--https-only")
    assert (code, verdicts.pop("bucket"), set(verdicts.values())) == (0, "ok", {"changed"})
    rules = client.get_bucket_lifecycle_configuration(Bucket="shared")["Rules"]
    assert theirs in rules and len(rules) == 3
    statements = json.loads(client.get_bucket_policy(Bucket="shared")["Policy"])["Statement"]
    assert statements[0] == reader
    assert (statements[1]["Effect"], statements[1]["Condition"]) == ("Deny", {"Bool": {"aws:SecureTransport": "false"}})
    code, verdicts, _ = command("s3://shared", "--https-only")
    assert (code, set(verdicts.values())) == (0, {"ok"})


def test_a_rule_of_others_that_stands_against_it_is_said(server: str, command: Any) -> None:
    client = connect(server)
    client.create_bucket(Bucket="hasty")
    theirs = {
        "ID": "hasty", "Status": "Enabled", "Filter": {"Prefix": ""},
        "NoncurrentVersionExpiration": {"NoncurrentDays": 1},
    }  # fmt: skip
    client.put_bucket_lifecycle_configuration(Bucket="hasty", LifecycleConfiguration={"Rules": [theirs]})
    code, verdicts, said = command("s3://hasty")
    assert (code, verdicts["old versions"]) == (1, "differs")
    assert "'hasty' deletes old versions after 1 days" in said
    assert theirs in client.get_bucket_lifecycle_configuration(Bucket="hasty")["Rules"]


def test_a_region_of_its_own(server: str, command: Any) -> None:
    assert command("s3://far-away", "--region", "eu-central-1")[0] == 0
    assert connect(server).get_bucket_location(Bucket="far-away")["LocationConstraint"] == "eu-central-1"


def test_a_server_that_knows_no_settings(tmp_path: Path, command: Any) -> None:
    with s3_server(tmp_path) as endpoint:
        for made in ("changed", "ok"):
            code, verdicts, said = command("s3://plain", endpoint=endpoint)
            assert (code, verdicts.pop("bucket")) == (1, made)
            assert verdicts == dict.fromkeys(SETTINGS[1:], "not supported")
            assert "versioning, encryption, public access" in said
        (tmp_path / "plain" / "file").write_text("x")  # nor is the list of objects taken for a policy
        assert command("s3://plain", endpoint=endpoint)[0] == 1


def test_a_server_that_takes_a_setting_and_forgets_it(command: Any) -> None:
    with moto_server() as plain, faulty_proxy(plain) as proxy:
        proxy.choose = lambda method, path, before: (
            Fault("status", 200) if method == "PUT" and "versioning" in path else None
        )
        code, verdicts, said = command("s3://forgetful", endpoint=proxy.endpoint)
    assert (code, verdicts["versioning"], verdicts["encryption"]) == (1, "not supported", "changed")
    assert "did not keep it" in said


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["s3://fresh/prefix"], 2, "a place in a bucket"),
        (["fresh"], 2, "no S3 address"),
        (["s3://xy"], 2, "names no bucket"),
        (["s3://fresh", "--keep-days", "0"], 2, "keep-days"),
    ],
)
def test_a_command_that_cannot_be_done(command: Any, arguments: list[str], code: int, words: str) -> None:
    found, _, said = command(*arguments)
    assert (found, words in said) == (code, True), said


def test_refused_away_or_plain(command: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with s3_server(tmp_path) as endpoint:
        assert command("s3://plain", "--https-only", endpoint=endpoint)[0] == 2
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
        code, _, said = command("s3://plain", endpoint=endpoint)
        assert (code, "refuses" in said) == (5, True)
    code, _, said = command("s3://plain", endpoint=endpoint)
    assert (code, "no connection" in said) == (5, True)
    assert not (tmp_path / "plain").exists()
