"""Who may import whom: the imports of every file are read from its syntax tree and held to the layout's rules."""

import ast
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LEAVES = ("config", "dataset", "models", "scheduler")
# A sampler or prediction type is one entry in one file: the schema reads the names from it.
REGISTRIES = {"config.schema": ("scheduler.samplers", "scheduler.objectives")}
LIBRARIES = ("tools.runtime", "tools.diffusion", "tools.evaluation", "tools.inspection")  # each may import those before it
SOURCES = sorted(
    [*ROOT.glob("*.py"), *(path for folder in (*LEAVES, "tools") for path in (ROOT / folder).rglob("*.py"))]
)


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {module_name(path): path for path in SOURCES}


@cache
def tree_of(module: str) -> ast.Module:
    return ast.parse(FILES[module].read_text(encoding="utf-8"))


@cache
def imports_of(module: str) -> frozenset[str]:
    """Our modules that a file names in any import, inside functions too; a name may be a module of its package."""
    found = set()
    for node in ast.walk(tree_of(module)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative imports hide who imports whom"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in FILES else str(node.module) for name in names}
    return frozenset(found & FILES.keys())


def has_main(module: str) -> bool:
    return any(isinstance(node, ast.If) and ast.unparse(node.test) == "__name__ == '__main__'"
               for node in tree_of(module).body)


def package_of(module: str) -> str:
    """config, dataset, models, scheduler, a library of tools, or else the command: `tools.init` for a folder's parts too."""
    for package in (*LEAVES, *LIBRARIES):
        if module == package or module.startswith(f"{package}."):
            return package
    return ".".join(module.split(".")[:2])


def is_package(module: str) -> bool:
    return FILES[module].name == "__init__.py"


def is_command(module: str) -> bool:
    """Whether it is what `python` runs: a root script, tools/NAME.py or tools/NAME/__main__.py."""
    return package_of(module) not in (*LEAVES, *LIBRARIES) and not is_package(module) and (
        module == package_of(module) or module.endswith(".__main__"))


@pytest.mark.parametrize("module", FILES)
def test_every_file_imports_only_what_its_place_allows(module: str) -> None:
    package = package_of(module)
    for imported in imports_of(module):
        target = package_of(imported)
        if package in LEAVES:
            allowed = {"config.errors", *REGISTRIES.get(module, ())}
            assert target == package or imported in allowed, f"{module} imports {imported}"
        elif package in LIBRARIES:
            allowed = (*LEAVES, *LIBRARIES[:LIBRARIES.index(package) + 1])  # no arrow back
            assert target in allowed, f"{module} imports {imported}"
        else:  # a command's folder is imported by nothing but itself
            assert target in (*LEAVES, *LIBRARIES, package, "tools"), f"{module} imports {imported}"


@pytest.mark.parametrize("module", FILES)
def test_every_file_has_a_main_or_is_imported_never_both(module: str) -> None:
    importers = [other for other in FILES if module in imports_of(other) and other != module]
    assert has_main(module) == is_command(module), module
    if is_command(module):
        assert not importers, f"{module} is a command and is imported by {importers}"


def test_libraries_are_used() -> None:
    """A library file is imported by another; the data set is named by the config's default target instead."""
    used = {imported for module in FILES for imported in imports_of(module) if imported != module}
    idle = [module for module in FILES if not is_command(module) and not is_package(module) and module not in used]
    assert idle in ([], ["dataset.Embryo_loader"])


@pytest.mark.parametrize("module", FILES)
def test_no_file_needs_a_posix_module_to_be_imported(module: str) -> None:
    """Those of the standard library that Windows lacks; a function that needs one says so in one line."""
    for node in tree_of(module).body:
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else \
            [str(node.module)] if isinstance(node, ast.ImportFrom) else []
        assert not {"fcntl", "grp", "posix", "pty", "pwd", "resource", "syslog", "termios", "tty"} & set(names), module


# Parts of a library that one command alone reaches, and why each is no part of that command.
REACHED_FROM_ONE = {
    "tools.diffusion.validation": "of train_ddpm_cond.py, a root script, which has no folder",
}


def test_a_part_of_one_command_lies_in_its_folder() -> None:
    def reach(module: str, seen: set[str]) -> set[str]:
        for imported in imports_of(module) - seen:
            seen.add(imported)
            reach(imported, seen)
        return seen

    reached = {command: reach(command, set()) for command in FILES if is_command(command)}
    libraries = [module for module in FILES if package_of(module) in LIBRARIES and not is_package(module)]
    by = {module: [command for command in reached if module in reached[command]] for module in libraries}
    assert {module for module, commands in by.items() if len(commands) == 1} == REACHED_FROM_ONE.keys(), by


def test_there_are_no_cycles() -> None:
    done: set[str] = set()

    def visit(module: str, above: tuple[str, ...]) -> None:
        assert module not in above, " -> ".join([*above[above.index(module):], module])
        if module not in done:
            for imported in sorted(imports_of(module) - {module}):
                visit(imported, (*above, module))
            done.add(module)

    for module in FILES:
        visit(module, ())


def test_the_walk_sees_the_tree() -> None:
    assert {"config.load", "models.unet", "tools.runtime.checkpoints", "train_ddpm_cond"} <= FILES.keys()
    assert "config.errors" in imports_of("config.load") and "models.layers" in imports_of("models.blocks")
    assert "tools.diffusion.estimate" in imports_of("train_ddpm_cond")  # from a package, by name
