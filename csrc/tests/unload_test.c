/* unload_test LIBPOCO MODEL: a program that loads libpoco by itself and lets go of it while helper threads wait. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "poco/poco.h"

static void* library;

/* Sets a pointer to a function of the library. */
static void find(const char* name, void* function) {
    void* const found = dlsym(library, name);
    if (found == NULL) fprintf(stderr, "no %s\n", name);
    memcpy(function, &found, sizeof found);
}

int main(int count, char** arguments) {
    const struct timespec a_while = {.tv_nsec = 50000000};
    poco_stream_options options = {.size = sizeof options};
    poco_forecast forecast = {.size = sizeof forecast};
    poco_status status;
    poco_model* model;
    poco_stream* stream;
    float frame[7] = {0};
    int32_t code = POCO_ERROR;
    poco_model* (*model_open)(const char*, poco_status*);
    void (*model_close)(poco_model*);
    int32_t (*default_options)(poco_stream_options*, poco_status*);
    poco_stream* (*stream_open)(const poco_model*, int64_t, const poco_stream_options*, poco_status*);
    int32_t (*push)(poco_stream*, const float*, int64_t, double, poco_forecast*, poco_status*);
    void (*stream_close)(poco_stream*);
    if (count < 3) return 1;
    for (int round = 0; round < 3; ++round) {
        library = dlopen(arguments[1], RTLD_NOW | RTLD_LOCAL);
        if (library == NULL) {
            fprintf(stderr, "%s\n", dlerror());
            return 2;
        }
        find("poco_model_open", &model_open);
        find("poco_model_close", &model_close);
        find("poco_stream_default_options", &default_options);
        find("poco_stream_open", &stream_open);
        find("poco_stream_push", &push);
        find("poco_stream_close", &stream_close);
        model = model_open(arguments[2], &status);
        if (model == NULL || default_options(&options, NULL) != POCO_OK) return 3;
        options.threads = 2;
        stream = stream_open(model, 0, &options, &status);
        if (stream == NULL) return 4;
        for (int i = 0; i < 20; ++i) code = push(stream, frame, 7, i, &forecast, &status);
        if (code != POCO_OK) return 5;
        stream_close(stream);
        model_close(model);
        if (dlclose(library) != 0) return 6;
        nanosleep(&a_while, NULL); /* a helper whose code was gone would end the program */
    }
    return dlopen(arguments[1], RTLD_NOW | RTLD_NOLOAD) != NULL ? 0 : 7;
}
