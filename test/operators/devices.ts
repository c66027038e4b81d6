// The devices that contract suites run over. A missing BLAS is said loudly, and fails where CI asks for it.
import type { Device } from '../../operators/devices/device.ts';
import { findDevice, openDevice } from '../../operators/devices/device-spec.ts';
import { inlineTiles } from '../../operators/inline-tiles.ts';
import type { Tiles } from '../../operators/tile-pool.ts';
import { requirePart } from '../requires.ts';

export interface DeviceUnderTest {
  readonly name: 'blas' | 'tfjs';
  /** Tiles on this thread. */
  readonly open: () => Promise<Tiles>;
  readonly openDevice: () => Promise<Device>;
}

const tilesOn = async (name: 'blas' | 'tfjs'): Promise<Tiles> => {
  const found = await findDevice(name);
  return inlineTiles(await openDevice(found.spec), found.solve);
};

const under = (name: 'blas' | 'tfjs'): DeviceUnderTest => ({
  name,
  open: () => tilesOn(name),
  openDevice: async () => openDevice((await findDevice(name)).spec),
});

const hasBlas = requirePart(
  'blas',
  await findDevice('blas').then(
    () => true,
    () => false,
  ),
);

export const devices: readonly DeviceUnderTest[] = [...(hasBlas ? [under('blas')] : []), under('tfjs')];
