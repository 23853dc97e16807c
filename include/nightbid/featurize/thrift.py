"""Thrift's compact protocol for structs, the encoding of the footer of a Parquet file.

Structs are read and written without knowing their fields; unchanged fields are preserved.
"""

from __future__ import annotations

from typing import Any

TRUE, FALSE, BYTE, I16, I32, I64, DOUBLE, BINARY, LIST, STRUCT = 1, 2, 3, 4, 5, 6, 7, 8, 9, 12
VARINTS = (I16, I32, I64)
"""Integers of 16, 32 and 64 bits."""
LONG = 15
"""Length from which a list's length is stored after its first byte."""

ThriftFields = dict[int, tuple[int, Any]]
"""Field number → its type and value: int, bytes, (type, values) for a list, or ThriftFields."""


class ThriftReader:
    """Reads consecutive values."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def fields(self) -> ThriftFields:
        """Read a struct.

        Raises:
            ValueError: A type is not used in Parquet footers.
            IndexError: The data ends too early.
        """
        fields: ThriftFields = {}
        number = 0
        while head := self._byte():
            delta, kind = head >> 4, head & 15
            number = number + delta if delta else _signed(self._varint())
            fields[number] = kind, (kind if kind in (TRUE, FALSE) else self._value(kind))
        return fields

    def _value(self, kind: int) -> Any:
        if kind in VARINTS:
            return _signed(self._varint())
        if kind == BINARY:
            return self._take(self._varint())
        if kind == STRUCT:
            return self.fields()
        if kind == LIST:
            head = self._byte()
            inner, count = head & 15, head >> 4
            if count == LONG:
                count = self._varint()
            return inner, [self._value(inner) for _ in range(count)]
        if kind in (TRUE, FALSE, BYTE):
            return self._byte()
        if kind == DOUBLE:
            return self._take(8)
        raise ValueError(f"type {kind} in a footer")

    def _byte(self) -> int:
        self._at += 1
        return self._data[self._at - 1]

    def _take(self, count: int) -> bytes:
        self._at += count
        return self._data[self._at - count : self._at]

    def _varint(self) -> int:
        data, at = self._data, self._at
        value = data[at]
        if value < 0x80:
            self._at = at + 1
            return value
        value &= 0x7F
        shift = 7
        while (byte := data[at := at + 1]) >= 0x80:
            value |= (byte & 0x7F) << shift
            shift += 7
        self._at = at + 1
        return value | byte << shift


def encoded(fields: ThriftFields) -> bytes:
    """Encode a struct."""
    out = bytearray()
    _add_fields(out, fields)
    return bytes(out)


def _add_fields(out: bytearray, fields: ThriftFields) -> None:
    last = 0
    for number, (kind, value) in fields.items():
        if 0 < number - last < LONG + 1:
            out.append((number - last) << 4 | kind)
        else:
            out.append(kind)
            _add_varint(out, number << 1 ^ number >> 63)
        last = number
        if kind not in (TRUE, FALSE):
            _add(out, kind, value)
    out.append(0)


def _add(out: bytearray, kind: int, value: Any) -> None:
    if kind in VARINTS:
        _add_varint(out, value << 1 ^ value >> 63)
    elif kind == BINARY:
        _add_varint(out, len(value))
        out += value
    elif kind == STRUCT:
        _add_fields(out, value)
    elif kind == LIST:
        inner, values = value
        if len(values) < LONG:
            out.append(len(values) << 4 | inner)
        else:
            out.append(LONG << 4 | inner)
            _add_varint(out, len(values))
        for element in values:
            _add(out, inner, element)
    elif kind == DOUBLE:
        out += value
    else:
        out.append(value)


def _add_varint(out: bytearray, value: int) -> None:
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)


def _signed(value: int) -> int:
    return value >> 1 ^ -(value & 1)
