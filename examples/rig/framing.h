/*
 * The messages that poco's wires carry, in C99 with nothing of poco's and no library: docs/streaming.md describes them.
 * Every function is thread-safe, and none allocates.
 */
#ifndef POCO_RIG_FRAMING_H
#define POCO_RIG_FRAMING_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define HEADER_BYTES 48

enum { KIND_FRAME = 1, KIND_FORECAST = 2, KIND_ERROR = 3 };

/* A message that was read; it points into the bytes that it was read from. */
typedef struct message {
    int kind;              /* KIND_... */
    int warming;           /* of a forecast: there is none yet, but after `missing` more frames */
    unsigned marks;        /* of a forecast: POCO_MARK_... of poco.h, and 64 as it is the first by an adapted model */
    uint64_t number;       /* of the frame, as its sender counts */
    double time;           /* of the frame in seconds, NaN: not known */
    uint32_t units, steps; /* 0 of an error; steps are 1 of a frame */
    float latency_ms;
    uint32_t missing;
    const uint8_t* valid;  /* bits of a forecast: use is_valid */
    const uint8_t* values; /* of a frame or forecast, NULL while warming: use value_at */
    const char* text;      /* of an error, without a zero at its end */
    size_t text_bytes;
} message;

static inline void put_bytes(uint8_t* to, uint64_t bits, int count) {
    for (int i = 0; i < count; ++i) to[i] = (uint8_t)(bits >> (8 * i));
}

static inline uint64_t take_bytes(const uint8_t* from, int count) {
    uint64_t bits = 0;
    for (int i = count; i-- > 0;) bits = bits << 8 | from[i];
    return bits;
}

static inline void put_float(uint8_t* to, float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    put_bytes(to, bits, 4);
}

static inline float take_float(const uint8_t* from) {
    const uint32_t bits = (uint32_t)take_bytes(from, 4);
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* Bytes of a frame of so many units, 1 to 2^24. */
static inline size_t frame_bytes(uint32_t units) {
    return HEADER_BYTES + (size_t)4 * units;
}

/* Writes the frame_bytes(units) bytes of a frame, taken at `time` seconds by the rig's clock (NaN: not known). */
static inline void encode_frame(uint8_t* to, uint64_t number, double time, const float* values, uint32_t units) {
    uint64_t bits;
    memcpy(&bits, &time, sizeof bits);
    memset(to, 0, HEADER_BYTES);
    memcpy(to, "POCO", 4);
    to[4] = 1; /* version of the framing */
    to[5] = KIND_FRAME;
    put_bytes(to + 8, number, 8);
    put_bytes(to + 16, bits, 8);
    put_bytes(to + 24, units, 4);
    put_bytes(to + 28, 1, 4);
    put_bytes(to + 40, frame_bytes(units), 8);
    for (uint32_t unit = 0; unit < units; ++unit) put_float(to + HEADER_BYTES + (size_t)4 * unit, values[unit]);
}

/* Whether a unit's forecast is one to act on. */
static inline int is_valid(const message* m, uint32_t unit) {
    return m->valid[unit / 8] >> unit % 8 & 1;
}

/* The value of a unit at a step ahead, from 0. */
static inline float value_at(const message* m, uint32_t unit, uint32_t step) {
    return take_float(m->values + 4 * ((size_t)unit * m->steps + step));
}

/* Reads one whole message. Returns NULL, or what is wrong with it. */
static inline const char* decode(const uint8_t* bytes, size_t size, message* m) {
    memset(m, 0, sizeof *m);
    if (size < HEADER_BYTES) return "the message is too short";
    if (memcmp(bytes, "POCO", 4) != 0) return "the message is not from poco";
    if (bytes[4] != 1) return "the message is of another version of the framing";
    if (take_bytes(bytes + 40, 8) != size) return "the message has not as many bytes as it says";
    const unsigned status = bytes[6];
    const uint64_t bits = take_bytes(bytes + 16, 8);
    const uint8_t* const rest = bytes + HEADER_BYTES;
    m->kind = bytes[5];
    m->marks = bytes[7];
    m->number = take_bytes(bytes + 8, 8);
    memcpy(&m->time, &bits, sizeof m->time);
    m->units = (uint32_t)take_bytes(bytes + 24, 4);
    m->steps = (uint32_t)take_bytes(bytes + 28, 4);
    m->latency_ms = take_float(bytes + 32);
    m->missing = (uint32_t)take_bytes(bytes + 36, 4);
    if (isinf(m->time)) return "the time of the message is infinite";
    if (m->kind != KIND_FORECAST && (status != 0 || m->marks != 0 || m->latency_ms != 0 || m->missing != 0))
        return "what belongs to a forecast alone is not 0";
    if (m->kind == KIND_ERROR) {
        m->text = (const char*)rest;
        m->text_bytes = size - HEADER_BYTES;
        if (m->units != 0 || m->steps != 0 || m->text_bytes > 1u << 16) return "the error is not as errors are";
        return NULL;
    }
    if (m->kind != KIND_FRAME && m->kind != KIND_FORECAST) return "the message is of an unknown kind";
    if (m->units < 1 || m->units > 1u << 24) return "the message has 0 units or too many";
    if (m->kind == KIND_FRAME) {
        if (m->steps != 1 || size != frame_bytes(m->units)) return "the frame is not as long as its units";
        m->values = rest;
        return NULL;
    }
    const size_t of_bits = ((size_t)m->units + 31) / 32 * 4;
    const uint64_t of_values = status == 1 ? 0 : (uint64_t)4 * m->units * m->steps;
    if (m->steps < 1 || m->steps > 1u << 16) return "the forecast has 0 steps or too many";
    if (status > 1) return "the forecast has a status that is not known";
    if (!(m->latency_ms >= 0) || isinf(m->latency_ms)) return "the forecast's latency is no number";
    if ((status == 1) != (m->missing > 0)) return "the forecast is warming up, and misses no frames, or the reverse";
    if (size != HEADER_BYTES + of_bits + of_values) return "the forecast is not as long as its units and steps";
    for (size_t bit = m->units; bit < 8 * of_bits; ++bit) {
        if (rest[bit / 8] >> bit % 8 & 1) return "the bits of validity go on after the last unit";
    }
    m->warming = status == 1;
    m->valid = rest;
    m->values = m->warming ? NULL : rest + of_bits;
    for (uint32_t unit = 0; !m->warming && unit < m->units; ++unit) {
        for (uint32_t step = 0; is_valid(m, unit) && step < m->steps; ++step) {
            if (!isfinite(value_at(m, unit, step))) return "a unit is valid, and its forecast is not finite";
        }
    }
    return NULL;
}

#endif /* POCO_RIG_FRAMING_H */
