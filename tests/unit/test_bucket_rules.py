"""What a bucket lacks is decided by plain functions: nothing of others goes, nothing stricter is weakened."""

from typing import Any

import pytest

from sa2net.data.store.bucket import needed_encryption, needed_policy
from sa2net.data.store.lifecycle import abort_uploads, keep_versions

FOREIGN = {"ID": "archive", "Status": "Enabled", "Filter": {"Prefix": "old/"}, "Transitions": [{"Days": 3}]}


def versions(days: int, name: str = "sa2net-old-versions", **more: Any) -> dict[str, Any]:
    return {
        "ID": name,
        "Status": "Enabled",
        "Filter": {"Prefix": ""},
        "NoncurrentVersionExpiration": {"NoncurrentDays": days},
        **more,
    }


def uploads(days: int, name: str = "sa2net-incomplete-uploads") -> dict[str, Any]:
    return {
        "ID": name,
        "Status": "Enabled",
        "Filter": {"Prefix": ""},
        "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": days},
    }


def test_a_rule_is_added_and_those_of_others_are_kept() -> None:
    found = {"Rules": [FOREIGN, uploads(7)], "TransitionDefaultMinimumObjectSize": "varies", "ResponseMetadata": {}}
    assert keep_versions(90).needed(found) == {
        "LifecycleConfiguration": {"Rules": [FOREIGN, uploads(7), versions(90)]},
        "TransitionDefaultMinimumObjectSize": "varies",
    }
    assert keep_versions(90).needed(None) == {"LifecycleConfiguration": {"Rules": [versions(90)]}}


@pytest.mark.parametrize(("there", "asked", "then"), [(90, 90, None), (365, 90, None), (30, 90, 90), (1, 90, 90)])
def test_old_versions_are_never_kept_for_a_shorter_time(there: int, asked: int, then: int | None) -> None:
    needed = keep_versions(asked).needed({"Rules": [versions(there), FOREIGN]})
    if then is None:
        assert needed is None
    else:
        assert needed == {"LifecycleConfiguration": {"Rules": [FOREIGN, versions(then)]}}


def test_a_rule_of_others_for_old_versions_is_left_alone() -> None:
    for days, words in ((365, ""), (90, ""), (5, "'team' deletes old versions after 5 days")):
        rule, found = keep_versions(90), {"Rules": [versions(days, "team")]}
        assert rule.needed(found) is None
        assert words in rule.hindrance(found)
        assert bool(rule.hindrance(found)) == bool(words)


@pytest.mark.parametrize(
    "partial",
    [
        versions(5, "team", Filter={"Prefix": "x/"}),
        versions(5, "team", Filter={"Tag": {"Key": "a", "Value": "b"}}),
        versions(5, "team", Status="Disabled"),
        versions(5, "team", Filter={"ObjectSizeGreaterThan": 5}),
    ],
)
def test_a_rule_for_a_part_of_the_bucket_does_not_count(partial: dict[str, Any]) -> None:
    rule = keep_versions(90)
    assert rule.hindrance({"Rules": [partial]}) == ""
    assert rule.needed({"Rules": [partial]}) == {"LifecycleConfiguration": {"Rules": [partial, versions(90)]}}


def test_a_rule_in_the_old_form_counts() -> None:
    old = versions(400, "team")
    del old["Filter"]
    assert keep_versions(90).needed({"Rules": [{**old, "Prefix": ""}]}) is None


@pytest.mark.parametrize(("there", "asked", "changes"), [(7, 7, False), (1, 7, False), (30, 7, True)])
def test_unfinished_uploads_never_stay_longer(there: int, asked: int, changes: bool) -> None:
    for name in ("sa2net-incomplete-uploads", "team"):
        needed = abort_uploads(asked).needed({"Rules": [uploads(there, name)]})
        assert (needed is not None) == changes
    if changes:
        assert needed == {"LifecycleConfiguration": {"Rules": [uploads(30, "team"), uploads(7)]}}


def encryption(algorithm: str, key: str = "", **more: Any) -> list[dict[str, Any]]:
    default = {"SSEAlgorithm": algorithm} | ({"KMSMasterKeyID": key} if key else {})
    return [{"ApplyServerSideEncryptionByDefault": default, **more}]


def test_encryption_is_never_weakened() -> None:
    assert needed_encryption([], "") == encryption("AES256")[0]
    for algorithm in ("AES256", "aws:kms", "aws:kms:dsse"):
        assert needed_encryption(encryption(algorithm), "") is None
    assert needed_encryption(encryption("AES256"), "k") == encryption("aws:kms", "k", BucketKeyEnabled=True)[0]
    assert needed_encryption(encryption("aws:kms", "k"), "k") is None
    assert needed_encryption(encryption("aws:kms", "arn:aws:kms:eu:1:key/k"), "k") is None
    changed = needed_encryption(encryption("aws:kms:dsse", "other", BlockedEncryptionTypes={"a": 1}), "k")
    assert changed == encryption("aws:kms:dsse", "k", BlockedEncryptionTypes={"a": 1})[0]


def test_the_policy_gets_one_statement_and_keeps_the_others() -> None:
    other = {
        "Sid": "Readers",
        "Effect": "Allow",
        "Principal": {"AWS": "123"},
        "Action": "s3:GetObject",
        "Resource": "*",
    }
    made = needed_policy({"Version": "2012-10-17", "Id": "x", "Statement": other}, "spine", "aws-cn")
    assert made is not None
    assert (made["Version"], made["Id"], made["Statement"][0]) == ("2012-10-17", "x", other)
    ours = made["Statement"][1]
    assert ours["Effect"] == "Deny"
    assert ours["Resource"] == ["arn:aws-cn:s3:::spine", "arn:aws-cn:s3:::spine/*"]
    assert ours["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}
    assert needed_policy(made, "spine", "aws-cn") is None
    weaker = {**ours, "Condition": {**ours["Condition"], "IpAddress": {"aws:SourceIp": "10.0.0.0/8"}}}
    again = needed_policy({"Statement": [other, weaker]}, "spine", "aws-cn")
    assert again is not None
    assert again["Statement"] == [other, ours]


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({"Sid": "Theirs"}, True),
        ({"Principal": {"AWS": "*"}}, True),
        ({"Condition": {"Bool": {"aws:SecureTransport": False}}}, True),
        ({"Condition": {"Bool": {"AWS:securetransport": ["false"]}}}, True),
        ({"Resource": "*"}, True),
        ({"Action": ["s3:*"]}, True),
        ({"Effect": "Allow"}, False),
        ({"Principal": {"AWS": "123"}}, False),
        ({"Action": "s3:GetObject"}, False),
        ({"Resource": "arn:aws:s3:::spine/*"}, False),
        ({"Condition": {}}, False),
        ({"Condition": {"Bool": {"aws:SecureTransport": "true"}}}, False),
    ],
)
def test_a_statement_of_others_that_does_the_same_is_enough(change: dict[str, Any], same: bool) -> None:
    made = needed_policy(None, "spine", "aws")
    assert made is not None
    theirs = {**made["Statement"][0], "Sid": "Theirs", **change}
    assert (needed_policy({"Statement": [theirs]}, "spine", "aws") is None) == same
