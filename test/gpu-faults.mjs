// Loaded before a test's process runs (--import), in all of its threads: makes Dawn fail at the N-th submission of work, as
// GPU_FAULT=KIND:N says, and, with GPU_REAL=1, makes the software adapter pass for a fast real one, so that `auto` takes it.
import { register } from 'node:module';
import { isMainThread } from 'node:worker_threads';

const { globals } = await import('webgpu');
const [kind, at] = (process.env.GPU_FAULT ?? ':Infinity').split(':');
const { GPU, GPUAdapter, GPUDevice, GPUQueue } = globals;

let submissions = 0;
let isDue = false;
const devices = [];

const { requestDevice } = GPUAdapter.prototype;
GPUAdapter.prototype.requestDevice = async function (...args) {
  const device = await requestDevice.apply(this, args);
  devices.push(device);
  return device;
};

const { submit } = GPUQueue.prototype;
GPUQueue.prototype.submit = function (...args) {
  submissions++;
  if (submissions === Number(at)) {
    isDue = true;
    if (kind === 'lost') for (const device of devices) device.destroy();
  }
  return submit.apply(this, args);
};

// Dawn itself cannot be made to run out of memory here: the scope that would catch it says that it did.
const { popErrorScope, pushErrorScope } = GPUDevice.prototype;
const filters = [];
GPUDevice.prototype.pushErrorScope = function (filter) {
  filters.push(filter);
  return pushErrorScope.call(this, filter);
};
GPUDevice.prototype.popErrorScope = async function () {
  const filter = filters.pop();
  const found = await popErrorScope.call(this);
  return isDue && kind === 'out-of-memory' && filter === 'out-of-memory'
    ? { message: 'Out of memory: no room' }
    : found;
};

// The next program that is compiled is none.
const { createShaderModule } = GPUDevice.prototype;
GPUDevice.prototype.createShaderModule = function (descriptor) {
  return createShaderModule.call(this, isDue && kind === 'shader' ? { ...descriptor, code: 'no program' } : descriptor);
};

if (process.env.GPU_REAL === '1') {
  const { requestAdapter } = GPU.prototype;
  const info = { vendor: 'test', architecture: 'real', device: '', description: '', isFallbackAdapter: false };
  GPU.prototype.requestAdapter = async function (...args) {
    return Object.defineProperty(await requestAdapter.apply(this, args), 'info', { value: info });
  };
  if (isMainThread) {
    const probe = `export const probeDevice = ({ info }) => (info.library === 'tfjs-webgpu' ? 1 : 1000);`;
    const hook = `export const resolve = (specifier, context, next) =>
      specifier.endsWith('/probe-device.js') ? { url: ${JSON.stringify(`data:text/javascript,${encodeURIComponent(probe)}`)}, shortCircuit: true } : next(specifier, context);`;
    register(`data:text/javascript,${encodeURIComponent(hook)}`);
  }
}
