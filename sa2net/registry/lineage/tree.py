"""The lineage of a version as a tree of lines for a terminal: what it is made of, run by run."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sa2net.anatomy import FOREGROUND
from sa2net.artifacts import Estimate, Scores
from sa2net.registry.lineage.trace import Lineage
from sa2net.registry.provenance import Provenance
from sa2net.registry.records import Record

UNKNOWN = "unknown"
_SHORT = 12
_FIRST = ("epochs", "batch_size", "learning_rate", "sweep_width")


@dataclass(frozen=True)
class Node:
    """A line with the lines below it."""

    text: str
    children: tuple["Node", ...] = ()


def draw(found: Lineage) -> str:
    """The tree as text."""
    return "\n".join(_lines(tree(found)))


def tree(found: Lineage) -> Node:
    """The tree: version -> training, evaluation, decision -> what each was made with."""
    version, origin = found.version, found.provenance
    names = ", ".join(found.aliases) or "no alias"
    return Node(
        f"{version.uri} ({names}), registered {found.registered or UNKNOWN}",
        (
            Node(f"model       {origin.model_sha256}"),
            _training(found),
            _evaluation(found),
            _decision(found),
        ),
    )


def short(text: str) -> str:
    """The start of a hash or id; `unknown` where there is none."""
    return text[:_SHORT] or UNKNOWN


def code(record: Record) -> str:
    """The state of the code of a run."""
    revision = record.get("revision")
    if not revision or revision == UNKNOWN:
        return UNKNOWN
    if record.get("dirty") == "true":
        patch = f", difference {short(record.get('diff_sha256'))}" if record.get("diff_sha256") else ", not kept"
        return f"{revision}, with uncommitted changes{patch}"
    return revision


def environment(record: Record, packages: Sequence[str]) -> str:
    """What a run was installed with."""
    if not record.get("lock_sha256"):
        return UNKNOWN
    counted = f"{len(packages)} packages, " if packages else ""
    versions = f"Python {record.get('python') or UNKNOWN}, torch {record.get('package.torch') or UNKNOWN}"
    image = f"image {record.get('image')}" if record.get("image") else "no image"
    return f"{versions}, {counted}lock {short(record.get('lock_sha256'))}, {image}"


def hardware(record: Record) -> str:
    """The machine of a run."""
    if not record.get("cpu"):
        return UNKNOWN
    cpu = f"{record.get('cpu')} ({record.get('cpu_capability') or 'instructions unknown'}, {record.get('cores')} cores)"
    used = f"{record.get('device') or 'device unknown'}, threads {record.get('threads') or UNKNOWN}"
    processes = record.get("processes")
    several = f", processes {processes}" if processes not in ("", "1") else ""
    return f"{used}{several}; {cpu}; {record.get('gpus') or 'no GPU'}; {record.get('memory_gb')} GB"


def settings(origin: Provenance) -> str:
    """The settings of the training that people ask for first, and which sections are not known."""
    train = origin.params.get("train", {})
    named = ", ".join(f"{name} {train[name]}" for name in _FIRST if name in train)
    lacking = [section for section in ("validate", "train", "evaluate") if not origin.params.get(section)]
    return (named or UNKNOWN) + (f"; {UNKNOWN}: section {', '.join(lacking)}" if lacking else "")


def counts(record: Record) -> str:
    """How much a training learnt from, and how much chose its epoch."""
    if not record.get("train_scans"):
        return f"number of scans {UNKNOWN}"
    train, val = (
        f"{record.get(f'{split}_scans')} scans of {record.get(f'{split}_subjects')} subjects"
        for split in ("train", "val")
    )
    return f"{train}; best epoch by {val}"


def parent(origin: Provenance) -> str:
    """What the training started from."""
    if not origin.started_from():
        pretrained = origin.training.get("pretrained_weights") or UNKNOWN
        backbone = f" but for the backbone: {pretrained}" if origin.network.get("pretrained") else ""
        return f"none: trained from scratch{backbone}"
    identity = f"model {short(origin.parent_model)}"
    return f"fine-tuned from {origin.started_from()} ({identity})"


def resumed(origin: Provenance) -> str:
    """Whether the training went on from a checkpoint."""
    after, epochs = origin.training.get("resumed_after_epoch"), origin.training.get("epochs")
    if not after:
        return UNKNOWN
    if after == "0":
        return f"no: epochs 1 to {epochs} in one go"
    runs = f" (runs {', '.join(map(short, origin.earlier_runs))})" if origin.earlier_runs else ""
    return f"yes: after epoch {after} of {epochs}{runs}"


def interval(estimate: Estimate | None) -> str:
    """A mean with its interval; a word where nothing was scored."""
    if estimate is None:
        return "not scored"
    ends = "" if estimate.low is None or estimate.high is None else f" [{estimate.low:.3f}, {estimate.high:.3f}]"
    return f"{estimate.value:.3f}{ends}"


def _training(found: Lineage) -> Node:
    origin, record = found.provenance, found.provenance.training
    seeds = ", ".join(f"{name} {seed}" for name, seed in origin.seeds().items())
    return Node(
        f"training    run {record.run_id or UNKNOWN}, {_when(record)}",
        (
            Node(f"code         {code(record)}"),
            Node(f"data         {origin.data_md5}, manifest {short(origin.manifest_sha256)}"),
            Node(f"scans        {counts(record)}"),
            Node(f"parameters   {settings(origin)}"),
            Node(f"environment  {environment(record, found.packages)}"),
            Node(f"hardware     {hardware(record)}"),
            Node(f"seeds        {seeds or UNKNOWN}"),
            Node(f"parent       {parent(origin)}"),
            Node(f"resumed      {resumed(origin)}"),
        ),
    )


def _evaluation(found: Lineage) -> Node:
    origin, record = found.provenance, found.provenance.evaluation
    package = record.get("sa2net_version")
    evaluator = short(record.get("evaluator_sha256")) + (f" (sa2net {package})" if package else "")
    other = "" if origin.scored_data_md5 == origin.data_md5 else f"{origin.scored_data_md5}, other than trained on"
    lines = [
        Node(f"code         {code(record)}"),
        Node(f"data         {other or 'the same'}, {origin.split or UNKNOWN} split"),
        Node(f"evaluator    {evaluator}"),
        Node(f"environment  {environment(record, ())}"),
        Node(f"hardware     {hardware(record)}"),
    ]
    if found.evaluation is None:
        lines.append(Node("scores       unknown: lost with the run that kept them"))
    else:
        lines.append(_scores(found.evaluation.scores))
    return Node(f"evaluation  run {record.run_id or UNKNOWN}, {_when(record)}", tuple(lines))


def _scores(scores: Scores) -> Node:
    what = "PHANTOM scans" if scores.phantom else "scans"
    title = f"scores       {scores.scans} {what} of {scores.subjects} subjects, Dice [{scores.confidence:.0%} interval]"
    rows = [("mean", scores.mean.dice), *((item.name, scores.per_class[item.name].dice) for item in FOREGROUND)]
    return Node(title, tuple(Node(f"{name:17}{interval(estimate)}") for name, estimate in rows))


def _decision(found: Lineage) -> Node:
    if not found.decision:
        return Node("decision    unknown")
    run = found.version.tags.get("decision_run", "")
    reasons = tuple(Node(str(reason["text"])) for reason in found.decision.get("reasons", ()))
    history = tuple(Node(f"{time} {action}") for time, action in found.history)
    return Node(f"decision    {found.decision['verdict']} (run {run or UNKNOWN})", reasons + history)


def _when(record: Record) -> str:
    return f"{record.get('started') or UNKNOWN} to {record.get('ended') or UNKNOWN}"


def _lines(node: Node, first: str = "", rest: str = "") -> Iterator[str]:
    yield first + node.text
    for child in node.children:
        last = child is node.children[-1]
        yield from _lines(child, rest + ("└─ " if last else "├─ "), rest + ("   " if last else "│  "))
