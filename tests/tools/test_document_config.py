"""docs/config.md says what the schema says."""

from tools.document_config import PAGE, document


def test_the_page_is_what_the_schema_gives() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert document(page) == page, "run python -m tools.document_config"


def test_tables_are_written_anew_and_text_between_them_stays() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert "| `ldm_lr` | `0.0005` | a number, above 0 |" in page
    assert "| `task_name` | required | a path |" in page
    old = page.replace("| `ldm_lr` | `0.0005`", "| `ldm_lr` | `0.1`").replace("| `epochs` |", "| `rounds` |")
    assert document(old) == page
    first, _, rest = page.partition("## `gan_params`")
    noted = f"{first}Text of somebody.\n\n## `gan_params`{rest}"
    assert document(noted) == noted


def test_a_section_that_the_page_lacks_is_added_and_one_that_is_gone_is_left_out() -> None:
    page = PAGE.read_text(encoding="utf-8")
    start = page.index("## `logging_params`")
    assert document(page[:start]) == page
    assert document(page + "\n## `old_params`\n\nGone.\n\n| key |\n|---|\n| `a` |\n") == page
