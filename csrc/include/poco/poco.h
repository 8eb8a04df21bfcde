/*
 * poco.h: the public C interface of poco.
 *
 * Plain C99, no torch and no Python behind it. Every function states its thread-safety. Nothing here throws,
 * and nothing that is in this header changes its meaning while POCO_API_VERSION stays the same: functions are
 * added, and so are fields at the end of structs that begin with `size`; nothing is altered. Compare
 * poco_api_version() of the library with POCO_API_VERSION of the header before anything else; they must be equal.
 *
 * In a struct that begins with `size` the caller sets that to the struct's sizeof, once, before the first use. The
 * library reads and writes no more than so many bytes, so a program goes on with a newer library as it is. With an
 * older library, fields that it does not know are answered with zeros, and asking for them (by anything but zeros)
 * is an error. A size that cannot be is an error with a message. All other structs keep their size.
 */
#ifndef POCO_POCO_H
#define POCO_POCO_H

#include <stddef.h>
#include <stdint.h>

#if defined(_WIN32) && defined(POCO_SHARED)
#if defined(POCO_BUILDING)
#define POCO_API __declspec(dllexport)
#else
#define POCO_API __declspec(dllimport)
#endif
#elif defined(__GNUC__)
#define POCO_API __attribute__((visibility("default")))
#else
#define POCO_API
#endif

/* Version of this interface (not of the library). */
#define POCO_API_VERSION 1

