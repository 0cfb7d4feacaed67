"""Items as the JSON that Redis holds."""

from __future__ import annotations

from typing import Final, cast

import msgspec

from authz.core.stored import KINDS, Item

_DECODERS: Final = {kind: msgspec.json.Decoder(struct) for kind, struct in KINDS.items()}


def decode(kind: str, raw: bytes | str) -> Item:
    return cast("Item", _DECODERS[kind].decode(raw))


def decode_if_any(kind: str, raw: bytes | None) -> Item | None:
    return None if raw is None else decode(kind, raw)


def encode(item: Item) -> bytes:
    return msgspec.json.encode(item)
