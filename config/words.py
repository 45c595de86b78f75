"""The YAML loader of configs: it refuses duplicate keys, and keeps words such as no and off as written until their key is
known."""

from collections.abc import Callable, Hashable, Mapping
from typing import Any

import yaml

_MERGE_TAG = "tag:yaml.org,2002:merge"  # `<<` is not a key


class Word(str):
    """A word that YAML 1.1 reads as true or false (no, off, yes, on, ...); `truth` is what it reads."""

    @property
    def truth(self) -> bool:
        return yaml.SafeLoader.bool_values[self.lower()]

    def __repr__(self) -> str:
        return str(self)


class UniqueKeyLoader(yaml.SafeLoader):
    """SafeLoader that refuses duplicate keys; plain YAML would silently use the last one.

    no, off, yes, on and similar words become `Word`; `settle_words` turns them into text or booleans.
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen = set()
        for key_node, _ in node.value:
            if key_node.tag == _MERGE_TAG:
                continue
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, Hashable) and key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} is given twice", key_node.start_mark
                )
            if isinstance(key, Hashable):
                seen.add(key)
        return super().construct_mapping(node, deep=deep)

    def construct_word(self, node: yaml.ScalarNode) -> Word:
        """A boolean as its text. Any other value tagged as boolean is a KeyError, as in YAML's constructor."""
        self.construct_yaml_bool(node)
        return Word(node.value)


UniqueKeyLoader.add_constructor("tag:yaml.org,2002:bool", UniqueKeyLoader.construct_word)


def settle_words(value: Any, is_text: Callable[[str], bool]) -> Any:
    """`value` with every word in it as plain text if `is_text` accepts it, else as true or false; keys become text."""
    if isinstance(value, Word):
        return str(value) if is_text(str(value)) else value.truth
    if isinstance(value, Mapping):
        return {str(key) if isinstance(key, Word) else key: settle_words(item, is_text) for key, item in value.items()}
    return [settle_words(item, is_text) for item in value] if isinstance(value, list | tuple) else value
