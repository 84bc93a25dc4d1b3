"""What the documentation points at is where it says."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
LINK = re.compile(r"\[([^\]]*)\]\(([^)#\s]+)\)")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere_and_code_holds_what_they_quote(page: Path) -> None:
    for text, target in LINK.findall(page.read_text(encoding="utf-8")):
        if target.startswith("http"):
            continue
        file = page.parent / target
        assert file.exists(), f"{page.name} links to {target}, which does not exist"
        if file.suffix == ".py" and text.startswith("`"):
            quoted = text.strip("`")
            assert quoted in file.read_text(encoding="utf-8"), f"{page.name}: {target} does not hold `{quoted}`"


def test_the_page_on_fidelity_names_every_variant_and_recipe() -> None:
    from alexnet.model.variants import VARIANTS
    from alexnet.runs.recipes import RECIPES

    text = (ROOT / "docs" / "fidelity.md").read_text(encoding="utf-8")
    own = {"quick", "modern", "cifar-four-layer", "cifar-four-layer-tanh"}  # this project's, or a study's
    middle = {name for name in VARIANTS if name.startswith("minus-")} - {"minus-conv2", "minus-fc7"}
    recipes = {"original-2010", "six-conv-pretrain", "six-conv-finetune"}  # other runs of networks that it names
    for name in (VARIANTS.keys() | RECIPES.keys()) - own - middle - recipes:
        assert f"`{name}`" in text, f"docs/fidelity.md does not speak of {name}"
