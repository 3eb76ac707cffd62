"""The index of a TensorFlow checkpoint by hand: for tests, what TensorFlow would never write.

Layout: tensorflow/core/lib/io/table_builder.cc (a LevelDB table) and
tensorflow/core/protobuf/tensor_bundle.proto.
"""

import struct

from tensorflow.core.protobuf import tensor_bundle_pb2


def _crc_table():
    """CRC-32C (Castagnoli), reflected."""
    for value in range(256):
        for _ in range(8):
            value = (value >> 1) ^ (0x82F63B78 if value & 1 else 0)
        yield value


_CRC = list(_crc_table())


def masked_crc(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _CRC[(crc ^ byte) & 255] ^ (crc >> 8)
    crc ^= 0xFFFFFFFF
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def varint(value):
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def block(entries, starts=(0,)):
    """Keys and values, and where among them a search may begin."""
    data = b"".join(
        varint(0) + varint(len(key)) + varint(len(value)) + key + value for key, value in entries
    )
    return data + struct.pack(f"<{len(starts)}II", *starts, len(starts))


def table(entries):
    """The bytes of a table of (key, value), whose checksums are right."""
    return table_of(block(entries))


def table_of(data_block):
    """The bytes of a table with that one block."""
    out = b""

    def put(content):
        nonlocal out
        handle = varint(len(out)) + varint(len(content))
        content += b"\0"  # not compressed
        out += content + struct.pack("<I", masked_crc(content))
        return handle

    data, unused = put(data_block), put(block([]))
    index = put(block([(b"\xff", data)]))
    return out + (unused + index).ljust(40, b"\0") + struct.pack("<Q", 0xDB4775248B80FB57)


def entry(shape, dtype=1, size=None, data=b"", shard=0):
    """A serialised description of an array whose data begin the data file."""
    message = tensor_bundle_pb2.BundleEntryProto(
        dtype=dtype, shard_id=shard, size=len(data) if size is None else size
    )
    for side in shape:
        message.shape.dim.add().size = side
    message.crc32c = masked_crc(data)
    return message.SerializeToString()


def header(shards=1):
    message = tensor_bundle_pb2.BundleHeaderProto(num_shards=shards)
    message.version.producer = 1
    return message.SerializeToString()
