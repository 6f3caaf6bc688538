"""Hooks of the documentation site (mkdocs.yml): links that leave docs/, pages from elsewhere, portable Markdown.

The pages must read well on a code host and on the site, so they link source files relative to themselves
(`[loss](../../agents/impala.py)`). On the site such a link becomes the path of the file in code type, or a link to the
code host where `repo_url` is set. Either way the file must exist. Not here: navigation and theme (mkdocs.yml).
"""

from __future__ import annotations

import fnmatch
import logging
import posixpath
import re
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from xml.etree.ElementTree import Element, SubElement

from markdown import Markdown
from markdown.extensions import Extension
from markdown.treeprocessors import Treeprocessor
from markdown.util import AtomicString
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
logger = logging.getLogger("mkdocs.docs_site")  # below "mkdocs", so that a warning fails a strict build
LIST_ITEM = re.compile(r"([-*+]|\d+\.) ")


class RepositoryLinks(Treeprocessor):
    """Rewrites links to files outside docs/. Runs just before mkdocs resolves the links between pages."""

    def __init__(self, md: Markdown, page: Page, files: Files, config: MkDocsConfig) -> None:
        super().__init__(md)
        self._page, self._files, self._config = page, files, config
        self._docs = Path(config.docs_dir).relative_to(ROOT).as_posix()

    def run(self, root: Element) -> None:
        source = Path(str(self._page.file.abs_src_path)).relative_to(ROOT)
        for element in list(root.iter()):
            if element.tag == "code" and "-" in (element.text or ""):
                _keep_words_together(element)
            name = {"a": "href", "img": "src"}.get(element.tag)
            link = urlsplit(element.get(name, "")) if name else None
            if not name or not link or link.scheme or link.netloc or not link.path or link.path.startswith("/"):
                continue
            target = posixpath.normpath(posixpath.join(source.parent.as_posix(), link.path))
            page = posixpath.relpath(target, self._docs) if target.startswith(f"{self._docs}/") else target
            if self._files.get_file_from_path(page):
                relative = posixpath.relpath(page, posixpath.dirname(self._page.file.src_uri) or ".")
                element.set(name, link._replace(path=relative).geturl())
            elif page == target:  # outside docs/
                if target.startswith("..") or not (ROOT / target).exists():
                    logger.warning("%s links to %s, which does not exist", source, target)
                self._show_path(element, target)

    def _show_path(self, link: Element, path: str) -> None:
        if self._config.repo_url:
            link.set("href", f"{self._config.repo_url.rstrip('/')}/blob/HEAD/{path}")
            return
        del link.attrib["href"]
        text = "".join(link.itertext()).strip()
        link.tag = "span"
        link.set("title", path)
        if path.endswith(text.rstrip("/")):
            link.tag = "span" if len(link) else "code"
        else:  # the text names something else: add the path
            last = link[-1] if len(link) else None
            if last is None:
                link.text = f"{link.text or ''} ("
            else:
                last.tail = f"{last.tail or ''} ("
            code = SubElement(link, "code")
            code.text, code.tail = path, ")"


def _keep_words_together(code: Element) -> None:
    """Browsers break a line after a hyphen, as in --batch_size; the style sheet forbids that within class "word"."""
    words = (code.text or "").split(" ")
    code.text = ""
    for number, word in enumerate(words, 1):
        span = SubElement(code, "span", {"class": "word"})
        span.text, span.tail = AtomicString(word), " " if number < len(words) else ""


class RepositoryLinksExtension(Extension):
    """Carries the page that is about to be rendered to the processor."""

    page: Page
    files: Files
    config_of_site: MkDocsConfig

    def extendMarkdown(self, md: Markdown) -> None:
        processor = RepositoryLinks(md, self.page, self.files, self.config_of_site)
        md.treeprocessors.register(processor, "repository_links", priority=1)


extension = RepositoryLinksExtension()


def on_config(config: MkDocsConfig) -> None:
    extensions: list[Any] = config.markdown_extensions
    extensions.append(extension)


def on_files(files: Files, config: MkDocsConfig) -> None:
    """Adds the pages and images that live outside docs/, and spells out `folder/*.md` in the navigation."""
    for pattern in config.extra["pages_outside_docs"]:
        for path in sorted(ROOT.glob(pattern)):
            files.append(File.generated(config, path.relative_to(ROOT).as_posix(), abs_src_path=str(path)))
    names = sorted(file.src_uri for file in files.documentation_pages())
    config.nav = [_expanded(entry, names) for entry in config.nav or []]


def _expanded(entry: Any, names: list[str]) -> Any:
    if not isinstance(entry, dict):
        return entry
    ((title, value),) = entry.items()
    if isinstance(value, list):
        return {title: [_expanded(each, names) for each in value]}
    if "*" not in value:
        return entry
    found = [name for name in names if fnmatch.fnmatch(name, value)]
    if not found:
        logger.warning("nav: %s: no page matches %s", title, value)
    return {title: sorted(found, key=lambda name: (not name.endswith("index.md"), name))}


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> None:
    extension.page, extension.files, extension.config_of_site = page, files, config
    _check_portable(markdown, page.file.src_uri)


def _check_portable(markdown: str, name: str) -> None:
    """Code hosts start a list or a table right below a line of text; the Markdown of this site wants an empty line."""
    before, code = "", False
    for number, line in enumerate(markdown.splitlines(), 1):
        if line.lstrip().startswith("```"):
            code = not code
        starts_block = LIST_ITEM.match(line) or line.startswith("|")
        in_block = not before or before[0] in " #|<" or LIST_ITEM.match(before)
        if not code and starts_block and not in_block:
            logger.warning("%s, line %d: needs an empty line before this list or table", name, number)
        if not code and re.match(r" {1,3}([-*+]|\d+\.) ", line):
            logger.warning("%s, line %d: a list within a list must be indented by 4 spaces", name, number)
        before = line
