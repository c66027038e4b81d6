"""Reads TFRecords from standard input, checks every length and checksum, and writes the data of all records as one protobuf
message whose field 1 they are. The CRC32C is bit by bit, from the polynomial, with no table."""
import struct
import sys


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def masked(data):
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def varint(value):
    out = b""
    while value > 127:
        out += bytes([value & 127 | 128])
        value >>= 7
    return out + bytes([value])


data, at = sys.stdin.buffer.read(), 0
while at < len(data):
    (length,) = struct.unpack_from("<Q", data, at)
    assert struct.unpack_from("<I", data, at + 8)[0] == masked(data[at : at + 8]), f"length at {at}"
    record = data[at + 12 : at + 12 + length]
    assert len(record) == length, f"record at {at} is cut off"
    assert struct.unpack_from("<I", data, at + 12 + length)[0] == masked(record), f"record at {at}"
    sys.stdout.buffer.write(b"\x0a" + varint(length) + record)
    at += 16 + length
