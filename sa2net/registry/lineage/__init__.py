"""The lineage of a version: read from the registry, and written as a tree, W3C PROV, a bill of materials and a model card."""

from pathlib import Path

from sa2net.artifacts import write_json, write_text
from sa2net.registry.lineage import bom, card, prov
from sa2net.registry.lineage.trace import Lineage, connect, download, find, read
from sa2net.registry.lineage.tree import draw

__all__ = ["BOM", "PROV", "Lineage", "connect", "download", "draw", "find", "prov", "read", "write"]

PROV = "lineage.json"
BOM = "bom.cdx.json"


def write(found: Lineage, out: Path) -> tuple[Path, ...]:
    """Write everything that is for others to read.

    Args:
        found: The lineage.
        out: Folder to write.

    Returns:
        The files: W3C PROV-JSON, CycloneDX 1.6, and the model card as a page and as Markdown.
    """
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / PROV, prov.document(found))
    write_json(out / BOM, bom.document(found))
    write_text(out / card.PAGE, card.page(found))
    write_text(out / card.MARKDOWN, card.markdown(found))
    return tuple(out / name for name in (PROV, BOM, card.PAGE, card.MARKDOWN))
