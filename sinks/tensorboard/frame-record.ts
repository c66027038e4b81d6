// One TFRecord: length (uint64), its checksum, the data, its checksum; all little-endian. Source: TensorFlow's description of
// the TFRecords format.
import { maskedCrc32c } from './crc32c.ts';

export function frameRecord(data: Uint8Array): Buffer {
  const record = Buffer.allocUnsafe(16 + data.length);
  record.writeBigUInt64LE(BigInt(data.length), 0);
  record.writeUInt32LE(maskedCrc32c(record.subarray(0, 8)), 8);
  record.set(data, 12);
  record.writeUInt32LE(maskedCrc32c(data), 12 + data.length);
  return record;
}
