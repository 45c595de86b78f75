"""What holds for the whole tree: few functions know a whole config, and each class has a name to itself."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]
MOST_WHOLE_CONFIGS = 48  # is to fall to 40, and never to rise


def takes_whole_config(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    parameters = (*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs)
    kinds = [ast.unparse(one.annotation) for one in parameters if one.annotation is not None]
    return any("Config" in kind.replace("'", "").split(" ") for kind in kinds)


def test_few_functions_take_a_whole_config() -> None:
    found = [f"{path.relative_to(ROOT)}:{node.lineno} {node.name}"
             for folder in ("config", "dataset", "models", "scheduler", "tools", ".")
             for path in ((ROOT / folder).glob("*.py") if folder == "." else (ROOT / folder).rglob("*.py"))
             for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
             if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and takes_whole_config(node)]
    assert 0 < len(found) <= MOST_WHOLE_CONFIGS, found


def test_a_project_hands_out_no_whole_config() -> None:
    """Else every function that takes a project would take the config by another name."""
    tree = ast.parse((ROOT / "tools/diffusion/project.py").read_text(encoding="utf-8"))
    [project] = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "Project"]
    kept = {node.attr for node in ast.walk(project) if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)}
    assert "data" in kept and not kept & {"config", "_config"}


def test_no_two_classes_have_one_name() -> None:
    places: dict[str, list[str]] = {}
    for folder in ("config", "dataset", "models", "scheduler", "tools"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.parse(path.read_text(encoding="utf-8")).body:
                if isinstance(node, ast.ClassDef):
                    places.setdefault(node.name, []).append(str(path.relative_to(ROOT)))
    assert {name: found for name, found in places.items() if len(found) > 1} == {}
