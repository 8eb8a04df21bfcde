/* Frames as lines of text, and words as numbers, for the examples. They are read by strtod, which takes a point where
   nobody calls setlocale. */
#ifndef POCO_RIG_TEXT_FRAMES_H
#define POCO_RIG_TEXT_FRAMES_H

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Reads a word that is a number as a whole; returns whether it is one. */
static inline int read_number(const char* word, double* value) {
    char* end;
    *value = strtod(word, &end);
    return end != word && *end == '\0';
}

/* The number of a unit of so many, or -1 if a word is none. */
static inline int64_t read_unit(const char* word, int64_t units) {
    double unit;
    if (!read_number(word, &unit) || !(unit >= 0 && unit < (double)units)) return -1;
    return unit == (double)(int64_t)unit ? (int64_t)unit : -1;
}

/* Reads a line; returns whether there is one. Of one that has no room, or a zero byte, nothing is left but a word that
   is no number: a part of it could be taken for a frame. */
static inline int read_line(char* line, int room, FILE* from) {
    int length = 0, good = 1, c;
    while ((c = getc(from)) != EOF && c != '\n') {
        if (c == '\0' || length + 1 >= room) good = 0;
        if (good) line[length++] = (char)c;
    }
    if (c == EOF && good && length == 0) return 0;
    line[length] = '\0';
    if (!good) strcpy(line, "?");
    return 1;
}

/* Reads numbers of a line into frame, at most so many, and the time that "t=" begins, NaN if there is none. Returns how
   many numbers there were, more than most if too many, or -1 if a word is none. Not thread-safe (strtok). */
static int64_t read_frame(char* line, float* frame, int64_t most, double* time) {
    int64_t count = 0;
    char* word = strtok(line, " \t,\r\n");
    *time = NAN;
    if (word != NULL && strncmp(word, "t=", 2) == 0) {
        if (!read_number(word + 2, time)) return -1;
        word = strtok(NULL, " \t,\r\n");
    }
    for (; word != NULL; word = strtok(NULL, " \t,\r\n")) {
        double value;
        if (!read_number(word, &value)) return -1;
        if (count < most) frame[count] = (float)value;
        ++count;
    }
    return count;
}

#endif /* POCO_RIG_TEXT_FRAMES_H */
