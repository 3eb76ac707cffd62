"""Hook of mkdocs: pages of the site that are not in this folder.

- README.md is the front page. What pages link to elsewhere in the repository comes along, Markdown
  and notebooks as pages, all else as files; links are written anew.
- `reference/` has a page for every folder of the package with public names, from their docstrings,
  and a page for the commands, from their help. TensorFlow is not imported.
"""

import ast
import io
import json
import posixpath
import re
from collections import defaultdict
from collections.abc import Iterator
from contextlib import redirect_stdout, suppress
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

import keras_effnetv2
from keras_effnetv2.architectures.config import ModelConfig
from keras_effnetv2.cli.main import PROGRAM, _program, parse

ROOT = Path(__file__).parent.parent
LINK = re.compile(r"(?<=\]\()(?!https?:|data:|#)([^)\s#]+)")
COMMAND_BLOCK = re.compile(r'<div class="language-sh .*?</div>', re.DOTALL)
HYPHENATED = re.compile(r"[\w.]*-[\w.-]*\w")
WHOLE = r'<span class="whole">\g<0></span>'
BUILDER = """## `{name}` {{ #keras_effnetv2.{name} }}

Builds {variant}: [build_model][keras_effnetv2.models.build.build_model] with this network, and with
"imagenet" for `weights`.
"""
COMMANDS = """# Commands

What each command does, its options and their defaults, as `--help` prints them.
"""


def on_files(files: Files, config: Any) -> Files:
    """Adds the pages and files that are generated or stand outside of docs/."""
    added = reference_pages()
    pages = ["README.md", *(f"docs/{file.src_uri}" for file in files.documentation_pages())]
    for page in pages:  # grows
        text = page_text(page)
        if page.endswith(".ipynb"):
            added[site_path(page)] = text.encode()
        for path in [page, *(from_page(page, link) for link in LINK.findall(text))]:
            if not path.startswith("docs/") and path not in added and (ROOT / path).is_file():
                added[path] = (ROOT / path).read_bytes()
                pages += [path] if path.endswith((".md", ".ipynb")) else []
    for source, content in added.items():
        files.append(File.generated(config, source, content=content))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Leads the links of a page to where their targets are in the site."""
    here = page.file.src_uri
    possible = (here, f"{here.removesuffix('.md')}.ipynb")
    repository = next((path for path in possible if (ROOT / path).is_file()), f"docs/{here}")

    def moved(link: re.Match[str]) -> str:
        target = site_path(from_page(repository, link[0]))
        return posixpath.relpath(target, posixpath.dirname(here) or ".")

    return markdown if here.startswith("reference/") else LINK.sub(moved, markdown)


def on_page_content(html: str, **_: Any) -> str:
    """Keeps words such as --output whole where a command is broken."""

    def kept(block: re.Match[str]) -> str:
        parts = re.split(r"(<[^>]*>)", block[0])  # text and tags by turns
        parts[::2] = [HYPHENATED.sub(WHOLE, one) for one in parts[::2]]
        return "".join(parts)

    return COMMAND_BLOCK.sub(kept, html)


def from_page(page: str, link: str) -> str:
    """Returns the path in the repository that a link of a page leads to."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(page), link))


def site_path(path: str) -> str:
    """Returns where a file of the repository is in the site."""
    return re.sub(r"\.ipynb$", ".md", path.removeprefix("docs/"))


def page_text(path: str) -> str:
    """Returns the Markdown of a page of the repository."""
    text = (ROOT / path).read_text("utf-8")
    if path.endswith(".md"):
        return text
    title, *cells = json.loads(text)["cells"]
    download = f'<a href="{posixpath.basename(path)}" download>Download this notebook</a>'
    parts = ["".join(title["source"]), download]
    for cell in cells:
        source = "".join(cell["source"])
        parts.append(f"```python\n{source}\n```" if cell["cell_type"] == "code" else source)
        parts += map(output_text, cell.get("outputs", []))
    return "\n\n".join(parts)


def output_text(output: dict[str, Any]) -> str:
    """Returns the Markdown of what a cell of a notebook prints or draws."""
    contents = output.get("data", {"text/plain": output.get("text")})
    for kind in ("image/png", "image/jpeg"):
        if kind in contents:
            return f"![What the cell draws](data:{kind};base64,{''.join(contents[kind]).strip()})"
    return f"```text\n{''.join(contents['text/plain']).rstrip()}\n```"


def reference_pages() -> dict[str, str]:
    """Returns the pages of the reference, Markdown by path."""
    names_of = defaultdict(list)
    for name in keras_effnetv2.__all__:
        if module := keras_effnetv2._MODULE_OF.get(name):
            names_of[module.partition(".")[0]].append((module, name))
    names_of["augment"].append(("augment", "apply"))
    pages = {}
    for folder, names in names_of.items():
        source = (ROOT / "keras_effnetv2" / folder / "__init__.py").read_text("utf-8")
        purpose = ast.get_docstring(ast.parse(source))
        parts = [f"# {folder.capitalize()}\n\n{purpose}\n", *(entry(*one) for one in names)]
        pages[f"reference/{folder}.md"] = "\n".join(parts)
    pages["reference/commands.md"] = "\n".join([COMMANDS, *command_help(_program())])
    return pages


def entry(module: str, name: str) -> str:
    """Returns the Markdown of one public name."""
    with suppress(ValueError):  # builders are made by a function, so they have no docstring to read
        if module == "models.applications":
            return BUILDER.format(name=name, variant=ModelConfig.from_name(name).name)
    return f"::: keras_effnetv2.{module}.{name}\n"


def command_help(command: Any, *words: str) -> Iterator[str]:
    """Yields the help of a command and of those below it."""
    page = io.StringIO()
    with redirect_stdout(page), suppress(SystemExit):
        parse([*words, "--help"])
    yield f"## {' '.join([PROGRAM, *words])}\n\n```text\n{page.getvalue().strip()}\n```\n"
    for name, below in getattr(command, "commands", {}).items():
        yield from command_help(below, *words, name)
