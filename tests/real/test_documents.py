"""CONTRIBUTING.md and the page about the inside name what exists, and the list of modules is complete."""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[2]
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()
(INSIDE,) = (path for path in ROOT.glob("docs/**/inside.rst") if "_build" not in path.parts)
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


@pytest.fixture
def directive() -> ModuleType:
    """The module of the directive that lists modules."""
    spec = importlib.util.spec_from_file_location("docs_modules", ROOT / "docs" / "_ext" / "modules.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_module_is_listed_with_the_first_paragraph_of_its_docstring(directive: ModuleType) -> None:
    """Each module appears once, in the section of its folder."""
    text = directive.described("graceful")
    modules = [path for path in ROOT.glob("graceful/**/*.py") if path.name != "__init__.py"]
    assert len(re.findall(r"^   \* - `\w+\.py`$", text, re.MULTILINE)) == len(modules)
    folder = text.partition("`graceful/sockets/`\n")[2].partition("`graceful/takedown/`\n")[0]
    assert "   * - `listener.py`\n     - Accepting connections, and ending it without losing one.\n" in folder


def test_module_without_a_docstring_and_missing_package_are_refused(
    directive: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The build of the documentation fails, and says which module or package it is."""
    monkeypatch.setattr(directive, "ROOT", tmp_path)
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").write_text('"""A package."""\n')
    with pytest.raises(directive.Undescribed, match=r"there is no package package\.inner"):
        directive.described("package.inner")
    (package / "silent.py").write_text("import os\n")
    with pytest.raises(directive.Undescribed, match=r"package/silent\.py has no docstring"):
        directive.described("package")


def test_introduction_of_a_folder_leaves_out_what_is_no_prose(directive: ModuleType, tmp_path: Path) -> None:
    """A paragraph that leads to a drawing makes no sense without it, and a table is none."""
    (tmp_path / "__init__.py").write_text('"""First.\n\nSecond,\nwith two lines.\n\nThird.\n"""\n')
    assert directive.introduction(tmp_path) == "First.\n\nSecond,\nwith two lines."
    for second in ("It looks so:", "| a | table |", "    code()"):
        (tmp_path / "__init__.py").write_text(f'"""First.\n\n{second}\n\nThird.\n"""\n')
        assert directive.introduction(tmp_path) == "First."


def test_page_about_the_inside_names_files_that_exist() -> None:
    """Code is named from the package, tests from the folder of the tests."""
    named = set(re.findall(r"`([\w/]+\.py)`", INSIDE.read_text()))
    assert len(named) > 40
    assert [
        name for name in named if not any((ROOT / top / name).exists() for top in ("", "graceful", "tests"))
    ] == []


def test_picture_names_classes_that_exist() -> None:
    """A name in the picture that is written as a class is one."""
    names = [
        text.text or "" for text in ElementTree.parse(INSIDE.with_suffix(".svg")).iter() if text.tag.endswith("text")
    ]
    classes = {name for name in names if re.fullmatch(r"([A-Z][a-z]+)+", name)} - {"Threads"}
    assert {"WriteToken", "RequestParser"} < classes
    defined = re.findall(
        r"^class (\w+)", "\n".join(p.read_text() for p in ROOT.glob("graceful/**/*.py")), re.MULTILINE
    )
    assert classes - set(defined) == set()


def test_page_about_the_inside_has_the_floors_that_are_checked() -> None:
    """The rows of its table are the layers of the contract, from above."""
    (layers,) = (
        contract["layers"] for contract in PROJECT["tool"]["importlinter"]["contracts"] if "layers" in contract
    )
    table = INSIDE.read_text().partition("   * - folders and modules\n")[2].partition("\n\n")[0]
    rows = re.findall(r"^   \* - (.*)", table, re.MULTILINE)
    assert [re.findall(r"`(\w+)`", row) for row in rows] == [layer.split(" : ") for layer in layers]


def test_contributing_names_make_targets_that_exist() -> None:
    """Each `make TARGET` is in the Makefile."""
    targets = set(re.findall(r"(?:`|\$ |&& )make ([a-z]+)", CONTRIBUTING))
    assert {"install", "test", "bench"} < targets
    assert targets <= set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def test_contributing_names_files_that_exist() -> None:
    """Each path in it, and each test that it has run."""
    paths = set(re.findall(r"(?:graceful|tests|bench)/[\w/]*(?:\.py)?", CONTRIBUTING))
    paths |= set(re.findall(r"\]\((?!http)([^)]+)\)", CONTRIBUTING))
    assert {"tests/fast/interleave.py", "SECURITY.md"} < paths
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_docstrings_refer_to_what_exists() -> None:
    """Each cross-reference in a docstring leads to a module, a class or a method of the package."""
    texts = [path.read_text() for path in ROOT.glob("graceful/**/*.py")]
    names = {name for text in texts for name in re.findall(r":(?:class|func|meth|mod):`~?(graceful(?:\.\w+)+)", text)}
    assert len(names) > 40
    assert [name for name in sorted(names) if not _exists(name)] == []


def _exists(name: str) -> bool:
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        try:
            found: object = importlib.import_module(".".join(parts[:count]))
        except ImportError:
            continue
        for part in parts[count:]:
            found = getattr(found, part, None)
        return found is not None
    return False
