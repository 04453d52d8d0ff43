"""The site and README.md from the notebooks: nbdev's processors -> Markdown -> MkDocs Material.

    python .ci/docs.py site             _docs/; fails on a broken link and on anything fetched from elsewhere
    python .ci/docs.py readme           README.md from nbs/index.ipynb
    python .ci/docs.py readme --check   only say whether README.md is up to date

API entries are read from the exported cells themselves (signature, comments and docstring as written), so building the
site runs no notebook and imports no module of the project.
"""

import ast
import base64
import json
import logging
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from itertools import count
from pathlib import Path
from urllib.parse import unquote, urlsplit

ROOT = Path(__file__).parents[1]
NBS, PAGES, SITE, ASSETS = ROOT / "nbs", ROOT / "_md", ROOT / "_docs", ROOT / ".ci" / "assets"

# navigation in reading order; a folder that is not named here follows in alphabetical order
SECTIONS = {
    "examples/flights": "The flights story",
    "tutorials": "Tutorials",
    "": "Foundations",
    "contract": "Contract",
    "record": "Record",
    "build": "Build",
    "serve": "Serve",
    "observe": "Observe",
    "operate": "Operate",
    "pipelines": "Pipeline notebooks",
}
# pages of a folder that belong together, shown in a section of their own
SUBJECTS = {
    "Operate: the demo": ("operate/replay", "operate/demo"),
    "Operate: batch scoring": tuple(
        f"operate/{name}" for name in ("ranks", "leaves", "columns", "parts", "pieces", "score")
    ),
    "Operate: stress": ("operate/staging", "operate/load", "operate/stress", "operate/stress_plots"),
    "Operate: warm kernels": ("operate/kernels", "operate/preload"),
}
# files outside nbs/ that the site shows as pages too
PROJECT_PAGES = {"CONTRIBUTING.md": "Contributing", "CHANGELOG.md": "Changelog"}
EXPORTS = {"export", "exports", "exporti"}


# -- reading a notebook


@dataclass
class Cell:
    "A cell after nbdev's processors, without its directives."

    kind: str
    source: str
    directives: dict[str, str]
    outputs: list[dict]


@dataclass
class Page:
    "A notebook that becomes a page of the site."

    notebook: Path  # relative to nbs/
    cells: list[Cell]
    module: str = ""  # dotted name of the module it exports; empty: none
    symbols: dict[str, str] = field(default_factory=dict)  # documented name -> anchor

    @property
    def path(self) -> Path:
        "Where its Markdown lies: the notebook's place without the number."
        return self.notebook.with_name(re.sub(r"^\d+[a-z]*_", "", self.notebook.stem) + ".md")

    @property
    def title(self) -> str:
        for cell in self.cells:
            if cell.kind == "markdown" and (heading := re.match(r"#\s+(.+)", cell.source)):
                return heading[1].strip()
        return self.path.stem


def read(notebook: Path) -> Page:
    "A notebook as nbdev sees it: its directives understood, hidden cells and lines gone."
    from nbdev import processors as nb
    from nbdev.process import NBProcessor

    steps = [nb.populate_language, nb.strip_ansi, nb.hide_line, nb.filter_stream_, nb.clean_magics, nb.hide_]
    done = NBProcessor(notebook, procs=steps)
    done.process()
    cells = [
        Cell(c.cell_type, c.source.strip("\n"), dict(c.directives_ or {}), list(c.get("outputs", [])))
        for c in done.nb.cells
    ]
    page = Page(notebook.relative_to(NBS), cells)
    exp = next((c.directives["default_exp"] for c in cells if "default_exp" in c.directives), "")
    page.module = f"prodml_nb.{exp.strip()}" if exp else ""
    for cell in cells:
        for name, _ in documented(cell):
            page.symbols.setdefault(name, name.lower())
    return page


# -- API entries


