// A stand-in for an NVIDIA card and its libraries: the C functions that weightspan calls, with their names and signatures, done
// by the processor. It is not a GPU and says nothing about speed. What it is for is to check its caller (README.md).
#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>
#include <mutex>
#include <string>

/** Held in every call: what it keeps is shared by all threads of the process. */
extern std::recursive_mutex guard;

/** A setting of WEIGHTSPAN_DOUBLE ("name=value,name=value"), or `otherwise`. */
long long setting(const char *name, long long otherwise);

/** Says what the caller did wrong and ends the process, where a card would corrupt memory or go on with garbage. */
[[noreturn]] void misuse(const char *function, const std::string &what);

/**
 * Notes a call in the log; the status that it must return because a fault was asked for (WEIGHTSPAN_DOUBLE_FAIL
 * "function:n:status") or the card has failed before, or 0. `sticky` is that of the function's library.
 */
int enter(const char *function, int sticky);

/** Whether the card has failed for good (WEIGHTSPAN_DOUBLE "dies=n": at the n-th operation). */
bool isDead();

struct Stream;
/** The stream of a handle, or misuse. */
Stream *streamOf(void *handle, const char *function);
/** Puts an operation behind those that a stream has; it is done when somebody waits for it, not before. */
void enqueue(Stream *stream, std::function<void()> operation);

/** Misuse unless [p, p + bytes) lies in one live allocation on the card. */
void onCard(const void *p, size_t bytes, const char *function, const char *what);
/** Red zones around all allocations are whole, or misuse. */
void checkRedZones(const char *function);
/** The allocation that holds p: its end, or null. */
const char *endOfAllocation(const void *p);
