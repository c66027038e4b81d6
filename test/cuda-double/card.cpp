// Memory, streams and events of the runtime library. Streams are as asynchronous as they may be: an operation is done when
// somebody waits for it, and no sooner. So memory that is filled again too early, or a stream that should have waited for another
// one, gives wrong numbers here as it would, now and then, on a card.
#include "double.hpp"
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <map>
#include <set>
#include <unistd.h>
#include <vector>

std::recursive_mutex guard;
#define LOCK std::lock_guard<std::recursive_mutex> lock(guard)

static const size_t RED = 256;
static const unsigned char RED_BYTE = 0xa5, FRESH_BYTE = 0xff; // 0xffffffff is a NaN

enum { INVALID_VALUE = 1, MEMORY_ALLOCATION = 2, NO_DEVICE = 100, INSUFFICIENT_DRIVER = 35, DEVICES_UNAVAILABLE = 46, ILLEGAL_ADDRESS = 700, NOT_SUPPORTED = 801 };

long long setting(const char *name, long long otherwise) {
  const char *all = getenv("WEIGHTSPAN_DOUBLE");
  size_t length = strlen(name);
  for (const char *at = all; at && *at; at = strchr(at, ',') ? strchr(at, ',') + 1 : nullptr)
    if (!strncmp(at, name, length) && at[length] == '=') return atoll(at + length + 1);
  return otherwise;
}

void misuse(const char *function, const std::string &what) {
  fprintf(stderr, "\ncuda double: %s: %s\n", function, what.c_str());
  fflush(stderr);
  abort();
}

static std::map<std::string, long long> calls;
static long long operations = 0;

bool isDead() { return setting("dies", 0) > 0 && operations >= setting("dies", 0); }

int enter(const char *function, int sticky) {
  long long n = ++calls[function];
  if (const char *path = getenv("WEIGHTSPAN_DOUBLE_LOG"))
    if (FILE *log = fopen(path, "a")) {
      fprintf(log, "%s\n", function);
      fclose(log);
    }
  if (const char *fail = getenv("WEIGHTSPAN_DOUBLE_FAIL")) {
    char name[128];
    long long from, status;
    if (sscanf(fail, "%127[^:]:%lld:%lld", name, &from, &status) == 3 && !strcmp(name, function) && n >= from) return (int)status;
  }
  return isDead() ? sticky : 0;
}

struct Block {
  size_t bytes;
  bool pinned;
  bool pooled = false; // from the process's pool
  bool ready = true;   // its stream has come to where it was asked for
  bool given = false;  // given back, although its stream may not have come to that
};
static std::map<char *, Block> blocks; // by the first byte that is the caller's
static size_t held = 0;
static size_t kept = 0; // by the pool, for later

static char *allocate(size_t bytes, bool pinned) {
  char *raw = (char *)aligned_alloc(256, (bytes + 2 * RED + 255) / 256 * 256);
  memset(raw, RED_BYTE, RED);
  memset(raw + RED, FRESH_BYTE, bytes);
  memset(raw + RED + bytes, RED_BYTE, RED);
  blocks[raw + RED] = Block{bytes, pinned};
  if (!pinned) held += bytes;
  return raw + RED;
}

static void checkRed(char *at, const Block &block, const char *function) {
  for (size_t i = 0; i < RED; i++)
    if ((unsigned char)at[-1 - (long)i] != RED_BYTE || (unsigned char)at[block.bytes + i] != RED_BYTE)
      misuse(function, "something wrote beyond an allocation of " + std::to_string(block.bytes) + " bytes");
}

void checkRedZones(const char *function) {
  for (auto &[at, block] : blocks) checkRed(at, block, function);
}

static std::map<char *, Block>::iterator blockOf(const void *p) {
  auto found = blocks.upper_bound((char *)p);
  if (found == blocks.begin()) return blocks.end();
  --found;
  return (char *)p < found->first + found->second.bytes ? found : blocks.end();
}

const char *endOfAllocation(const void *p) {
  auto found = blockOf(p);
  if (found == blocks.end() || found->second.pinned || found->second.given) return nullptr;
  return found->first + found->second.bytes;
}