def documented(cell: Cell) -> Iterator[tuple[str, ast.stmt]]:
    "Public functions, classes and their public methods that an exported cell defines."
    if cell.kind != "code" or not EXPORTS & cell.directives.keys():
        return
    for node in ast.parse(cell.source).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            yield node.name, node
            if isinstance(node, ast.ClassDef):
                yield from ((f"{node.name}.{m.name}", m) for m in methods(node))


def methods(node: ast.ClassDef) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    functions = (m for m in node.body if isinstance(m, ast.FunctionDef | ast.AsyncFunctionDef))
    return [m for m in functions if not m.name.startswith("_") or m.name == "__init__"]


def first_line(node: ast.stmt) -> int:
    return min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))])


def has_docstring(node: ast.stmt) -> bool:
    return ast.get_docstring(node, clean=False) is not None


def signature(node: ast.stmt, lines: list[str], docstring: bool) -> list[str]:
    "The lines of a definition up to its body, with the comments beside its arguments; its docstring if wanted."
    body = node.body[0]
    if docstring and has_docstring(node):
        return lines[first_line(node) - 1 : body.end_lineno]
    return lines[first_line(node) - 1 : max(first_line(body) - 1, node.lineno)]


def outline(node: ast.stmt, source: str) -> str:
    "What a reader calls: a function's signature; a class with its fields and the signatures of its methods."
    lines = source.splitlines()
    shown = signature(node, lines, docstring=False)
    if isinstance(node, ast.ClassDef):
        public = methods(node)
        for item in node.body:
            if isinstance(item, ast.AnnAssign | ast.Assign):
                shown += lines[item.lineno - 1 : item.end_lineno]
            elif item in public:
                shown += ["", *signature(item, lines, docstring=True)]
    while shown and not shown[-1].strip():
        shown.pop()
    return "\n".join(shown)


def api(cell: Cell) -> str:
    "An exported cell: an entry for each thing it defines, and the whole source folded below."
    tree = [n for n in ast.parse(cell.source).body if not isinstance(n, ast.Import | ast.ImportFrom | ast.If)]
    if not tree:
        return ""  # imports
    source = "\n".join(cell.source.splitlines()[first_line(tree[0]) - 1 :])
    if all(isinstance(n, ast.Assign | ast.AnnAssign) for n in tree):
        return fence(source, "python")
    parts = []
    for name, node in documented(cell):
        if "." in name:
            continue
        parts.append(f"### `{name}` {{ #{name.lower()} .api }}")
        inner = [m for n, m in documented(cell) if n.startswith(f"{name}.")]
        parts += [f'<a id="{name.lower()}.{m.name.lower()}"></a>' for m in inner]
        parts.append(prose(ast.get_docstring(node) or ""))
        parts.append(fence(outline(node, cell.source), "python"))
    defined = [n.name for n in tree if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)]
    title = "Source" if parts or not defined else f"Source of {', '.join(defined)}"
    parts.append(folded(title, fence(source, "python")))
    return "\n\n".join(p for p in parts if p)


def prose(docstring: str) -> str:
    "A docstring as a paragraph; what would be markup in it is text."
    return re.sub(r"(?<![`\w])([*_<])", r"\\\1", docstring) if "`" not in docstring else docstring


# -- Markdown


def fence(text: str, info: str) -> str:
    ticks = "`" * max(3, 1 + max((len(run) for run in re.findall(r"`+", text)), default=0))
    return f"{ticks}{info}\n{text}\n{ticks}"


def folded(title: str, block: str) -> str:
    "A block behind a click, which the search does not look into: what matters in it stands above it."
    head = f'<details class="source" data-search-exclude markdown>\n<summary>{title}</summary>'
    return f"{head}\n\n{block}\n\n</details>"