#ifdef __cplusplus
extern "C" {
#endif

/* POCO_API_VERSION of the header that the library was built with. Thread-safe. */
POCO_API uint32_t poco_api_version(void);

/* Version of the library, for example "0.1.0". The string is static: never free it. Thread-safe. */
POCO_API const char* poco_version(void);

/* Version of the library as one number that grows: major * 10000 + minor * 100 + patch. Thread-safe. */
POCO_API uint32_t poco_version_number(void);

/*
 * Names of the instruction sets that this processor and its operating system offer, separated by single spaces,
 * for example "sse2 avx2 fma"; empty where none is known. Found once, at the first call. The string is static:
 * never free it. Thread-safe.
 */
POCO_API const char* poco_cpu_features(void);

/* ---- Streaming: a frame in, a forecast out. ------------------------------------------------------------------- */

/* What a call came to. Below 0: an error, with a message in the poco_status, and everything is as it was. */
typedef enum poco_code {
    POCO_OK = 0,         /* done; of a pushed frame: there is a forecast */
    POCO_WARMING = 1,    /* the frame was taken; there is no forecast until the context is full */
    POCO_ERROR = -1,     /* an argument, a file or a frame that cannot be used: the message says which and why */
    POCO_NO_MEMORY = -2, /* there is not enough memory */
    POCO_NO_GPU = -3     /* a GPU cannot be used, or failed: the message says why */
} poco_code;

typedef struct poco_status {
    int32_t code; /* of poco_code */
    char message[508];
} poco_status;

/* Weights and vocabulary of a model: never changes, shared by any number of streams, in any threads. */
typedef struct poco_model poco_model;

/* Frames, scratch and counters of one stream: to be used by one thread at a time. */
typedef struct poco_stream poco_stream;

/* Reads the model in a folder (config.json and model.safetensors), or in the folder of a run. An empty name is an
   error. `status` may be NULL. NULL on failure. Thread-safe. */
POCO_API poco_model* poco_model_open(const char* folder, poco_status* status);

/* Lets go of the model; streams that use it go on. NULL is ignored. Thread-safe, but for this handle itself. */
POCO_API void poco_model_close(poco_model* model);

/* Frames that a forecast is made from and frames that are forecast; sessions that the model knows. -1 of NULL.
   Thread-safe. */
POCO_API int64_t poco_model_context(const poco_model* model);
POCO_API int64_t poco_model_horizon(const poco_model* model);
POCO_API int64_t poco_model_sessions(const poco_model* model);

/* Name (NULL) and units (-1) of a session; what is in brackets if there is none. The name lives as long as the model.
   Thread-safe. */
POCO_API const char* poco_model_session_name(const poco_model* model, int64_t session);
POCO_API int64_t poco_model_session_units(const poco_model* model, int64_t session);

/* 1 if the model knows how the session's activity was normalised, so that frames come in its own units; 0 if that was
   never set, and frames are taken for normalised already; -1 if there is no such session. Thread-safe. */
POCO_API int32_t poco_model_session_normalised(const poco_model* model, int64_t session);

/* Index of the session of this name; -1 if there is none, or of NULL. Thread-safe. */
POCO_API int64_t poco_model_find_session(const poco_model* model, const char* name);

typedef enum poco_precision { POCO_FLOAT32 = 0, POCO_BFLOAT16 = 1 } poco_precision;

/* What forecasts. A GPU (of NVIDIA, compute capability 8.0 or later) makes a POCO's forecasts, and what the residual
   over the population adds to a ground; grounds themselves are the processor's work. */
typedef enum poco_device { POCO_CPU = 0, POCO_CUDA = 1 } poco_device;

/* How many GPUs there are for POCO_CUDA; 0, and the reason in `status`, if there is none or this library was built
   without nvcc. `status` may be NULL. Thread-safe. */
POCO_API int32_t poco_gpus(poco_status* status);

/* Units whose value in a frame is NaN, infinite, or more than a million of their deviations from their mean. Either way
   they are marked as invalid until they have been in as many frames as a context has; frames that were filled in do not
   count. So is every unit after the stream was opened or reset, or the context began anew. */
typedef enum poco_missing {
    POCO_HOLD = 0, /* their last value stands in, and their forecasts are made */
    POCO_DROP = 1  /* they are also left out of what the population tells, and their forecasts are NaN */
} poco_missing;

/* Frames that are missing between two time stamps. */
typedef enum poco_gap {
    POCO_FILL = 0,    /* the last frame stands in if they are fewer than the context, otherwise as POCO_RESTART */
    POCO_RESTART = 1, /* the context is collected anew */
    POCO_REFUSE = 2   /* the frame is an error, and so is every later one with a time, until poco_stream_reset */
} poco_gap;

typedef struct poco_stream_options {
    size_t size;        /* sizeof(poco_stream_options) */
    int32_t precision;  /* of poco_precision; default POCO_FLOAT32 */
    int32_t threads;    /* default 1 */
    int32_t missing;    /* of poco_missing; default POCO_HOLD */
    int32_t gap;        /* of poco_gap; default POCO_FILL */
    double interval;    /* seconds from frame to frame; default 0: by the rate that the session was learnt from */
    double tolerance;   /* a gap begins where an interval is longer by more than this share, default 0.5; what is less
                           than half an interval late is no gap whatever it is */
    double deadline_ms; /* for a forecast, default 0: none. Later ones are marked and counted */
    int32_t device;     /* of poco_device; default POCO_CPU */
    int32_t gpu;        /* where that is POCO_CUDA, which one; default 0 */
    int32_t spin;       /* 1: it is asked without a pause whether it is done, which keeps a core busy; default 0 */
    int32_t reserved;   /* 0 */
} poco_stream_options;

/* Writes the defaults into options whose size is set; a field that is left out of an initialiser is 0, which is not the
   default of all. Returns a poco_code. `status` may be NULL. Thread-safe. */
POCO_API int32_t poco_stream_default_options(poco_stream_options* options, poco_status* status);

/* A stream of one session of a model; `options` NULL: the defaults; `status` may be NULL. NULL on failure. Makes a
   forecast of its own, so that no later one allocates memory, but for what poco_stream_push says. A GPU has to forecast
   a window as the processor does first, or it is an error. Thread-safe. */
POCO_API poco_stream* poco_stream_open(const poco_model* model, int64_t session, const poco_stream_options* options,
                                       poco_status* status);

/* A real-time set-up. */
typedef struct poco_realtime {
    size_t size;         /* sizeof(poco_realtime) */
    const int32_t* cpus; /* numbers of those that the thread may run on */
    int32_t cpu_count;   /* how many; 0: as it is */
    int32_t priority;    /* of SCHED_FIFO, 1 to 99; 0: as it is */
    int32_t lock_memory; /* 1: nothing of the process, now or later, is paged out; 0: as it is */
    int32_t reserved;    /* 0 */
} poco_realtime;

/* Asks the operating system (Linux alone) for a real-time set-up of the calling thread and of those that it makes
   later: call it before poco_stream_open. The library's helper threads, which all streams share, take over CPUs, policy
   and priority of the thread whose frame they work on, each time these differ. Returns a poco_code; after an error,
   which says what is not permitted and how to get it, everything is as it was, memory that was locked before included.
   `status` may be NULL. Thread-safe. */
POCO_API int32_t poco_set_realtime(const poco_realtime* wanted, poco_status* status);

/* Where large memory comes from: `bytes` of it, beginning at a multiple of `alignment`, or NULL if there is none; and
   where it goes back to. They are called in any thread, several at once, must not call this library, and not throw. */
typedef void* (*poco_allocate)(size_t bytes, size_t alignment, void* user);
typedef void (*poco_release)(void* block, size_t bytes, void* user);

/* Takes large memory from the program's own functions; both NULL: from C++'s operator new, as before. Through them go
   the bytes of a model file while it is read, the weights and embeddings of models, the frames, weights in the
   stream's own precision and results of streams, and the scratch of forecasts, of which the library keeps up to 64
   blocks, of up to 64 MiB each, for later calls. Not through them go objects of a fixed size, names, texts and what is
   read out of JSON, the threads and their stacks, and messages of errors: none of that is on the way of a frame. Where
   they give NULL, a call returns POCO_NO_MEMORY (NULL where it opens something), and has let go of what it had taken.
   Returns a poco_code; an error, and nothing has changed, while a model or stream is open. `status` may be NULL. For
   the whole process; not while another call of this library is running. */
POCO_API int32_t poco_set_allocator(poco_allocate allocate, poco_release release, void* user, poco_status* status);

/* Kinds of messages of a log. SETUP: a stream was opened, and what for and with, or goes on with another model; the
   system gives fewer threads than wanted. FRAMES, out of poco_stream_push: frames that were missing, and a forecast
   that is late. */
#define POCO_LOG_SETUP 1u
#define POCO_LOG_FRAMES 2u

/* Takes one message, a line without its end, in the thread of the call that it is about; it is gone afterwards. It must
   not call this library, and not throw. */
typedef void (*poco_log)(uint32_t kind, const char* message, void* user);

/* Has messages of `kinds` (POCO_LOG_... added up) written by `log`; NULL: none, as before. What goes wrong is in the
   poco_status of a call and never in a log, and what is in a log of frames is in marks and counters too: it is for
   people. No memory is allocated for a message; those of POCO_LOG_FRAMES cost the frame as long as `log` takes. Returns
   a poco_code. `status` may be NULL. For the whole process; not while another call of this library is running. */
POCO_API int32_t poco_set_log(poco_log log, void* user, uint32_t kinds, poco_status* status);

/* Ends the stream. NULL is ignored. Not while another call with it is running. */
POCO_API void poco_stream_close(poco_stream* stream);

/* Marks of a forecast. */
#define POCO_MARK_HELD 1u        /* of some units a value was missing in this context */
#define POCO_MARK_FILLED 2u      /* whole frames were missing in this context */
#define POCO_MARK_RESTARTED 4u   /* the context begins anew with this frame */
#define POCO_MARK_LATE 8u        /* it took longer than the deadline */
#define POCO_MARK_OVERFLOWED 16u /* of some units it is not finite: they are marked as invalid */
/* The frames of this context, filled ones included, took less than 0.75 or more than 1.33 of the time that so many take
   at the usual rate: see `interval`. */
#define POCO_MARK_RATE 32u
/* Most units that were in all of this context lie 5 standard deviations and more from their means in it, on average:
   it is hardly the kind of activity (dF/F, raw F) that the model was trained on. */
#define POCO_MARK_SCALE 128u

typedef struct poco_forecast {
    size_t size;          /* sizeof(poco_forecast), set by the caller */
    int32_t code;         /* POCO_OK or POCO_WARMING */
    uint32_t marks;       /* of POCO_MARK_... */
    int64_t frame;        /* number of the frame, from 0; those that were filled in count */
    int64_t missing;      /* frames until the first forecast */
    double time;          /* of the frame, as it was given */
    double latency_ms;    /* from the call to the forecast */
    const float* values;  /* [units, horizon] in the recording's own units; NULL while warming */
    const uint8_t* valid; /* [units], 1 where the unit has a finite forecast and was in the last frames that came, a
                             context of them; frames that were filled in, or came before a restart, do not count */
} poco_forecast;

/* Pushes a frame of `units` values in the recording's own units, taken at `time` seconds (NaN: not known, it then
   counts as one interval after the frame before it), and forecasts into `forecast`, whose size is set. What that points
   to is overwritten by the next call. Returns a poco_code; after an error the stream is as it was. `status` may be
   NULL. No memory is allocated, no lock taken by this call itself, but for a block of scratch when more calls run side
   by side than ever before, or if it has more than 64 MiB, as with a model of many times the usual sizes; should there
   be none (POCO_NO_MEMORY), or should a GPU fail (POCO_NO_GPU), the frame was taken and has no forecast. The message of
   an error takes a few small blocks, for as long as the call. With more than one thread it wakes its helpers. For one
   thread at a time. */
POCO_API int32_t poco_stream_push(poco_stream* stream, const float* frame, int64_t units, double time,
                                  poco_forecast* forecast, poco_status* status);

/* Forgets all frames and times; counters stay. It is the way on where a clock was set back, or one time was far too
   late: a time must come after the last one that was taken. NULL is ignored. Not while another call with the stream is
   running. */
POCO_API void poco_stream_reset(poco_stream* stream);

/* Goes on with another model, between two frames: one that knows the session by its name with the same units (by their
   names) in the same order, and has the same context and horizon. A gap is told by its rate from then on, and what is
   out of range by its normalisation is missing, frames that came before included. Returns a poco_code; after an error
   the stream is as it was. `status` may be NULL. Not while another call with the stream is running. */
POCO_API int32_t poco_stream_swap(poco_stream* stream, const poco_model* model, poco_status* status);

typedef struct poco_stats {
    size_t size;                                /* sizeof(poco_stats), set by the caller */
    int64_t frames;                             /* taken, filled ones included */
    int64_t forecasts;                          /* made */
    int64_t late;                               /* of them, past the deadline */
    int64_t gaps;                               /* in time */
    int64_t filled;                             /* frames that were filled in */
    int64_t restarts;                           /* after a gap */
    int64_t held_values;                        /* NaN, infinite or out of range */
    int64_t refused;                            /* frames that were errors */
    double p50_ms, p99_ms, p999_ms, longest_ms; /* latency of forecasts, quantiles to 9 % */
    int64_t off_rate;                           /* forecasts that are marked with POCO_MARK_RATE */
    int64_t off_scale;                          /* and with POCO_MARK_SCALE */
} poco_stats;

/* Counters since the stream was opened. Returns a poco_code. `status` may be NULL. Not while another call with the
   stream is running. */
POCO_API int32_t poco_stream_stats(const poco_stream* stream, poco_stats* stats, poco_status* status);

#ifdef __cplusplus
} /* extern "C" */
#endif

#endif /* POCO_POCO_H */
