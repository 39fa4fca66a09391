"""Built pages, Markdown files -> what is wrong with them: a link, file or anchor that is not there; a line that is too long.

python docs/check.py build/site    # `make docs` runs it after the build, whose own check looks at links to pages alone
"""

import re
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

ROOT = Path(__file__).parent.parent
LONGEST = 120


class Page(HTMLParser):
    """What a page links to, and the anchors that others may link to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = {"", "__top"}
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Collect what the tag links to, loads or names."""
        found = {name: value for name, value in attrs if value is not None}
        self.links += [found[name] for name in ("href", "src") if name in found]
        self.anchors |= {found[name] for name in ("id", "name") if name in found and (name == "id" or tag == "a")}


def dead_links(site: Path) -> Iterator[str]:
    """Yield the links within a site, from each page, whose file or anchor is not there."""
    pages = {path: Page(path.read_text()) for path in sorted(site.rglob("*.html")) if path.name != "404.html"}
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            target = target / "index.html" if target.is_dir() else target
            if not target.exists() or (target in pages and unquote(parts.fragment) not in pages[target].anchors):
                yield f"{path.relative_to(site)}: {link} is not there"


def long_lines(path: Path) -> Iterator[str]:
    """Yield the lines of a Markdown file that are too long; tables, and the addresses in a line, are not counted."""
    for number, line in enumerate(path.read_text().splitlines(), 1):
        size = len(re.sub(r"(https?|s3)://\S+", "", line))
        if size > LONGEST and not line.lstrip().startswith("|"):
            yield f"{path.name}:{number} has {size} characters; {LONGEST} are allowed"


def markdown() -> list[Path]:
    """Return the Markdown files that people read."""
    return [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")] + sorted(ROOT.glob("docs/*.md"))


if __name__ == "__main__":
    problems = list(dead_links(Path(sys.argv[1]).resolve()))
    print("\n".join(problems), end="\n" * bool(problems))
    sys.exit(bool(problems))
