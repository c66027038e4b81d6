// The devices that contract suites run over. A missing BLAS is said loudly, and fails where CI asks for it.
import { findDevice, openDevice } from '../../operators/devices/device-spec.ts';
import { inlineTiles } from '../../operators/inline-tiles.ts';
import type { Tiles } from '../../operators/tile-pool.ts';
import { requirePart } from '../requires.ts';

export interface DeviceUnderTest {
  readonly name: 'blas' | 'tfjs';
  readonly open: () => Promise<Tiles>;
}

const tilesOn = async (name: 'blas' | 'tfjs'): Promise<Tiles> => {
  const found = await findDevice(name);
  return inlineTiles(await openDevice(found.spec), found.solve);
};

const hasBlas = requirePart(
  'blas',
  await findDevice('blas').then(
    () => true,
    () => false,
  ),
);

export const devices: readonly DeviceUnderTest[] = [
  ...(hasBlas ? [{ name: 'blas' as const, open: () => tilesOn('blas') }] : []),
  { name: 'tfjs', open: () => tilesOn('tfjs') },
];
