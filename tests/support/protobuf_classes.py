"""Classes that `protoc` generates, as a project has them."""

from __future__ import annotations

import sys
from functools import cache
from importlib import import_module
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from grpc_tools import protoc

MODULE = "broadcaster_orders_pb2"

_FILES = {
    "broadcaster_money.proto": """
syntax = "proto3";
package shop;
message Money { string amount = 1; string currency = 2; }
""",
    "broadcaster_orders.proto": """
syntax = "proto3";
package shop;
import "google/protobuf/struct.proto";
import "google/protobuf/timestamp.proto";
import "google/protobuf/wrappers.proto";
import "broadcaster_money.proto";
enum Size { SMALL = 0; LARGE = 1; }
message OrderPlaced {
  int64 order_id = 1;
  string total = 2;
  google.protobuf.Timestamp placed = 3;
  optional string note = 4;
}
message Order {
  message Line { string sku = 1; int64 amount = 2; }
  repeated Line lines = 1;
  map<string, int64> counts = 2;
  bytes raw = 3;
  Size size = 4;
  google.protobuf.Int64Value big = 5;
  Money price = 6;
  int32 small = 7;
  repeated uint64 numbers = 8;
  bool paid = 9;
  double weight = 10;
}
message Values {
  message Part { bytes raw = 1; }
  int64 a_long = 1;
  string text = 2;
  optional string note = 3;
  bytes raw = 4;
  Part part = 5;
  repeated Part parts = 6;
  map<string, Part> by_name = 7;
  google.protobuf.BytesValue wrapped = 8;
  google.protobuf.Value any = 9;
  repeated google.protobuf.Value anys = 10;
  google.protobuf.NullValue nothing = 11;
  google.protobuf.StringValue name = 12;
  oneof choice { string left = 13; int32 right = 14; }
}
""",
}


@cache
def generated() -> Any:
    """The module of the second file."""
    folder = Path(mkdtemp())
    for name, text in _FILES.items():
        (folder / name).write_text(text)
    include = Path(protoc.__file__).parent / "_proto"
    words = ["protoc", f"-I{folder}", f"-I{include}", f"--python_out={folder}", *_FILES]
    assert protoc.main(words) == 0
    sys.path.append(str(folder))
    return import_module(MODULE)
