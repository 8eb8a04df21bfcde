/* Frames as lines of text, for the examples. */
#ifndef POCO_RIG_TEXT_FRAMES_H
#define POCO_RIG_TEXT_FRAMES_H

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* Reads numbers of a line into frame, and the time that "t=" begins, NaN if there is none. Returns how many numbers
   there were, or -1 if a word is none or there are too many. Not thread-safe (strtok). */
static int64_t read_frame(char* line, float* frame, int64_t most, double* time) {
    int64_t count = 0;
    char* word = strtok(line, " \t,\r\n");
    *time = NAN;
    if (word != NULL && strncmp(word, "t=", 2) == 0) {
        *time = atof(word + 2);
        word = strtok(NULL, " \t,\r\n");
    }
    for (; word != NULL; word = strtok(NULL, " \t,\r\n")) {
        char* end;
        const double value = strtod(word, &end);
        if (*end != '\0' || count == most) return -1;
        frame[count++] = (float)value;
    }
    return count;
}

#endif /* POCO_RIG_TEXT_FRAMES_H */
