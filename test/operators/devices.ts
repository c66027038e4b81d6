// The devices that contract suites run over. A missing BLAS is said loudly, and fails where CI asks for it.
import { findDevice, openDevice } from '../../operators/devices/device-spec.ts';
import { inlineTiles } from '../../operators/inline-tiles.ts';
import type { Tiles } from '../../operators/tile-pool.ts';

export interface DeviceUnderTest {
  readonly name: 'blas' | 'tfjs';
  readonly open: () => Promise<Tiles>;
}

const tilesOn = async (name: 'blas' | 'tfjs'): Promise<Tiles> => {
  const found = await findDevice(name);
  return inlineTiles(await openDevice(found.spec), found.solve);
};

export const devices: readonly DeviceUnderTest[] = await (async () => {
  const tfjs: DeviceUnderTest = { name: 'tfjs', open: () => tilesOn('tfjs') };
  try {
    await findDevice('blas');
    return [{ name: 'blas', open: () => tilesOn('blas') }, tfjs];
  } catch (error) {
    if ((process.env.WEIGHTSPAN_REQUIRE ?? '').split(',').includes('blas')) throw error;
    console.error('*** no BLAS on this machine: the contract suite runs on tfjs alone ***');
    return [tfjs];
  }
})();
