/*
 * wire: sends frames to `poco stream`, or listens to its forecasts, over ZeroMQ; no poco is needed where it runs.
 *
 *     cc wire.c $(pkg-config --cflags --libs libzmq) -lm -o wire
 *     ./wire ask tcp://HOST:5555 [UNIT...] < frames.txt    # of poco stream RUN --serve zmq:tcp://0.0.0.0:5555
 *     ./wire listen tcp://HOST:5556 [UNIT...]              # of poco stream RUN --in WIRE --out zmq:tcp://0.0.0.0:5556
 *
 * Frames are lines as for trigger. For each forecast a line "FORECAST number marks latency_ms" is printed, or "WARMING
 * number missing", and for each unit chosen one more, "UNIT unit value value ...", nan where it is not valid. What is
 * refused goes to the standard error as "ERROR number text".
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <zmq.h>

#include "framing.h"
#include "text_frames.h"

#define MOST_UNITS (1 << 17)
#define LINE_BYTES (1 << 22)

/* Takes one message and prints it; 0 if none came, or what came is none. */
static int show(void* socket, char** units, int count) {
    zmq_msg_t part;
    message m;
    int good = 0;
    zmq_msg_init(&part);
    if (zmq_msg_recv(&part, socket, 0) < 0) {
        fprintf(stderr, "no message: %s\n", zmq_strerror(zmq_errno()));
        zmq_msg_close(&part);
        return 0;
    }
    const char* const wrong = decode(zmq_msg_data(&part), zmq_msg_size(&part), &m);
    if (wrong != NULL) {
        fprintf(stderr, "%s\n", wrong);
    } else if (m.kind == KIND_ERROR) {
        fprintf(stderr, "ERROR %" PRIu64 " %.*s\n", m.number, (int)m.text_bytes, m.text);
        good = 1;
    } else if (m.kind == KIND_FRAME) {
        fprintf(stderr, "a frame came, and not a forecast: is this the right address?\n");
    } else if (m.warming) {
        printf("WARMING %" PRIu64 " %" PRIu32 "\n", m.number, m.missing);
        good = 1;
    } else {
        good = 1;
        printf("FORECAST %" PRIu64 " %u %.3f\n", m.number, m.marks, m.latency_ms);
        for (int i = 0; i < count; ++i) {
            const int64_t found = read_unit(units[i], m.units);
            const uint32_t unit = (uint32_t)found;
            if (found < 0) {
                fprintf(stderr, "there is no unit '%s': the forecast has %" PRIu32 "\n", units[i], m.units);
                good = 0;
                break;
            }
            printf("UNIT %" PRIu32, unit);
            for (uint32_t step = 0; step < m.steps; ++step) {
                printf(" %.9g", is_valid(&m, unit) ? value_at(&m, unit, step) : NAN);
            }
            printf("\n");
        }
    }
    fflush(stdout);
    zmq_msg_close(&part);
    return good;
}

/* Sends every line as a frame, and prints what comes back. */
static int ask(void* socket, char** units, int count) {
    char* const line = malloc(LINE_BYTES);
    float* const frame = malloc(MOST_UNITS * sizeof *frame);
    uint8_t* const bytes = malloc(frame_bytes(MOST_UNITS));
    uint64_t number = 0;
    int good = line != NULL && frame != NULL && bytes != NULL;
    while (good && read_line(line, LINE_BYTES, stdin)) {
        double time;
        const int64_t length = read_frame(line, frame, MOST_UNITS, &time);
        if (length < 1 || length > MOST_UNITS) {
            fprintf(stderr, "a line that is no frame was left out\n");
            continue;
        }
        encode_frame(bytes, number++, time, frame, (uint32_t)length);
        good = zmq_send(socket, bytes, frame_bytes((uint32_t)length), 0) >= 0 && show(socket, units, count);
    }
    free(line);
    free(frame);
    free(bytes);
    return good;
}

int main(int count, char** arguments) {
    const int asks = count > 2 && strcmp(arguments[1], "ask") == 0;
    if (!asks && (count < 3 || strcmp(arguments[1], "listen") != 0)) {
        fprintf(stderr, "usage: wire ask|listen ENDPOINT [UNIT...]\n");
        return 2;
    }
    const int patience = 10000, none = 0; /* milliseconds until it is given up: of a frame that is asked for */
    int good = 0;
    void* const context = zmq_ctx_new();
    void* const socket = zmq_socket(context, asks ? ZMQ_REQ : ZMQ_SUB);
    zmq_setsockopt(socket, ZMQ_LINGER, &none, sizeof none);
    if (asks) zmq_setsockopt(socket, ZMQ_RCVTIMEO, &patience, sizeof patience);
    if (!asks) zmq_setsockopt(socket, ZMQ_SUBSCRIBE, "", 0);
    if (zmq_connect(socket, arguments[2]) != 0) {
        fprintf(stderr, "cannot connect to %s: %s\n", arguments[2], zmq_strerror(zmq_errno()));
    } else if (asks) {
        good = ask(socket, arguments + 3, count - 3);
    } else {
        for (;;) show(socket, arguments + 3, count - 3); /* until Ctrl-C */
    }
    zmq_close(socket);
    zmq_ctx_term(context);
    return good ? 0 : 1;
}
