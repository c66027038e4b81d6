// cuBLAS and cuSOLVER: column-major products with float32 accumulators, in TF32 where that was asked for, and eigenpairs by the
// QR method's simplest kin (cyclic Jacobi).
#include "double.hpp"
#include <cmath>
#include <cstring>
#include <set>
#include <vector>
#define LOCK std::lock_guard<std::recursive_mutex> lock(guard)
#define API extern "C" int
enum { NOT_INITIALIZED = 1, INVALID_VALUE = 7, EXECUTION_FAILED = 13 };
#define ENTER(name) LOCK; if (int status = enter(#name, EXECUTION_FAILED)) return status

struct Handle {
  Stream *stream = nullptr;
  int math = 0;
  bool hasWorkspace = false;
};
static std::set<Handle *> handles;

static Handle *handleOf(void *handle, const char *function) {
  if (!handles.count((Handle *)handle)) misuse(function, "a handle that is not one");
  Handle *own = (Handle *)handle;
  if (!own->stream) misuse(function, "no stream was set");
  if (!own->hasWorkspace) misuse(function, "no workspace was set: with several streams the order of sums is then not fixed");
  return own;
}

/** To 10 bits of mantissa, as tensor cores take it. */
static float rounded(float x) {
  uint32_t bits;
  memcpy(&bits, &x, 4);
  if ((bits & 0x7f800000u) != 0x7f800000u) bits = (bits + 0xfffu + ((bits >> 13) & 1u)) & 0xffffe000u;
  memcpy(&x, &bits, 4);
  return x;
}

static void gemm(bool ta, bool tb, int m, int n, int k, float alpha, const float *a, int lda, const float *b, int ldb, float beta, float *c, int ldc, bool tf32) {
  std::vector<float> pa((size_t)m * k), pb((size_t)n * k);
  for (int i = 0; i < m; i++) for (int l = 0; l < k; l++) { float x = ta ? a[l + (size_t)i * lda] : a[i + (size_t)l * lda]; pa[(size_t)i * k + l] = tf32 ? rounded(x) : x; }
  for (int j = 0; j < n; j++) for (int l = 0; l < k; l++) { float x = tb ? b[j + (size_t)l * ldb] : b[l + (size_t)j * ldb]; pb[(size_t)j * k + l] = tf32 ? rounded(x) : x; }
  for (int j = 0; j < n; j++)
    for (int i = 0; i < m; i++) {
      const float *x = &pa[(size_t)i * k], *y = &pb[(size_t)j * k];
      float sums[16] = {0};
      int l = 0;
      for (; l + 16 <= k; l += 16) for (int s = 0; s < 16; s++) sums[s] += x[l + s] * y[l + s];
      for (; l < k; l++) sums[0] += x[l] * y[l];
      for (int w = 8; w > 0; w /= 2) for (int s = 0; s < w; s++) sums[s] += sums[s + w];
      float *out = &c[i + (size_t)j * ldc];
      *out = alpha * sums[0] + (beta == 0 ? 0 : beta * *out);
    }
}

static void checkOperand(const char *function, const char *what, const void *p, int rows, int columns, int ld, long long stride, int batch) {
  if (ld < rows) misuse(function, std::string(what) + ": leading dimension " + std::to_string(ld) + " below " + std::to_string(rows));
  if (rows == 0 || columns == 0 || batch == 0) return;
  onCard(p, ((size_t)stride * (batch - 1) + (size_t)ld * (columns - 1) + rows) * 4, function, what);
}

static int product(const char *function, void *handle, int ta, int tb, int m, int n, int k, const float *alpha, const float *a, int lda, long long sa, const float *b, int ldb, long long sb, const float *beta, float *c, int ldc, long long sc, int batch) {
  Handle *own = handleOf(handle, function);
  if (m < 0 || n < 0 || k < 0 || batch < 0) return INVALID_VALUE;
  checkOperand(function, "A", a, ta ? k : m, ta ? m : k, lda, sa, batch);
  checkOperand(function, "B", b, tb ? n : k, tb ? k : n, ldb, sb, batch);
  checkOperand(function, "C", c, m, n, ldc, sc, batch);
  float x = *alpha, y = *beta;
  bool tf32 = own->math == 3;
  enqueue(own->stream, [=] { for (int i = 0; i < batch; i++) gemm(ta, tb, m, n, k, x, a + i * sa, lda, b + i * sb, ldb, y, c + i * sc, ldc, tf32); });
  return 0;
}