def formulas(text: str) -> str:
    "TeX between dollars as MathML, which browsers draw themselves. A word in a formula is a name, not a product."
    from latex2mathml.converter import convert

    def name(match: re.Match) -> str:
        return match[0] if match[0].startswith("\\") else rf"\mathrm{{{match[0]}}}"

    def formula(match: re.Match) -> str:
        code, block, inline = match.groups()
        if code:
            return code
        tex = re.sub(r"\\(?:text|mathrm|operatorname)\s*\{[^{}]*\}|\\[A-Za-z]+|[A-Za-z]{2,}", name, block or inline)
        shown = convert(" ".join(tex.split()), display="block" if block else "inline")
        return f'<div class="formula">{shown}</div>' if block else f'<span class="formula">{shown}</span>'

    code = r"(```.*?```|`[^`\n]+`)"
    return re.sub(rf"{code}|\$\$(.+?)\$\$|(?<![\\$\w])\$(?=\S)([^$`]+?)(?<=\S)\$(?!\w)", formula, text, flags=re.DOTALL)


def text_of(value: str | list[str]) -> str:
    return "".join(value)


def plain(output: dict) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", text_of(output)).rstrip()


def tame(markup: str) -> str:
    "A notebook's HTML as a part of a page: without styles of its own, without links to what was there when it ran."
    markup = re.sub(r"<(style|script)\b.*?</\1>", "", markup, flags=re.DOTALL)
    markup = re.sub(r'\shref="(?!https?:)[^"]*"', "", markup)
    markup = re.sub(r"<table\b.*?</table>", lambda m: aligned(m[0]), markup, flags=re.DOTALL)
    return re.sub(r"\n\s*\n+", "\n", markup).strip()


def aligned(table: str) -> str:
    "A table of data: columns that hold a word stand to the left, columns of numbers to the right."
    row, cell = re.compile(r"<tr\b.*?</tr>", re.DOTALL), re.compile(r"<(t[hd])\b([^>]*)>(.*?)</\1>", re.DOTALL)
    words: set[int] = set()
    for line in row.findall(table.partition("</thead>")[2] or table):
        for column, (_, _, content) in enumerate(cell.findall(line)):
            text = re.sub(r"<[^>]+>|&[a-z]+;", "", content).strip()
            if re.search(r"[^\W\d_]{2}", text) and text.lower() not in ("nan", "nat", "none", "na", "inf"):
                words.add(column)

    def mark(line: re.Match) -> str:
        column = count()
        kind = ["", ' class="text"']
        return cell.sub(lambda m: f"<{m[1]}{kind[next(column) in words]}>{m[3]}</{m[1]}>", line[0])

    if "colspan" not in table:
        table = row.sub(mark, table)
    return re.sub(r"<table\b[^>]*>", '<table class="data">', table, count=1)


def show(output: dict, page: Page, name: str) -> str:
    "One stored output. Plots become files beside the page."
    data = output.get("data", {})
    for mime, suffix in (("image/svg+xml", "svg"), ("image/png", "png"), ("image/jpeg", "jpg")):
        if mime in data:
            raw = text_of(data[mime])
            target = PAGES / page.path.parent / f"{page.path.stem}_files" / f"{name}.{suffix}"
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(raw.encode() if suffix == "svg" else base64.b64decode(raw))
            return f"![Plot made by the code above]({target.parent.name}/{target.name}){{ .plot }}"
    if "text/html" in data:
        return f'<div class="output output-html">\n{tame(text_of(data["text/html"]))}\n</div>'
    if "text/markdown" in data:
        return f'<div class="output" markdown>\n\n{text_of(data["text/markdown"])}\n\n</div>'
    text = plain(output["text"]) if output["output_type"] == "stream" else plain(data.get("text/plain", ""))
    return fence(text, "{ .text .output }") if text else ""


