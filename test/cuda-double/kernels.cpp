// NVRTC and the driver: CUDA C source is compiled for real, by the host's C++ compiler, and launched thread by thread. Kernels
// may use no shared memory and no barriers; their parameters are 8 bytes each (pointers and long long), which is all this can pass.
#include "double.hpp"
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <dlfcn.h>
#include <fstream>
#include <set>
#include <unistd.h>
#include <vector>
#define LOCK std::lock_guard<std::recursive_mutex> lock(guard)
#define API extern "C" int
#define ENTER(name) LOCK; if (int status = enter(#name, 700)) return status

static const char *PRELUDE = R"(
#include <cmath>
#include <cstring>
#include <cstdint>
struct Dim { unsigned x, y, z; };
extern "C" { Dim threadIdx, blockIdx, blockDim, gridDim; }
#define __global__ __attribute__((visibility("default")))
#define __device__ static
#define __restrict__ __restrict
static inline float __uint_as_float(unsigned u) { float f; memcpy(&f, &u, 4); return f; }
static inline unsigned __float_as_uint(float f) { unsigned u; memcpy(&u, &f, 4); return u; }
static inline float __fadd_rn(float a, float b) { return a + b; }
static inline float __double2float_rn(double d) { return (float)d; }
)";

struct Program { std::string source, name, log, path; };

API nvrtcVersion(int *major, int *minor) { LOCK; *major = 12; *minor = 8; return 0; }
API nvrtcGetNumSupportedArchs(int *n) { LOCK; *n = 3; return 0; }
API nvrtcGetSupportedArchs(int *archs) { LOCK; archs[0] = 75; archs[1] = 80; archs[2] = 90; return 0; }
API nvrtcCreateProgram(void **program, const char *source, const char *name, int, const char *const *, const char *const *) {
  ENTER(nvrtcCreateProgram);
  *program = new Program{source, name, "", ""};
  return 0;
}
API nvrtcDestroyProgram(void **program) { LOCK; delete (Program *)*program; *program = nullptr; return 0; }
API nvrtcCompileProgram(void *handle, int count, const char *const *options) {
  ENTER(nvrtcCompileProgram);
  Program *program = (Program *)handle;
  bool arch = false;
  for (int i = 0; i < count; i++) arch |= !strncmp(options[i], "--gpu-architecture=", 19);
  if (!arch) misuse("nvrtcCompileProgram", "no --gpu-architecture");
  size_t hash = std::hash<std::string>()(program->source + PRELUDE);
  Dl_info own;
  dladdr((void *)&nvrtcCompileProgram, &own);
  std::string folder = std::string(own.dli_fname).substr(0, std::string(own.dli_fname).rfind('/'));
  char resolved[4096];
  if (realpath(folder.c_str(), resolved)) folder = resolved;
  program->path = folder + "/kernels-" + std::to_string(hash) + ".so";
  if (access(program->path.c_str(), R_OK) == 0) return 0;
  std::string base = program->path + "." + std::to_string(getpid());
  { std::ofstream file(base + ".cpp"); file << PRELUDE << program->source << "\nextern \"C\" { extern const char kernels_source[]; const char kernels_source[] = R\"KERNELS(" << program->source << ")KERNELS\"; }\n"; }
  std::string command = "c++ -O2 -ffp-contract=off -shared -fPIC -w -o " + base + ".so " + base + ".cpp 2> " + base + ".log";
  if (system(command.c_str()) != 0) {
    std::ifstream log(base + ".log");
    program->log.assign(std::istreambuf_iterator<char>(log), {});
    return 6;
  }
  rename((base + ".so").c_str(), program->path.c_str());
  return 0;
}
API nvrtcGetProgramLogSize(void *program, size_t *bytes) { LOCK; *bytes = ((Program *)program)->log.size() + 1; return 0; }
API nvrtcGetProgramLog(void *program, char *log) { LOCK; strcpy(log, ((Program *)program)->log.c_str()); return 0; }
API nvrtcGetCUBINSize(void *program, size_t *bytes) { ENTER(nvrtcGetCUBINSize); *bytes = ((Program *)program)->path.size() + 1; return 0; }
API nvrtcGetCUBIN(void *program, char *cubin) { ENTER(nvrtcGetCUBIN); strcpy(cubin, ((Program *)program)->path.c_str()); return 0; }
API nvrtcGetPTXSize(void *program, size_t *bytes) { ENTER(nvrtcGetPTXSize); *bytes = ((Program *)program)->path.size() + 1; return 0; }
API nvrtcGetPTX(void *program, char *ptx) { ENTER(nvrtcGetPTX); strcpy(ptx, ((Program *)program)->path.c_str()); return 0; }
extern "C" const char *nvrtcGetErrorString(int status) { return status == 6 ? "NVRTC_ERROR_COMPILATION" : "NVRTC_ERROR"; }

