"""Read the file of an offline run of wandb: a LevelDB log of wandb's own protocol buffers."""

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wandb.proto.wandb_internal_pb2 import Record

BLOCK, HEADER = 32768, 7


def history(run: Path) -> list[dict[str, Any]]:
    """What was logged at each step."""
    records = [record for record in read_records(run) if record.HasField("history")]
    return [_values(record.history.item) for record in records]


def summary(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for record in read_records(run):
        if record.HasField("summary"):
            found |= _values(record.summary.update)
    return found


def config(run: Path) -> dict[str, Any]:
    [start] = [record.run for record in read_records(run) if record.HasField("run")]
    return {"run_id": start.run_id, **_values(start.config.update)}


def exit_code(run: Path) -> int:
    [end] = [record.exit for record in read_records(run) if record.HasField("exit")]
    return end.exit_code


def read_records(run: Path) -> "Iterator[Record]":
    """The records of the run in a folder `offline-run-...`."""
    from wandb.proto.wandb_internal_pb2 import Record

    [path] = run.glob("*.wandb")
    content, position, whole = path.read_bytes(), HEADER, b""  # the file's own header comes first
    assert content.startswith(b":W&B")
    while position + HEADER <= len(content):
        if BLOCK - position % BLOCK < HEADER:  # no record begins in the last bytes of a block
            position += BLOCK - position % BLOCK
            continue
        _, length, kind = struct.unpack_from("<IHB", content, position)
        whole += content[position + HEADER : position + HEADER + length]
        position += HEADER + length
        if kind in (1, 4):  # a whole record, or the last part of one
            yield Record.FromString(whole)
            whole = b""


def _values(items: Any) -> dict[str, Any]:
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}
