"""Writes `src/fetchml/models.py` from the served API document, `api/openapi.json`.

`cargo xtask openapi` runs it, so that a change of the API reaches this client; a test fails while the
file is stale. It needs nothing but Python.
"""

from __future__ import annotations

import json
import pathlib
import sys
import textwrap
from typing import Any

PYTHON = pathlib.Path(__file__).resolve().parents[1]
DOCUMENT = PYTHON.parents[1] / "api" / "openapi.json"
MODELS = PYTHON / "src" / "fetchml" / "models.py"

#: Answers that the client hands out; what they refer to comes with them.
ANSWERS = [
    "ArtifactList",
    "Experiment",
    "Explanation",
    "HealthResponse",
    "Problem",
    "QueueStats",
    "RunManifest",
    "SchedulerStatus",
    "Task",
    "TaskList",
    "TaskMetrics",
    "UsageReport",
    "Worker",
]
#: What the client sends, as keyword arguments.
REQUESTS = ["CreateTaskRequest"]
#: Fields that take more forms than the document has words for.
WIDER = {("CreateTaskRequest", "depends_on"): "Sequence[str | DependencyFields]"}
#: Names that say more in Python.
RENAMED = {"CreateTaskRequestFields": "TaskFields", "HealthResponse": "Health"}

HEAD = '''"""What the server answers and takes, typed.

Made from the API document by `tools/generate_models.py`; do not edit. A newer server may send values
and fields that are not listed here: fields are dropped, values are kept as they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, TypedDict
'''

SCALARS = {"string": "str", "integer": "int", "number": "float", "boolean": "bool", "object": "dict[str, Any]"}


class Models:
    """The schemas of a document as Python source."""

    def __init__(self, schemas: dict[str, Any]) -> None:
        self.schemas = schemas

    def source(self) -> str:
        """The whole module."""
        answers, requests = self.reached(ANSWERS), self.reached(REQUESTS)
        scalars = sorted(name for name in answers | requests if not self.is_object(name))
        parts = [HEAD, "\n".join(self.alias(name) for name in scalars)]
        parts += [self.dataclass(name) for name in sorted(answers) if self.is_object(name)]
        parts += [self.fields(name) for name in sorted(requests) if self.is_object(name)]
        return "\n\n".join(parts)

    def reached(self, roots: list[str]) -> set[str]:
        """`roots` and every schema they refer to."""
        found: set[str] = set()
        waiting = list(roots)
        while waiting:
            name = waiting.pop()
            if name not in found:
                found.add(name)
                waiting += references(self.schemas[name])
        return found

    def is_object(self, name: str) -> bool:
        return "properties" in self.schemas[name]

    def alias(self, name: str) -> str:
        schema = self.schemas[name]
        if "enum" not in schema:
            return f"{name} = {SCALARS[schema['type']]}"
        lines = "".join(f"    {json.dumps(value)},\n" for value in schema["enum"])
        return f"{name} = Literal[\n{lines}]"

    def dataclass(self, name: str) -> str:
        """A schema of an answer."""
        schema = self.schemas[name]
        required = set(schema.get("required", []))
        lines = ["@dataclass(frozen=True, kw_only=True, slots=True)", f"class {python_name(name)}:"]
        lines.append(docstring(schema.get("description", name)))
        for field_name, field_schema in schema["properties"].items():
            annotation = self.annotation(field_schema, "")
            default = "" if field_name in required else default_of(annotation)
            if default == " = None" and not annotation.endswith("| None"):
                annotation += " | None"
            lines.append(f"    {field_name}: {annotation}{default}")
            if "description" in field_schema:
                lines.append(docstring(field_schema["description"]))
        return "\n".join(lines) + "\n"

    def fields(self, name: str) -> str:
        """A schema of a request: every key may be left out, the server says which it misses."""
        schema = self.schemas[name]
        lines = [f"class {python_name(name + 'Fields')}(TypedDict, total=False):"]
        lines.append(docstring(schema.get("description", name).split("\n")[0].split(". ")[0]))
        for field_name, field_schema in schema["properties"].items():
            annotation = WIDER.get((name, field_name)) or self.annotation(field_schema, "Fields")
            lines.append(f"    {field_name}: {annotation}")
            if "description" in field_schema:
                lines.append(docstring(field_schema["description"]))
        return "\n".join(lines) + "\n"

    def annotation(self, schema: dict[str, Any], suffix: str) -> str:
        """The type of a field. `suffix` is that of the names of objects in requests."""
        if "$ref" in schema:
            name = schema["$ref"].rpartition("/")[2]
            return python_name(name + suffix) if self.is_object(name) else name
        if "oneOf" in schema:
            forms = [self.annotation(form, suffix) for form in schema["oneOf"] if form != {"type": "null"}]
            return " | ".join([*forms, "None"])
        kind = schema.get("type", "any")
        if isinstance(kind, list):
            plain = self.annotation({**schema, "type": next(k for k in kind if k != "null")}, suffix)
            return f"{plain} | None"
        if kind == "string" and schema.get("format") == "date-time":
            return "datetime"
        if kind == "array":
            item = self.annotation(schema["items"], suffix)
            return f"Sequence[{item}]" if suffix else f"list[{item}]"
        if isinstance(schema.get("additionalProperties"), dict):
            value = self.annotation(schema["additionalProperties"], suffix)
            return f"Mapping[str, {value}]" if suffix else f"dict[str, {value}]"
        return SCALARS.get(kind, "Any")


def references(schema: Any) -> list[str]:
    """The names of the schemas that this one refers to."""
    if isinstance(schema, dict):
        own = [schema["$ref"].rpartition("/")[2]] if "$ref" in schema else []
        return own + [name for value in schema.values() for name in references(value)]
    if isinstance(schema, list):
        return [name for value in schema for name in references(value)]
    return []


def python_name(name: str) -> str:
    return RENAMED.get(name, name)


def default_of(annotation: str) -> str:
    if annotation.startswith("list["):
        return " = field(default_factory=list)"
    if annotation.startswith("dict["):
        return " = field(default_factory=dict)"
    return " = None"


def docstring(text: str) -> str:
    """`text` as an indented docstring."""
    words = " ".join(text.split()).replace("\\", "\\\\").replace('"""', "'''")
    if words.endswith('"'):
        words += " "
    return "\n".join(textwrap.wrap(f'"""{words}"""', 100, initial_indent="    ", subsequent_indent="    "))


def main() -> int:
    """Writes the module; with `--check`, only says whether it is stale."""
    source = Models(json.loads(DOCUMENT.read_text())["components"]["schemas"]).source()
    if "--check" in sys.argv[1:]:
        return int(MODELS.read_text() != source)
    MODELS.write_text(source)
    return 0


if __name__ == "__main__":
    sys.exit(main())