void onCard(const void *p, size_t bytes, const char *function, const char *what) {
  if (bytes == 0) return;
  const char *end = endOfAllocation(p);
  if (!end || (const char *)p + bytes > end)
    misuse(function, std::string(what) + ": " + std::to_string(bytes) + " bytes do not lie in one allocation on the card");
}

static bool isPinned(const void *p) {
  auto found = blockOf(p);
  return found != blocks.end() && found->second.pinned;
}

struct Event {
  Stream *stream = nullptr;
  long long ticket = 0;
};
struct Stream {
  long long done = 0, asked = 0;
  std::deque<std::function<void()>> waiting;
};
static std::set<Stream *> streams;
static std::set<Event *> events;

static void runUntil(Stream *stream, long long ticket) {
  while (stream->done < ticket && !stream->waiting.empty()) {
    auto operation = std::move(stream->waiting.front());
    stream->waiting.pop_front();
    stream->done++;
    if (isDead()) continue;
    operations++;
    if (long long us = setting("slow", 0)) usleep(us);
    operation();
  }
}
static void runAll() {
  for (Stream *stream : streams) runUntil(stream, stream->asked);
}
void enqueue(Stream *stream, std::function<void()> operation) {
  stream->asked++;
  stream->waiting.push_back(std::move(operation));
}
Stream *streamOf(void *handle, const char *function) {
  if (!streams.count((Stream *)handle)) misuse(function, "a stream that is not one (the default stream is not used)");
  return (Stream *)handle;
}

/** Misuse unless memory on the card is there by the time at which another stream than its own uses it. */
static void thereNow(const void *p, const char *function) {
  auto found = blockOf(p);
  if (found == blocks.end() || !found->second.ready) misuse(function, "memory that its own stream has not come to, or has given back");
}

/** A copy: what is on pageable memory is taken at once, as a card's driver stages it; pinned memory is looked at when it is done. */
static int copy2d(const char *function, char *to, size_t toPitch, const char *from, size_t fromPitch, size_t width, size_t rows, int kind, Stream *stream) {
  if (width > toPitch || width > fromPitch) return INVALID_VALUE;
  if (width == 0 || rows == 0) return 0;
  size_t toBytes = (rows - 1) * toPitch + width, fromBytes = (rows - 1) * fromPitch + width;
  if (kind == 1 || kind == 3) onCard(to, toBytes, function, "target");
  if (kind == 2 || kind == 3) onCard(from, fromBytes, function, "source");
  if (kind == 1 && !isPinned(from)) {
    std::string staged(width * rows, 0);
    for (size_t i = 0; i < rows; i++) memcpy(&staged[i * width], from + i * fromPitch, width);
    enqueue(stream, [=] {
      thereNow(to, function);
      for (size_t i = 0; i < rows; i++) memcpy(to + i * toPitch, &staged[i * width], width);
    });
    return 0;
  }
  enqueue(stream, [=] {
    if (kind == 1 || kind == 3) thereNow(to, function);
    if (kind == 2 || kind == 3) thereNow(from, function);
    for (size_t i = 0; i < rows; i++) memcpy(to + i * toPitch, from + i * fromPitch, width);
  });
  // Down to pageable memory it returns when it is done.
  if (kind == 2 && !isPinned(to)) runUntil(stream, stream->asked);
  return 0;
}

#define ENTER(name) LOCK; if (int status = enter(#name, ILLEGAL_ADDRESS)) return status
#define API extern "C" int

static int unusable() {
  if (setting("driver", 13000) == 0) return INSUFFICIENT_DRIVER;
  if (setting("devices", 1) == 0) return NO_DEVICE;
  return 0;
}