struct Kernel { void *code; int parameters; void *library; };
static std::set<void *> modules;

API cuInit(unsigned) { ENTER(cuInit); return setting("devices", 1) == 0 ? 100 : 0; }
API cuDeviceGet(int *device, int ordinal) { ENTER(cuDeviceGet); *device = ordinal; return 0; }
API cuDeviceGetName(char *name, int length, int) { ENTER(cuDeviceGetName); snprintf(name, length, "Double of a card"); return 0; }
extern "C" int cuGetErrorName(int status, const char **name) { *name = status == 700 ? "CUDA_ERROR_ILLEGAL_ADDRESS" : status == 2 ? "CUDA_ERROR_OUT_OF_MEMORY" : "CUDA_ERROR_UNKNOWN"; return 0; }
API cuModuleLoadData(void **module, const void *image) {
  ENTER(cuModuleLoadData);
  *module = dlopen((const char *)image, RTLD_NOW | RTLD_LOCAL);
  if (!*module) return 200;
  modules.insert(*module);
  return 0;
}
API cuModuleUnload(void *module) { ENTER(cuModuleUnload); return modules.count(module) ? 0 : 400; }
API cuModuleGetFunction(void **function, void *module, const char *name) {
  ENTER(cuModuleGetFunction);
  void *code = dlsym(module, name);
  if (!code) return 500;
  std::string source = (const char *)dlsym(module, "kernels_source");
  size_t at = source.find(std::string("void ") + name + "(");
  if (at == std::string::npos) misuse("cuModuleGetFunction", std::string("the source has no kernel ") + name);
  int parameters = 1;
  for (size_t i = at; source[i] != ')'; i++) parameters += source[i] == ',';
  *function = new Kernel{code, parameters, module};
  return 0;
}
API cuLaunchKernel(void *function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned shared, void *stream, void **parameters, void **) {
  ENTER(cuLaunchKernel);
  Kernel *kernel = (Kernel *)function;
  if (shared || gy != 1 || gz != 1 || by != 1 || bz != 1) misuse("cuLaunchKernel", "one dimension and no shared memory is all this does");
  if (gx == 0 || bx == 0 || bx > 1024) return 1;
  std::vector<uint64_t> args(12);
  if (kernel->parameters > 12) misuse("cuLaunchKernel", "more than 12 parameters");
  for (int i = 0; i < kernel->parameters; i++) memcpy(&args[i], parameters[i], 8);
  enqueue(streamOf(stream, "cuLaunchKernel"), [=] {
    unsigned *thread = (unsigned *)dlsym(kernel->library, "threadIdx"), *block = (unsigned *)dlsym(kernel->library, "blockIdx");
    ((unsigned *)dlsym(kernel->library, "blockDim"))[0] = bx;
    ((unsigned *)dlsym(kernel->library, "gridDim"))[0] = gx;
    auto run = (void (*)(uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t))kernel->code;
    for (block[0] = 0; block[0] < gx; block[0]++)
      for (thread[0] = 0; thread[0] < bx; thread[0]++)
        run(args[0], args[1], args[2], args[3], args[4], args[5], args[6], args[7], args[8], args[9], args[10], args[11]);
    checkRedZones("cuLaunchKernel");
  });
  return 0;
}
