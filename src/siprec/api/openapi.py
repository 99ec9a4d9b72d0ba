"""The OpenAPI 3.1 document, made from the table of operations and its types."""

from __future__ import annotations

import re
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any, Final

import msgspec

import siprec
from siprec.api.model import Event
from siprec.api.operation import Operation
from siprec.api.problem import ProblemDetails

REF: Final = "#/components/schemas/{name}"


def document(operations: Sequence[Operation], about: str) -> dict[str, Any]:
    """The whole document as plain values."""
    types: list[type] = [ProblemDetails, Event]
    for operation in operations:
        types += [each for each in (operation.answer, operation.body) if isinstance(each, type)]
    unique = list(dict.fromkeys(types))
    _, components = msgspec.json.schema_components(unique, ref_template=REF)
    paths: dict[str, dict[str, Any]] = {}
    for operation in operations:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _operation(operation)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "siprec",
            "version": siprec.__version__,
            "description": f"{about} Times are seconds since the epoch.",
        },
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {
                "token": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "Roles: read; listen, which may hear recordings too; control, which may do all.",
                }
            },
        },
    }


def _ref(kind: type) -> dict[str, Any]:
    return {"$ref": REF.format(name=kind.__name__)}


def _operation(operation: Operation) -> dict[str, Any]:
    answer = operation.answer
    if isinstance(answer, str):
        content: dict[str, Any] = {answer: {"schema": {"type": "object" if answer.endswith("json") else "string"}}}
    else:
        content = {"application/json": {"schema": _ref(answer)}}
    responses: dict[str, Any] = {"200": {"description": operation.summary, "content": content}}
    for status in sorted(_problems(operation)):
        kind, schema = "application/problem+json", _ref(ProblemDetails)
        if status == 503 and isinstance(answer, type) and answer.__name__.endswith("Health"):
            kind, schema = "application/json", _ref(answer)
        responses[str(status)] = {"description": HTTPStatus(status).phrase, "content": {kind: {"schema": schema}}}
    found: dict[str, Any] = {
        "summary": operation.summary,
        "operationId": _identifier(operation),
        "parameters": [*_path_parameters(operation), *_query_parameters(operation)],
        "responses": responses,
        "security": [{"token": []}] if operation.role is not None else [],
    }
    if operation.role is not None:
        found["description"] = f"Takes the role `{operation.role}`."
    if operation.body is not None:
        found["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": _ref(operation.body)}},
        }
    return found


def _problems(operation: Operation) -> set[int]:
    found = set(operation.problems)
    if operation.role is not None:
        found |= {401, 403}
    if operation.query.__struct_fields__ or operation.body is not None:
        found.add(422)
    if operation.body is not None:
        found |= {400, 413, 415}
    return found


def _identifier(operation: Operation) -> str:
    words = [word for word in re.split(r"[^a-z_]+", operation.path) if word and word != "json"]
    name = "_".join(words)
    return name if operation.method == "POST" else f"{operation.method.lower()}_{name}"


def _path_parameters(operation: Operation) -> list[dict[str, Any]]:
    names = re.findall(r"{(\w+)}", operation.path)
    return [{"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names]


def _query_parameters(operation: Operation) -> list[dict[str, Any]]:
    if not operation.query.__struct_fields__:
        return []
    _, components = msgspec.json.schema_components([operation.query], ref_template=REF)
    found = []
    for name, schema in components[operation.query.__name__]["properties"].items():
        schema = dict(schema)
        parameter = {"name": name, "in": "query", "required": False, "schema": schema}
        if "description" in schema:
            parameter["description"] = schema.pop("description")
        found.append(parameter)
    return found