def markdown(page: Page) -> Iterator[str]:
    "The blocks of a page."
    title_seen = False
    for number, cell in enumerate(page.cells):
        if cell.kind == "markdown":
            yield formulas(cell.source)
            if not title_seen and cell.source.startswith("# "):
                title_seen = True
                yield origin(page)
            continue
        if cell.kind != "code" or {"hide", "default_exp"} & cell.directives.keys():
            continue
        if cell.directives.get("include") == "false":
            continue
        if EXPORTS & cell.directives.keys():
            yield api(cell)
        elif cell.source and cell.directives.get("echo") != "false":
            yield fence(cell.source, "python")
        if cell.directives.get("output") != "false":
            for i, output in enumerate(cell.outputs):
                yield show(output, page, f"{number:02d}_{i}")


def origin(page: Page) -> str:
    "Where a page comes from and what it becomes."
    if page.notebook == Path("index.ipynb"):
        return ""
    made = f"`{page.module}` · " if page.module else ""
    return f"{made}`nbs/{page.notebook.as_posix()}`\n{{ .origin }}"


# -- links


def outside_code(text: str, change) -> str:
    "Apply `change` to every line that is neither fenced, indented, a heading nor raw HTML."
    lines, fenced = text.split("\n"), ""
    for i, line in enumerate(lines):
        if mark := re.match(r"\s*(`{3,})", line):
            fenced = "" if fenced and mark[1].startswith(fenced) else fenced or mark[1]
        elif not fenced and not line.startswith(("    ", "#", "<")):
            lines[i] = change(line)
    return "\n".join(lines)


def relative(target: Path, page: Page) -> str:
    return "../" * len(page.path.parent.parts) + target.as_posix()


class Links:
    "Names in backticks and links between notebooks, as links between pages."

    def __init__(self, pages: list[Page]) -> None:
        self.by_notebook = {p.notebook.as_posix(): p for p in pages}
        self.names: dict[str, set[str]] = {}
        for p in pages:
            url = p.path.as_posix()
            if p.module:
                for name in (p.module, p.module.removeprefix("prodml_nb.")):
                    self.names.setdefault(name, set()).add(url)
            for name, anchor in p.symbols.items():
                self.names.setdefault(name, set()).add(f"{url}#{anchor}")
                self.names.setdefault(f"{p.module.rsplit('.', 1)[-1]}.{name}", set()).add(f"{url}#{anchor}")

    def mend(self, text: str, page: Page) -> str:
        text = outside_code(text, lambda line: re.sub(r"\]\(([^)\s]+)\)", lambda m: self.page_link(m, page), line))
        return outside_code(text, lambda line: re.sub(r"(?<!\[)`([\w.]+)(\(\))?`", lambda m: self.name(m, page), line))

    def page_link(self, match: re.Match, page: Page) -> str:
        "A link to a notebook leads to its page, a link to a project file to its page."
        url, _, anchor = match[1].partition("#")
        if re.match(r"\w+:", url) or not url:
            return match[0]
        target = (NBS / page.notebook.parent / url).resolve()
        anchor = f"#{anchor}" if anchor else ""
        if target.suffix == ".ipynb" and target.is_relative_to(NBS):
            known = self.by_notebook.get(target.relative_to(NBS).as_posix())
            return f"]({relative(known.path, page)}{anchor})" if known else match[0]
        if target.parent == ROOT and target.name in PROJECT_PAGES:
            return f"]({relative(Path(target.name.lower()), page)}{anchor})"
        return match[0]

    def name(self, match: re.Match, page: Page) -> str:
        "A documented name leads to its entry, if it means one thing only or is of this page."
        name, urls = match[1], self.names.get(match[1], set())
        own = [u for u in urls if u.startswith(f"{page.path.as_posix()}#")]
        if own:
            return f"[{match[0]}](#{page.symbols.get(name, name.rsplit('.', 1)[-1].lower())})"
        if len(urls) != 1 or not re.search(r"[A-Z._]", name):
            return match[0]
        path, _, anchor = next(iter(urls)).partition("#")
        return f"[{match[0]}]({relative(Path(path), page)}{'#' + anchor if anchor else ''})"


