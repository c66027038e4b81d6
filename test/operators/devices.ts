// The devices that contract suites run over. What is missing is said loudly, and fails where CI asks for it. The GPU's comes
// from the build: it starts a thread, and Node 20 cannot load TypeScript. Its adapter is software, about 500 times slower than
// the processor itself, so that not every suite runs over it. The NVIDIA card is a double, unless asked otherwise (test/card.ts).
import { afterAll } from 'vitest';
import type { Device } from '../../operators/devices/device.ts';
import { type DeviceSpec, findDevice, openDevice } from '../../operators/devices/device-spec.ts';
import { inlineTiles } from '../../operators/inline-tiles.ts';
import { jsEigenSolver } from '../../operators/linalg/symmetric-eigen.ts';
import type { Tiles } from '../../operators/tile-pool.ts';
import { cardPaths } from '../card.ts';
import { requirePart } from '../requires.ts';
import { hasSoftwareAdapter } from '../software-adapter.ts';

export interface DeviceUnderTest {
  readonly name: 'blas' | 'tfjs' | 'tfjs:webgpu' | 'cuda';
  /** Tiles on this thread. */
  readonly open: () => Promise<Tiles>;
  readonly openDevice: () => Promise<Device>;
}

/** Hands tiles to `use`, and closes them whatever comes of it. */
export const withTilesOf =
  (open: () => Promise<Tiles>) =>
  async <T>(use: (tiles: Tiles) => Promise<T>): Promise<T> => {
    const tiles = await open();
    try {
      return await use(tiles);
    } finally {
      await tiles.close();
    }
  };

const under = (name: 'blas' | 'tfjs'): DeviceUnderTest => ({
  name,
  open: async () => {
    const found = await findDevice(name);
    return inlineTiles(await openDevice(found.spec), found.solve);
  },
  openDevice: async () => openDevice((await findDevice(name)).spec),
});

const hasBlas = requirePart(
  'blas',
  await findDevice('blas').then(
    () => true,
    () => false,
  ),
);

/** Those of the processor. */
export const devices: readonly DeviceUnderTest[] = [...(hasBlas ? [under('blas')] : []), under('tfjs')];

type GpuDevice = Device & Pick<import('../../operators/devices/tensor-device.ts').TensorDevice, 'facts' | 'memory'>;

let gpu: GpuDevice | null = null;

/** One for the whole file. */
export const openGpu = async (): Promise<GpuDevice> => {
  const built: typeof import('../../operators/devices/device-spec.ts') = await import(
    '../../dist/operators/devices/device-spec.js' as string
  );
  gpu ??= (await built.openDevice((await built.findDevice('tfjs:webgpu')).spec)) as GpuDevice;
  return gpu;
};

/** The card; null where there is none, nor a double. */
export const cudaSpec: Extract<DeviceSpec, { readonly name: 'cuda' }> | null =
  cardPaths === null ? null : { name: 'cuda', paths: cardPaths, precision: 'float32', blas: null };

const card: readonly DeviceUnderTest[] =
  cudaSpec === null
    ? []
    : [
        {
          name: 'cuda',
          open: async () => inlineTiles(await openDevice(cudaSpec), jsEigenSolver),
          openDevice: () => openDevice(cudaSpec),
        },
      ];

/** Those of the processor, and a card. */
export const devicesAndCard: readonly DeviceUnderTest[] = [...devices, ...card];

/** And a GPU in software. */
export const everyDevice: readonly DeviceUnderTest[] = [
  ...devicesAndCard,
  ...(hasSoftwareAdapter
    ? [
        {
          name: 'tfjs:webgpu' as const,
          open: async () => inlineTiles(await openGpu(), jsEigenSolver),
          openDevice: openGpu,
        },
      ]
    : []),
];

// A process that ends while its GPU is at work crashes.
if (hasSoftwareAdapter) afterAll(async () => gpu?.close());
