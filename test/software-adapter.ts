// A GPU for tests: SwiftShader, which Debian's chromium brings, behind the Vulkan loader of the system or that package's own.
// It computes on the processor, slowly, and obeys the same rules as a real one.
import { existsSync } from 'node:fs';
import koffi from 'koffi';
import { requirePart } from './requires.ts';

const FOLDER = '/usr/lib/chromium';
const DRIVER = `${FOLDER}/vk_swiftshader_icd.json`;
const LOADER = `${FOLDER}/libvulkan.so.1`;

const loads = (path: string): unknown => {
  try {
    return koffi.load(path);
  } catch {
    return null;
  }
};

/** Whether there is one, for this process and those that it starts. */
export const hasSoftwareAdapter = requirePart(
  'webgpu',
  existsSync(DRIVER) && (loads(LOADER) ?? loads('libvulkan.so.1')) !== null,
);

/** What a process needs to find it. */
export const softwareAdapter = {
  VK_ICD_FILENAMES: DRIVER,
  LD_LIBRARY_PATH: [FOLDER, process.env.LD_LIBRARY_PATH].filter(Boolean).join(':'),
};

/** Kept: Dawn finds the loader by its name as long as it is loaded. */
export const loader = hasSoftwareAdapter ? loads(LOADER) : null;
if (hasSoftwareAdapter) process.env.VK_ICD_FILENAMES = DRIVER;