# -- the site


def notebooks() -> list[Path]:
    return sorted(p for p in NBS.rglob("*.ipynb") if not any(part[0] in "._" for part in p.relative_to(NBS).parts))


def navigation(pages: list[Page]) -> list[dict]:
    "The index, then the sections in reading order, each in the order of its notebooks' numbers."
    apart = {page: subject for subject, names in SUBJECTS.items() for page in names}
    sections: dict[str, dict[str, list[dict]]] = {}  # folder -> section -> entries
    for page in pages:
        if page.path.stem != "index":
            folder, name = page.notebook.parent.as_posix().removeprefix("."), page.path.with_suffix("").as_posix()
            title = apart.get(name) or SECTIONS.get(folder, folder.replace("/", " · ").capitalize())
            sections.setdefault(folder, {}).setdefault(title, []).append({page.title: page.path.as_posix()})
    nav = [{"Overview": p.path.as_posix()} for p in pages if p.path.as_posix() == "index.md"]
    for folder in [*SECTIONS, *sorted(sections.keys() - SECTIONS.keys())]:
        found = sections.get(folder, {})
        nav += [
            {title: entries} for title, entries in sorted(found.items(), key=lambda section: section[0] in SUBJECTS)
        ]
    return [*nav, {"Project": [{title: name.lower()} for name, title in PROJECT_PAGES.items()]}]


def write_pages() -> list[Page]:
    "Every notebook as Markdown below _md/."
    shutil.rmtree(PAGES, ignore_errors=True)
    pages = [read(path) for path in notebooks()]
    links = Links(pages)
    for page in pages:
        target = PAGES / page.path
        target.parent.mkdir(parents=True, exist_ok=True)
        body = links.mend("\n\n".join(b for b in markdown(page) if b), page)
        target.write_text(f"---\ntitle: {json.dumps(page.title)}\n---\n\n{body}\n", encoding="utf-8")
    for name in PROJECT_PAGES:
        (PAGES / name.lower()).write_text((ROOT / name).read_text(encoding="utf-8"), encoding="utf-8")
    shutil.copytree(ASSETS, PAGES / "assets")
    return pages


def write_markdown(pages: Path, site: Path) -> None:
    "Each page's Markdown beside its HTML, as page.html.md: where the docstring of every module says that it is."
    for page in sorted(pages.rglob("*.md")):
        target = (site / page.relative_to(pages)).with_suffix(".html.md")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(page, target)


class Found(HTMLParser):
    "The ids of a page, the links in it, and what a browser would load for it."

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.ids |= {v for k in ("id", "name") if (v := values.get(k))}
        if tag == "a" and values.get("href"):
            self.links.append(values["href"])
        elif tag == "link" and values.get("href") and values.get("rel") not in ("canonical", "next", "prev", "edit"):
            self.loads.append(values["href"])
        elif values.get("src"):
            self.loads.append(values["src"])


CDN = re.compile(r"https://(?:unpkg\.com|cdn\.jsdelivr\.net|cdnjs\.cloudflare\.com)/[^\"'`\s]*")


def cut_off(site: Path) -> None:
    "Take the addresses out of which the theme's script would load what these pages do not use, such as diagrams."
    for script in site.rglob("*.js"):
        text = script.read_text(encoding="utf-8")
        if CDN.search(text):
            script.write_text(CDN.sub("about:blank", text), encoding="utf-8")
    for source_map in site.rglob("*.map"):
        source_map.unlink()


