/*
 * trigger: reads frames, forecasts, and says when a group of units is about to become active.
 *
 *     cc trigger.c $(pkg-config --cflags --libs poco) -Wl,-rpath,$(pkg-config --variable=libdir poco) -o trigger
 *     ./trigger MODEL SESSION THRESHOLD UNIT [UNIT...] < frames.txt
 *
 * A frame is a line of numbers in the recording's own units, one for each unit in the order of the session; "nan" is a
 * unit that was not seen. Where a first number is wanted for the time in seconds, begin lines with "t=0.5". A line
 * "TRIGGER frame step value" is printed, once for each crossing, when the forecast mean of the chosen units rises above
 * the threshold at some step; units that are not valid have no say, nor has a forecast that counts whole frames which
 * never came (filled), one past the deadline (late; this stream has none: poco_stream_options sets it), or one of
 * another kind of activity than the model was trained on (scale). After a gap that begins the context anew (restarted)
 * there is no forecast until it is full. After five frames in a row whose times do not come after the last one, the
 * clock is believed, and the stream begins anew. Where no line was a frame of the session, it ends with 1.
 */
#include <stdio.h>
#include <stdlib.h>

#include "poco/poco.h"
#include "text_frames.h"

#define DOUBTFUL (POCO_MARK_FILLED | POCO_MARK_LATE | POCO_MARK_SCALE)

int main(int count, char** arguments) {
    poco_status status;
    poco_model* model;
    poco_stream* stream;
    poco_forecast forecast = {.size = sizeof forecast};
    poco_stats stats = {.size = sizeof stats};
    int64_t session, units, horizon;
    size_t room;
    float* frame;
    char* line;
    double threshold, time;
    int above = 0, refused = 0, useless = 0;
    if (count < 5 || !read_number(arguments[3], &threshold) || isnan(threshold)) {
        fprintf(stderr, "usage: trigger MODEL SESSION THRESHOLD UNIT [UNIT...] < frames\n");
        return 2;
    }
    if (poco_api_version() != POCO_API_VERSION) {
        fprintf(stderr, "libpoco has interface %u and this program %u\n", poco_api_version(), POCO_API_VERSION);
        return 1;
    }
    model = poco_model_open(arguments[1], &status);
    if (model == NULL) {
        fprintf(stderr, "%s\n", status.message);
        return 1;
    }
    session = poco_model_find_session(model, arguments[2]);
    if (session < 0) {
        fprintf(stderr, "there is no session '%s'; the model knows", arguments[2]);
        for (int64_t i = 0; i < poco_model_sessions(model); ++i) {
            fprintf(stderr, " '%s'", poco_model_session_name(model, i));
        }
        fprintf(stderr, "\n");
        return 2;
    }
    if (!poco_model_session_normalised(model, session)) {
        fprintf(stderr, "how session '%s' was normalised is not known: frames have to be normalised already\n",
                arguments[2]);
    }
    units = poco_model_session_units(model, session);
    horizon = poco_model_horizon(model);
    stream = poco_stream_open(model, session, NULL, &status);
    if (stream == NULL) {
        fprintf(stderr, "session '%s': %s\n", arguments[2], status.message);
        return 1;
    }
    poco_model_close(model); /* the stream keeps what it needs */
    for (int i = 4; i < count; ++i) {
        if (read_unit(arguments[i], units) < 0) {
            fprintf(stderr, "there is no unit '%s': they are 0 to %lld\n", arguments[i], (long long)units - 1);
            return 2;
        }
    }
    room = (size_t)units * 32 + 64;
    frame = malloc((size_t)units * sizeof *frame);
    line = malloc(room);
    if (frame == NULL || line == NULL) return 1;
    while (read_line(line, (int)room, stdin)) {
        const int64_t length = read_frame(line, frame, units, &time);
        if (length < 0) {
            ++useless;
            fprintf(stderr, "a line that is no frame was left out\n");
            continue;
        }
        const int32_t code = poco_stream_push(stream, frame, length, time, &forecast, &status);
        if (code < 0) { /* the stream is as it was */
            ++useless;
            fprintf(stderr, "%s\n", status.message);
            if (length != units || ++refused < 5) continue;
            fprintf(stderr, "the last %d frames were refused: the stream begins anew\n", refused);
            poco_stream_reset(stream);
            refused = 0;
            continue;
        }
        refused = 0;
        if (code == POCO_WARMING || (forecast.marks & DOUBTFUL)) continue;
        int crossed = 0;
        for (int64_t step = 0; step < horizon && !crossed; ++step) {
            double sum = 0;
            int valid = 0;
            for (int i = 4; i < count; ++i) {
                const int64_t unit = read_unit(arguments[i], units);
                if (!forecast.valid[unit]) continue;
                sum += forecast.values[unit * horizon + step];
                ++valid;
            }
            if (valid == 0 || !(sum / valid > threshold)) continue;
            crossed = 1;
            if (!above) {
                printf("TRIGGER %lld %lld %g\n", (long long)forecast.frame, (long long)step + 1, sum / valid);
                fflush(stdout);
            }
        }
        above = crossed;
    }
    poco_stream_stats(stream, &stats, NULL);
    fprintf(stderr, "%lld frames, %lld forecasts, median %.3f ms, 99%% within %.3f ms\n", (long long)stats.frames,
            (long long)stats.forecasts, stats.p50_ms, stats.p99_ms);
    poco_stream_close(stream);
    free(frame);
    free(line);
    return useless > 0 && stats.frames == 0; /* no line was a frame of the session */
}
