/* Streaming through the C interface alone. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "poco/poco.h"

int main(int count, char** arguments) {
    poco_status status;
    poco_stream_options options = {.size = sizeof options};
    poco_forecast forecast = {.size = sizeof forecast};
    poco_stats stats = {.size = sizeof stats};
    float frame[7];
    int i, n;
    poco_model* model;
    poco_stream* stream;
    if (count < 2) return 1;
    if (poco_model_open("/nowhere", &status) != NULL || status.code >= 0 || strstr(status.message, "/nowhere") == NULL)
        return 2;
    model = poco_model_open(arguments[1], &status);
    if (model == NULL) {
        fprintf(stderr, "%s\n", status.message);
        return 3;
    }
    if (poco_model_context(model) != 12 || poco_model_horizon(model) != 4 || poco_model_sessions(model) != 1) return 4;
    if (strcmp(poco_model_session_name(model, 0), "fish") != 0 || poco_model_session_name(model, 1) != NULL) return 5;
    if (poco_model_find_session(model, "fish") != 0 || poco_model_find_session(model, "mouse") != -1) return 6;
    if (poco_model_session_units(model, 0) != 7 || poco_model_session_units(model, -1) != -1) return 7;
    if (poco_model_session_normalised(model, 0) != 1 || poco_model_session_normalised(model, 1) != -1) return 7;
    if (poco_stream_default_options(&options, &status) != POCO_OK || options.size != sizeof options) return 8;
    options.deadline_ms = 1e-9;
    if (poco_stream_open(model, 1, &options, &status) != NULL) return 9;
    stream = poco_stream_open(model, 0, &options, &status);
    if (stream == NULL) return 10;
    poco_model_close(model); /* the stream goes on */
    for (i = 0; i < 20; ++i) {
        for (n = 0; n < 7; ++n) frame[n] = (float)sin(0.3 * i + n);
        if (i == 15) frame[2] = (float)NAN;
        if (poco_stream_push(stream, frame, 7, 0.5 * i, &forecast, &status) != (i < 11 ? POCO_WARMING : POCO_OK))
            return 11;
        if (i < 11 && (forecast.values != NULL || forecast.missing != 11 - i)) return 12;
        if (i >= 11 && (forecast.values == NULL || !(forecast.marks & POCO_MARK_LATE))) return 13;
        if ((forecast.valid[2] == 0) != (i < 11 || i >= 15) || ((forecast.marks & POCO_MARK_HELD) != 0) != (i >= 15))
            return 14;
        if (forecast.frame != i || forecast.time != 0.5 * i) return 15;
    }
    if (poco_stream_push(stream, frame, 6, 99, &forecast, &status) != POCO_ERROR || status.message[0] == '\0')
        return 16;
    if (poco_stream_push(stream, frame, 7, 1, &forecast, &status) != POCO_ERROR) return 17;
    if (poco_stream_push(NULL, frame, 7, 1, &forecast, NULL) != POCO_ERROR) return 18;
    if (poco_stream_stats(stream, &stats, &status) != POCO_OK || stats.size != sizeof stats) return 19;
    if (stats.frames != 20 || stats.forecasts != 9 || stats.late != 9 || stats.refused != 2 || stats.held_values != 1)
        return 19;
    if (poco_model_context(NULL) != -1 || poco_model_horizon(NULL) != -1 || poco_model_sessions(NULL) != -1) return 19;
    if (poco_model_find_session(NULL, "fish") != -1) return 19;
    poco_stream_reset(NULL);
    poco_stream_reset(stream);
    if (poco_stream_push(stream, frame, 7, 1, &forecast, NULL) != POCO_WARMING) return 20;
    {
        const int32_t nowhere[1] = {100000};
        poco_realtime wanted = {.size = sizeof wanted, .cpus = nowhere, .cpu_count = 1};
        if (poco_set_realtime(&wanted, &status) != POCO_ERROR || strstr(status.message, "100000") == NULL) return 21;
        wanted.cpu_count = 0;
        if (poco_set_realtime(&wanted, &status) != POCO_OK) return 22; /* nothing is asked for */
        wanted.priority = 1000;
        if (poco_set_realtime(&wanted, &status) != POCO_ERROR || strstr(status.message, "1000") == NULL) return 23;
        wanted.size = 1;
        if (poco_set_realtime(&wanted, &status) != POCO_ERROR || poco_set_realtime(NULL, NULL) != POCO_ERROR) return 24;
    }
    poco_stream_close(stream);
    poco_stream_close(NULL);
    poco_model_close(NULL);
    printf("streamed 20 frames through C\n");
    return 0;
}
