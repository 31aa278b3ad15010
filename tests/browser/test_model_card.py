"""The model card in Chromium with every connection cut: it asks for nothing, and says for what the model is not."""

from pathlib import Path

import pytest
from lineage_cases import lineage

from sa2net.registry.lineage import card


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("card")
    (folder / card.PAGE).write_text(card.page(lineage(folder)), encoding="utf-8")
    return folder / card.PAGE


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_card_asks_for_nothing_and_fits(browser, page: Path, scheme: str, tmp_path: Path) -> None:
    context = browser.new_context(offline=True, viewport={"width": 1200, "height": 900}, color_scheme=scheme)
    visited = context.new_page()
    asked, complaints = [], []
    visited.on("request", lambda request: asked.append(request.url))
    visited.on("console", lambda message: complaints.append(message.text))
    visited.on("pageerror", lambda error: complaints.append(str(error)))
    visited.goto(page.as_uri(), wait_until="load")
    assert [url for url in asked if not url.startswith(("file://", "data:"))] == []
    assert complaints == []
    assert visited.get_by_text("Research use only.").first.is_visible()
    assert visited.locator("#phantom").is_visible()
    assert visited.locator("#scores tbody tr").count() == 4
    assert visited.get_by_text("<script>alert(1)</script>").is_visible()
    for width in (1200, 420):
        visited.set_viewport_size({"width": width, "height": 900})
        assert visited.evaluate("document.documentElement.scrollWidth") <= width
    visited.pdf(path=tmp_path / "card.pdf")
    assert (tmp_path / "card.pdf").read_bytes().startswith(b"%PDF")
    context.close()