def problems(site: Path) -> list[str]:
    "What is wrong with a built site: links and anchors that lead nowhere, and anything loaded from another host."
    pages = {p: Found(p.read_text(encoding="utf-8")) for p in sorted(site.rglob("*.html"))}
    wrong = []
    for page, found in pages.items():
        if page.name == "404.html":
            continue
        name = page.relative_to(site)
        wrong += [f"{name} loads {url}" for url in found.loads if urlsplit(url).netloc]
        for url in [*found.links, *found.loads]:
            parts = urlsplit(url)
            if parts.scheme or parts.netloc:
                continue
            target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            target = target / "index.html" if target.is_dir() else target
            if not target.exists():
                wrong.append(f"{name} links to {url}, which does not exist")
            elif parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].ids | {"__top"}:
                wrong.append(f"{name} links to {url}, which has no such anchor")
    for style in site.rglob("*.css"):
        loads = re.findall(r"(?:url\(|@import )['\"]?((?:https?:)?//[^'\")]+)", style.read_text(encoding="utf-8"))
        wrong += [f"{style.relative_to(site)} loads {url}" for url in loads]
    for script in site.rglob("*.js"):
        wrong += [f"{script.relative_to(site)} loads {url}" for url in CDN.findall(script.read_text(encoding="utf-8"))]
    return sorted(set(wrong))


def build_site() -> None:
    "Markdown, then MkDocs in strict mode, then a look at every link of the result."
    from mkdocs.commands.build import build
    from mkdocs.config import load_config
    from mkdocs.exceptions import Abort

    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    pages = write_pages()
    config = load_config(
        str(ROOT / ".ci" / "mkdocs.yml"), docs_dir=str(PAGES), site_dir=str(SITE), nav=navigation(pages), strict=True
    )
    try:
        build(config)
    except Abort as stop:
        sys.exit(f"docs: {stop}")
    write_markdown(PAGES, SITE)
    cut_off(SITE)
    if wrong := problems(SITE):
        sys.exit("docs:\n  " + "\n  ".join(wrong))
    print(
        f"{len(pages)} pages in {SITE.relative_to(ROOT)}/, every link leads somewhere, nothing is loaded from elsewhere"
    )


# -- the README


def readme() -> str:
    "nbs/index.ipynb as Markdown that reads well where there is no site: the same cells, links to the files themselves."
    blocks = []
    for raw in json.loads((NBS / "index.ipynb").read_text(encoding="utf-8"))["cells"]:
        source = text_of(raw["source"]).strip("\n")
        directives = re.findall(r"^#\|\s*([\w-]+)", source, re.MULTILINE) if raw["cell_type"] == "code" else []
        if raw["cell_type"] == "raw" or {"hide", "default_exp"} & set(directives):
            continue
        if raw["cell_type"] == "markdown":
            blocks.append(outside_code(source, lambda line: re.sub(r"\]\(([^)\s]+)\)", file_link, line)))
            continue
        blocks.append(fence(re.sub(r"^#\|.*\n?", "", source, flags=re.MULTILINE), "python"))
        for output in raw["outputs"]:
            text = output["text"] if "text" in output else output.get("data", {}).get("text/plain", "")
            blocks.append(fence(plain(text), "text") if text else "")
    return "<!-- made from nbs/index.ipynb by `nox -s tidy` -->\n\n" + "\n\n".join(b for b in blocks if b) + "\n"


def file_link(match: re.Match) -> str:
    "A link seen from nbs/ as the same link seen from the top."
    url, mark, anchor = match[1].partition("#")
    if re.match(r"\w+:", url) or not url:
        return match[0]
    target = (NBS / url).resolve()
    if not target.exists():
        sys.exit(f"docs: nbs/index.ipynb links to {url}, which does not exist")
    return f"]({target.relative_to(ROOT).as_posix()}{mark}{anchor})"


def main(arguments: list[str]) -> None:
    match arguments:
        case [] | ["site"]:
            build_site()
        case ["readme"]:
            (ROOT / "README.md").write_text(readme(), encoding="utf-8")
        case ["readme", "--check"]:
            if (ROOT / "README.md").read_text(encoding="utf-8") != readme():
                sys.exit("README.md is not what nbs/index.ipynb says; run: nox -s tidy")
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