API cudaRuntimeGetVersion(int *version) { LOCK; *version = (int)setting("runtime", 12080); return 0; }
API cudaDriverGetVersion(int *version) { LOCK; *version = (int)setting("driver", 13000); return 0; }
API cudaGetDeviceCount(int *count) { ENTER(cudaGetDeviceCount); *count = 0; if (int s = unusable()) return s; *count = (int)setting("devices", 1); return 0; }
API cudaSetDevice(int device) {
  ENTER(cudaSetDevice);
  if (int s = unusable()) return s;
  if (device >= setting("devices", 1)) return 101;
  return setting("busy", 0) ? DEVICES_UNAVAILABLE : 0;
}
API cudaDeviceGetAttribute(int *value, int attribute, int) {
  ENTER(cudaDeviceGetAttribute);
  if (attribute == 75) *value = (int)setting("major", 9);
  else if (attribute == 76) *value = (int)setting("minor", 0);
  else if (attribute == 115) *value = (int)setting("pools", 1);
  else return INVALID_VALUE;
  return 0;
}
API cudaMemGetInfo(size_t *free, size_t *total) {
  ENTER(cudaMemGetInfo);
  *total = (size_t)setting("memory", 8LL << 30);
  *free = held + kept < *total ? *total - held - kept : 0;
  return 0;
}
API cudaMalloc(void **p, size_t bytes) {
  ENTER(cudaMalloc);
  if (held + kept + bytes > (size_t)setting("memory", 8LL << 30)) return MEMORY_ALLOCATION;
  *p = bytes ? allocate(bytes, false) : nullptr;
  return 0;
}
static int release(void *p, bool pinned, const char *function) {
  if (!p) return 0;
  // A card waits for all that is under way.
  runAll();
  auto found = blocks.find((char *)p);
  if (found == blocks.end() || found->second.pinned != pinned || found->second.pooled) misuse(function, "memory that was not allocated, or is freed already");
  checkRed(found->first, found->second, function);
  if (!pinned) held -= found->second.bytes;
  memset(found->first, FRESH_BYTE, found->second.bytes);
  free(found->first - RED);
  blocks.erase(found);
  return 0;
}
static int pool;
API cudaDeviceGetDefaultMemPool(void **out, int) {
  ENTER(cudaDeviceGetDefaultMemPool);
  if (!setting("pools", 1)) return NOT_SUPPORTED;
  *out = &pool;
  return 0;
}
API cudaMemPoolSetAttribute(void *p, int attribute, void *) {
  ENTER(cudaMemPoolSetAttribute);
  return p == &pool && attribute == 4 ? 0 : INVALID_VALUE;
}
API cudaMemPoolTrimTo(void *p, size_t bytes) {
  ENTER(cudaMemPoolTrimTo);
  if (p != &pool) return INVALID_VALUE;
  if (kept > bytes) kept = bytes;
  return 0;
}
API cudaMallocAsync(void **p, size_t bytes, void *stream) {
  ENTER(cudaMallocAsync);
  if (!setting("pools", 1)) return NOT_SUPPORTED;
  Stream *own = streamOf(stream, "cudaMallocAsync");
  if (bytes == 0) return INVALID_VALUE;
  size_t again = bytes < kept ? bytes : kept;
  if (held + kept + bytes - again > (size_t)setting("memory", 8LL << 30)) return MEMORY_ALLOCATION;
  kept -= again;
  char *at = allocate(bytes, false);
  blocks[at].pooled = true;
  blocks[at].ready = false;
  enqueue(own, [=] { blocks[at].ready = true; });
  *p = at;
  return 0;
}
API cudaFreeAsync(void *p, void *stream) {
  ENTER(cudaFreeAsync);
  Stream *own = streamOf(stream, "cudaFreeAsync");
  auto found = blocks.find((char *)p);
  if (found == blocks.end() || !found->second.pooled || found->second.given) misuse("cudaFreeAsync", "memory that was not allocated, or is freed already");
  found->second.given = true;
  enqueue(own, [=] {
    Block &block = blocks[(char *)p];
    checkRed((char *)p, block, "cudaFreeAsync");
    held -= block.bytes;
    kept += block.bytes;
    memset(p, FRESH_BYTE, block.bytes);
    free((char *)p - RED);
    blocks.erase((char *)p);
  });
  return 0;
}
API cudaFree(void *p) { ENTER(cudaFree); return release(p, false, "cudaFree"); }
API cudaHostAlloc(void **p, size_t bytes, unsigned) { ENTER(cudaHostAlloc); *p = allocate(bytes, true); return 0; }
API cudaFreeHost(void *p) { ENTER(cudaFreeHost); return release(p, true, "cudaFreeHost"); }
API cudaMemcpyAsync(void *to, const void *from, size_t bytes, int kind, void *stream) {
  ENTER(cudaMemcpyAsync);
  return copy2d("cudaMemcpyAsync", (char *)to, bytes, (const char *)from, bytes, bytes, bytes > 0, kind, streamOf(stream, "cudaMemcpyAsync"));
}
API cudaMemcpy2DAsync(void *to, size_t toPitch, const void *from, size_t fromPitch, size_t width, size_t rows, int kind, void *stream) {
  ENTER(cudaMemcpy2DAsync);
  return copy2d("cudaMemcpy2DAsync", (char *)to, toPitch, (const char *)from, fromPitch, width, rows, kind, streamOf(stream, "cudaMemcpy2DAsync"));
}
API cudaMemsetAsync(void *p, int value, size_t bytes, void *stream) {
  ENTER(cudaMemsetAsync);
  onCard(p, bytes, "cudaMemsetAsync", "target");
  enqueue(streamOf(stream, "cudaMemsetAsync"), [=] { memset(p, value, bytes); });
  return 0;
}
API cudaStreamCreateWithFlags(void **stream, unsigned) { ENTER(cudaStreamCreateWithFlags); streams.insert((Stream *)(*stream = new Stream)); return 0; }
API cudaStreamDestroy(void *stream) {
  LOCK;
  Stream *own = streamOf(stream, "cudaStreamDestroy");
  runUntil(own, own->asked);
  for (Event *event : events) if (event->stream == own) event->stream = nullptr;
  streams.erase(own);
  delete own;
  return enter("cudaStreamDestroy", ILLEGAL_ADDRESS);
}
API cudaStreamSynchronize(void *stream) {
  LOCK;
  Stream *own = streamOf(stream, "cudaStreamSynchronize");
  runUntil(own, own->asked);
  return enter("cudaStreamSynchronize", ILLEGAL_ADDRESS);
}
API cudaStreamWaitEvent(void *stream, void *handle, unsigned) {
  ENTER(cudaStreamWaitEvent);
  Event event = *(Event *)handle;
  enqueue(streamOf(stream, "cudaStreamWaitEvent"), [=] { if (event.stream && streams.count(event.stream)) runUntil(event.stream, event.ticket); });
  return 0;
}
API cudaEventCreateWithFlags(void **event, unsigned) { ENTER(cudaEventCreateWithFlags); events.insert((Event *)(*event = new Event)); return 0; }
API cudaEventDestroy(void *event) { ENTER(cudaEventDestroy); if (!events.erase((Event *)event)) misuse("cudaEventDestroy", "not an event"); delete (Event *)event; return 0; }
API cudaEventRecord(void *event, void *stream) {
  ENTER(cudaEventRecord);
  if (!events.count((Event *)event)) misuse("cudaEventRecord", "not an event");
  Stream *own = streamOf(stream, "cudaEventRecord");
  *(Event *)event = {own, own->asked};
  return 0;
}
API cudaEventSynchronize(void *event) {
  LOCK;
  Event *own = (Event *)event;
  if (!events.count(own)) misuse("cudaEventSynchronize", "not an event");
  if (own->stream) runUntil(own->stream, own->ticket);
  return enter("cudaEventSynchronize", ILLEGAL_ADDRESS);
}
extern "C" const char *cudaGetErrorName(int status) {
  switch (status) {
    case 1: return "cudaErrorInvalidValue";
    case 2: return "cudaErrorMemoryAllocation";
    case 35: return "cudaErrorInsufficientDriver";
    case 46: return "cudaErrorDevicesUnavailable";
    case 100: return "cudaErrorNoDevice";
    case 700: return "cudaErrorIllegalAddress";
    default: return "cudaErrorUnknown";
  }
}
extern "C" const char *cudaGetErrorString(int status) { return status == 2 ? "out of memory" : status == 46 ? "CUDA-capable device(s) is/are busy or unavailable" : status == 700 ? "an illegal memory access was encountered" : "as its name says"; }

/** What is alive: allocations on the card, their bytes, pinned allocations, streams, events. */
extern "C" void weightspan_double_report(long long *out) {
  LOCK;
  long long pinned = 0;
  for (auto &[_, block] : blocks) pinned += block.pinned;
  out[0] = (long long)blocks.size() - pinned;
  out[1] = (long long)held;
  out[2] = pinned;
  out[3] = (long long)streams.size();
  out[4] = (long long)events.size();
}