API cublasCreate_v2(void **handle) { ENTER(cublasCreate_v2); handles.insert((Handle *)(*handle = new Handle)); return 0; }
API cublasDestroy_v2(void *handle) { ENTER(cublasDestroy_v2); if (!handles.erase((Handle *)handle)) misuse("cublasDestroy_v2", "a handle that is not one"); delete (Handle *)handle; return 0; }
API cublasSetStream_v2(void *handle, void *stream) { ENTER(cublasSetStream_v2); ((Handle *)handle)->stream = streamOf(stream, "cublasSetStream_v2"); ((Handle *)handle)->hasWorkspace = false; return 0; }
API cublasSetWorkspace_v2(void *handle, void *p, size_t bytes) { ENTER(cublasSetWorkspace_v2); onCard(p, bytes, "cublasSetWorkspace_v2", "workspace"); ((Handle *)handle)->hasWorkspace = true; return 0; }
API cublasSetMathMode(void *handle, int mode) { ENTER(cublasSetMathMode); ((Handle *)handle)->math = mode; return 0; }
API cublasGetVersion_v2(void *, int *version) { LOCK; *version = (int)setting("cublas", 120804); return 0; }
extern "C" const char *cublasGetStatusString(int status) { return status == 13 ? "CUBLAS_STATUS_EXECUTION_FAILED" : status == 3 ? "CUBLAS_STATUS_ALLOC_FAILED" : status == 1 ? "CUBLAS_STATUS_NOT_INITIALIZED" : "CUBLAS_STATUS_INVALID_VALUE"; }
API cublasSgemm_v2(void *handle, int ta, int tb, int m, int n, int k, const float *alpha, const float *a, int lda, const float *b, int ldb, const float *beta, float *c, int ldc) {
  ENTER(cublasSgemm_v2);
  return product("cublasSgemm_v2", handle, ta, tb, m, n, k, alpha, a, lda, 0, b, ldb, 0, beta, c, ldc, 0, 1);
}
API cublasSgemmStridedBatched(void *handle, int ta, int tb, int m, int n, int k, const float *alpha, const float *a, int lda, long long sa, const float *b, int ldb, long long sb, const float *beta, float *c, int ldc, long long sc, int batch) {
  ENTER(cublasSgemmStridedBatched);
  return product("cublasSgemmStridedBatched", handle, ta, tb, m, n, k, alpha, a, lda, sa, b, ldb, sb, beta, c, ldc, sc, batch);
}

struct Solver { Stream *stream = nullptr; };
API cusolverDnCreate(void **handle) { ENTER(cusolverDnCreate); *handle = new Solver; return 0; }
API cusolverDnDestroy(void *handle) { ENTER(cusolverDnDestroy); delete (Solver *)handle; return 0; }
API cusolverDnSetStream(void *handle, void *stream) { ENTER(cusolverDnSetStream); ((Solver *)handle)->stream = streamOf(stream, "cusolverDnSetStream"); return 0; }
API cusolverDnDsyevd_bufferSize(void *, int, int, int n, const double *, int, const double *, int *length) { ENTER(cusolverDnDsyevd_bufferSize); *length = 2 * n * n; return 0; }
API cusolverDnDsyevd(void *handle, int jobz, int uplo, int n, double *a, int lda, double *w, double *work, int length, int *info) {
  ENTER(cusolverDnDsyevd);
  if (jobz != 1 || uplo != 0 || lda < n || length < 2 * n * n) return 3;
  onCard(a, (size_t)lda * n * 8, "cusolverDnDsyevd", "A");
  onCard(w, (size_t)n * 8, "cusolverDnDsyevd", "W");
  onCard(work, (size_t)length * 8, "cusolverDnDsyevd", "work");
  onCard(info, 4, "cusolverDnDsyevd", "info");
  enqueue(((Solver *)handle)->stream, [=] {
    double *m = work, *v = work + (size_t)n * n;
    for (int j = 0; j < n; j++) for (int i = 0; i < n; i++) { m[i + (size_t)j * n] = i >= j ? a[i + (size_t)j * lda] : a[j + (size_t)i * lda]; v[i + (size_t)j * n] = i == j; }
    for (int sweep = 0; sweep < 30; sweep++) {
      double off = 0, all = 0;
      for (int j = 0; j < n; j++) for (int i = 0; i < n; i++) { double x = m[i + (size_t)j * n]; all += x * x; if (i != j) off += x * x; }
      if (off <= 1e-30 * all) break;
      for (int p = 0; p < n; p++) for (int q = p + 1; q < n; q++) {
        double apq = m[p + (size_t)q * n];
        if (apq == 0) continue;
        double theta = (m[q + (size_t)q * n] - m[p + (size_t)p * n]) / (2 * apq);
        double t = (theta >= 0 ? 1 : -1) / (std::fabs(theta) + std::sqrt(theta * theta + 1)), c = 1 / std::sqrt(t * t + 1), s = t * c;
        for (int i = 0; i < n; i++) { double x = m[i + (size_t)p * n], y = m[i + (size_t)q * n]; m[i + (size_t)p * n] = c * x - s * y; m[i + (size_t)q * n] = s * x + c * y; }
        for (int i = 0; i < n; i++) { double x = m[p + (size_t)i * n], y = m[q + (size_t)i * n]; m[p + (size_t)i * n] = c * x - s * y; m[q + (size_t)i * n] = s * x + c * y; }
        for (int i = 0; i < n; i++) { double x = v[i + (size_t)p * n], y = v[i + (size_t)q * n]; v[i + (size_t)p * n] = c * x - s * y; v[i + (size_t)q * n] = s * x + c * y; }
      }
    }
    std::vector<int> order(n);
    for (int i = 0; i < n; i++) order[i] = i;
    for (int i = 1; i < n; i++) for (int j = i; j > 0 && m[order[j] + (size_t)order[j] * n] < m[order[j - 1] + (size_t)order[j - 1] * n]; j--) std::swap(order[j], order[j - 1]);
    for (int j = 0; j < n; j++) { w[j] = m[order[j] + (size_t)order[j] * n]; for (int i = 0; i < n; i++) a[i + (size_t)j * lda] = v[i + (size_t)order[j] * n]; }
    *info = 0;
  });
  return 0;
}

/** Handles that were not destroyed. */
extern "C" long long weightspan_double_handles() { LOCK; return (long long)handles.size(); }
