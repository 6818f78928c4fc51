"""From a record of a text file to the id and the fields of a row, or to what is wrong with it."""

from __future__ import annotations

import csv
from collections.abc import Callable
from typing import Any, TypeAlias

import orjson

from llmbatch.runtime.readers.parquet import ParquetRecord
from llmbatch.runtime.readers.text import CsvRecord
from llmbatch.runtime.rows import dumps

Fields: TypeAlias = frozenset[str] | None
"""Names of the fields that travel on; None is all of them."""
OPENAI_BODY_FIELDS = ("messages", "input", "model")


Decoded: TypeAlias = tuple[str, str | bytes, str]
"""A row's own id, empty when it has none; its fields as a JSON object; why it is invalid, empty when it is well."""


def json_decoder(id_field: str | None, keep: Fields) -> Callable[[bytes], Decoded]:
    """Return the decoder of one line of JSON: an object, with an id in `id_field` unless that is None."""
    names = _in_order(keep)

    def decode(line: bytes) -> Decoded:
        try:
            record = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            return "", "{}", f"not JSON: {error}"
        if type(record) is not dict:
            return "", "{}", _not_an_object(record)
        row_id, problem = ("", "") if id_field is None else own_id(record, id_field)
        if names is None:
            return row_id, line, problem
        return row_id, orjson.dumps(_kept(record, names)), problem

    return decode


def openai_decoder(keep: Fields) -> Callable[[bytes], Decoded]:
    """Return the decoder of one request of OpenAI's batch format.

    Its fields are `custom_id`, `method`, `url` and `body` as they stand, and `messages`, `input` and `model` of the
    body.
    """
    names = _in_order(keep)

    def decode(line: bytes) -> Decoded:
        try:
            request = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            return "", "{}", f"not JSON: {error}"
        if type(request) is not dict:
            return "", "{}", _not_an_object(request)
        row_id, problem = own_id(request, "custom_id")
        body = request.get("body")
        problem = problem or _body_problem(body)
        if isinstance(body, dict):
            request |= {name: body[name] for name in OPENAI_BODY_FIELDS if name in body}
        fields = request if names is None else _kept(request, names)
        return row_id, orjson.dumps(fields), problem

    return decode


def csv_decoder(header: list[str], id_field: str | None, keep: Fields) -> Callable[[CsvRecord], Decoded]:
    """Return the decoder of one record of CSV. Every value is text, as it stands in the file."""
    kept = [name for name in header if keep is None or name in keep]

    def decode(record: CsvRecord) -> Decoded:
        if isinstance(record, csv.Error):
            return "", "{}", f"not CSV: {record}"
        if len(record) != len(header):
            return "", "{}", f"it has {len(record)} values where the header has {len(header)} names"
        row = dict(zip(header, record, strict=True))
        row_id, problem = ("", "") if id_field is None else own_id(row, id_field)
        if not _is_utf8(row_id):
            return "", "{}", "its id is not UTF-8"
        try:
            return row_id, orjson.dumps({name: row[name] for name in kept}), problem
        except orjson.JSONEncodeError:
            return "", "{}", "it is not UTF-8"

    return decode


def parquet_decoder(id_field: str | None, keep: Fields) -> Callable[[ParquetRecord], Decoded]:
    """Return the decoder of one row of Parquet, as Python values.

    Dates and times become ISO 8601 text, decimals text, bytes hexadecimal digits.
    """
    names = _in_order(keep)

    def decode(row: ParquetRecord) -> Decoded:
        if isinstance(row, ValueError):
            return "", "{}", str(row)
        row_id, problem = ("", "") if id_field is None else own_id(row, id_field)
        fields = row if names is None else _kept(row, names)
        try:
            return row_id, dumps(fields), problem
        except orjson.JSONEncodeError as error:
            return row_id, "{}", problem or f"it has no JSON form: {error}"

    return decode


def _is_utf8(text: str) -> bool:
    # A byte that is not came through as half of a surrogate pair.
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _in_order(keep: Fields) -> tuple[str, ...] | None:
    # Sorted, because the order of a set differs from process to process.
    return None if keep is None else tuple(sorted(keep))


def _kept(record: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    fields = {}
    for name in names:  # for the few names of a prompt half the cost of a comprehension, in Python 3.11
        if name in record:
            fields[name] = record[name]
    return fields


def own_id(record: dict[str, Any], name: str) -> tuple[str, str]:
    """Return a record's id as text, and what is wrong with it if something is."""
    if name not in record:
        return "", f"it has no field {name!r}, which must hold its id; its fields are {_names(record)}"
    value = record[name]
    if type(value) is str and value:
        return value, ""
    if type(value) is int:
        return str(value), ""
    kind = "empty" if value == "" else f"{dumps(value)[:80]}"
    return "", f"its id in {name!r} must be a text or an integer, and is {kind}"


def _not_an_object(value: Any) -> str:
    return f"it must be a JSON object, and is {dumps(value)[:80]}"


def _body_problem(body: Any) -> str:
    if not isinstance(body, dict):
        return "body must be an object, with messages or input"
    messages, text = body.get("messages"), body.get("input")
    if (isinstance(messages, list) and messages) or (isinstance(text, str | list) and text):
        return ""
    return "body must have messages (a list) or input (a text or a list), not empty"


def _names(record: dict[str, Any]) -> str:
    shown = ", ".join(repr(name) for name in sorted(record)[:20])
    return (shown or "none") + (" ..." if len(record) > 20 else "")
