"""The OpenAPI document: valid, complete, and of the types that are really sent."""

from __future__ import annotations

import json
import re
from typing import Any

import msgspec
import pytest

from siprec.api import recorder
from siprec.api.openapi import document
from siprec.api.operation import Operation as Offered
from siprec.api.routes import OPERATIONS


class _Strict(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    pass


class Schema(_Strict, rename="camel", kw_only=True):
    """What of JSON Schema 2020-12 may be used."""

    ref: str | msgspec.UnsetType = msgspec.field(default=msgspec.UNSET, name="$ref")
    title: str = ""
    description: str = ""
    type: str = ""
    enum: list[str | int | None] | None = None
    default: Any = None
    properties: dict[str, Schema] | None = None
    required: list[str] | None = None
    additional_properties: Schema | bool | None = None
    items: Schema | None = None
    any_of: list[Schema] | None = None
    minimum: float | None = None
    maximum: float | None = None
    min_length: int | None = None
    max_length: int | None = None
    pattern: str | None = None


class MediaType(_Strict):
    schema: Schema


class Response(_Strict):
    description: str
    content: dict[str, MediaType]


class Parameter(_Strict, kw_only=True):
    name: str
    location: str = msgspec.field(name="in")
    required: bool
    schema: Schema
    description: str = ""


class RequestBody(_Strict):
    required: bool
    content: dict[str, MediaType]


class Operation(_Strict, rename="camel", kw_only=True):
    summary: str
    operation_id: str
    description: str = ""
    parameters: list[Parameter]
    responses: dict[str, Response]
    request_body: RequestBody | None = None
    security: list[dict[str, list[str]]]


class Info(_Strict):
    title: str
    version: str
    description: str


class SecurityScheme(_Strict):
    type: str
    scheme: str
    description: str


class Components(_Strict, rename="camel"):
    schemas: dict[str, Schema]
    security_schemes: dict[str, SecurityScheme]


class Document(_Strict):
    """OpenAPI 3.1.0, as far as it may be used; anything else is refused."""

    openapi: str
    info: Info
    paths: dict[str, dict[str, Operation]]
    components: Components


@pytest.fixture(scope="module")
def read() -> Document:
    return msgspec.json.decode(json.dumps(document(OPERATIONS, "")).encode(), type=Document)


def test_it_is_openapi_3_1(read: Document) -> None:
    assert read.openapi == "3.1.0"
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+", name) for name in read.components.schemas)
    for schema in read.components.schemas.values():
        assert schema.type in ("", "object", "string", "integer", "number", "boolean", "array", "null")


@pytest.mark.parametrize("operations", [OPERATIONS, recorder.OPERATIONS])
def test_every_reference_leads_somewhere(operations: tuple[Offered, ...]) -> None:
    raw = document(operations, "")
    assert msgspec.json.decode(json.dumps(raw).encode(), type=Document).paths.keys() == {op.path for op in operations}
    found = re.findall(r'"\$ref": "([^"]*)"', json.dumps(raw))
    assert found
    for reference in found:
        assert reference.startswith("#/components/schemas/")
        assert reference.rpartition("/")[2] in raw["components"]["schemas"]


def test_every_operation_is_in_it_and_nothing_else(read: Document) -> None:
    described = {(method.upper(), path) for path, methods in read.paths.items() for method in methods}
    assert described == {(operation.method, operation.path) for operation in OPERATIONS}
    identifiers = [operation.operation_id for methods in read.paths.values() for operation in methods.values()]
    assert len(set(identifiers)) == len(identifiers)


def test_path_parameters_are_those_of_the_path(read: Document) -> None:
    for path, methods in read.paths.items():
        for operation in methods.values():
            named = {each.name for each in operation.parameters if each.location == "path"}
            assert named == set(re.findall(r"{(\w+)}", path))
            assert all(each.required for each in operation.parameters if each.location == "path")
            assert {each.location for each in operation.parameters} <= {"path", "query"}


def test_roles_and_refusals_are_described(read: Document) -> None:
    for operation in OPERATIONS:
        described = read.paths[operation.path][operation.method.lower()]
        assert bool(described.security) == (operation.role is not None)
        assert ("401" in described.responses) == (operation.role is not None)
        assert (described.request_body is not None) == (operation.body is not None)
        for status, response in described.responses.items():
            if status != "200" and operation.path != "/health/ready":
                assert list(response.content) == ["application/problem+json"]


def test_documented_queries_carry_their_bounds(read: Document) -> None:
    limit = next(each for each in read.paths["/calls"]["get"].parameters if each.name == "limit")
    assert (limit.schema.type, limit.schema.minimum, limit.schema.maximum) == ("integer", 1, 1000)
    assert limit.description
